"""A whole OneScan on 127.0.0.1: registry, broker, database, PACS and one appliance, all real, all under one folder.

Made with the commands that people use, in the order in which they use them: the central team sets up the registry
and publishes a model, the field engineer provisions a box, the box fetches its model. The demo, the end-to-end tests
and the benchmarks stand on this.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from appliance.identity.keys import IdentityFolder
from appliance.identity.pseudonyms import Pseudonyms, load_site_key
from appliance.role import process_name
from core import durable
from core.errors import OneScanError
from core.finding import Cancer
from deploy.embedded import MosquittoBroker, PostgresCluster, StoragePacs, free_ports

REPOSITORY = Path(__file__).resolve().parents[1]
REFERENCE_BUNDLE = REPOSITORY / "engines" / "bundles" / "reference"
POLL_S = 0.1
Say = Callable[[str], None]


class SetUpFailed(OneScanError):
    """One of our own commands failed while the stack was set up."""

    default_remedy = "Read the command's words above; its log lies under the stack's folder in logs/."


@dataclass(frozen=True)
class Site:
    """The names and settings of the one site."""

    site: str = "demo-hospital"
    device: str = "box-1"
    institution: str = "Demo Hospital"
    ae_title: str = "ONESCAN"
    quiet_seconds: float = 10.0
    max_attempts: int = 3
    receiver: Mapping[str, Any] = field(default_factory=dict)
    reconciliation: Mapping[str, Any] = field(default_factory=dict)
    modes: Mapping[str, str] = field(default_factory=lambda: {cancer.value: "research" for cancer in Cancer})


def command(module: str, *arguments: str, text: str | None = None) -> str:
    """Run one of our console commands and return what it printed. SetUpFailed with its words if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], input=text, capture_output=True, text=True, cwd=REPOSITORY
    )
    if done.returncode:
        raise SetUpFailed(f"{module} {' '.join(arguments)}:\n{done.stdout}{done.stderr}")
    return done.stdout


