"""The acceptance test accepts a box that works, against the real broker, and names each part that does not."""

from __future__ import annotations

import contextlib
import datetime as dt
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pynetdicom import AE
from typer.testing import CliRunner

from appliance import config
from appliance.config import ApplianceConfig
from deploy.embedded.mosquitto import MosquittoBroker
from deploy.embedded.ports import free_port
from provisioning import acceptance
from provisioning.cli import app
from provisioning.preflight import Check
from registry import acl, authority
from tests.provisioning.conftest import SITE, Registry

pytestmark = pytest.mark.integration
NOW = dt.datetime.now(dt.timezone.utc)


@contextlib.contextmanager
def _echoing(title: str, calling: str) -> Iterator[int]:
    """A DICOM node that answers C-ECHO from one AE title only; its port."""
    ae = AE(ae_title=title)
    ae.add_supported_context("1.2.840.10008.1.1")
    ae.require_called_aet = True
    ae.require_calling_aet = [calling]
    server = ae.start_server(("127.0.0.1", 0), block=False)
    assert server is not None
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


@contextlib.contextmanager
def _page(box: dict[str, str]) -> Iterator[int]:
    """The box's page, as far as the test asks it."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = json.dumps(box).encode()
            self.send_response(200 if self.path == "/api/v1/box" else 404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Box:
    """A provisioned box with everything around it running."""

    settings: ApplianceConfig
    broker: MosquittoBroker
    page: dict[str, str]

    def found(self) -> dict[str, Check]:
        return {check.name: check for check in acceptance.accept(self.settings, NOW)}

    def changed(self, section: str, **changes: object) -> ApplianceConfig:
        return self.settings.model_copy(update={section: getattr(self.settings, section).model_copy(update=changes)})


@pytest.fixture
def box(registry: Registry, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Box]:
    device = f"accepted-{abs(hash(request.node.name)) % 10**9}"
    key = authority.new_key(tmp_path / "broker.key")
    (tmp_path / "broker.crt").write_bytes(registry.authority.server(["127.0.0.1"], key.public_key(), NOW).pem)
    page = {"bundle": "tiny 1.0.0"}
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(
            MosquittoBroker(
                tmp_path / "mosquitto",
                registry.folder / "authority" / "ca.crt",
                tmp_path / "broker.crt",
                tmp_path / "broker.key",
                acl.render([(SITE, device)], ["ingest"]),
            )
        )
        plan = registry.write_plan(
            tmp_path,
            device,
            mqtt_port=broker.port,
            scanners=[{"ae_title": "CT1"}],
            receiver={"host": "0.0.0.0", "port": stack.enter_context(_echoing("ONESCAN", "CT1")), "min_free_bytes": 0},
            pacs=[
                {"name": "main", "host": "127.0.0.1", "port": stack.enter_context(_echoing("PACS", "ONESCAN")),
                 "ae_title": "PACS"}
            ],
            console={"port": stack.enter_context(_page(page))},
            analyser={"memory_mb": 512},
        )  # fmt: skip
        state = str(tmp_path / "state")
        arguments = ["apply", str(plan), "--state", state, "--token-stdin"]
        result = CliRunner().invoke(app, arguments, input=registry.token(device))
        assert result.exit_code == 0, result.output
        yield Box(config.load(tmp_path / "state" / "appliance.yaml"), broker, page)


def test_a_box_that_works_is_accepted(box: Box) -> None:
    result = CliRunner().invoke(app, ["accept", "--state", str(box.settings.state), "--json"])
    said = json.loads(result.stdout)
    assert result.exit_code == 0, said
    found = {c["name"]: c for c in said["checks"]}
    for name in ("identity", "receiver", "PACS main", "broker", "model"):
        assert found[name]["status"] == "ok", found[name]
    assert "tiny 1.0.0" in found["model"]["found"]
    table = CliRunner().invoke(app, ["accept", "--state", str(box.settings.state)])
    assert "receiver" in table.stdout


def test_a_broker_that_lets_everybody_speak_for_everybody_is_not_accepted(box: Box) -> None:
    box.broker.set_acl("pattern readwrite #\n")
    found = box.found()["broker"]
    assert found.status == "fail"
    assert "as another device" in found.found


def test_a_device_that_the_broker_does_not_list_is_told_so(box: Box) -> None:
    box.broker.set_acl("user nobody\ntopic read x\n")
    found = box.found()["broker"]
    assert found.status == "fail"
    assert "access list" in found.remedy


def test_a_broker_that_is_away_is_named_and_hides_nothing_else(box: Box) -> None:
    box.broker.stop()
    found = box.found()
    assert found["broker"].status == "fail"
    assert found["receiver"].status == found["PACS main"].status == "ok"


def test_a_broker_of_another_authority_is_not_believed(box: Box, tmp_path: Path) -> None:
    box.broker.stop()
    (tmp_path / "other").mkdir()
    evil = authority.create(tmp_path / "evil", "Evil CA", NOW)
    key = authority.new_key(tmp_path / "evil.key")
    (tmp_path / "evil.crt").write_bytes(evil.server(["127.0.0.1"], key.public_key(), NOW).pem)
    files = (tmp_path / "evil" / "ca.crt", tmp_path / "evil.crt", tmp_path / "evil.key")
    with MosquittoBroker(tmp_path / "other", *files, acl="topic readwrite #\n", port=box.settings.registry.mqtt_port):
        found = acceptance.broker(box.settings)
    assert found.status == "fail"
    assert "certificate" in found.found.lower()


def test_a_pacs_that_does_not_know_us_is_named(box: Box) -> None:
    stranger = box.changed("receiver", ae_title="SOMEBODY")
    found = acceptance.pacs(stranger, "main", "127.0.0.1", stranger.pacs[0].port, "PACS")
    assert found.status == "fail"
    assert "registered at the PACS" in found.remedy


def test_a_receiver_that_does_not_run_is_named(box: Box) -> None:
    found = acceptance.receiver(box.changed("receiver", port=free_port()))
    assert found.status == "fail"
    assert "onescan-appliance run" in found.remedy


def test_a_receiver_on_a_port_of_its_own_choice_is_found_by_its_file(box: Box) -> None:
    settings = box.changed("receiver", port=0)
    assert acceptance.receiver(settings).status == "fail"
    (settings.run / "receiver.port").write_text(f"{box.settings.receiver.port}\n")
    assert acceptance.receiver(settings).status == "ok"


def test_no_active_model_is_a_warning(box: Box) -> None:
    box.page["bundle"] = ""
    assert box.found()["model"].status == "warn"


def test_a_certificate_near_its_end_warns_and_an_expired_one_fails(box: Box) -> None:
    assert acceptance.identity(box.settings, NOW + dt.timedelta(days=300)).status == "warn"
    assert acceptance.identity(box.settings, NOW + dt.timedelta(days=500)).status == "fail"
