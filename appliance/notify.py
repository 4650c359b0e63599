"""What a role tells its supervisor: systemd's notify protocol (sd_notify(3)), without its library.

Datagrams of `KEY=value` lines to the socket named in NOTIFY_SOCKET; WATCHDOG_USEC says how often it wants to hear
`WATCHDOG=1`. Where the variable is not set, all of it does nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket


class Notifier:
    """Speaks to systemd, or to `appliance.supervisor`, which listens the same way."""

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        variables = os.environ if environment is None else environment
        address = variables.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        for_us = variables.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_s = int(variables.get("WATCHDOG_USEC", 0)) / 1e6 if for_us else 0.0

    def ready(self, status: str) -> None:
        """Start-up is over."""
        self._send("READY=1", f"STATUS={status}")

    def status(self, text: str) -> None:
        """One line for `systemctl status`. No patient identity."""
        self._send(f"STATUS={text}")

    def alive(self) -> None:
        """The role's loop still turns."""
        if self.watchdog_s:
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """A clean stop has begun."""
        self._send("STOPPING=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, contextlib.suppress(OSError):
            sender.sendto("\n".join(lines).encode(), self._address)
