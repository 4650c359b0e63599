"""STOW-RS into a running receiver: durable and byte for byte, answered by the standard, complete when the client is."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage
from typer.testing import CliRunner

from appliance import wiring
from appliance.cli import app
from appliance.config import parse
from appliance.identity.keys import IdentityFolder
from appliance.identity.pseudonyms import ensure_site_key
from appliance.intake.part10 import read_meta
from appliance.intake.senders import read as read_senders
from appliance.tls import server_context
from core.errors import ConfigError
from tests.appliance.dicom_samples import ct_series, ct_slice, encoded, part10, uid
from tests.appliance.intake.stand import Stand, wait_for
from tests.appliance.intake.stow.web import TYPE, box, connect, head_of, instances, multipart, port, post, reasons, said
from tests.frame.certificates import TestAuthority

ROOT = Path(__file__).resolve().parents[4]


def spooled(stand: Stand) -> dict[str, bytes]:
    """Data sets in the spool, by SOP Instance UID."""
    found = {}
    for extent in stand.objects():
        content = extent.read()
        meta = read_meta(content)
        found[meta.sop_instance_uid] = content[meta.offset :]
    return found


@pytest.mark.parametrize("path", ["/studies", f"/studies/{uid('a')}"])
def test_a_study_comes_in_byte_for_byte_and_is_complete_by_geometry(tmp_path: Path, path: str) -> None:
    series = ct_series(6)
    with box(tmp_path) as stand:
        status, headers, module = post(stand, multipart([part10(ds) for ds in series]), path)
        assert (status, headers["content-type"]) == (200, "application/dicom+json")
        assert set(module) == {"00081190", "00081199"}
        assert module["00081199"]["Value"][0]["00081150"] == {"vr": "UI", "Value": [series[0].SOPClassUID]}
        assert instances(module) == [ds.SOPInstanceUID for ds in series]
        assert spooled(stand) == {ds.SOPInstanceUID: encoded(ds) for ds in series}
        ((_, handover),) = wait_for(lambda: stand.reader.handovers_after(0))
        assert (handover.complete_by, len(handover.instances)) == ("geometry", 6)
    (sender,) = read_senders(tmp_path / "senders.json")
    assert (sender.ae_title, sender.address, sender.instances, sender.associations) == ("STOW-RS", "127.0.0.1", 6, 1)
    assert (sender.associations_broken, sender.associations_refused, sender.tls) == (0, 0, False)


def test_a_study_in_many_requests_is_one_study(tmp_path: Path) -> None:
    series = ct_series(12)
    with box(tmp_path, settings={"pause_s": 1.5}) as stand:
        for at in range(0, 12, 3):
            assert post(stand, multipart([part10(ds) for ds in series[at : at + 3]]))[0] == 200
        ((_, handover),) = wait_for(lambda: stand.reader.handovers_after(0))
        assert (handover.complete_by, len(handover.instances)) == ("geometry", 12)
    assert read_senders(tmp_path / "senders.json")[0].associations == 1


@pytest.mark.parametrize("kill_after", [1, 12])
def test_no_instance_that_was_answered_with_success_is_lost_by_kill_9(tmp_path: Path, kill_after: int) -> None:
    series = ct_series(30)
    command = [sys.executable, "-m", "tests.appliance.intake.stow.stowing_process", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    at = int(process.stdout.readline())
    answered: list[str] = []
    reached = threading.Event()

    def client() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):  # the receiver is gone
            for ds in series:
                status, _, module = post(at, multipart([part10(ds)]))
                assert status == 200
                answered.extend(instances(module))
                if len(answered) >= kill_after:
                    reached.set()

    thread = threading.Thread(target=client)
    thread.start()
    try:
        assert reached.wait(30)
    finally:
        process.kill()
        process.wait()
        thread.join(60)
    assert kill_after <= len(answered) < 30
    with box(tmp_path) as stand:
        sent = {ds.SOPInstanceUID: encoded(ds) for ds in series}
        assert {name: spooled(stand)[name] for name in answered} == {name: sent[name] for name in answered}
        assert post(stand, multipart([part10(ds) for ds in series]))[0] == 200
        ((_, handover),) = wait_for(lambda: stand.reader.handovers_after(0))
        assert len(handover.instances) == 30
    assert not list((tmp_path / "spool").rglob(".part-*"))


def test_connections_are_kept_and_chunks_are_taken(tmp_path: Path) -> None:
    with box(tmp_path) as stand:
        client = http.client.HTTPConnection("127.0.0.1", port(stand), timeout=60)
        local = set()
        for index in range(3):
            body = multipart([part10(ct_slice(index=index))])
            in_chunks = iter([body[:100], body[100:5000], body[5000:]])
            client.request("POST", "/studies", in_chunks if index else body, {"Content-Type": TYPE})
            response = client.getresponse()
            assert (response.status, len(instances(json.loads(response.read())))) == (200, 1)
            local.add(client.sock.getsockname())
        client.close()
        assert len(local) == 1
        assert len(stand.objects()) == 3


def test_who_waits_for_100_continue_hears_it_or_the_refusal(tmp_path: Path) -> None:
    body = multipart([part10(ct_slice())])
    with box(tmp_path) as stand, connect(stand) as connection:
        connection.sendall(head_of(len(body), Expect="100-continue"))
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        assert said(connection)[0] == 200
    with box(tmp_path / "full", min_free_bytes=1 << 62) as stand, connect(stand) as connection:
        connection.sendall(head_of(len(body), Expect="100-continue"))
        status, headers, _ = said(connection)
        assert (status, headers["retry-after"], headers["connection"]) == (503, "60", "close")


def test_some_that_fail_are_named_with_their_reasons(tmp_path: Path) -> None:
    good, foreign = ct_slice(), ct_slice(study="b", index=1)
    mr = ct_slice(index=2, SOPClassUID=MRImageStorage)
    cut, deflated = ct_slice(index=3), ct_slice(index=4)
    parts = [
        part10(good), part10(foreign), part10(mr), part10(cut)[:-700],
        part10(deflated, syntax=DeflatedExplicitVRLittleEndian), b"<html>", b"", part10(good),
    ]  # fmt: skip
    with box(tmp_path) as stand:
        status, _, module = post(stand, multipart(parts), f"/studies/{uid('a')}")
        assert status == 202
        assert instances(module) == [good.SOPInstanceUID] * 2  # the same again is here
        failed = [ds.SOPInstanceUID for ds in (foreign, mr, cut, deflated)]
        assert instances(module, "00081198") == failed
        assert reasons(module) == [0xA901, 0x0122, 0xC001, 0xC122]
        assert reasons(module, "0008119A") == [0xC000, 0xC000]
        assert list(spooled(stand)) == [good.SOPInstanceUID]
    (sender,) = read_senders(tmp_path / "senders.json")
    assert (sender.instances, sender.instances_refused) == (2, 6)


@pytest.mark.parametrize(
    ("parts", "kind", "reason"),
    [
        ([part10(ct_slice(study="b"))], "application/dicom", 0xA901),
        ([part10(ct_slice())], "application/dicom; transfer-syntax=1.2.840.10008.1.2", 0xC000),
        ([part10(ct_slice())], "image/jpeg", 0xC000),
    ],
    ids=["another study", "another transfer syntax", "another type"],
)
def test_where_nothing_could_be_stored_it_is_a_conflict(
    tmp_path: Path, parts: list[bytes], kind: str, reason: int
) -> None:
    with box(tmp_path) as stand:
        status, _, module = post(stand, multipart(parts, kind), f"/studies/{uid('a')}")
        assert (status, reasons(module), instances(module)) == (409, [reason], [])
        assert not stand.objects()


def test_the_transfer_syntax_may_be_named_and_a_type_left_out(tmp_path: Path) -> None:
    with box(tmp_path) as stand:
        named = "application/dicom; transfer-syntax=1.2.840.10008.1.2"
        assert post(stand, multipart([part10(ct_slice(), syntax=ImplicitVRLittleEndian)], named))[0] == 200
        assert post(stand, multipart([part10(ct_slice(index=1))], ""))[0] == 200
        assert len(stand.objects()) == 2


def test_another_content_under_a_known_uid_is_kept_and_reported(tmp_path: Path) -> None:
    with box(tmp_path) as stand:
        assert post(stand, multipart([part10(ct_slice())]))[0] == 200
        assert post(stand, multipart([part10(ct_slice(PatientAge="058Y"))]))[0] == 200
        assert (len(stand.objects()), stand.duplicates) == (2, ["pseudonym"])


def test_without_room_the_client_is_told_when_to_come_again(tmp_path: Path) -> None:
    body = multipart([part10(ct_slice())])
    with box(tmp_path, min_free_bytes=1 << 62) as stand:
        status, headers, module = post(stand, body)
        assert (status, headers["retry-after"], set(module)) == (503, "60", {"00081190"})
        stand.role._min_free_bytes = 0  # the disk fills while the request is under way
        status, headers, module = post(stand, body)
        assert (status, headers["retry-after"], reasons(module)) == (503, "60", [0xA700])
        assert not stand.objects()


@pytest.mark.parametrize(
    ("method", "path", "kind", "status"),
    [("GET", "/studies", "", 405), ("POST", "/dicom-web/studies", "", 404), ("POST", "/studies", "text/plain", 415)],
)
def test_other_requests_are_answered(tmp_path: Path, method: str, path: str, kind: str, status: int) -> None:
    with box(tmp_path) as stand:
        client = http.client.HTTPConnection("127.0.0.1", port(stand), timeout=60)
        client.request(method, path, b"" if method == "POST" else None, {"Content-Type": kind} if kind else {})
        response = client.getresponse()
        assert (response.status, response.getheader("Connection")) == (status, "close")
        client.close()
    (sender,) = read_senders(tmp_path / "senders.json")
    assert sender.associations_refused == 1
    assert str(status) in sender.trouble


def test_over_tls_with_certificates_of_the_sites_authority(tmp_path: Path) -> None:
    authority = TestAuthority(tmp_path)
    certificate, key = authority.issue("127.0.0.1")
    client_files = authority.issue("gateway")
    known = ssl.create_default_context(cafile=str(authority.certificate))
    known.load_cert_chain(*client_files)
    unknown = ssl.create_default_context(cafile=str(authority.certificate))
    body = multipart([part10(ct_slice())])
    with box(tmp_path / "box", tls=server_context(certificate, key, authority.certificate)) as stand:

        def over_tls(context: ssl.SSLContext) -> int:
            client = http.client.HTTPSConnection("127.0.0.1", port(stand), timeout=60, context=context)
            try:
                client.request("POST", "/studies", body, {"Content-Type": TYPE})
                return client.getresponse().status
            finally:
                client.close()

        assert over_tls(known) == 200
        with pytest.raises(OSError, match=r"(?i)certificate|reset|pipe|eof"):
            over_tls(unknown)
        with pytest.raises((OSError, http.client.HTTPException)):
            post(stand, body)  # without TLS
        assert len(stand.objects()) == 1
    (sender,) = read_senders(tmp_path / "box" / "senders.json")
    assert sender.tls


def test_only_listed_addresses_are_served(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = {"addresses": (ipaddress.ip_network("10.0.0.0/8"),)}
    with box(tmp_path, settings=settings) as stand, connect(stand) as connection:
        assert connection.recv(1) == b""
        wait_for(lambda: "receiver.addresses" in caplog.text)


def test_nothing_of_the_patient_or_the_study_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    parts = [part10(ct_slice()), part10(ct_slice(index=1))[:-700], b"Secret^Name", part10(ct_slice(study="b"))]
    with box(tmp_path) as stand:
        assert post(stand, multipart(parts), f"/studies/{uid('a')}")[0] == 202
        assert post(stand, b"--boundary of parts\r\nSecret^Name: (\r\n")[0] == 400
        assert post(stand, b"", "/studies/Secret^Name")[0] == 400
    text = caplog.text + json.dumps([str(record.__dict__) for record in caplog.records])
    assert "STOW-RS" in text
    for secret in ("Secret", "4711", uid("a"), uid("b"), ct_slice().SOPInstanceUID):
        assert secret not in text


CONFIG: dict[str, Any] = {
    **{"site": "s", "device": "d", "state": "/nowhere"},
    "registry": {"mqtt_host": "localhost", "tuf_url": "https://localhost/tuf"},
}


def test_it_is_off_unless_the_configuration_says_so() -> None:
    assert wiring.stow(parse(json.dumps(CONFIG))) is None
    stow = {"port": 8044, "sender_name": "GATEWAY", "max_parts": 7, "max_part_bytes": 1 << 20, "idle_s": 5.0}
    receiver = {"addresses": ["10.1.0.0/16"], "connections_per_minute": 60, "stow": {**stow, "pause_s": 3.0}}
    settings = wiring.stow(parse(json.dumps({**CONFIG, "receiver": receiver})))
    assert settings is not None
    assert (settings.listener.port, settings.sender, settings.most_parts) == (8044, "GATEWAY", 7)
    assert (settings.max_part_bytes, settings.idle_s, settings.pause_s) == (1 << 20, 5.0, 3.0)
    assert (list(map(str, settings.addresses)), settings.connections_per_minute) == (["10.1.0.0/16"], 60)


def test_files_that_cannot_be_used_are_named_with_the_setting(tmp_path: Path) -> None:
    tls = {"certificate": str(tmp_path / "no.crt"), "key": str(tmp_path / "no.key")}
    with pytest.raises(ConfigError, match=r"receiver\.stow\.tls: no\.crt, no\.key"):
        wiring.stow(parse(json.dumps({**CONFIG, "receiver": {"stow": {"tls": tls}}})))


def test_a_port_that_is_taken_says_so(tmp_path: Path) -> None:
    with box(tmp_path / "a") as stand:
        with pytest.raises(ConfigError, match="can't listen on 127") as refused, box(tmp_path / "b", port=port(stand)):
            pass
        assert "receiver.stow.port" in refused.value.remedy()


def test_the_receiver_role_listens_as_configured_and_the_command_shows_who_came(tmp_path: Path) -> None:
    ensure_site_key(IdentityFolder(tmp_path / "identity"))
    config = tmp_path / "appliance.yaml"
    stow = {"host": "127.0.0.1", "port": 0, "sender_name": "GATEWAY 7"}
    receiver = {"host": "127.0.0.1", "port": 0, "min_free_bytes": 0, "stow": stow}
    config.write_text(json.dumps({**CONFIG, "state": str(tmp_path), "receiver": receiver}))  # YAML, as all JSON is
    command = [sys.executable, "-m", "appliance.cli", "run", "receiver", "--config", str(config)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        at = tmp_path / "run" / "receiver-stow.port"
        wait_for(lambda: process.poll() is not None or (at.exists() and at.read_text()))
        assert post(int(at.read_text()), multipart([part10(ct_slice())]))[0] == 200
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
    assert "GATEWAY 7" in CliRunner().invoke(app, ["senders", "--config", str(config)]).output
