"""Is a device online? Decided by (epoch, session), never by the order in which messages arrive. Pure.

A device counts its connections (`session`) within its journal's epoch; an offline status ends the session it names.
The will of an old session, or a birth that comes late, therefore changes nothing. Two boot ids that claim one session
are two machines with one identity.

    what is said, against what is known        verdict
    an epoch never heard of, or none known     NEWER
    an epoch before the last one               OLDER
    a higher session                           NEWER
    a lower session                            OLDER
    the same session, another boot id          CONFLICT
    the same session, now offline              NEWER
    the same session otherwise                 SAME
"""

from __future__ import annotations

import enum
import uuid
from dataclasses import dataclass


class Verdict(enum.Enum):
    """What to do with a word about presence. SAME changes no presence, but what it tells of the device holds."""

    NEWER = "newer"
    SAME = "same"
    OLDER = "older"
    CONFLICT = "conflict"


@dataclass(frozen=True)
class Known:
    """What the registry holds: epochs in the order it first heard of them, the last one's newest session."""

    epochs: tuple[str, ...] = ()
    boot_id: uuid.UUID | None = None
    session: int = 0
    online: bool = False


@dataclass(frozen=True)
class Said:
    """What a status, a will or a birth says."""

    epoch: str
    boot_id: uuid.UUID
    session: int
    online: bool


def judge(known: Known, said: Said) -> Verdict:
    """The table above."""
    if said.epoch not in known.epochs:
        return Verdict.NEWER
    if said.epoch != known.epochs[-1] or said.session < known.session:
        return Verdict.OLDER
    if said.session > known.session:
        return Verdict.NEWER
    if said.boot_id != known.boot_id:
        return Verdict.CONFLICT
    return Verdict.NEWER if known.online and not said.online else Verdict.SAME


def adopt(known: Known, said: Said) -> Known:
    """What is known after a NEWER word."""
    epochs = known.epochs if said.epoch in known.epochs else (*known.epochs, said.epoch)
    return Known(epochs, said.boot_id, said.session, said.online)
