"""The ways in beside the DICOM port, together, from `start` to `stop`: imports, the watched folder, STOW-RS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from appliance.intake.door import Door
from appliance.intake.hatch import Hatch
from appliance.intake.stow.service import StowService, StowSettings
from appliance.intake.watched import AfterImport, WatchedFolder
from appliance.ports import Clock
from appliance.worker import Worker


@dataclass(frozen=True)
class Watch:
    """A folder that is watched. settle_s: how long nothing in a parcel may change. most_files: of one look."""

    folder: Path
    after: AfterImport = AfterImport.MOVE
    settle_s: float = 10.0
    most_files: int = 100_000


@dataclass(frozen=True)
class SideDoorSettings:
    """hatch: the folder of the socket; None: no imports. watch, stow: None: not wanted."""

    hatch: Path | None = None
    watch: Watch | None = None
    stow: StowSettings | None = None


class SideDoors:
    """Whatever of them is wanted."""

    def __init__(self, settings: SideDoorSettings, door: Door, clock: Clock, max_dataset_bytes: int) -> None:
        self._stopping = False
        self._doors: list[Hatch | Worker | StowService] = []
        if settings.hatch is not None:
            self._doors.append(Hatch(settings.hatch, door, max_dataset_bytes, lambda: self._stopping))
        if (watch := settings.watch) is not None:
            folder = WatchedFolder(
                watch.folder,
                door=door,
                monotonic=clock.monotonic,
                stopping=lambda: self._stopping,
                after=watch.after,
                settle_s=watch.settle_s,
                most_files=watch.most_files,
                max_file_bytes=max_dataset_bytes,
            )
            self._doors.append(Worker("watched folder", folder.step))
        self.stow = StowService(settings.stow, door, clock.monotonic) if settings.stow is not None else None
        if self.stow is not None:
            self._doors.append(self.stow)

    @property
    def alive(self) -> bool:
        """True while all are served."""
        return all(door.alive for door in self._doors)

    def start(self) -> None:
        """Open them."""
        for door in self._doors:
            door.start()

    def stop(self) -> None:
        """Close them; what is being stored is finished."""
        self._stopping = True
        for door in self._doors:
            door.stop()
