"""Who connects to which broker, how fast, and whom the connection asks and tells: plain values."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from appliance.delivery.outbox import Backoff
from core import wire


@dataclass(frozen=True)
class ClientCertificate:
    """Mutual TLS: files in PEM. Read anew at every connection, so that a renewed certificate is used."""

    ca: Path
    certificate: Path
    key: Path


@dataclass(frozen=True)
class Broker:
    """Where the broker is. Without a certificate the connection is plain: tests only."""

    host: str
    port: int
    tls: ClientCertificate | None = None


@dataclass(frozen=True)
class Pace:
    """How fast, how patient. Times in seconds.

    window: messages of a stream that may be on their way at once. session_expiry_s: how long the broker keeps what it
    has for this device while it is away; with 0 a clean_start of 0 would keep nothing. will_delay_s: a device that is
    back within this time was never reported offline.
    """

    window: int = 50
    resend: Backoff = field(default_factory=lambda: Backoff(first_s=30.0, ceiling_s=1800.0))
    reconnect: Backoff = field(default_factory=lambda: Backoff(first_s=1.0, ceiling_s=120.0, spread=0.5))
    rescan_s: float = 5.0
    keepalive_s: int = 30
    session_expiry_s: int = 7 * 86400
    will_delay_s: int = 10
    connect_s: float = 10.0
    goodbye_s: float = 3.0


@dataclass(frozen=True)
class Device:
    """Who connects. `<site>.<device>` is the client id and the common name of its certificate."""

    site: str
    name: str
    boot_id: uuid.UUID

    @property
    def client_id(self) -> str:
        """Fixed, so that the broker recognises the session."""
        return f"{self.site}.{self.name}"

    def topic(self, leaf: str) -> str:
        """One of this device's topics."""
        return wire.topic(self.site, self.name, leaf)


@dataclass(frozen=True)
class Handlers:
    """Whom the connection asks and tells. All are called on its thread; what they raise is logged and counted."""

    birth: Callable[[int], wire.BirthBody]
    reported: Callable[[], wire.ReportedBody | None]
    on_desired: Callable[[wire.DesiredBody], None]
    on_command: Callable[[str, bytes], None]
