"""Debian's Orthanc, privately: a PACS that we did not write."""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from core import durable
from deploy.embedded.ports import free_ports
from deploy.embedded.process import Command, Server, ServerError, program

_USER = "onescan"


class OrthancPacs(Server):
    """Orthanc with its DICOM server (AE title `ORTHANC`) and its REST interface, both on free ports.

    Orthanc 1.10 can't bind its DICOM port to one address; HTTP refuses other hosts and asks for a password
    that is drawn anew for every folder.
    """

    def __init__(
        self,
        folder: Path,
        dicom_port: int | None = None,
        http_port: int | None = None,
        ae_title: str = "ORTHANC",
        plugins: Sequence[Path] = (),
    ) -> None:
        super().__init__(folder)
        first, second = free_ports(2)
        self.ae_title = ae_title
        self.port = dicom_port or first
        self.http_port = http_port or second
        self._plugins = tuple(plugins)
        self._password = secrets.token_urlsafe(16)

    @property
    def host(self) -> str:
        """Where it listens."""
        return "127.0.0.1"

    @property
    def credentials(self) -> str:
        """user:password of its REST interface and its plugins."""
        return f"{_USER}:{self._password}"

    def prepare(self) -> Command:
        """Write the configuration."""
        settings = {
            "Name": "OneScan test PACS",
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "DicomAet": self.ae_title,
            "DicomPort": self.port,
            "DicomCheckCalledAet": True,
            "DicomModalitiesInDatabase": True,
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {_USER: self._password},
            "Plugins": [str(plugin) for plugin in self._plugins],
        }
        configuration = self.folder / "orthanc.json"
        durable.write_text(configuration, json.dumps(settings, indent=2), mode=0o600)
        return Command([program("Orthanc"), str(configuration)])

    def is_ready(self) -> bool:
        """True when the REST interface answers, which Orthanc opens last."""
        with contextlib.suppress(ServerError):
            return bool(self.rest("/system"))
        return False

    def rest(self, path: str, method: str = "GET", body: object | None = None) -> Any:
        """One call of the REST interface; JSON in, JSON out. Raises `ServerError` where it fails."""
        token = base64.b64encode(self.credentials.encode()).decode()
        request = urllib.request.Request(
            f"http://{self.host}:{self.http_port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Basic {token}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return json.loads(response.read() or b"null")
        except (OSError, urllib.error.URLError, ValueError) as error:
            raise ServerError(f"Orthanc does not answer {path}: {error}") from error

    def add_modality(self, ae_title: str, port: int) -> str:
        """Make a DICOM peer on 127.0.0.1 known, so that Orthanc can send to it or answer it; returns its name there.

        The name follows from the AE title: a later peer of the same title takes the place of the earlier one.
        """
        name = ae_title.lower()
        self.rest(f"/modalities/{name}", "PUT", {"AET": ae_title, "Host": self.host, "Port": port})
        return name

    def tags(self) -> list[dict[str, Any]]:
        """The simplified tags of every instance that it holds."""
        return [self.rest(f"/instances/{one}/simplified-tags") for one in self.rest("/instances")]

    def wait_for(
        self, condition: Callable[[list[dict[str, Any]]], bool], timeout_s: float = 60.0
    ) -> list[dict[str, Any]]:
        """Wait until `condition(tags())` holds. Raises `ServerError` if it doesn't in time."""
        deadline = time.monotonic() + timeout_s
        while not condition(tags := self.tags()):
            if time.monotonic() > deadline:
                raise ServerError(f"what was awaited did not reach Orthanc; it has {len(tags)} instances")
            time.sleep(0.1)
        return tags
