"""Localise → classify, detect → candidates → characterise → answer and lesions, for one volume.

Each cancer is a bulkhead: what goes wrong in one is that one's `not_analysed(analysis failed)`, logged, and the others
are answered. What goes wrong in the localiser is everybody's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from core.errors import DeviceLost, InputRefused
from core.finding import Answer, Cancer, Reason, Verdict, complete
from core.volume import Vector, Volume
from engines.bundle import Bundle
from engines.cascade.budget import Budget, Cancelled, Watch
from engines.cascade.calibration import calibrated
from engines.cascade.candidates import Candidate, extract
from engines.cascade.characterise import characterise
from engines.cascade.classify import classify
from engines.cascade.detect import Before, Detection, detect
from engines.cascade.lesions import Labels, to_source
from engines.cascade.loaded import LoadedNetwork
from engines.cascade.localise import FoundOrgan, localise
from engines.cascade.orientation import Orientation, orientation_of
from engines.cascade.region import Region
from engines.cascade.rules import PatientContext, Refusal, decide, looked_at, strange, unfit, unseen
from engines.cascade.segment import label_count, segment
from engines.manifest import CancerModel, Organ
from engines.runtime import Runtime

log = logging.getLogger(__name__)

Refused = Mapping[Cancer, tuple[Reason, str]]


@dataclass(frozen=True, eq=False)
class Look:
    """What an answer was decided on, for who judges answers: every candidate, also those below the thresholds.

    candidates: uncalibrated, on the grid of `region`, highest score first. organ_score: the classifier's, or None.
    """

    model: CancerModel
    candidates: tuple[Candidate, ...]
    region: Region | None
    organ_score: float | None


Observe = Callable[[Look], None]


@dataclass(frozen=True, eq=False)
class Analysis:
    """Seven answers and what they rest on.

    answers: in the order of `Cancer`, mode SILENT (the caller applies the site's). masks: uint8 (z, y, x) in the source
    geometry, value = Lesion.label; only cancers with lesions. organs_ml: volume as localised, mL. timings_s: seconds:
    "total" is the sum of "localise", "classify", "detect", "characterise", "lesions" and little else; "preprocess",
    "compile", "network" (pure inference) and "blend" are parts of these. runtime: name and precision.
    """

    answers: tuple[Answer, ...]
    masks: Mapping[Cancer, Labels]
    organs_ml: Mapping[str, float]
    timings_s: Mapping[str, float]
    runtime: str


@dataclass(frozen=True, eq=False)
class _Scan:
    """A volume in canonical order (a view), and its limits."""

    volume: Volume
    hu: npt.NDArray[np.int16]
    spacing_mm: Vector
    orientation: Orientation
    watch: Watch
    observe: Observe
    maps: dict[str, Labels] = field(default_factory=dict)
    """Label maps of networks that others start from, canonical."""
    detections: dict[tuple[str, str], Detection] = field(default_factory=dict)
    """By network and organ, where several cancers share a run."""


class Cascade:
    """One bundle on one runtime. Networks load when first needed and stay. Not for several threads at once."""

    def __init__(
        self,
        bundle: Bundle,
        runtime: Runtime,
        budget: Budget | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bundle = bundle
        self._runtime = runtime
        self._budget = budget or Budget()
        self._clock = clock
        self._networks: dict[str, LoadedNetwork] = {}

    def analyse(
        self,
        volume: Volume,
        patient: PatientContext,
        refused: Refused = MappingProxyType({}),
        cancelled: Callable[[], bool] = lambda: False,
        observe: Observe = lambda look: None,
        spent_s: float = 0.0,
    ) -> Analysis:
        """Answers for all seven cancers. refused: cancers that an earlier stage ruled out, with (reason, detail).

        observe: is shown what each answer of an organ that was looked at rests on, before it is decided.
        spent_s: what other series of the study have taken of its time.
        Raises Cancelled soon after `cancelled()` turns true, DeviceLost, and nothing else on purpose.
        """
        watch = Watch(self._budget, cancelled, self._clock, spent_s)
        answers: dict[Cancer, Answer] = {}
        masks: dict[Cancer, Labels] = {}
        organs: Mapping[str, FoundOrgan] = {}
        wanted = self._admit(volume, patient, refused, answers)
        manifest = self._bundle.manifest
        if wanted or (manifest.organs and not manifest.cancers):  # organs are then all that the bundle says
            try:
                scan = _scan(volume, watch, observe)
                organs = self._localise(scan, wanted)
            except Exception as error:  # a bulkhead: see the module's docstring
                refusal = _refusal("localiser", error)
                answers.update({model.cancer: refusal.answer(model.cancer) for model in wanted})
            else:
                self._answer_each(wanted, scan, organs, answers, masks)
        watch.seconds["total"] = watch.elapsed_s
        return Analysis(
            answers=complete(answers, Reason.NO_MODEL),
            masks=masks,
            organs_ml={name: organ.volume_ml for name, organ in organs.items()},
            timings_s=dict(watch.seconds),
            runtime=f"{self._runtime.name} {self._runtime.precision}",
        )

    def _admit(
        self, volume: Volume, patient: PatientContext, refused: Refused, answers: dict[Cancer, Answer]
    ) -> list[CancerModel]:
        """The cancers to look for; those that this scan or patient rules out get their answer here."""
        wanted = []
        for model in self._bundle.manifest.cancers:
            if model.cancer in refused:
                answers[model.cancer] = Answer.not_analysed(model.cancer, *refused[model.cancer])
            elif refusal := unfit(model, patient, volume.geometry.spacing_mm[0]):
                answers[model.cancer] = refusal.answer(model.cancer)
            else:
                wanted.append(model)
        return wanted

    def _localise(self, scan: _Scan, wanted: list[CancerModel]) -> Mapping[str, FoundOrgan]:
        manifest = self._bundle.manifest
        asked = frozenset().union(*(looked_at(model) | manifest.compared_with(model) for model in wanted))
        with scan.watch.timed("localise"):
            network = self._network(manifest.localiser.id)
            return localise(scan.hu, scan.spacing_mm, manifest.organs, network, scan.watch, asked)

    def _answer_each(
        self,
        wanted: list[CancerModel],
        scan: _Scan,
        organs: Mapping[str, FoundOrgan],
        answers: dict[Cancer, Answer],
        masks: dict[Cancer, Labels],
    ) -> None:
        for model in wanted:
            try:
                answer, mask = self._answer(model, scan, organs)
            except Exception as error:  # a bulkhead: see the module's docstring
                answer, mask = _refusal(f"{model.cancer.value} detector", error).answer(model.cancer), None
            answers[model.cancer] = answer
            if mask is not None:
                masks[model.cancer] = mask

    def _answer(
        self, model: CancerModel, scan: _Scan, organs: Mapping[str, FoundOrgan]
    ) -> tuple[Answer, Labels | None]:
        organ, found, watch = self._bundle.manifest.organ(model.organ), organs[model.organ], scan.watch
        if refusal := unseen(model, organ, found) or strange(model, organs):
            return refusal.answer(model.cancer), None
        watch.check()
        organ_score = self._organ_score(model, scan, found, organ.margin_mm)
        if model.network is None or model.label is None or model.extraction is None:
            scan.observe(Look(model, (), None, organ_score))
            return decide(model.cancer, model, (), organ_score), None
        with watch.timed("detect"):
            detection = self._detection(model.network, scan, found, organ)
        probability, region = detection.probability[model.label], detection.region
        watch.check()
        with watch.timed("lesions"):
            candidates = extract(probability, region.organ, region.grid.spacing_mm, model.extraction)
        candidates = self._characterised(model, scan, candidates, region, organs)
        scan.observe(Look(model, candidates, region, organ_score))
        answer = decide(model.cancer, model, candidates, organ_score)
        if answer.verdict is Verdict.NEGATIVE:
            return answer, None
        with watch.timed("lesions"):
            shown = _shown(candidates, model)
            lesions, mask = to_source(
                shown, probability, model.extraction.probability, region, scan.volume.geometry, scan.orientation, watch
            )
        return replace(answer, lesions=lesions), mask if lesions else None

    def _detection(self, network_id: str, scan: _Scan, found: FoundOrgan, organ: Organ) -> Detection:
        """What a network says of an organ, run once for all cancers that it looks for there."""
        key = (network_id, organ.name)
        if key not in scan.detections:
            cancers = self._bundle.manifest.cancers
            shared = [c for c in cancers if (c.network, c.organ) == key]
            labels = sorted({c.label for c in shared if c.label is not None})
            network, before = self._network(network_id), self._before(network_id, scan)
            detection = detect(*(scan.hu, scan.spacing_mm, found, organ.margin_mm, labels, network, scan.watch, before))
            if len(shared) == 1:
                return detection  # nobody else will ask: its memory goes when its answer is given
            scan.detections[key] = detection
        return scan.detections[key]

    def _organ_score(self, model: CancerModel, scan: _Scan, found: FoundOrgan, margin_mm: float) -> float | None:
        """What a classifier says of the organ; None without one."""
        if model.classifier is None:
            return None
        network = self._network(model.classifier.network)
        with scan.watch.timed("classify"):
            return classify(scan.hu, scan.spacing_mm, found, margin_mm, model.classifier.label, network, scan.watch)

    def _characterised(
        self,
        model: CancerModel,
        scan: _Scan,
        candidates: tuple[Candidate, ...],
        region: Region,
        organs: Mapping[str, FoundOrgan],
    ) -> tuple[Candidate, ...]:
        brightness = {name: organ.looks.median_hu for name, organ in organs.items()}
        for question in model.characterisers:
            network = self._network(question.network)
            with scan.watch.timed("characterise"):
                candidates = characterise(
                    scan.hu, scan.spacing_mm, candidates, region, question, network, scan.watch, brightness
                )
        return candidates

    def _before(self, network_id: str, scan: _Scan) -> Before | None:
        """The label map that a network starts from, made when asked for; None if it starts from the scan alone."""
        first = self._bundle.manifest.network(network_id).after
        if first is None:
            return None

        def labels() -> tuple[Labels, int]:
            if first not in scan.maps:
                scan.maps[first] = segment(scan.hu, scan.spacing_mm, self._network(first), scan.watch)
            return scan.maps[first], label_count(self._bundle.manifest.network(first))

        return labels

    def _network(self, network_id: str) -> LoadedNetwork:
        if network_id not in self._networks:
            self._networks[network_id] = load(self._bundle, network_id, self._runtime)
        return self._networks[network_id]


def load(bundle: Bundle, network_id: str, runtime: Runtime) -> LoadedNetwork:
    """A network of a bundle with all its folds; as INT8 where the runtime is to compute in it and the bundle has it."""
    spec = bundle.manifest.network(network_id)
    files = spec.int8_files if runtime.precision == "int8" and spec.int8_files else spec.files
    return LoadedNetwork(spec, tuple(runtime.load(bundle.path(name)) for name in files), runtime)


def _shown(candidates: tuple[Candidate, ...], model: CancerModel) -> list[Candidate]:
    """The candidates that a reader should look at, with calibrated scores."""
    likely = [replace(c, score=calibrated(c.score, model.calibration)) for c in candidates]
    return [c for c in likely if c.score >= model.negative_below]


def _scan(volume: Volume, watch: Watch, observe: Observe) -> _Scan:
    orientation = orientation_of(volume.geometry)
    spacing = orientation.spacing(volume.geometry.spacing_mm)
    return _Scan(volume, orientation.view(volume.hu), spacing, orientation, watch, observe)


def _refusal(stage: str, error: Exception) -> Refusal:
    """What a stage's failure means for a cancer. Cancelling is no failure, and without its GPU this process can't go
    on: both go on upwards."""
    if isinstance(error, Cancelled | DeviceLost):
        raise error
    if isinstance(error, InputRefused):
        return Refusal(error.reason, error.detail)
    log.error("%s failed: %s", stage, error, exc_info=error)
    if isinstance(error, MemoryError):
        return Refusal(Reason.MEMORY, f"{stage}: the system has no memory left")
    return Refusal(Reason.FAILED, f"{stage}: {error}"[:200])
