"""ONNX → plans for this very GPU, and the proof that they may run.

    1. each network's plan is built, unless it is on the shelf, and kept; what TensorRT measured on the way too
    2. the golden cases run on the plans (`engines.parity`)
    3. only if all agree are the plans allowed to run

A plan is never shipped: it is built on the device that runs it, and keyed to that device, to TensorRT's version, to the
precision and to the ONNX file (`engines.runtime.plans`). A build that was ended goes on from the last plan; the network
that it was at is built again, but most of what was measured for it is in the timing cache. `buildprocess` runs all this
in a child at idle priority.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from core.volume import Index
from engines import manifest
from engines.bundle import Bundle
from engines.runtime.gpu import TensorRtRuntime
from engines.runtime.plans import PlanKey, Profile, Shelf, StoredPlan

Step = Callable[[str, str, int, int], bool]
"""Network, phase, steps done and in all; false to end the build."""

# The largest and the usual extent of what a network sees in one piece, mm along S, P, L: head to feet, shoulder width.
_LARGEST_SCAN, _USUAL_SCAN = (2000.0, 700.0, 700.0), (500.0, 400.0, 400.0)
_LARGEST_ORGAN, _USUAL_ORGAN = (600.0, 500.0, 500.0), (250.0, 200.0, 200.0)
_ALONG = {"S": 0, "I": 0, "P": 1, "A": 1, "L": 2, "R": 2}


class Builder(Protocol):
    """What makes a plan of an ONNX file: TensorRT, with the bounds that it keeps to. None: it was ended."""

    def __call__(
        self, onnx: bytes, profile: Profile, timing_cache: bytes, step: Callable[[str, int, int], bool]
    ) -> Made: ...


class Made(Protocol):
    """As `engines.runtime.tensorrt.Built`."""

    @property
    def content(self) -> bytes | None: ...

    @property
    def precision(self) -> str: ...

    @property
    def timing_cache(self) -> bytes: ...


@dataclass(frozen=True)
class Outcome:
    """What became of a build.

    ready: all plans agreed and may run. refused: they were built and did not agree, `detail` says in what. postponed:
    it was ended because it was no longer wanted. failed: it did not get that far. built: how many plans were new.
    """

    kind: Literal["ready", "refused", "postponed", "failed"]
    detail: str = ""
    built: int = 0
    plans: tuple[Mapping[str, Any], ...] = ()
    cases: tuple[Mapping[str, Any], ...] = ()
    remedy: str = ""


def profile_of(network: manifest.Network) -> Profile:
    """The image shapes that a network's plan has to take: its tile, or from one multiple to the largest scan."""
    tiling = network.tiling
    if tiling.kind != "whole":
        return Profile.exact(tiling.size)
    multiple = tiling.pad_multiple
    largest, usual = (_LARGEST_SCAN, _USUAL_SCAN) if network.sees_all else (_LARGEST_ORGAN, _USUAL_ORGAN)

    def voxels(extent_mm: tuple[float, float, float]) -> Index:
        z, y, x = (
            max(1, -(-round(extent_mm[_ALONG[letter]] / mm) // multiple)) * multiple
            for letter, mm in zip(network.axes, network.spacing_mm, strict=True)
        )
        return (z, y, x)

    return Profile((multiple, multiple, multiple), voxels(usual), voxels(largest))


def build_plans(bundle: Bundle, runtime: TensorRtRuntime, build: Builder, step: Step) -> Outcome:
    """Build what lacks, compare, and let the plans run if they agree. runtime: on trial.

    EngineError where a network can't be built.
    """
    plans: list[tuple[PlanKey, StoredPlan]] = []
    built = 0
    for network, file in _files(bundle):
        content = bundle.path(file).read_bytes()
        key, profile = runtime.key(content), profile_of(network)
        plan = runtime.shelf.find_built(key, profile)
        if plan is None:
            plan = _build_one(runtime.shelf, key, profile, content, build, _naming(network.id, step))
            if plan is None:
                return Outcome("postponed", f"ended while {network.id} was built", built)
            built += 1
        plans.append((key, plan))
    if all(_agreed_with(bundle, plan) for _, plan in plans):
        return Outcome("ready", "every plan had agreed before", built, tuple(_told(plan) for _, plan in plans))
    return _compare(bundle, runtime, plans, built, step)


def _files(bundle: Bundle) -> Iterator[tuple[manifest.Network, str]]:
    """Every network's files at the precision that is run. Q/DQ INT8 files are not: no GPU has shown them right yet."""
    for network in bundle.manifest.networks:
        for file in network.files:
            yield network, file


def _build_one(
    shelf: Shelf, key: PlanKey, profile: Profile, content: bytes, build: Builder, step: Callable[[str, int, int], bool]
) -> StoredPlan | None:
    begun = time.monotonic()
    made = build(content, profile, shelf.timing_cache(key), step)
    if made.timing_cache:
        shelf.save_timing_cache(key, made.timing_cache)
    if made.content is None:
        return None
    return shelf.save(key, profile, made.precision, made.content, time.monotonic() - begun)


def _compare(
    bundle: Bundle, runtime: TensorRtRuntime, plans: list[tuple[PlanKey, StoredPlan]], built: int, step: Step
) -> Outcome:
    from engines.parity import run_golden

    if not step("golden cases", "comparing", 0, 1):
        return Outcome("postponed", "ended before the plans were compared", built)
    outcomes = run_golden(bundle, runtime)
    cases = tuple(asdict(outcome) for outcome in outcomes)
    told = tuple(_told(plan) for _, plan in plans)
    if not all(outcome.passed for outcome in outcomes):
        differing = "; ".join(f"{outcome.case}: {outcome.detail}" for outcome in outcomes if not outcome.passed)
        return Outcome("refused", differing, built, told, cases, "The plans stay unused; choose another runtime.")
    evidence = {"bundle": bundle.digest, "cases": [f"{outcome.case}: {outcome.detail}" for outcome in outcomes]}
    for key, plan in plans:
        runtime.shelf.agree(plan, key, evidence)
    return Outcome("ready", f"{len(outcomes)} golden cases agree", built, told, cases)


def _agreed_with(bundle: Bundle, plan: StoredPlan) -> bool:
    return plan.agreed is not None and plan.agreed.get("bundle") == bundle.digest


def _told(plan: StoredPlan) -> Mapping[str, Any]:
    return {
        "plan": plan.path.name,
        "precision": plan.precision,
        "from": plan.profile.least,
        "to": plan.profile.most,
        "built_s": plan.built_s,
    }


def _naming(network: str, step: Step) -> Callable[[str, int, int], bool]:
    return lambda phase, done, total: step(network, phase, done, total)
