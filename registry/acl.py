"""Mosquitto's access list, written from the device table: a certificate may speak for its own device and no other.

Mosquitto takes the certificate's CN as user name (`use_identity_as_username`). A user that is not in the list may do
nothing. The file is replaced atomically; SIGHUP makes Mosquitto read it again.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterable
from pathlib import Path

from core import durable, wire
from core.errors import DeliveryError
from registry.config import AccessList
from registry.statements import SQL
from registry.store import Connection, translated

_log = logging.getLogger(__name__)
_READS = ("ack", "desired", "case", "cmd/#")


def render(devices: Iterable[tuple[str, str]], workers: Iterable[str]) -> str:
    """The whole file."""
    lines = ["# Written by onescan-registry from its device table; changes by hand are lost."]
    for worker in workers:
        lines += ["", f"user registry.{worker}"]
        lines += [f"topic read {wire.topic('+', '+', leaf)}" for leaf in wire.DEVICE_TOPICS]
        lines += [f"topic write {wire.topic('+', '+', leaf)}" for leaf in _READS]
    for site, device in devices:
        lines += ["", f"user {site}.{device}"]
        lines += [f"topic write {wire.topic(site, device, leaf)}" for leaf in wire.DEVICE_TOPICS]
        lines += [f"topic read {wire.topic(site, device, leaf)}" for leaf in _READS]
    return "\n".join(lines) + "\n"


def refresh(connection: Connection, settings: AccessList) -> int:
    """Write the list from the device table and have the broker read it; returns how many devices it names."""
    with translated(), connection.transaction():
        # Held until the file is there: of two writers the one that saw more devices writes last.
        connection.execute("SELECT pg_advisory_xact_lock(hashtext('onescan-acl'))")
        devices = [(row[0], row[1]) for row in connection.execute(SQL["device_names"])]
        if settings.file is not None:
            # Names of devices are no secret, and the broker runs as another user.
            durable.write_text(settings.file, render(devices, settings.workers), 0o644)
    if settings.broker_pid_file is not None:
        reload_broker(settings.broker_pid_file)
    return len(devices)


def reload_broker(pid_file: Path) -> None:
    """SIGHUP to the process named in `pid_file`. DeliveryError if there is none."""
    try:
        os.kill(int(pid_file.read_text().strip()), signal.SIGHUP)
    except (OSError, ValueError) as error:
        raise DeliveryError(
            f"can't tell the broker of {pid_file} to read its access list: {error}",
            remedy="Start Mosquitto with `pid_file` set to this file, or restart it: it reads the list on starting.",
        ) from error
    _log.info("the broker reads its access list again")
