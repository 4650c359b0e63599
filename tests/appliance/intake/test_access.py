"""Who may send, over what, and what a field engineer is told when it does not work."""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage, MRImageStorage
from pynetdicom import AE
from typer.testing import CliRunner

from appliance.cli import _not_taken, app
from appliance.intake import senders
from appliance.intake.senders import _SENDERS, Senders
from appliance.intake.wire.acceptor import RefusedContext
from appliance.intake.wire.gate import can_not_listen
from appliance.tls import server_context
from core.errors import ConfigError
from tests.appliance.dicom_samples import ct_series, ct_slice, part10
from tests.appliance.intake.stand import (
    AE_TITLE,
    RealClock,
    association,
    objects,
    push,
    running,
    send,
    storescu,
    wait_for,
)
from tests.frame.certificates import TestAuthority

ROOT = Path(__file__).resolve().parents[3]
CERTIFICATE = ("127.0.0.1", "scanner")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    authority = TestAuthority(tmp_path_factory.mktemp("authority"))
    for name in CERTIFICATE:
        authority.issue(name)
    return authority


def context(authority: TestAuthority, client_ca: bool = True) -> ssl.SSLContext:
    folder = authority.folder
    return server_context(
        folder / "127.0.0.1.crt", folder / "127.0.0.1.key", authority.certificate if client_ca else None
    )


def files(folder: Path, count: int = 5) -> list[Path]:
    paths = []
    for number, ds in enumerate(ct_series(count)):
        paths.append(folder / f"{number}.dcm")
        paths[-1].write_bytes(part10(ds))
    return paths


def test_dcmtk_sends_over_tls_with_a_certificate(tmp_path: Path, authority: TestAuthority) -> None:
    folder = authority.folder
    tls = ["+tls", str(folder / "scanner.key"), str(folder / "scanner.crt"), "+cf", str(authority.certificate)]
    with running(tmp_path / "box", tls=context(authority)) as stand:
        done = storescu(stand.port, *files(tmp_path), options=tls)
        assert done.returncode == 0, done.stderr
        assert len(stand.objects()) == 5
        ((_, handover),) = wait_for(lambda: stand.reader.handovers_after(0))
        assert handover.complete_by == "geometry"


def test_who_has_no_certificate_or_another_ones_is_turned_away(tmp_path: Path, authority: TestAuthority) -> None:
    stranger = TestAuthority(tmp_path)
    certificate, key = stranger.issue("stranger")
    with running(tmp_path / "box", tls=context(authority)) as stand:
        (path,) = files(tmp_path, 1)
        for options in (
            ["+tla", "+cf", str(authority.certificate)],
            ["+tls", str(key), str(certificate), "+cf", str(authority.certificate)],
        ):
            assert storescu(stand.port, path, options=options).returncode
        assert storescu(stand.port, path).returncode, "plain DICOM on the TLS port"
        assert not stand.objects()
        wait_for(lambda: not stand.links())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_with_forward_secrecy(
    tmp_path: Path, authority: TestAuthority, version: ssl.TLSVersion
) -> None:
    client = ssl.create_default_context(cafile=str(authority.certificate))
    client.minimum_version = client.maximum_version = version
    with running(tmp_path / "box", tls=context(authority, client_ca=False)) as stand:
        plain = socket.create_connection(("127.0.0.1", stand.port))
        with client.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
            name, _, _ = connection.cipher() or ("", "", 0)
        assert "GCM" in name or "CHACHA20" in name
        assert name.startswith(("ECDHE", "TLS_"))


def test_tls_1_1_is_refused(tmp_path: Path, authority: TestAuthority) -> None:
    script = ["openssl", "s_client", "-connect", "127.0.0.1:{port}", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]
    with running(tmp_path / "box", tls=context(authority, client_ca=False)) as stand:
        command = [part.format(port=stand.port) for part in script]
        done = subprocess.run(command, input="", capture_output=True, text=True, timeout=60)
        assert done.returncode
        assert "Cipher is ECDHE" not in done.stdout


def test_a_key_of_another_certificate_says_so(authority: TestAuthority) -> None:
    folder = authority.folder
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1\.crt, scanner\.key"):
        server_context(folder / "127.0.0.1.crt", folder / "scanner.key", None)
    with pytest.raises(ConfigError, match="No such file"):
        server_context(folder / "nowhere.crt", folder / "scanner.key", None)


def test_only_listed_addresses_are_served(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running(tmp_path / "no", addresses=(ipaddress.ip_network("10.0.0.0/8"),)) as stand:
        with socket.create_connection(("127.0.0.1", stand.port)) as connection:
            assert connection.recv(1) == b""
        wait_for(lambda: "receiver.addresses" in caplog.text)
    with running(tmp_path / "yes", addresses=(ipaddress.ip_network("127.0.0.0/8"),)) as stand:
        assert push(stand.port, tmp_path, [ct_slice()]) == [0]


def test_an_address_that_connects_too_often_is_slowed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running(tmp_path, connections_per_minute=30.0) as stand:
        for _ in range(8):
            socket.create_connection(("127.0.0.1", stand.port)).close()
        wait_for(lambda: caplog.text.count("too many a minute") >= 2)


def test_below_the_watermark_associations_are_refused_early(tmp_path: Path) -> None:
    with running(tmp_path, min_free_bytes=1 << 60) as stand, association(stand.port) as assoc:
        assert assoc.is_rejected
        assert assoc.acceptor.primitive is not None
        answer = assoc.acceptor.primitive
        assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 1)


