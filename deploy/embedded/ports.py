"""Free TCP ports on 127.0.0.1 that stay free while their server is down.

A port that the kernel hands out (bind to port 0) lies in the range from which it also takes the local ports
of outgoing connections: while a test keeps a broker stopped, any connection may sit on its port. So we draw
from below that range.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path

_LOWEST = 15000
_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_draw = random.SystemRandom()


def free_ports(count: int) -> list[int]:
    """`count` different ports on which nobody listens on 127.0.0.1."""
    chosen: list[int] = []
    for port in _draw.sample(range(_LOWEST, _first_outgoing_port()), k=200 + count):
        if len(chosen) == count:
            break
        if _is_free(port):
            chosen.append(port)
    return chosen


def free_port() -> int:
    """One port on which nobody listens on 127.0.0.1."""
    return free_ports(1)[0]


def answers(port: int, timeout_s: float = 0.2) -> bool:
    """True where a server accepts connections on this port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=timeout_s).close()
    except OSError:
        return False
    return True


def _first_outgoing_port() -> int:
    try:
        return max(int(_RANGE_FILE.read_text().split()[0]), _LOWEST + 1000)
    except (OSError, ValueError):
        return 32768


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the servers do: connections in TIME_WAIT don't matter, listeners do.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
