"""A real registry to enrol with: PostgreSQL, the enrolment server over HTTPS, a model repository over HTTP."""

from __future__ import annotations

import datetime as dt
import hashlib
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import yaml

from deploy.embedded.ports import free_port
from deploy.embedded.postgres import PostgresCluster
from engines.publish import init_repository
from registry import authority, migrations, tokens
from registry.config import RegistryConfig
from registry.enrolment import enrolment_app
from registry.store import connect
from tests.appliance.update.webserver import Site, serving

SITE = "kigali"


@dataclass
class Registry:
    """What the central team runs."""

    folder: Path
    database: str
    authority: authority.Authority
    enrol_url: str
    models: Site

    def token(self, device: str, life: dt.timedelta = dt.timedelta(hours=1)) -> str:
        with connect(self.database, "test") as connection:
            return tokens.make_token(connection, SITE, device, _now(), life)

    def plan(self, device: str = "ct1", **changes: Any) -> dict[str, Any]:
        """A plan's fields; `changes` are merged into `registry` where they belong there, else at the top."""
        root = self.models.root / "metadata" / "1.root.json"
        registry = {
            "enrol_url": self.enrol_url,
            "ca_sha256": self.authority.fingerprint,
            "mqtt_host": "127.0.0.1",
            "tuf_url": self.models.url,
            "tuf_root": {"sha256": hashlib.sha256(root.read_bytes()).hexdigest()},
        }
        registry.update({name: changes.pop(name) for name in list(changes) if name in registry or name == "mqtt_port"})
        return {"site": SITE, "device": device, "registry": registry, **changes}

    def write_plan(self, folder: Path, device: str = "ct1", **changes: Any) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "site-plan.yaml"
        path.write_text(yaml.safe_dump(self.plan(device, **changes)))
        return path


def _now() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc)


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    folder = Path(tempfile.mkdtemp(prefix="onescan-test-"))
    folder.chmod(0o755)
    cluster = PostgresCluster(folder / "postgres")
    try:
        with cluster:
            database = cluster.create_database()
            with connect(database, "test") as connection:
                migrations.apply(connection)
            ca = authority.create(folder / "authority", "Test CA", _now())
            certificate, key = folder / "server.crt", folder / "server.key"
            public = authority.new_key(key).public_key()
            certificate.write_bytes(ca.server(["127.0.0.1"], public, _now()).pem)
            settings = RegistryConfig.model_validate({"database": database})
            port = free_port()
            server = uvicorn.Server(
                uvicorn.Config(
                    enrolment_app(settings, ca),
                    port=port,
                    ssl_certfile=str(certificate),
                    ssl_keyfile=str(key),
                    log_config=None,
                )
            )
            thread = threading.Thread(target=server.run, daemon=True)
            thread.start()
            deadline = time.monotonic() + 30
            while not server.started:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            init_repository(folder / "models", folder / "model-keys")
            with serving(folder / "models") as models:
                yield Registry(folder, database, ca, f"https://127.0.0.1:{port}", models)
            server.should_exit = True
            thread.join(30)
    finally:
        cluster.remove()
        shutil.rmtree(folder, ignore_errors=True)
