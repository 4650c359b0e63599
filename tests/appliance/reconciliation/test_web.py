"""A source that speaks DICOMweb: Orthanc's own plugin, and a small one that answers as badly as they come."""

from __future__ import annotations

import base64
import datetime as dt
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread

from appliance import wiring
from appliance.association import Peer
from appliance.config import ApplianceConfig, parse
from appliance.intake.receiver import SOP_CLASSES, TRANSFER_SYNTAXES
from appliance.reconciliation.comparison import Performed, PerformedSeries
from appliance.reconciliation.web import OwnReceiver, WebAddress, WebSource, part_of
from appliance.storage.reconciliation import ReconciliationList
from core.errors import DeliveryError
from deploy.embedded import OrthancPacs
from tests.appliance.intake.stand import AE_TITLE, Stand, running, wait_for
from tests.appliance.reconciliation.test_outage import TODAY, archive, missed, reconciler, study

__all__ = ["missed"]
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
CONTEXTS = [(sop_class, syntax) for sop_class in SOP_CLASSES for syntax in TRANSFER_SYNTAXES]


def receiver_of(stand: Stand) -> Callable[[], OwnReceiver]:
    return lambda: OwnReceiver(Peer("127.0.0.1", stand.port, AE_TITLE), CONTEXTS)


@pytest.mark.integration
def test_what_was_missed_comes_by_dicomweb_with_the_pixels_that_were_archived(
    tmp_path: Path, missed: ReconciliationList
) -> None:
    if not PLUGIN.exists():
        pytest.skip("Orthanc's DICOMweb plugin is not installed (apt-get install orthanc-dicomweb)")
    away, other = study("away"), study("other", Modality="MR")
    with (
        OrthancPacs(tmp_path / "orthanc", plugins=[PLUGIN]) as pacs,
        running(tmp_path / "box") as stand,
    ):
        for datasets in (away, other):
            archive(pacs.port, "ORTHANC", tmp_path, datasets)
        authorization = f"Basic {base64.b64encode(pacs.credentials.encode()).decode()}"
        address = WebAddress("web", f"http://127.0.0.1:{pacs.http_port}/dicom-web", None, authorization)
        working = reconciler(stand, missed, WebSource(address, receiver_of(stand)))
        working.step()
        [row] = missed.missed_since(TODAY)
        assert (row["study_uid"], row["state"], row["reason"]) == (away[0].StudyInstanceUID, "fetched", "")
        [(_, handover)] = wait_for(lambda: stand.reader.handovers_after(0))
        assert (len(handover.instances), handover.complete_by) == (5, "geometry")
        pixels = {ds.SOPInstanceUID: ds.PixelData for ds in away}
        assert all(dcmread(one.extent.open()).PixelData == pixels[one.sop_instance_uid] for one in handover.instances)
        refused = WebSource(WebAddress("web", address.url, None, "Basic bm86bm8="), receiver_of(stand))
        with pytest.raises(DeliveryError, match="401"):
            refused.studies(TODAY, TODAY)


@contextmanager
def answering(answer: Callable[[str], tuple[int, str, bytes]]) -> Iterator[WebSource]:
    """An HTTP server that answers each path as told."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, kind, content = answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def nowhere() -> OwnReceiver:
        return OwnReceiver(Peer("127.0.0.1", 1, AE_TITLE), CONTEXTS[:1])

    try:
        yield WebSource(WebAddress("web", f"http://127.0.0.1:{server.server_port}/x/"), nowhere)
    finally:
        server.shutdown()
        server.server_close()


def js(*answers: object, status: int = 200) -> tuple[int, str, bytes]:
    return status, "application/dicom+json", json.dumps(answers).encode()


def test_answers_with_fewer_or_odd_attributes_are_read_with_suspicion() -> None:
    answers = (
        {"0020000D": {"vr": "UI", "Value": ["1.2.3"]}},
        {"0020000D": {"Value": ["1.2.4"]}, "00080061": {"Value": ["CT", "SR"]}, "00201208": {"Value": ["many"]}},
        {"0020000D": {"Value": None}, "00080020": {"Value": ["20261301"]}},
        {"0020000D": "what?", "00080020": {"Value": ["20261101"]}},
    )
    with answering(lambda path: js(*answers)) as source:
        assert source.studies(TODAY, TODAY) == [
            Performed("1.2.3"),
            Performed("1.2.4", None, ("CT", "SR")),
            Performed(""),
            Performed("", dt.date(2026, 11, 1)),
        ]
    with answering(lambda path: (204, "", b"")) as source:
        assert source.series("1.2.3") == []


def test_pages_are_put_together_and_a_source_without_pages_ends() -> None:
    all_of_it = [{"0020000E": {"Value": [f"1.{n}"]}, "00080060": {"Value": ["CT"]}} for n in range(700)]

    def paged(path: str) -> tuple[int, str, bytes]:
        offset = int(path.split("offset=")[1].split("&")[0])
        return js(*all_of_it[offset : offset + 500])

    for answer in (paged, lambda path: js(*all_of_it)):
        with answering(answer) as source:
            assert source.series("1") == [PerformedSeries(f"1.{n}", "CT") for n in range(700)]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((500, "text/html", b"<h1>"), "status 500"),
        ((200, "text/html", b"<h1>log in first</h1>"), "not answer in JSON"),
        ((200, "application/json", b'{"no": "list"}'), "QIDO-RS"),
        ((302, "text/html", b""), "status 302"),
    ],
)
def test_what_is_no_answer_is_said_in_words(answer: tuple[int, str, bytes], words: str) -> None:
    with answering(lambda path: answer) as source, pytest.raises(DeliveryError, match=words):
        source.studies(TODAY, TODAY)


def test_uids_never_leave_their_place_in_the_path() -> None:
    asked: list[str] = []

    def listen(path: str) -> tuple[int, str, bytes]:
        asked.append(path)
        return js()

    with answering(listen) as source:
        source.series("../../admin?x=1")
    assert asked[0].startswith("/x/studies/..%2F..%2Fadmin%3Fx%3D1/series?")


@given(content=st.binary(max_size=200), cut=st.integers(0, 300))
def test_a_part_comes_out_as_it_went_in_or_not_at_all(content: bytes, cut: int) -> None:
    kind = 'multipart/related; type="application/dicom"; boundary="q-17"'
    whole = b"--q-17\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--q-17--"
    assert part_of(kind, whole) == content
    assert part_of("application/dicom", content) == content
    if cut < len(whole) and b"\r\n--q-17--" not in whole[:cut]:
        with pytest.raises(DeliveryError):
            part_of(kind, whole[:cut])


def test_a_dicomweb_source_of_the_configuration(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    config: ApplianceConfig = parse(
        f"""
site: hospital
device: ct1
state: {tmp_path}
registry: {{mqtt_host: 127.0.0.1, tuf_url: "https://127.0.0.1:1"}}
receiver: {{calling_ae_titles: [CT1], addresses: [10.0.0.0/8]}}
reconciliation: {{web: [{{name: web, url: "https://127.0.0.1:1/dicom-web", credentials: {secret}}}]}}
"""
    )
    assert config.may_send == ("CT1", "ONESCAN")
    assert [str(network) for network in config.may_connect] == ["10.0.0.0/8", "127.0.0.0/8"]
    secret.write_text("user:password\n")
    source = wiring.source(config, config.reconciliation.web[0])
    with pytest.raises(DeliveryError, match="did not answer"):
        source.studies(TODAY, TODAY)
