"""A private Mosquitto: MQTT over mutual TLS where the client certificate's common name is the user name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from core import durable
from deploy.embedded.ports import answers, free_port
from deploy.embedded.process import Command, Server, ServerError, program

if TYPE_CHECKING:
    from typing_extensions import Self

_RELOADED = "Reloading config."


class MosquittoBroker(Server):
    """Mosquitto 2 under `folder`, listening on 127.0.0.1 only.

    `acl` None: the ACL file belongs to somebody else (the registry), who writes `acl_file` and sends SIGHUP to
    the process named in `pid_file`.

    With certificates: TLS 1.2 or newer, every client must show a certificate of `cafile`, its common name
    becomes the user name, and `acl` (the text of an ACL file) says what that user may do; nothing else is
    allowed.

    Mosquitto started as root drops to its own user, which then can't read a private key or ACL file of mode
    0600; this one is private to its folder, so it keeps the user that started it.

    About ACLs, tried on Mosquitto 2.0.11 (`tests/frame/test_mosquitto.py`): see
    `docs/adr/0003-broker-acl.md`.
    """

    def __init__(
        self,
        folder: Path,
        cafile: Path | None,
        certfile: Path | None,
        keyfile: Path | None,
        acl: str | None,
        crlfile: Path | None = None,
        port: int | None = None,
    ) -> None:
        super().__init__(folder)
        self.port = port or free_port()
        self._tls = {"cafile": cafile, "certfile": certfile, "keyfile": keyfile, "crlfile": crlfile}
        self._secure = cafile is not None
        self._acl = acl

    @classmethod
    def insecure(cls, folder: Path, port: int | None = None) -> Self:
        """No TLS, no user names, everything allowed: for tests and benches of what is above the transport."""
        return cls(folder, None, None, None, acl="topic readwrite #\n", port=port)

    @property
    def host(self) -> str:
        """Where it listens."""
        return "127.0.0.1"

    @property
    def acl_file(self) -> Path:
        """Who may do what; read on start and on SIGHUP."""
        return self.folder / "acl"

    @property
    def pid_file(self) -> Path:
        """Where Mosquitto writes its process id."""
        return self.folder / "mosquitto.pid"

    def prepare(self) -> Command:
        """Write configuration and ACL."""
        if self._acl is not None:
            durable.write_text(self.acl_file, self._acl, mode=0o600)
        durable.write_text(self.folder / "mosquitto.conf", "\n".join(self._configuration()) + "\n", mode=0o600)
        return Command([program("mosquitto"), "-c", str(self.folder / "mosquitto.conf")])

    def is_ready(self) -> bool:
        """True when it accepts connections."""
        return answers(self.port)

    def set_acl(self, acl: str) -> None:
        """Replace the ACL of the running broker; connected clients are held to the new one."""
        self._acl = acl
        durable.write_text(self.acl_file, acl, mode=0o600)
        if self.pid is not None:
            self.reload()

    def reload(self, timeout_s: float = 10.0) -> None:
        """Make it read its ACL again (SIGHUP) and wait until it did."""
        if self.pid is None:
            raise ServerError("Mosquitto does not run, so it can't reload")
        before = self.log().count(_RELOADED)
        os.kill(self.pid, signal.SIGHUP)
        deadline = time.monotonic() + timeout_s
        while self.log().count(_RELOADED) == before:
            if time.monotonic() > deadline:
                raise ServerError(f"Mosquitto did not reload in {timeout_s:.0f} s; its log is {self.log_file}")
            time.sleep(0.02)

    def _configuration(self) -> list[str]:
        lines = [
            "per_listener_settings true",
            *(["user root"] if os.geteuid() == 0 else []),
            f"pid_file {self.pid_file}",
            "log_dest stderr",
            "log_type error",
            "log_type warning",
            "log_type notice",
            "log_type information",
            "persistence true",
            f"persistence_location {self.folder}/",
            "autosave_interval 60",
            # The default of 20 would stop an ingest that acknowledges whole batches after their commit.
            "max_inflight_messages 2000",
            # For a registry that is down for long: by number and by size, whichever comes first.
            "max_queued_messages 200000",
            "max_queued_bytes 536870912",
            "persistent_client_expiration 60d",
            f"listener {self.port} {self.host}",
            f"acl_file {self.acl_file}",
        ]
        if not self._secure:
            return [*lines, "allow_anonymous true"]
        return [
            *lines,
            "allow_anonymous false",
            "tls_version tlsv1.2",
            "require_certificate true",
            "use_identity_as_username true",
            *(f"{name} {path}" for name, path in self._tls.items() if path is not None),
        ]
