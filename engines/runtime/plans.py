"""Plans on disk: built networks, each keyed to the very GPU, library, arithmetic and ONNX file that it was built for.

    <key>-<profile>.plan     what TensorRT serialised
    <key>-<profile>.json     written after it: the key in words, the plan's SHA-256, whether it agreed with a reference
    timing-<key>.cache       what TensorRT measured while it built, so that an interrupted build does not start anew

A plan that has no record, or another digest than its record says, is not there. One that did not agree with the
reference (`engines.build`) is there, but `find` shows it only to whoever is about to compare it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core import durable
from core.volume import Index
from engines.runtime.device import Identity

_VERSION = 1


@dataclass(frozen=True)
class Profile:
    """Image shapes (z, y, x) that a plan accepts: from `least` to `most`, built to be fast at `best`."""

    least: Index
    best: Index
    most: Index

    @classmethod
    def exact(cls, size: Index) -> Profile:
        """One shape only."""
        return cls(size, size, size)

    def covers(self, shape: Index) -> bool:
        """Whether an image of this shape may be given."""
        return all(low <= n <= high for low, n, high in zip(self.least, shape, self.most, strict=True))


@dataclass(frozen=True)
class PlanKey:
    """What a plan depends on. onnx: SHA-256, hex. library: name and version. tf32: float32 may be computed as TF32."""

    onnx: str
    library: str
    device: Identity
    tf32: bool

    @property
    def digest(self) -> str:
        """Hex; plans with another one are for something else."""
        return _digest(asdict(self))

    @property
    def timing_digest(self) -> str:
        """Hex; what was measured holds for any network on the same device with the same library."""
        return _digest({"library": self.library, "device": asdict(self.device)})


@dataclass(frozen=True)
class StoredPlan:
    """A plan on disk. agreed: with what it was compared, and what came out; None: not yet, so it must not run."""

    path: Path
    profile: Profile
    precision: str
    sha256: str
    built_s: float
    agreed: Mapping[str, Any] | None


class Shelf:
    """The plans in one folder. Several processes may read; one at a time writes (it holds the GPU)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, key: PlanKey, profile: Profile, precision: str, content: bytes, built_s: float) -> StoredPlan:
        """Keep a plan, durably. It has yet to agree."""
        durable.make_folder(self.folder)
        path = self.folder / f"{_name(key, profile)}.plan"
        path.with_suffix(".json").unlink(missing_ok=True)  # never a record beside another plan's content
        durable.write_bytes(path, content)
        sha256 = hashlib.sha256(content).hexdigest()
        stored = StoredPlan(path, profile, precision, sha256, round(built_s, 1), None)
        self._record(stored, key)
        return stored

    def find(self, key: PlanKey, shape: Index, *, agreed: bool = True) -> StoredPlan | None:
        """The plan for an image of this shape; of several that which was built for the shape nearest to it."""
        fitting = [p for p in self.every(key) if p.profile.covers(shape) and (p.agreed is not None or not agreed)]
        return min(
            fitting, key=lambda p: sum(abs(a - b) for a, b in zip(p.profile.best, shape, strict=True)), default=None
        )

    def find_built(self, key: PlanKey, profile: Profile) -> StoredPlan | None:
        """The plan for exactly this profile, whether or not it has agreed; None if it has to be built."""
        return next((p for p in self.every(key) if p.profile == profile and self.read(p) is not None), None)

    def every(self, key: PlanKey) -> Iterator[StoredPlan]:
        """All plans for a key that have a record."""
        for record in sorted(self.folder.glob(f"{key.digest[:32]}-*.json")):
            if (plan := _read_record(record)) is not None:
                yield plan

    def read(self, plan: StoredPlan) -> bytes | None:
        """A plan's content, or None if it is not what was written: a plan that is damaged may crash its process."""
        try:
            content = plan.path.read_bytes()
        except OSError:
            return None
        return content if hashlib.sha256(content).hexdigest() == plan.sha256 else None

    def agree(self, plan: StoredPlan, key: PlanKey, evidence: Mapping[str, Any]) -> StoredPlan:
        """Record that a plan agreed with the reference; from now on it may run."""
        agreed = StoredPlan(plan.path, plan.profile, plan.precision, plan.sha256, plan.built_s, dict(evidence))
        self._record(agreed, key)
        return agreed

    def timing_cache(self, key: PlanKey) -> bytes:
        """What earlier builds measured; empty if there were none."""
        try:
            return self._timing_path(key).read_bytes()
        except FileNotFoundError:
            return b""

    def save_timing_cache(self, key: PlanKey, content: bytes) -> None:
        """Keep what a build measured, durably."""
        durable.make_folder(self.folder)
        durable.write_bytes(self._timing_path(key), content)

    def _timing_path(self, key: PlanKey) -> Path:
        return self.folder / f"timing-{key.timing_digest[:32]}.cache"

    def _record(self, plan: StoredPlan, key: PlanKey) -> None:
        fields = {
            "version": _VERSION,
            "key": asdict(key),
            "profile": asdict(plan.profile),
            "precision": plan.precision,
            "sha256": plan.sha256,
            "built_s": plan.built_s,
            "agreed": plan.agreed,
        }
        durable.write_text(plan.path.with_suffix(".json"), json.dumps(fields, indent=2))


def _read_record(record: Path) -> StoredPlan | None:
    try:
        fields = json.loads(record.read_text())
        if fields["version"] != _VERSION:
            return None
        profile = Profile(**{name: _index(shape) for name, shape in fields["profile"].items()})
        return StoredPlan(
            record.with_suffix(".plan"),
            profile,
            str(fields["precision"]),
            str(fields["sha256"]),
            float(fields["built_s"]),
            fields["agreed"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # as if it had never been built: it is built again


def _index(shape: list[int]) -> Index:
    z, y, x = (int(n) for n in shape)
    return (z, y, x)


def _name(key: PlanKey, profile: Profile) -> str:
    return f"{key.digest[:32]}-{_digest(asdict(profile))[:8]}"


def _digest(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
