"""`onescan-appliance import`: studies from a USB stick, a CD or a folder, handed to the receiver that is running.

    1. look    every file below the path; what a DICOMDIR names and is not there is told
    2. sort    by study, so that each is whole as soon as it is through
    3. hand    each object over the hatch; the receiver says whether it is here already, stored, or why not

Starting again is harmless and quick: what is here is known by its content and not sent again.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from appliance.intake.hatch import Answer, Handing, Offer
from appliance.intake.part10 import DICOMDIR, LONGEST_META, FileMeta, NotDicom, read_meta
from appliance.intake.refusal import InstanceRefused
from core.errors import ConfigError, DeliveryError, OneScanError

_STUDY_UID = 0x0020000D
_REMEDY = "Look at the receiver (`systemctl status onescan-receiver`) and start the import again: it goes on."


@dataclass
class Found:
    """What is below a path. studies: readable objects by study, in the order of their names."""

    studies: dict[str, list[Path]] = field(default_factory=dict)
    not_dicom: int = 0
    trouble: list[tuple[str, str]] = field(default_factory=list)
    """Name and reason: damaged files, unreadable ones, missing ones."""

    @property
    def objects(self) -> int:
        """How many can be handed in."""
        return sum(map(len, self.studies.values()))


@dataclass
class Outcome:
    """What became of the objects. reasons: of those that were refused or are of a kind that is not taken."""

    stored: int = 0
    known: int = 0
    not_wanted: Counter[str] = field(default_factory=Counter)
    refused: list[tuple[str, str]] = field(default_factory=list)
    studies: int = 0

    def as_json(self, found: Found) -> dict[str, Any]:
        """For scripts."""
        return {
            "studies": self.studies,
            "stored": self.stored,
            "known": self.known,
            "not_wanted": dict(self.not_wanted),
            "not_dicom": found.not_dicom,
            "refused": [{"file": name, "why": why} for name, why in (*found.trouble, *self.refused)],
        }


def look(path: Path, seen: Callable[[int], None] = lambda count: None) -> Found:
    """What is below `path`: a folder, a DICOMDIR (then its folder), or one file. seen: told the files so far."""
    if not path.exists():
        raise ConfigError(f"{path} is not there", remedy="Name a folder, a DICOMDIR or a DICOM file.")
    top = path if path.is_dir() else path.parent
    found = Found()
    for count, file in enumerate([path] if path.is_file() and path.name.upper() != "DICOMDIR" else _files(top), 1):
        seen(count)
        _sort(file, top, found)
    return found


def hand_in(found: Found, top: Path, run: Path, source: str, done: Callable[[int], None]) -> Outcome:
    """Hand everything in, a study at a time. done: told the bytes of each file. DeliveryError where the receiver takes
    nothing (any more)."""
    outcome = Outcome()
    for files in found.studies.values():
        try:
            with closing(Handing(run, source)) as handing:
                for file in files:
                    _hand(handing, file, top, outcome, done)
                handing.end()
        except (OSError, EOFError, ValueError) as error:
            what = f"the receiver does not take the import ({type(error).__name__})"
            raise DeliveryError(what, remedy=_REMEDY) from error
        outcome.studies += 1
    return outcome


def _hand(handing: Handing, file: Path, top: Path, outcome: Outcome, done: Callable[[int], None]) -> None:
    try:
        content = file.read_bytes()
        meta = read_meta(content)
    except (OSError, InstanceRefused) as error:  # it was readable when we looked: a stick that was pulled out
        outcome.refused.append((_name(file, top), f"can't be read any more: {error}"))
        return
    dataset = memoryview(content)[meta.offset :]
    try:
        offer = Offer(
            sop_class_uid=meta.sop_class_uid,
            sop_instance_uid=meta.sop_instance_uid,
            transfer_syntax=meta.transfer_syntax,
            length=len(dataset),
            sha256=hashlib.sha256(dataset).hexdigest(),
        )
    except ValueError:
        outcome.refused.append((_name(file, top), "its File Meta Information has no valid UIDs"))
        return
    _note(handing.offer(offer, dataset), meta, _name(file, top), outcome)
    done(len(content))


def _note(answer: Answer, meta: FileMeta, name: str, outcome: Outcome) -> None:
    match answer.outcome:
        case "stored":
            outcome.stored += 1
        case "known":
            outcome.known += 1
        case "not_wanted":
            from pydicom.uid import UID

            outcome.not_wanted[f"{UID(meta.sop_class_uid).name}: {answer.why}"] += 1
        case "later":
            raise DeliveryError(answer.why, remedy=f"{answer.remedy} Then start the import again.")
        case _:
            outcome.refused.append((name, f"{answer.why}; {answer.remedy}"))


def _sort(file: Path, top: Path, found: Found) -> None:
    try:
        with file.open("rb") as opened:
            meta = read_meta(opened.read(LONGEST_META))
        if meta.sop_class_uid == DICOMDIR:
            found.trouble += [(name, "named in DICOMDIR, but not there") for name in _missing(file)]
            return
        found.studies.setdefault(_study_of(file), []).append(file)
    except NotDicom:
        found.not_dicom += 1
    except OSError as error:
        found.trouble.append((_name(file, top), f"can't be read: {error.strerror}"))
    except OneScanError as error:
        found.trouble.append((_name(file, top), f"{error}; {error.remedy()}"))


def _study_of(file: Path) -> str:
    """Its Study Instance UID; "" where it can't be told here: the receiver will say what is wrong."""
    try:
        return str(dcmread(file, stop_before_pixels=True, specific_tags=[_STUDY_UID]).get("StudyInstanceUID") or "")
    except Exception:  # what broken files make pydicom raise has no common base
        return ""


def _missing(dicomdir: Path) -> Iterator[str]:
    """Files that a DICOMDIR names (PS3.10 8.6) and that are not beside it, in any case of letters."""
    try:
        records = dcmread(BytesIO(dicomdir.read_bytes())).get("DirectoryRecordSequence") or ()
        named = [record.get("ReferencedFileID") for record in records]
    except (InvalidDicomError, OSError, ValueError, AttributeError):
        yield f"{dicomdir.name} itself, which can't be read"
        return
    for parts in named:
        if parts:
            steps = [parts] if isinstance(parts, str) else list(parts)
            candidates = (steps, [step.lower() for step in steps], [f"{step};1" for step in steps])
            if not any(dicomdir.parent.joinpath(*one).is_file() for one in candidates):
                yield "/".join(steps)


def _files(top: Path) -> Iterator[Path]:
    """All regular files below, no links, in the order of their names."""
    for folder, folders, names in os.walk(top):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            file = Path(folder, name)
            if not name.startswith(".") and file.is_file() and not file.is_symlink():
                yield file


def _name(file: Path, top: Path) -> str:
    return str(file.relative_to(top)) if file.is_relative_to(top) else file.name
