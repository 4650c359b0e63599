"""A bundle → the same bundle with int8 files beside its networks, where the golden cases allow it.

1  the cascade reads calibration volumes; what each network is given is kept, a spread of it     (`Recorder`)
2  each file is quantised with that                                                              (`quantise`)
3  a network keeps its int8 files if the golden cases hold with them, tried one network at a time
4  ... and all that are kept hold together; else none is kept
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import BundleRefused
from core.volume import Index, Volume
from engines.bundle import Bundle, Content, write_bundle
from engines.cascade import Cascade, PatientContext
from engines.importers import ImportRefused
from engines.importers.graph import read, to_bytes
from engines.importers.quantise import convolutions, to_int8
from engines.manifest import ManifestDraft
from engines.parity import run_golden
from engines.runtime import Network, Runtime, Tensor
from engines.runtime.choice import choose
from engines.runtime.host import OnHost

MOST_IMAGES = 16
"""Images that a network is calibrated with, spread evenly over those that it was given."""
_ADULT = PatientContext(age_years=60)


@dataclass(frozen=True)
class Trial:
    """What became of one network. kept: whether its int8 files are in the new bundle; why: one sentence."""

    network: str
    images: int
    kept: bool
    why: str

    @property
    def sentence(self) -> str:
        """For people."""
        return f"{self.network}: {'int8' if self.kept else 'stays float'}, {self.images} images; {self.why}"


def add_int8(
    bundle: Bundle, volumes: Sequence[Volume], to: Path, say: Callable[[str], None] = lambda line: None
) -> tuple[Bundle, tuple[Trial, ...]]:
    """A new bundle in `to`, version `+int8`. ImportRefused: no golden case, or no network may run in int8."""
    if to.exists():
        raise BundleRefused(6, f"{to} exists already", remedy="Choose a new folder or remove the old one first.")
    if not bundle.manifest.golden:
        raise ImportRefused("the bundle has no golden case, so that nothing can show that int8 is good enough")
    seen = _seen(bundle, volumes, say)
    with tempfile.TemporaryDirectory(prefix="onescan-") as folder:
        trials, kept = [], {}
        for network in bundle.manifest.networks:
            images = seen.get(network.id, [])
            models = {name: read(bundle.path(name), name) for name in network.files}
            files = {}
            if not images:
                why: str | None = "it never ran"
            elif not all(map(convolutions, models.values())):
                why = "it has no convolution, and nothing else is quantised"
            else:
                for name, model in models.items():
                    say(f"quantising {name} with {len(images)} images")
                    files[name] = to_bytes(to_int8(model, images, name))
                why = _why_not(bundle, {network.id: files}, Path(folder) / network.id, say)
            trials.append(Trial(network.id, len(images), why is None, why or "golden cases hold"))
            if why is None:
                kept[network.id] = files
        if not kept:
            reasons = "; ".join(f"{trial.network}: {trial.why}" for trial in trials)
            raise ImportRefused(f"no network may run in int8: {reasons}", remedy="Calibrate with more, other volumes.")
        if len(kept) > 1 and (why := _why_not(bundle, kept, Path(folder) / "all", say)):
            raise ImportRefused(f"together the int8 networks {', '.join(kept)} fail: {why}")
        return _with_int8(bundle, kept, to), tuple(trials)


def _seen(bundle: Bundle, volumes: Sequence[Volume], say: Callable[[str], None]) -> dict[str, list[Tensor]]:
    """By network: a spread of what the cascade gives it."""
    recorder = Recorder(choose("auto").runtime)
    cascade = Cascade(bundle, recorder)
    for i, volume in enumerate(volumes, 1):
        say(f"reading calibration volume {i} of {len(volumes)}")
        cascade.analyse(volume, _ADULT)
    return {
        network.id: _spread(recorder.images.get(bundle.path(network.files[0]).name, []))
        for network in bundle.manifest.networks
    }


def _spread(images: list[Tensor]) -> list[Tensor]:
    chosen = np.unique(np.linspace(0, len(images) - 1, min(MOST_IMAGES, len(images))).round().astype(int))
    return [images[i] for i in chosen] if images else []


def _why_not(
    bundle: Bundle, files: Mapping[str, Mapping[str, bytes]], folder: Path, say: Callable[[str], None]
) -> str | None:
    """Why these int8 files may not be used: how the golden cases differ with them. None if they hold."""
    say(f"golden cases with {', '.join(files)} in int8")
    outcomes = run_golden(_with_int8(bundle, files, folder), choose("openvino", precision="int8").runtime)
    failed = [f"{outcome.case}: {outcome.detail}" for outcome in outcomes if not outcome.passed]
    return "; ".join(failed) or None


def _with_int8(bundle: Bundle, files: Mapping[str, Mapping[str, bytes]], to: Path) -> Bundle:
    fields: dict[str, Any] = bundle.manifest.model_dump(exclude={"files"})
    fields["version"] = f"{bundle.manifest.version.split('+')[0]}+int8"
    for network in fields["networks"]:
        if network["id"] in files:
            network["int8_files"] = tuple(_named(name) for name in network["files"])
    contents = [
        Content(entry.name, entry.role, bundle.path(entry.name))
        for entry in bundle.manifest.files
        if entry.name not in {_named(name) for network in bundle.manifest.networks for name in network.files}
    ]
    added = {_named(name): content for network in files.values() for name, content in network.items()}
    contents += [Content(name, "network", content) for name, content in added.items()]
    for network in fields["networks"]:
        if network["id"] not in files:
            network["int8_files"] = ()
    return write_bundle(to, ManifestDraft.model_validate(fields), contents)


def _named(name: str) -> str:
    return f"{name.removesuffix('.onnx')[:55]}.int8.onnx"


class Recorder(OnHost):
    """A runtime that keeps what its networks are given, by file."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.name, self.precision = runtime.name, runtime.precision
        self.images: dict[str, list[Tensor]] = {}

    def load(self, onnx: Path) -> _RecordedNetwork:
        return _RecordedNetwork(self._runtime.load(onnx), self.images.setdefault(onnx.name, []))


class _RecordedNetwork:
    def __init__(self, network: Network, images: list[Tensor]) -> None:
        self._network = network
        self._images = images

    def prepare(self, shape: Index) -> None:
        self._network.prepare(shape)

    def run(self, image: Tensor) -> Tensor:
        self._images.append(image.copy())
        return self._network.run(image)
