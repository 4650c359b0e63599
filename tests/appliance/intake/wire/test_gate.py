"""Who is let in, how many at a time, and that what is not let in is closed at once."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

import pytest

from appliance.intake.wire.gate import Admission, Gate, Listener
from tests.appliance.intake.stand import wait_for

HERE = Listener("127.0.0.1", 0)


class Guest:
    """Stays until the other side closes; says nothing but its number."""

    def __init__(self, gate: Callable[[], Gate[Guest]], connection: socket.socket, peer: str) -> None:
        self.peer = peer
        self._gate, self._connection = gate, connection
        self.thread = threading.Thread(target=self._stay, daemon=True)

    def _stay(self) -> None:
        with self._connection:
            self._connection.sendall(b"in")
            with contextlib.suppress(OSError):
                self._connection.recv(1)
            self._gate().left(self)


@contextlib.contextmanager
def opened(
    *listeners: Listener,
    connections: int = 10,
    per_minute: float = 6000.0,
    addresses: tuple[str, ...] = (),
    look: Callable[[], None] | None = None,
) -> Iterator[Gate[Guest]]:
    admission = Admission(connections, "the.setting", per_minute, [ipaddress.ip_network(one) for one in addresses])

    def let_in(connection: socket.socket, peer: str, tls: ssl.SSLContext | None) -> Guest:
        return Guest(lambda: gate, connection, peer)

    gate: Gate[Guest] = Gate("Test", admission, let_in, look, None if look is None else 0.05)
    gate.open(*(listeners or (HERE,)))
    try:
        yield gate
    finally:
        gate.close()


@contextlib.contextmanager
def visit(port: int) -> Iterator[bytes]:
    """What a connection is told: b"in", or nothing where it is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        try:
            yield connection.recv(2)
        except ConnectionResetError:
            yield b""


def test_who_is_let_in_is_inside_until_it_left() -> None:
    with opened() as gate:
        with visit(gate.ports[0]) as told:
            assert told == b"in"
            assert [guest.peer for guest in gate.inside()] == ["127.0.0.1"]
        wait_for(lambda: not gate.inside())


def test_no_burst_passes_the_limit_and_a_place_is_free_again_at_once(caplog: pytest.LogCaptureFixture) -> None:
    with opened(connections=3) as gate:
        with contextlib.ExitStack() as visits:
            told = [visits.enter_context(visit(gate.ports[0])) for _ in range(8)]
            assert sorted(told) == [b""] * 5 + [b"in"] * 3
            assert len(gate.inside()) == 3
        # A connection is closed before the line is in the log.
        wait_for(lambda: caplog.text.count("Test connection refused: 3 are open; raise the.setting") == 5)
        wait_for(lambda: not gate.inside())
        with visit(gate.ports[0]) as again:
            assert again == b"in"


def test_an_address_that_is_not_on_the_list_is_closed_at_once(caplog: pytest.LogCaptureFixture) -> None:
    with opened(addresses=("10.0.0.0/8",)) as gate, visit(gate.ports[0]) as told:
        assert told == b""
        assert not gate.inside()
    assert "add it to receiver.addresses" in caplog.text


def test_an_address_that_connects_too_often_is_closed_though_there_is_room(caplog: pytest.LogCaptureFixture) -> None:
    with opened(per_minute=12) as gate:  # two at once
        for expected in (b"in", b"in", b""):
            with visit(gate.ports[0]) as told:
                assert told == expected
    assert "receiver.connections_per_minute" in caplog.text


def test_what_is_turned_away_for_its_address_or_number_does_not_count_for_the_rate() -> None:
    with opened(connections=1, per_minute=12) as gate:
        with visit(gate.ports[0]) as told:
            assert told == b"in"
            for _ in range(5):
                with visit(gate.ports[0]) as refused:
                    assert refused == b""
        wait_for(lambda: not gate.inside())
        with visit(gate.ports[0]) as told:
            assert told == b"in"


def test_several_listeners_share_the_limit() -> None:
    with opened(HERE, HERE, connections=1) as gate:
        assert len({*gate.ports}) == 2
        with visit(gate.ports[0]) as first, visit(gate.ports[1]) as second:
            assert (first, second) == (b"in", b"")


def test_where_one_port_is_taken_none_is_kept() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, socket.create_server(("127.0.0.1", 0)) as free:
        taken, port = other.getsockname()[1], free.getsockname()[1]
        free.close()
        two = (Listener("127.0.0.1", port), Listener("127.0.0.1", taken))
        with pytest.raises(OSError, match=f"127.0.0.1:{taken}"), opened(*two):
            pass
        socket.create_server(("127.0.0.1", port)).close()


def test_after_close_nobody_is_let_in_and_who_is_inside_stays() -> None:
    with opened() as gate:
        with visit(gate.ports[0]) as told:
            assert told == b"in"
            assert gate.alive
            gate.close()
            assert not gate.alive
            assert len(gate.inside()) == 1
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", gate.ports[0]), timeout=60)
        wait_for(lambda: not gate.inside())


def test_a_look_is_taken_while_nobody_comes() -> None:
    looks: list[None] = []
    with opened(look=lambda: looks.append(None)):
        wait_for(lambda: len(looks) > 3)


def test_without_a_thread_for_it_a_connection_is_closed_and_the_next_one_is_served(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with opened() as gate:
        with monkeypatch.context() as patched:
            patched.setattr(Guest, "_stay", lambda guest: None)
            start = threading.Thread.start

            def no_thread(thread: threading.Thread) -> None:
                raise RuntimeError("can't start new thread")

            patched.setattr(threading.Thread, "start", no_thread)
            with visit(gate.ports[0]) as told:
                assert told == b""
            patched.setattr(threading.Thread, "start", start)
        assert not gate.inside()
        with visit(gate.ports[0]) as told:
            assert told == b"in"
    assert "can't start new thread" in caplog.text
