"""Who may connect, and how often."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.intake.wire.bounds import _PEERS, RateLimiter, may_connect

NETWORKS = (
    ipaddress.ip_network("10.20.0.0/24"),
    ipaddress.ip_network("192.0.2.7/32"),
    ipaddress.ip_network("fd00::/8"),
)


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("10.20.0.11", True),
        ("::ffff:10.20.0.11", True),
        ("10.20.1.11", False),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("fd12::1", True),
        ("fe80::1%eth0", False),
    ],
)
def test_only_listed_addresses_may_connect(address: str, allowed: bool) -> None:
    assert may_connect(address, NETWORKS) is allowed
    assert may_connect(address, ())


def test_a_burst_is_let_through_and_then_the_rate() -> None:
    limiter = RateLimiter(per_minute=60)
    assert [limiter.allows("a", 0.0) for _ in range(11)] == [True] * 10 + [False]
    assert limiter.allows("b", 0.0), "another address has its own"
    assert not limiter.allows("a", 0.9)
    assert limiter.allows("a", 1.1)
    assert not limiter.allows("a", 1.2)


@given(gaps=st.lists(st.floats(0, 5), min_size=1, max_size=200))
def test_no_pattern_gets_more_than_burst_and_rate(gaps: list[float]) -> None:
    limiter, now, let_through = RateLimiter(per_minute=120), 0.0, 0
    for gap in gaps:
        now += gap
        let_through += limiter.allows("a", now)
    assert let_through <= 20 + 2 * now + 1e-6


def test_what_is_remembered_of_addresses_is_bounded() -> None:
    limiter = RateLimiter(per_minute=60)
    for number in range(3 * _PEERS):
        limiter.allows(str(number), 0.0)
    assert len(limiter._buckets) == _PEERS
