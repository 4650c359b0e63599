"""Free ports are free, different, and outside the range that outgoing connections take theirs from."""

from __future__ import annotations

import socket
from pathlib import Path

from deploy.embedded.ports import answers, free_port, free_ports


def test_ports_are_different_and_can_be_bound() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    for port in ports:
        with socket.create_server(("127.0.0.1", port)):
            assert answers(port)
        assert not answers(port)


def test_a_port_that_is_taken_is_not_offered() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        assert taken.getsockname()[1] not in free_ports(100)


def test_no_outgoing_connection_can_take_the_port_of_a_stopped_server() -> None:
    first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(free_ports(100)) < first_outgoing
