"""On a box with a GPU a bundle's trial begins with building its plans: they are made here, for this very GPU.

build    in a child at idle priority, ended when a study comes, gone on with later          (`engines.buildprocess`)
compare  the golden cases on the plans; only if all agree may the plans run
else     where any runtime will do (`auto`): the golden cases on the one that then runs     (`trial`)
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from appliance.update.trial import ChildTrial, Precision, Preference, Verdict
from engines.build import Outcome
from engines.buildprocess import ChildBuild

log = logging.getLogger(__name__)


class Build(Protocol):
    """Builds and compares plans: `engines.buildprocess.ChildBuild`."""

    def run(
        self, bundle: Path, wanted: Callable[[], bool] = ..., progress: Callable[[Mapping[str, Any]], None] = ...
    ) -> Outcome:
        """Blocks until the build has ended."""


@dataclass(frozen=True)
class PlanTrial:
    """otherwise: the trial where plans can't be had and another runtime may be used; None: it is refused then."""

    build: Build
    otherwise: ChildTrial | None

    def run(self, folder: Path, wanted: Callable[[], bool] = lambda: True) -> Verdict:
        """Build, compare; or try on what runs instead."""
        outcome = self.build.run(folder, wanted)
        if outcome.kind == "postponed":
            return Verdict("postponed")
        if outcome.kind == "ready":
            return Verdict("passed", "", f"{len(outcome.plans)} plans, {outcome.built} new; {outcome.detail}")
        log.warning("no plans for the GPU: %s; %s", outcome.detail, outcome.remedy or "see docs/gpu-status.md")
        if self.otherwise is not None:
            return self.otherwise.run(folder, wanted)
        return Verdict("failed", "golden case" if outcome.kind == "refused" else "engine", outcome.detail)


def trial_for(preference: Preference, precision: Precision, plans: Path, memory_mb: int) -> PlanTrial | ChildTrial:
    """How bundles are tried on this box. memory_mb: MiB that a trial or build may use."""
    plain = ChildTrial(preference, memory_mb=memory_mb, precision=precision, plans=plans)
    build = ChildBuild(plans, memory_mb, fp32=precision == "fp32")
    if preference == "tensorrt":
        return PlanTrial(build, None)
    if (
        preference == "auto"
        and precision != "int8"
        and any(importlib.util.find_spec(name) for name in ("tensorrt", "tensorrt_rtx"))
    ):
        return PlanTrial(build, plain)
    return plain
