"""Nothing that a peer sends ends the service, and none of it costs more than its bound."""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import CTImageStorage
from pynetdicom.association import Association

from appliance.intake.elements import walk
from appliance.intake.examine import examine
from appliance.intake.refusal import InstanceRefused
from core.errors import ConfigError
from tests.appliance.dicom_samples import ct_series, ct_slice, encoded, part10
from tests.appliance.intake.stand import Stand, association, push, running, send, wait_for

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"


@contextlib.contextmanager
def raw(stand: Stand) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", stand.port), timeout=60) as connection:
        yield connection


def wait_until_cut(connection: socket.socket) -> None:
    """The peer ends the connection; bytes before that (an A-ABORT) are welcome."""
    try:
        while connection.recv(4096):
            pass
    except ConnectionResetError:
        pass  # cut the hard way


def serves(stand: Stand, folder: Path) -> bool:
    return push(stand.port, folder, [ct_slice(study="probe")]) == [0]


def test_a_pdu_that_claims_4_gb_is_not_read(tmp_path: Path) -> None:
    with running(tmp_path) as stand:
        before = psutil.Process().memory_info().rss
        with raw(stand) as connection:
            connection.sendall(struct.pack(">BBL", 1, 0, 0xFFFFFFF0))
            with contextlib.suppress(ConnectionError, TimeoutError):
                for _ in range(64):
                    connection.sendall(bytes(1 << 20))
            wait_until_cut(connection)
        assert psutil.Process().memory_info().rss - before < 32 << 20
        assert serves(stand, tmp_path)


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, bytes(64), b"\x01\x00\x00\x00\x00\x04abcd"])
def test_noise_before_an_association_is_cut(tmp_path: Path, noise: bytes) -> None:
    with running(tmp_path, negotiation_s=2, idle_s=2) as stand:
        with raw(stand) as connection:
            connection.sendall(noise)
            wait_until_cut(connection)
        assert serves(stand, tmp_path)


def test_a_burst_of_silent_connections_is_bounded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running(tmp_path, associations=5, negotiation_s=60) as stand:
        threads = threading.active_count()
        with contextlib.ExitStack() as stack:
            for _ in range(40):
                stack.enter_context(raw(stand))
            wait_for(lambda: caplog.text.count("connection refused: 10 are open") == 30)
            assert threading.active_count() <= threads + 10
        wait_for(lambda: threading.active_count() == threads)
        assert serves(stand, tmp_path)


def test_of_a_thousand_silent_connections_forty_are_held_and_the_rest_cut_at_once(tmp_path: Path) -> None:
    with running(tmp_path, negotiation_s=60) as stand:
        threads = threading.active_count()
        with contextlib.ExitStack() as stack:
            for _ in range(40):
                stack.enter_context(raw(stand))
            wait_for(lambda: len(stand.links()) == 40)
            for _ in range(960):
                with raw(stand) as connection:
                    wait_until_cut(connection)
            assert len(stand.links()) == 40
            assert threading.active_count() <= threads + 40
        wait_for(lambda: threading.active_count() == threads)
        assert serves(stand, tmp_path)


def test_silent_connections_are_cut(tmp_path: Path) -> None:
    with running(tmp_path, associations=1, negotiation_s=0.5) as stand:
        threads = threading.active_count()
        with contextlib.ExitStack() as stack:
            for connection in [stack.enter_context(raw(stand)) for _ in range(2)]:
                wait_until_cut(connection)
            wait_for(lambda: threading.active_count() == threads)
            assert serves(stand, tmp_path)


def test_a_pdu_that_drips_is_cut(tmp_path: Path) -> None:
    with running(tmp_path, idle_s=1) as stand:
        with raw(stand) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(struct.pack(">BBL", 1, 0, 200))
            while True:
                connection.sendall(b"\0")
                connection.settimeout(0.2)
                with contextlib.suppress(TimeoutError):
                    if not connection.recv(1):
                        break
        assert serves(stand, tmp_path)


def test_more_associations_than_allowed_are_refused(tmp_path: Path) -> None:
    with running(tmp_path, associations=2) as stand, contextlib.ExitStack() as stack:
        opened = [stack.enter_context(association(stand.port)) for _ in range(3)]
        assert [a.is_established for a in opened] == [True, True, False]
        assert opened[2].is_rejected


