"""The commands as an operator uses them: from nothing to a running registry with an enrolled device."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from deploy.embedded.mosquitto import MosquittoBroker
from deploy.embedded.ports import free_ports
from registry.config import read_config
from tests.registry import messages as m
from tests.registry.conftest import acked, wait_until
from tests.registry.device import Device
from tests.registry.test_enrolment import certificate, request

pytestmark = pytest.mark.integration


class Operator:
    """A person at a shell in `folder`."""

    def __init__(self, folder: Path, database: str) -> None:
        self.folder, self.file = folder, folder / "registry.yaml"
        self.web, self.est = free_ports(2)
        self.broker_folder = folder / "broker"
        self.environment = {**os.environ, "ONESCAN_REGISTRY_DATABASE": database, "COLUMNS": "160"}

    def configure(self, broker_port: int) -> None:
        document = {
            "broker": {
                "host": "localhost", "port": broker_port,
                "tls": {"ca": "pki/ca.crt", "certificate": "pki/worker-ingest.crt", "key": "pki/worker-ingest.key"},
            },
            "authority": {"folder": "pki"},
            "enrolment": {"port": self.est, "certificate": "pki/server.crt", "key": "pki/server.key"},
            "acl": {"file": "broker/acl", "broker_pid_file": "mosquitto.pid"},
            "web": {"port": self.web, "tuf_folder": "tuf"},
        }  # fmt: skip
        self.file.write_text(yaml.safe_dump(document))

    def run(self, *words: str, fails: bool = False) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(self.command(*words), capture_output=True, text=True, env=self.environment, check=False)
        assert (done.returncode != 0) == fails, done.stderr
        return done

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json").stdout)

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "registry.cli", "--config", str(self.file), *words]


@pytest.fixture
def operator(tmp_path: Path, database: str) -> Operator:
    made = Operator(tmp_path, database)
    made.configure(broker_port=1)
    return made


@pytest.fixture
def registry(operator: Operator) -> Iterator[subprocess.Popen[bytes]]:
    """Everything set up by commands, and `run`ning."""
    operator.run("init-ca")
    operator.run("server-cert", "registry.example")
    operator.run("server-cert", "--out", str(operator.folder / "pki/broker"))
    operator.run("worker-cert")
    operator.run("migrate")
    pki = operator.folder / "pki"
    files = (pki / "ca.crt", pki / "broker.crt", pki / "broker.key")
    with MosquittoBroker(operator.broker_folder, *files, acl="") as broker:
        operator.configure(broker.port)
        (operator.folder / "mosquitto.pid").write_text(str(broker.pid))
        operator.run("acl")
        process = subprocess.Popen(operator.command("run"), env=operator.environment)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60)


def test_from_nothing_to_a_result_on_the_page(operator: Operator, registry: subprocess.Popen[bytes]) -> None:
    with _pages(operator) as pages:
        wait_until(lambda: _healthy(pages), 60)
        token = operator.json("token", "--site", m.SITE, "--device", m.DEVICE)["token"]
        tls = enrol(operator, token)
        port = read_config(operator.file).broker.port
        with Device(port, tls=tls) as device:
            device.publish("birth", m.birth(1).model_dump_json())
            device.send(*m.results(range(1, 4)))
            wait_until(lambda: acked(device) == 3)
            wish = ("desired", "--site", m.SITE, "--device", m.DEVICE, "--bundle", "reference", "--version", "2.0")
            assert operator.json(*wish)["published"] is True
            wait_until(lambda: [leaf for leaf, _ in device.heard] == ["desired"])
        assert len(pages.get("/api/v1/results").json()) == 3
    assert [d["device"] for d in operator.json("devices")] == [m.DEVICE]
    assert len(operator.json("results", "--study", m.study(2))) == 1
    assert "not analysed" in operator.run("results").stdout
    assert operator.json("alerts") == []
    registry.send_signal(signal.SIGTERM)
    assert registry.wait(60) == 0


def test_a_role_that_dies_is_started_again(operator: Operator, registry: subprocess.Popen[bytes]) -> None:
    with _pages(operator) as pages:
        wait_until(lambda: _healthy(pages), 60)
        before = children(registry.pid)
        assert len(before) == 3
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda: len(after := children(registry.pid)) == 3 and before[0] not in after, 60)
        wait_until(lambda: _healthy(pages), 60)


def test_errors_are_said_with_their_remedy(operator: Operator) -> None:
    missing = operator.run("server-cert", fails=True)
    assert "init-ca" in missing.stderr
    assert "Traceback" not in missing.stderr
    operator.file.write_text("web: {port: many}\n")
    assert "web.port" in operator.run("devices", fails=True).stderr
    operator.file.write_text("wbe: {}\n")
    assert "wbe" in operator.run("devices", fails=True).stderr
    operator.configure(1)
    operator.environment["ONESCAN_REGISTRY_DATABASE"] = "host=127.0.0.1 port=1 dbname=none"
    assert "Start PostgreSQL" in operator.run("devices", fails=True).stderr


def test_a_wish_for_an_unknown_device_is_refused(operator: Operator) -> None:
    operator.run("migrate")
    wish = ("desired", "--site", "no", "--device", "one", "--bundle", "reference", "--version", "2.0")
    assert "not enrolled" in operator.run(*wish, fails=True).stderr


def enrol(operator: Operator, token: str) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    ca = str(operator.folder / "pki/ca.crt")
    url = f"https://127.0.0.1:{operator.est}/.well-known/est/simpleenroll"
    auth = (f"{m.SITE}/{m.DEVICE}", token)
    answer = httpx.post(
        url, content=request(key), auth=auth, verify=ssl.create_default_context(cafile=ca), trust_env=False
    )  # fmt: skip
    assert answer.status_code == 200, answer.text
    file = operator.folder / "device.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )  # fmt: skip
    file.write_bytes(private + certificate(answer).public_bytes(serialization.Encoding.PEM))
    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(str(file))
    return context


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _pages(operator: Operator) -> httpx.Client:
    """A client that makes a connection for each request: one kept between waits may end while it is asked again."""
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.Client(base_url=f"http://127.0.0.1:{operator.web}", trust_env=False, limits=limits)


def _healthy(pages: httpx.Client) -> bool:
    try:
        return pages.get("/healthz").json() == {"database": True, "ingest": True}
    except httpx.TransportError:
        return False
