"""Clients that mean no good or went wrong: answered or cut within the limits, nothing of theirs kept, others served."""

from __future__ import annotations

import resource
import socket
import threading
import time
from pathlib import Path

import pytest

from appliance.intake.senders import read as read_senders
from tests.appliance.dicom_samples import ct_series, ct_slice, part10
from tests.appliance.intake.stand import Stand, wait_for
from tests.appliance.intake.stow.web import (
    BOUNDARY,
    box,
    chunked,
    connect,
    head_of,
    instances,
    multipart,
    port,
    post,
    said,
)

QUICK = {"idle_s": 0.5}


def served(stand: Stand) -> None:
    """An honest client is."""
    assert post(stand, multipart([part10(ct_slice(study="honest"))]))[0] == 200
    assert stand.role.alive


def dripping(connection: socket.socket, data: bytes) -> None:
    """Send a byte now and then, until the other side has had enough."""
    try:
        for at in range(len(data)):
            connection.sendall(data[at : at + 1])
            time.sleep(0.05)
    except OSError:
        pass


def drip(stand: Stand, at_once: bytes, slowly: bytes) -> tuple[int, list[str]]:
    """Status and stored instances that the dripping client hears of."""
    with connect(stand) as connection:
        connection.sendall(at_once)
        thread = threading.Thread(target=dripping, args=(connection, slowly), daemon=True)
        thread.start()
        status, headers, module = said(connection)
        assert headers["connection"] == "close"
        assert thread.is_alive(), "it was answered before all was sent"
    thread.join()
    return status, instances(module)


def test_a_head_that_drips_is_ended(tmp_path: Path) -> None:
    with box(tmp_path, settings=QUICK) as stand:
        assert drip(stand, b"POST /stu", b"dies HTTP/1.1\r\nX: " + b"y" * 10_000) == (408, [])
        served(stand)
        wait_for(lambda: not stand.role._side_doors.stow.clients())  # type: ignore[union-attr]


def test_a_body_that_drips_is_ended_and_its_visit_is_broken(tmp_path: Path) -> None:
    whole = ct_slice()
    body = multipart([part10(whole), bytes(10_000)])
    with box(tmp_path, settings={**QUICK, "pause_s": 60.0}) as stand:
        for head, content in ((head_of(len(body)), body), (head_of(None), chunked(body, 100))):
            at = len(content) - 9_000
            assert drip(stand, head + content[:at], content[at:]) == (408, [whole.SOPInstanceUID])
        assert len(stand.objects()) == 1
        assert not stand.reader.handovers_after(0)
        served(stand)
    (sender,) = read_senders(tmp_path / "senders.json")
    assert (sender.associations, sender.associations_broken) == (3, 3)  # the honest one was not over at the end


def test_who_says_nothing_is_cut(tmp_path: Path) -> None:
    with box(tmp_path, settings=QUICK) as stand, connect(stand) as connection:
        assert connection.recv(10) == b""
        with connect(stand) as kept:  # also between two requests
            body = multipart([part10(ct_slice())])
            kept.sendall(head_of(len(body)) + body)
            assert said(kept)[0] == 200
            assert kept.recv(10) == b""


def test_an_honest_client_may_take_longer_than_the_idle_time(tmp_path: Path) -> None:
    body = multipart([part10(ds) for ds in ct_series(60)])
    with box(tmp_path, settings={"idle_s": 1.0}) as stand, connect(stand) as connection:
        connection.sendall(head_of(len(body)))
        for at in range(0, len(body), 100_000):
            connection.sendall(body[at : at + 100_000])
            time.sleep(0.3)
        status, _, module = said(connection)
        assert (status, len(instances(module))) == (200, 60)


def test_the_time_that_storing_takes_is_not_the_clients(tmp_path: Path) -> None:
    first, second = part10(ct_slice()), part10(ct_slice(index=1))
    body = multipart([first, second])
    at = len(body) - len(second)
    with box(tmp_path, settings=QUICK) as stand, connect(stand) as connection:
        connection.sendall(head_of(len(body)))
        wait_for(lambda: stand.role._assembly._associations)
        with stand.role._lock:  # as a slow disk would
            connection.sendall(body[:at])
            time.sleep(1.2)
        wait_for(stand.objects)
        time.sleep(0.1)
        connection.sendall(body[at:])
        assert said(connection)[0] == 200


@pytest.mark.parametrize("as_chunks", [False, True], ids=["length", "chunked"])
def test_an_instance_that_is_too_long_ends_the_request_and_what_came_before_is_named(
    tmp_path: Path, as_chunks: bool
) -> None:
    first, after = ct_slice(), ct_slice(index=2)
    body = multipart([part10(first), part10(ct_slice(index=1), bytes(48 << 20)), part10(after)])
    with box(tmp_path, settings={"max_part_bytes": 1 << 20}) as stand, connect(stand) as connection:
        sent = head_of(None) + chunked(body) if as_chunks else head_of(len(body)) + body
        connection.sendall(sent)  # all of it, before it listens
        status, headers, module = said(connection)
        assert (status, headers["connection"], instances(module)) == (413, "close", [first.SOPInstanceUID])
        assert len(stand.objects()) == 1
        served(stand)


