"""In which precisions a bundle stores its networks: one choice for every importer.

fp32, as imported     always the reference: golden cases are answered with it, whatever is stored
fp16                  instead of fp32, in the same file names (`precision`); refused where the golden cases don't hold
int8                  beside what is stored, for each network where the golden cases hold (`int8`)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import ConfigError
from engines import volumefile
from engines.bundle import Bundle
from engines.importers import ImportRefused
from engines.importers.int8 import add_int8
from engines.parity import run_golden
from engines.runtime.choice import choose


@dataclass(frozen=True)
class Forms:
    """What is wanted. volumes: scans (.npz) to calibrate int8 with; () takes the golden cases. ConfigError: at odds."""

    fp16: bool = False
    int8: bool = False
    volumes: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if self.volumes and not self.int8:
            raise ConfigError("--volume is what int8 is calibrated with", remedy="Add --int8, or leave --volume out.")


FP32 = Forms()


def check_fp16(bundle: Bundle) -> None:
    """ImportRefused if the bundle's fp16 files miss what fp32 answered. A bundle without golden cases passes."""
    if not (asked := {case.name for case in bundle.manifest.golden}):
        return
    outcomes = run_golden(bundle, choose("onnx", precision="fp32").runtime)  # fp16 is in the file
    if failed := [f"{o.case}: {o.detail}" for o in outcomes if o.case in asked and not o.passed]:
        raise ImportRefused(f"fp16 misses what fp32 answered: {'; '.join(failed)}", remedy="Import without --fp16.")


def with_int8(
    bundle: Bundle, volumes: Sequence[Path], to: Path, say: Callable[[str], None]
) -> tuple[Bundle, tuple[str, ...]]:
    """The bundle with int8 files in `to`, and a sentence on what became of each network. As `add_int8` refuses."""
    paths = volumes or [bundle.path(case.input) for case in bundle.manifest.golden]
    made, trials = add_int8(bundle, [volumefile.read(path) for path in paths], to, say)
    return made, tuple(trial.sentence for trial in trials)
