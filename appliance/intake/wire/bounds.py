"""Who may connect, how often, and how much may be open. Pure: time and addresses come in as arguments."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

Networks: TypeAlias = Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]
_PEERS = 1024
"""Addresses whose rate is kept; the one that was quiet for longest is forgotten first."""


@dataclass(frozen=True)
class Limits:
    """What all peers together, and one of them, may take.

    associations: established at a time. connections: of any state, at a time. idle_s: between two PDUs, and from a
    PDU's first byte to its last. negotiation_s: from connecting to the request for an association (ARTIM, PS3.8 9.1.4).
    connections_per_minute: of one address; a sixth of it may come at once. addresses: who may connect; empty:
    everybody.
    """

    associations: int
    connections: int
    idle_s: float
    negotiation_s: float
    connections_per_minute: float = 3000.0
    addresses: Networks = ()


def may_connect(address: str, networks: Networks) -> bool:
    """Whether an address is on the list, or there is no list. An IPv4 address that came over IPv6 counts as IPv4."""
    if not networks:
        return True
    given = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(given, ipaddress.IPv6Address) and given.ipv4_mapped is not None:
        given = given.ipv4_mapped
    return any(given in network for network in networks)


class RateLimiter:
    """A token bucket for each address. per_minute: how fast it fills; burst: what it holds."""

    def __init__(self, per_minute: float) -> None:
        self._per_s, self._burst = per_minute / 60, max(1.0, per_minute / 6)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when they were counted

    def allows(self, address: str, now: float) -> bool:
        """Whether one more connection from there is within the rate; it then counts."""
        tokens, then = self._buckets.pop(address, (self._burst, now))
        tokens = min(self._burst, tokens + (now - then) * self._per_s)
        allowed = tokens >= 1
        self._buckets[address] = (tokens - 1 if allowed else tokens, now)
        while len(self._buckets) > _PEERS:
            self._buckets.popitem(last=False)
        return allowed