def _sends(connection: socket.socket, data: bytes) -> None:
    try:
        connection.sendall(data)
    except OSError:
        pass


def flood(connection: socket.socket) -> int:
    """Send until it is cut; returns the bytes sent."""
    sent, much = 0, bytes(1 << 20)
    while True:
        try:
            sent += connection.send(much)
        except (BrokenPipeError, ConnectionResetError):
            return sent


def test_an_endless_instance_takes_no_more_memory_than_one_that_is_allowed(tmp_path: Path) -> None:
    with box(tmp_path, settings={"max_part_bytes": 1 << 20}) as stand, connect(stand) as connection:
        served(stand)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        connection.sendall(head_of(1 << 40) + f"--{BOUNDARY}\r\n\r\n".encode())
        assert flood(connection) > 1 << 20
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
        served(stand)


def test_more_parts_than_allowed_end_the_request(tmp_path: Path) -> None:
    series = ct_series(4)
    with box(tmp_path, settings={"most_parts": 3}) as stand:
        status, _, module = post(stand, multipart([part10(ds) for ds in series]))
        assert (status, instances(module)) == (413, [ds.SOPInstanceUID for ds in series[:3]])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"--boundary of parts--\r\n",
        b"--boundary of parts\r\n\r\nxyz",
        multipart([b"x"], boundary="other"),
    ],
    ids=["nothing", "no multipart", "no part", "no end", "another boundary"],
)
def test_a_broken_body_is_a_bad_request(tmp_path: Path, body: bytes) -> None:
    with box(tmp_path) as stand:
        assert post(stand, body)[0] == 400
        served(stand)


def test_half_a_body_leaves_what_was_whole_and_the_rest_can_be_sent_again(tmp_path: Path) -> None:
    series = ct_series(5)
    body = multipart([part10(ds) for ds in series])
    with box(tmp_path) as stand:
        with connect(stand) as connection:
            connection.sendall(head_of(len(body)) + body[: len(body) // 2])
            connection.shutdown(socket.SHUT_WR)
            status, _, module = said(connection)
            assert (status, instances(module)) == (400, [ds.SOPInstanceUID for ds in series[:2]])
        with connect(stand) as connection:  # one that is simply gone
            connection.sendall(head_of(len(body)) + body[: len(body) // 2])
        wait_for(lambda: not stand.role._side_doors.stow.clients())  # type: ignore[union-attr]
        assert len(stand.objects()) == 2
        time.sleep(0.5)
        assert not stand.reader.handovers_after(0), "half of it counted as a study"
        assert post(stand, body)[0] == 200
        ((_, handover),) = wait_for(lambda: stand.reader.handovers_after(0))
        assert (handover.complete_by, len(handover.instances)) == ("geometry", 5)


@pytest.mark.parametrize(
    "said_first",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(600),
        b"A" * 100_000,
        b"POST /studies HTTP/1.1\r\n" + b"X: y\r\n" * 20_000,
        b"POST /studies HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nContent-Length: 7\r\n\r\n",
        head_of(None) + b"zz\r\n",
        head_of(None) + b"ffffffffffffffffffffffffffffffffffff\r\n",
        bytes(1000),
    ],
    ids=["TLS", "no line", "long head", "two lengths", "no chunk", "huge chunk", "zeros"],
)
def test_who_does_not_speak_http_is_told_so(tmp_path: Path, said_first: bytes) -> None:
    with box(tmp_path) as stand:
        with connect(stand) as connection:
            threading.Thread(target=_sends, args=(connection, said_first), daemon=True).start()
            assert said(connection)[0] in (400, 431)
        served(stand)
        assert len(stand.objects()) == 1


def test_more_connections_than_allowed_are_turned_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with box(tmp_path, settings={"connections": 3}) as stand:
        held = [connect(stand) for _ in range(3)]
        wait_for(lambda: len(stand.role._side_doors.stow.clients()) == 3)  # type: ignore[union-attr]
        with connect(stand) as fourth:
            assert fourth.recv(10) == b""
        wait_for(lambda: "receiver.stow.connections" in caplog.text)
        for connection in held:
            connection.close()
        wait_for(lambda: not stand.role._side_doors.stow.clients())  # type: ignore[union-attr]
        served(stand)


def test_stopping_answers_who_is_sending(tmp_path: Path) -> None:
    body = multipart([part10(ds) for ds in ct_series(4)])
    with box(tmp_path) as stand, connect(stand) as connection, connect(stand) as idle:
        connection.sendall(head_of(len(body)) + body[: len(body) // 2])
        wait_for(stand.objects)
        assert port(stand)
        stopping = threading.Thread(target=stand.role.stop)
        stopping.start()
        status, headers, module = said(connection)
        assert (status, headers["retry-after"], bool(instances(module))) == (503, "60", True)
        assert idle.recv(10) == b""
        stopping.join()