def test_an_idle_association_is_ended_and_its_study_handed_over(tmp_path: Path) -> None:
    with running(tmp_path, idle_s=1, quiet_seconds=0.2) as stand, association(stand.port) as assoc:
        for ds in ct_series(5):
            assert send(assoc, tmp_path, part10(ds)).Status == 0
        ((_, handover),) = wait_for(lambda: stand.reader.handovers_after(0))
        assert handover.complete_by == "quiet"


def test_a_data_set_beyond_the_limit_ends_the_association(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running(tmp_path, max_dataset_bytes=1 << 20) as stand:
        with association(stand.port) as assoc, caplog.at_level(logging.WARNING):
            big = ct_slice(Rows=1024, Columns=1024, PixelData=bytes(2 << 20))
            assert send(assoc, tmp_path, part10(big)).get("Status") is None
            wait_for(lambda: "more than 1048576 bytes" in caplog.text)
        assert not stand.objects()
        assert push(stand.port, tmp_path, ct_series(60)) == [0] * 60  # in all far more than the limit
        assert serves(stand, tmp_path)


@pytest.mark.parametrize("ending", ["abort", "cut"])
def test_half_a_data_set_then_gone(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    series = ct_series(6)
    with running(tmp_path, quiet_seconds=0.3) as stand:
        with association(stand.port) as assoc:
            for ds in series[:5]:
                assert send(assoc, tmp_path, part10(ds)).Status == 0
            half_a_store(assoc, encoded(series[5]))
            if ending == "abort":
                assoc.abort()
            else:
                assoc.dul.socket.socket.shutdown(socket.SHUT_RDWR)
        ((_, handover),) = wait_for(lambda: stand.reader.handovers_after(0))
        assert handover.complete_by == "quiet"
        assert "broke off" in handover.explanation
        assert len(handover.instances) == len(stand.objects()) == 5
        assert serves(stand, tmp_path)


def half_a_store(assoc: Association, dataset: bytes) -> None:
    """A C-STORE-RQ command and the first half of its data set, by hand."""
    send_pdvs(assoc, (3, store_command(b"\1\0")), (0, dataset[: len(dataset) // 2]))


def store_command(data_set_type: bytes) -> bytes:
    """The command set of a C-STORE-RQ (PS3.7 9.3.1)."""

    def element(number: int, value: bytes) -> bytes:
        return struct.pack("<HHL", 0, number, len(value)) + value

    rest = b"".join(
        (
            element(0x0002, CTImageStorage.encode() + b"\0"),
            *(element(0x0100, b"\1\0"), element(0x0110, b"\x63\0"), element(0x0700, b"\2\0")),
            element(0x0800, data_set_type),
            element(0x1000, b"1.2.3.45"),
        )
    )
    return element(0x0000, struct.pack("<L", len(rest))) + rest


def send_pdvs(assoc: Association, *fragments: tuple[int, bytes], context: int | None = None) -> None:
    """P-DATA-TF PDUs (PS3.8 9.3.5) with one (control header, fragment) each."""
    ct = next(cx.context_id for cx in assoc.accepted_contexts if cx.abstract_syntax == CTImageStorage)
    connection = assoc.dul.socket.socket  # pynetdicom gives it up as soon as it sees that we were cut off
    for control, fragment in fragments:
        pdv = struct.pack(">LBB", len(fragment) + 2, context or ct, control) + fragment
        connection.sendall(struct.pack(">BBL", 4, 0, len(pdv)) + pdv)


WHOLE_STORE = [(3, store_command(b"\1\0")), (2, encoded(ct_slice(SOPInstanceUID="1.2.3.45")))]


@pytest.mark.parametrize(
    ("name", "fragments", "context"),
    [
        ("a data set is promised, none is sent", [(3, store_command(b"\1\1"))], None),
        ("a context that was not negotiated", WHOLE_STORE, 251),
        ("a command that is noise", [(3, b"\xff" * 40)], None),
        ("an empty command", [(3, b"")], None),
        ("a command of zeros", [(3, bytes(64))], None),
        ("a data set before any command", [(2, b"abc")], None),
        (
            "an unknown command",
            [(3, store_command(b"\1\1").replace(b"\0\0\0\1\2\0\0\0\1\0", b"\0\0\0\1\2\0\0\0\x77\x77"))],
            None,
        ),
    ],
)
def test_broken_messages_end_at_most_their_association(
    tmp_path: Path, name: str, fragments: list[tuple[int, bytes]], context: int | None
) -> None:
    with running(tmp_path, idle_s=2) as stand:
        with association(stand.port) as assoc:
            assert send(assoc, tmp_path, part10(ct_slice())).Status == 0
            send_pdvs(assoc, *fragments, context=context)
            wait_for(lambda: not assoc.is_established)
        assert serves(stand, tmp_path), name
        wait_for(lambda: not stand.links())


@settings(max_examples=25)
@given(fragments=st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=60)), min_size=1, max_size=4))
def test_noise_as_messages_never_ends_the_service(shared_stand: Stand, fragments: list[tuple[int, bytes]]) -> None:
    with association(shared_stand.port) as assoc:
        with contextlib.suppress(OSError):  # the service may cut the connection while it is still being sent to
            send_pdvs(assoc, *fragments)
        with contextlib.suppress(Exception):
            assoc.abort()
    with association(shared_stand.port) as assoc:
        assert assoc.is_established


@pytest.fixture(scope="module")
def shared_stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with running(tmp_path_factory.mktemp("shared"), idle_s=2) as stand:
        yield stand


def test_a_port_that_is_taken_says_what_to_do(tmp_path: Path) -> None:
    with running(tmp_path) as stand, pytest.raises(ConfigError, match="can't listen") as error:
        Stand(tmp_path / "second", port=stand.port)
    assert "receiver.port" in error.value.remedy()


def test_an_accepted_socket_does_not_delay(tmp_path: Path) -> None:
    with running(tmp_path) as stand, association(stand.port):
        (accepted,) = wait_for(stand.links)
        assert accepted._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_series_of_five_thousand_slices_is_judged_in_one_go() -> None:
    from appliance.intake.assembly import Assembly, Complete
    from tests.appliance.intake.test_assembly import deliver, series

    assembly = Assembly(60.0)
    deliver(assembly, series(5000))
    (decision,) = assembly.tick(0.0)
    assert isinstance(decision, Complete)
    assert "5000 slices" in decision.explanation


def nested(depth: int, defined: bool = False) -> bytes:
    """Sequences in sequences, implicit VR."""
    inner = b""
    for _ in range(depth):
        inner = (
            struct.pack("<HHL", 0x0008, 0x1140, 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF) + inner
        )
        inner += struct.pack("<HHL", 0xFFFE, 0xE00D, 0) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    return inner


def test_deep_sequences_are_walked_up_to_a_bound_without_recursion() -> None:
    walk(nested(30), False, ())
    with pytest.raises(InstanceRefused, match="nested deeper"):
        walk(nested(20_000), False, ())


def test_sequences_of_every_form_are_walked() -> None:
    ds = ct_slice()
    item = ct_slice(PixelData=None)
    for explicit, syntax in ((True, EXPLICIT), (False, IMPLICIT)):
        for undefined in (True, False):
            ds.RequestAttributesSequence = [item, item]
            ds["RequestAttributesSequence"].is_undefined_length = undefined
            facts = examine(encoded(ds, syntax), syntax, ds.SOPClassUID, ds.SOPInstanceUID)
            assert facts.series_uid == ds.SeriesInstanceUID
            assert facts.position == (-20.0, -30.0, 0.0)
            assert facts.rows == 64, explicit


WHOLE = {syntax: encoded(ct_slice(), syntax) for syntax in (EXPLICIT, IMPLICIT)}


@settings(max_examples=400)
@given(syntax=st.sampled_from([EXPLICIT, IMPLICIT]), cut=st.floats(0, 1, exclude_max=True))
def test_every_cut_of_a_data_set_is_refused(syntax: str, cut: float) -> None:
    whole = WHOLE[syntax]
    with pytest.raises(InstanceRefused):
        examine(whole[: int(len(whole) * cut)], syntax, str(CTImageStorage), str(ct_slice().SOPInstanceUID))


@settings(max_examples=600)
@given(
    syntax=st.sampled_from([EXPLICIT, IMPLICIT]),
    changes=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_damaged_headers_are_taken_or_refused_never_anything_else(syntax: str, changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(WHOLE[syntax])
    for at, value in changes:
        damaged[at] = value
    with contextlib.suppress(InstanceRefused):
        examine(bytes(damaged), syntax, str(CTImageStorage), str(ct_slice().SOPInstanceUID))


@settings(max_examples=600)
@given(syntax=st.sampled_from([EXPLICIT, IMPLICIT]), noise=st.binary(max_size=400))
def test_noise_is_refused(syntax: str, noise: bytes) -> None:
    with pytest.raises(InstanceRefused):
        examine(noise, syntax, str(CTImageStorage), "1.2.3")