def known(folder: Path) -> dict[str, senders.Sender]:
    return {sender.ae_title: sender for sender in senders.read(folder / "senders.json")}


def test_what_senders_did_and_what_went_wrong_is_written_down(tmp_path: Path) -> None:
    with running(tmp_path / "box", senders_file=tmp_path / "senders.json") as stand:
        assert push(stand.port, tmp_path, ct_series(3)) == [0] * 3
        with association(stand.port) as assoc:
            assert send(assoc, tmp_path, part10(ct_slice(PixelData=b"\0\0"))).Status == 0xC003
        with association(stand.port, calling="LOST", called="OTHER") as assoc:
            assert assoc.is_rejected
        ae = AE("MR1")
        ae.add_requested_context(MRImageStorage, ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"])
        ae.associate("127.0.0.1", stand.port, ae_title=AE_TITLE).abort()
        wait_for(lambda: stand.role._wake.set() or len(known(tmp_path)) == 3)
    found = known(tmp_path)
    scanner, lost, mr = found["SCANNER1"], found["LOST"], found["MR1"]
    assert (scanner.associations, scanner.instances, scanner.instances_refused) == (2, 3, 1)
    assert "Pixel Data" in scanner.trouble
    assert (lost.associations_refused, lost.address) == (1, "127.0.0.1")
    assert "it called OTHER" in lost.trouble
    assert mr.associations_broken == 1
    assert mr.not_taken == ((str(MRImageStorage), ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2"), 3),)


def test_refused_syntaxes_come_first_and_a_kind_that_is_not_taken_comes_once() -> None:
    told, jpeg, plain = Senders(RealClock().now), "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.1"
    strange = [RefusedContext(f"1.2.3.{n}", (syntax,), 3) for n in range(5) for syntax in (jpeg, plain)]
    told.connected("CT9", "10.0.0.9", False, [*strange, RefusedContext(CTImageStorage, (jpeg,), 4)])
    (sender,) = told._known.values()
    assert list(_not_taken(sender.not_taken)) == [
        "CT Image Storage as JPEG Baseline (Process 1)", "1.2.3.0", "1.2.3.1", "1.2.3.2",
        "and 2 more kinds (--json has all)",
    ]  # fmt: skip


def test_the_command_shows_it(tmp_path: Path) -> None:
    settings = {
        **{"site": "s", "device": "d", "state": str(tmp_path)},
        "registry": {"mqtt_host": "localhost", "tuf_url": "https://localhost/tuf"},
    }
    config = tmp_path / "appliance.yaml"
    config.write_text(json.dumps(settings))  # YAML, as all JSON is
    run = CliRunner().invoke(app, ["senders", "--config", str(config)])
    assert "Nobody has connected" in run.output
    told = Senders(RealClock().now)
    told.refused("CT9", "10.0.0.9", "it called another AE title: set ours at the sender")
    (tmp_path / "run").mkdir()
    told.write(tmp_path / "run" / "senders.json")
    run = CliRunner().invoke(app, ["senders", "--config", str(config)])
    assert "CT9" in run.output
    assert "1 refused" in run.output
    (row,) = json.loads(CliRunner().invoke(app, ["senders", "--json", "--config", str(config)]).output)
    assert row["trouble"] == "it called another AE title: set ours at the sender"


def test_what_is_remembered_of_senders_is_bounded(tmp_path: Path) -> None:
    told = Senders(RealClock().now)
    for number in range(2 * _SENDERS):
        told.refused(f"AE{number}", "10.0.0.9", "x")
    told.write(tmp_path / "senders.json")
    found = senders.read(tmp_path / "senders.json")
    assert len(found) == _SENDERS
    assert found[0].ae_title == f"AE{2 * _SENDERS - 1}"


BIND = "net_bind_service"


def beside(folder: Path, capabilities: str) -> subprocess.Popen[str]:
    """A receiver on port 104, in a network of its own, with these capabilities and no others."""
    serve = f"exec {sys.executable} -m tests.appliance.intake.receiver_process {folder} 60 port=104"
    without_all = f"setpriv --bounding-set={capabilities} --inh-caps=-all --no-new-privs sh -c '{serve}'"
    command = ["unshare", "-n", "sh", "-c", f"ip link set lo up && exec {without_all}"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def own_network() -> None:
    if os.geteuid() or subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode:
        pytest.skip("only root may give a process a network and capabilities of its own")


@pytest.mark.usefixtures("own_network")
def test_port_104_takes_one_capability_and_nothing_else(tmp_path: Path) -> None:
    with beside(tmp_path / "box", f"-all,+{BIND}") as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "104\n", process.communicate()[1]
            status = Path(f"/proc/{process.pid}/status").read_text()
            assert "CapEff:\t0000000000000400\n" in status
            inside = ["nsenter", f"--net=/proc/{process.pid}/ns/net", "storescu", "-aec", AE_TITLE, "127.0.0.1", "104"]
            done = subprocess.run([*inside, *map(str, files(tmp_path))], capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
        finally:
            process.kill()
    assert len(objects(tmp_path / "box" / "spool")) == 5


@pytest.mark.usefixtures("own_network")
def test_port_104_without_it_says_what_to_do(tmp_path: Path) -> None:
    with beside(tmp_path / "box", "-all") as process:
        _, said = process.communicate(timeout=60)
    assert "can't listen on" in said
    assert "Permission denied" in said
    refusal = can_not_listen(PermissionError(errno.EACCES, "Permission denied", "127.0.0.1:104"), "receiver")
    assert "CAP_NET_BIND_SERVICE" in refusal.remedy()