class Service:
    """One of our long-running commands: start, stop (SIGTERM), kill (SIGKILL), by its own process id."""

    def __init__(self, log: Path, module: str, *arguments: str) -> None:
        self.log = log
        self._argv = [sys.executable, "-m", module, *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; no wait."""
        durable.make_folder(self.log.parent)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig=TERM", "--", *self._argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=REPOSITORY,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )

    def check(self) -> None:
        """SetUpFailed, with the end of its log, if it was started and ended by itself."""
        if self._process is not None:
            _ = self.pid

    @property
    def pid(self) -> int:
        """Its process id while it runs; SetUpFailed with the end of its log if it does not."""
        if self._process is None or self._process.poll() is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:]) if self.log.exists() else ""
            raise SetUpFailed(f"{' '.join(self._argv[2:])} does not run; its log is {self.log}:\n{tail}")
        return self._process.pid

    def stop(self, how: signal.Signals = signal.SIGTERM, patience_s: float = 40.0) -> int | None:
        """Ask it to end and wait; returns its exit code, None if it did not run."""
        if self._process is None:
            return None
        if self._process.poll() is None:
            self._process.send_signal(how)
        try:
            code = self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._process = None
        return code


class OneScan:
    """Everything, under `folder`. `start()` brings it up step by step and tells each through `say`."""

    def __init__(
        self,
        folder: Path,
        site: Site | None = None,
        say: Say = lambda _text: None,
        bundle: Path = REFERENCE_BUNDLE,
    ) -> None:
        """bundle: the model to publish."""
        self.folder = folder.resolve()
        self.site = site or Site()
        self.bundle = bundle
        self._say = say
        self._stack = ExitStack()
        self.postgres = PostgresCluster(self.folder / "postgres")
        self.pacs = StoragePacs(self.folder / "pacs", ae_title="DEMOPACS")
        self.mqtt_port, self.est_port, self.registry_port, self.dicom_port, self.console_port = free_ports(5)
        self.central, self.state = self.folder / "registry", self.folder / "appliance"
        self.registry_config = self.central / "registry.yaml"
        self.appliance_config = self.state / "appliance.yaml"
        logs = self.folder / "logs"
        self.registry = Service(logs / "registry.log", "registry.cli", "--config", str(self.registry_config), "run")
        self.appliance = Service(logs / "appliance.log", "appliance.cli", "run", "--config", str(self.appliance_config))
        self.broker = MosquittoBroker(
            self.folder / "broker",
            self.central / "authority" / "ca.crt",
            self.central / "broker.crt",
            self.central / "broker.key",
            acl=None,
            port=self.mqtt_port,
        )

    def __enter__(self) -> OneScan:
        try:
            return self.start()
        except BaseException:
            self._stack.close()
            raise

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # ---- bringing it up

    def start(self) -> OneScan:
        """All steps, in the order of the work of real people."""
        self._say("Starting the database and the PACS")
        self._stack.callback(self.postgres.remove)
        self.postgres.start()
        self._stack.enter_context(self.pacs)
        self._say("Setting up the registry: database, certificate authority, broker")
        self.set_up_registry()
        self._say("Publishing the model bundle, signed")
        self.publish(self.bundle)
        self._say("Provisioning the appliance")
        self.provision()
        self._say("Starting the appliance")
        self._stack.callback(self.appliance.stop)
        self.appliance.start()
        self.wait_for(self.box, "the appliance's page answers")
        self._say("Bringing the appliance its model, over the air")
        name, version = bundle_name(self.bundle)
        self.desire(name, version)
        self.wait_for(lambda: self.box()["bundle"] == f"{name} {version}", "the model is active", patience_s=180)
        return self

    def set_up_registry(self) -> None:
        """Database, authority, certificates, access list, broker, and the registry's own processes."""
        self.database = self.postgres.dsn
        durable.make_folder(self.central)
        durable.write_text(self.registry_config, yaml.safe_dump(self._registry_settings()))
        self._ca_fingerprint = json.loads(self.ask("init-ca", "--json"))["fingerprint_sha256"]
        self.ask("server-cert")
        self.ask("server-cert", "--out", str(self.central / "broker"))
        self.ask("worker-cert", "ingest")
        self.ask("migrate")
        self.engines("init-repository", "--repo", str(self._tuf), "--keys", str(self._tuf_keys))
        durable.make_folder(self.broker.folder)
        durable.write_text(self.broker.acl_file, "", 0o600)
        self._stack.enter_context(self.broker)
        self.ask("acl")
        self._stack.callback(self.registry.stop)
        self.registry.start()
        self.wait_for(lambda: self.get("/healthz"), "the registry's page answers")

    def publish(self, bundle: Path) -> None:
        """Sign a bundle into the update repository."""
        self.engines("publish", str(bundle), "--repo", str(self._tuf), "--keys", str(self._tuf_keys))

    def provision(self) -> None:
        """What the field engineer does: a plan, a token, `onescan-provision apply`."""
        plan = self.folder / "site-plan.yaml"
        durable.write_text(plan, yaml.safe_dump(self._plan(), sort_keys=False))
        token = self.ask("token", "--site", self.site.site, "--device", self.site.device).strip()
        command("provisioning.cli", "apply", str(plan), "--token-stdin", "--state", str(self.state), text=token)

    def desire(self, name: str, version: str) -> None:
        """What the central team does: say which model this device should run."""
        names = ("--site", self.site.site, "--device", self.site.device)
        self.ask("desired", *names, "--bundle", name, "--version", version)

    def _registry_settings(self) -> dict[str, Any]:
        worker = self.central / "authority" / "worker-ingest"
        return {
            "database": self.database,
            "broker": {
                "port": self.mqtt_port,
                "tls": {
                    "ca": str(self.central / "authority" / "ca.crt"),
                    "certificate": f"{worker}.crt",
                    "key": f"{worker}.key",
                },
            },
            "authority": {"folder": str(self.central / "authority")},
            "enrolment": {"port": self.est_port},
            "acl": {"file": str(self.broker.acl_file), "broker_pid_file": str(self.broker.pid_file)},
            "web": {"port": self.registry_port, "tuf_folder": str(self._tuf)},
        }

    def _plan(self) -> dict[str, Any]:
        root = self._tuf / "metadata" / "1.root.json"
        return {
            "site": self.site.site,
            "device": self.site.device,
            "institution": self.site.institution,
            "state": str(self.state),
            "receiver": {
                "host": "127.0.0.1",
                "port": self.dicom_port,
                "ae_title": self.site.ae_title,
                "quiet_seconds": self.site.quiet_seconds,
                "min_free_bytes": 64 << 20,
                "reserve_bytes": 0,  # stacks of tests come and go; `bench.receive` measures with one
                **self.site.receiver,
            },
            "reconciliation": dict(self.site.reconciliation),
            "analyser": {"max_attempts": self.site.max_attempts},
            "modes": dict(self.site.modes),
            "pacs": [{"name": "pacs", "host": "127.0.0.1", "port": self.pacs.port, "ae_title": self.pacs.ae_title}],
            "registry": {
                "enrol_url": f"https://127.0.0.1:{self.est_port}",
                "ca_sha256": self._ca_fingerprint,
                "mqtt_host": "127.0.0.1",
                "mqtt_port": self.mqtt_port,
                "tuf_url": f"{self.registry_url}/tuf",
                "tuf_root": {"sha256": hashlib.sha256(root.read_bytes()).hexdigest()},
            },
            "console": {"port": self.console_port},
        }

    @property
    def _tuf(self) -> Path:
        return self.central / "tuf"

    @property
    def _tuf_keys(self) -> Path:
        return self.central / "tuf-keys"

    # ---- asking it

    def ask(self, *arguments: str) -> str:
        """Run `onescan-registry`."""
        return command("registry.cli", "--config", str(self.registry_config), *arguments)

    @staticmethod
    def engines(*arguments: str) -> str:
        """Run `onescan-engines`."""
        return command("engines.cli", *arguments)

    def get(self, path: str) -> Any:
        """A JSON page of the registry; None while it does not answer."""
        return _json(f"{self.registry_url}{path}")

    def box(self) -> Any:
        """What the appliance's page says of the box; None while it does not answer."""
        return _json(f"{self.box_url}/api/v1/box")

    def studies(self) -> list[dict[str, Any]]:
        """What the appliance's page says of its studies, newest first."""
        found: list[dict[str, Any]] = _json(f"{self.box_url}/api/v1/studies") or []
        return found

    def results(self, everything: bool = True) -> list[dict[str, Any]]:
        """What the registry has, superseded revisions included."""
        found: list[dict[str, Any]] = json.loads(self.ask("results", "--json", *(["--all"] if everything else [])))
        return found

    @property
    def pseudonyms(self) -> Pseudonyms:
        """The site's pseudonyms: only a test that knows both sides may ask."""
        return Pseudonyms(load_site_key(IdentityFolder(self.state / "identity")))

    @property
    def registry_url(self) -> str:
        """Address of the registry's pages."""
        return f"http://127.0.0.1:{self.registry_port}"

    @property
    def box_url(self) -> str:
        """Address of the box's pages."""
        return f"http://127.0.0.1:{self.console_port}"

    def wait_for(self, condition: Callable[[], Any], what: str, patience_s: float = 90.0) -> Any:
        """Until `condition()` is true; returns its value. SetUpFailed after `patience_s`, naming `what`."""
        deadline = time.monotonic() + patience_s
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise SetUpFailed(f"waited {patience_s:.0f} s in vain: {what}; logs are in {self.folder / 'logs'}")
            for service in (self.registry, self.appliance):
                service.check()
            time.sleep(POLL_S)
        return value

    # ---- disturbing it

    def role(self, name: str) -> psutil.Process:
        """The process of one role of the appliance."""
        found: psutil.Process = self.wait_for(lambda: self._role(name), f"role {name} runs")
        return found

    def _role(self, name: str) -> psutil.Process | None:
        for child in psutil.Process(self.appliance.pid).children():
            try:
                if child.name() == process_name(name):
                    return child
            except psutil.Error:
                continue  # it ended while we looked
        return None


def bundle_name(bundle: Path) -> tuple[str, str]:
    """(name, version) of a bundle folder."""
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    return manifest["name"], manifest["version"]


def _json(url: str) -> Any:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)
    except OSError:
        return None
