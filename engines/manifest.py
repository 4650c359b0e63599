"""What a model bundle is: networks, how to feed them, how to read them, the evidence, and cases to check it on.

`manifest.json` of a bundle is one `Manifest`, UTF-8 JSON, unknown fields forbidden. Other parts of a manifest name each
other by `name` or `id`; `unresolved()` lists names that lead nowhere. The file's SHA-256 is the bundle's digest: one
signature over it binds everything, because every other file stands in it with its own SHA-256.

Axis order is z-y-x. Networks see indices that grow to Superior, Posterior and Left, whatever the source's order was.
This module imports nothing but pydantic and `core`: the registry reads manifests too.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from core.finding import Cancer, Reason, Verdict

SCHEMA_VERSION: Literal[1] = 1
"""Raised when an older reader could misread a newer manifest."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?$")]
"""A word that may stand in a path, a topic and a table: lower case, no separator."""
Version = Annotated[str, StringConstraints(pattern=r"^[0-9][0-9A-Za-z.+-]{0,31}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveMm = Annotated[float, Field(gt=0, le=1000)]
Voxels = Annotated[int, Field(ge=1, le=1024)]
HU = Annotated[float, Field(ge=-32768, le=32767)]

Role = Literal["network", "golden", "model_card", "licence"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FileEntry(_Part):
    """One content-addressed file: it lies at `blobs/<sha256>`."""

    name: Name = Field(description="what the manifest's other parts call it, e.g. localiser.onnx")
    role: Role = Field(description="network: ONNX; golden: volume (.npz); model_card, licence: text")
    sha256: Sha256 = Field(description="SHA-256 of the content, hex; also its file name")
    size: int = Field(ge=0, description="bytes")


class Intensity(_Part):
    """HU → network input: clip to [clip_low, clip_high], subtract the mean, divide by the standard deviation."""

    clip_low_hu: HU = Field(description="HU; lower values become this")
    clip_high_hu: HU = Field(description="HU; higher values become this")
    mean_hu: HU = Field(description="HU; becomes 0")
    std_hu: float = Field(gt=0, le=10000, description="HU; becomes 1")

    @model_validator(mode="after")
    def _ordered(self) -> Intensity:
        if self.clip_low_hu >= self.clip_high_hu:
            raise ValueError("clip_low_hu must be below clip_high_hu")
        return self


class WholeVolume(_Part):
    """The region is given to the network in one piece, padded at its far ends with air."""

    kind: Literal["whole"] = "whole"
    pad_multiple: int = Field(ge=1, le=256, description="voxels; each axis is padded to a multiple of this")


class Patches(_Part):
    """The region is given to the network in overlapping tiles, blended with Gaussian weights."""

    kind: Literal["patch"] = "patch"
    size: tuple[Voxels, Voxels, Voxels] = Field(description="voxels (z, y, x) of a tile")
    overlap: float = Field(ge=0, lt=1, description="share of a tile's edge by which neighbours overlap")
    air_below_hu: HU = Field(
        default=-950, description="HU; a tile with no voxel of the organ's surroundings above this is not run"
    )


class Network(_Part):
    """One ONNX network: input `image` float32 (1,1,Z,Y,X), output `logits` float32 (1,C,Z,Y,X), axes dynamic."""

    id: Name
    file: Name = Field(description="name of a file with role network")
    stage: Literal["localise", "detect"]
    spacing_mm: tuple[PositiveMm, PositiveMm, PositiveMm] = Field(description="mm (z, y, x) of its voxels")
    intensity: Intensity
    tiling: WholeVolume | Patches = Field(discriminator="kind")
    activation: Literal["softmax", "sigmoid"] = Field(
        description="softmax: labels exclude each other, the first is background; sigmoid: each label by itself"
    )
    labels: tuple[Name, ...] = Field(min_length=1, max_length=256, description="meaning of each output channel")
    bytes_per_voxel: int = Field(
        default=512, ge=1, le=1_000_000, description="bytes; memory that running it takes per input voxel, measured"
    )

    @model_validator(mode="after")
    def _usable(self) -> Network:
        _refuse_repeats(self.labels, "label")
        if self.activation == "softmax" and len(self.labels) < 2:
            raise ValueError("softmax needs a background and at least one label")
        if self.stage == "localise" and self.tiling.kind != "whole":
            raise ValueError("a localiser sees the whole volume")
        return self


class Organ(_Part):
    """One organ as the localiser sees it."""

    name: Name
    labels: tuple[Name, ...] = Field(min_length=1, description="localiser labels that together are this organ")
    found_from_ml: float = Field(ge=0, description="mL; less than this counts as 'organ not found'")
    margin_mm: float = Field(ge=0, le=100, description="mm; the organ is searched this far beyond its mask")
    component_share: Share = Field(
        default=0.1, description="share of the largest connected part; smaller parts are dropped as noise"
    )
    cut_from_mm2: float = Field(
        default=400,
        ge=0,
        description="mm²; with more cross-section than this in the first or last slice the organ counts as cut off",
    )


class Extraction(_Part):
    """Probability map → candidates."""

    probability: float = Field(gt=0, lt=1, description="voxels at or above this belong to a candidate")
    min_volume_mm3: float = Field(ge=0, description="mm³; smaller candidates are dropped")
    min_diameter_mm: float = Field(ge=0, description="mm; longest axial diameter, smaller candidates are dropped")
    score: Literal["peak", "mean"] = Field(description="a candidate's score: its highest or its mean probability")
    inside_share: Share = Field(
        default=0,
        description="a positive candidate with a smaller share inside the organ's own mask (no margin) means that "
        "the stages disagree: indeterminate",
    )


class Evidence(_Part):
    """What an operating point was measured on, and what came out."""

    kind: Literal["synthetic", "retrospective", "prospective"]
    cohort: str = Field(min_length=1, description="which cases, from where, of when")
    n_positive: int = Field(ge=0, description="cases with the cancer")
    n_negative: int = Field(ge=0, description="cases without it")
    sensitivity: Share
    sensitivity_ci95: tuple[Share, Share] = Field(description="95 % confidence interval (low, high)")
    specificity: Share
    specificity_ci95: tuple[Share, Share] = Field(description="95 % confidence interval (low, high)")

    @model_validator(mode="after")
    def _ordered(self) -> Evidence:
        for name, value, (low, high) in (
            ("sensitivity", self.sensitivity, self.sensitivity_ci95),
            ("specificity", self.specificity, self.specificity_ci95),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name} {value} lies outside its own interval {low}..{high}")
        return self


class OperatingPoint(_Part):
    """A score threshold and how well it did."""

    name: Name
    threshold: Share = Field(description="case score; above it a case counts as positive")
    evidence: Evidence


class Contraindications(_Part):
    """When a scan is not to be analysed for this cancer."""

    min_age_years: int = Field(default=18, ge=0, le=120, description="years; younger patients are not analysed")
    unknown_age: Literal["refuse", "analyse"] = Field(default="refuse", description="what if the age is missing")
    max_slice_spacing_mm: PositiveMm = Field(description="mm between slices; thicker scans are not analysed")
    coverage: Literal["complete", "partial"] = Field(
        default="complete", description="complete: an organ cut off by the scan's ends is not analysed"
    )


class CancerModel(_Part):
    """How one cancer is looked for and when it is called positive."""

    cancer: Cancer
    organ: Name
    network: Name = Field(description="id of a network with stage detect")
    label: Name = Field(description="label of that network which marks the lesion")
    extraction: Extraction
    negative_below: Share = Field(description="case score below this: negative")
    positive_above: Share = Field(description="case score at or above this: positive; between: indeterminate")
    operating_points: tuple[OperatingPoint, ...] = Field(min_length=1)
    contraindications: Contraindications

    @model_validator(mode="after")
    def _ordered(self) -> CancerModel:
        if not 0 < self.negative_below <= self.positive_above:
            raise ValueError("0 < negative_below <= positive_above must hold")
        _refuse_repeats((p.name for p in self.operating_points), "operating point")
        return self


class GoldenAnswer(_Part):
    """What a golden case must give for one cancer."""

    cancer: Cancer
    verdict: Verdict
    reason: Reason | None = None
    score: Share | None = Field(default=None, description="case score; absent: only the verdict counts")
    score_tolerance: Share = Field(default=0.05, description="largest allowed difference of the score")

    @model_validator(mode="after")
    def _reasoned(self) -> GoldenAnswer:
        if (self.verdict is Verdict.NOT_ANALYSED) != (self.reason is not None):
            raise ValueError("a reason stands with not_analysed and only there")
        return self


class GoldenOrgan(_Part):
    """How large the localiser must find an organ in a golden case."""

    organ: Name
    volume_ml: float = Field(ge=0, description="mL")
    tolerance_ml: float = Field(ge=0, description="mL; largest allowed difference")


class GoldenCase(_Part):
    """A volume with a known outcome: every device must reproduce it before the bundle may run there."""

    name: Name
    input: Name = Field(description="name of a file with role golden (see engines.volumefile)")
    age_years: int | None = Field(default=None, ge=0, le=130)
    answers: tuple[GoldenAnswer, ...] = Field(min_length=1)
    organs: tuple[GoldenOrgan, ...] = ()


class Authorisation(_Part):
    """Permission to use this bundle on patients. Without one it is never clinical."""

    jurisdiction: Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")] = Field(
        description="ISO 3166-1 alpha-2 code, or EU"
    )
    authority: str = Field(min_length=1)
    reference: str = Field(min_length=1, description="number of the certificate or clearance")
    cancers: tuple[Cancer, ...] = Field(min_length=1)
    valid_from: dt.date
    valid_until: dt.date | None = None


class ManifestDraft(_Part):
    """A manifest before its files are known; `engines.bundle.write_bundle` makes a `Manifest` of it."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: Name
    version: Version
    label: str = Field(min_length=1, max_length=64, description="manufacturer's model label, as shown to people")
    manufacturer: str = Field(min_length=1, max_length=64)
    synthetic: bool = Field(description="trained or evaluated on synthetic patients only: never clinical")
    intended_use: str = Field(min_length=1)
    licence: str = Field(min_length=1, description="SPDX identifier or text")
    udi_di: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z+*/.-]{6,40}$")] | None = Field(
        default=None, description="device identifier of the UDI, where the bundle is a registered medical device"
    )
    networks: tuple[Network, ...] = Field(min_length=1)
    organs: tuple[Organ, ...] = Field(min_length=1)
    cancers: tuple[CancerModel, ...] = ()
    golden: tuple[GoldenCase, ...] = ()
    authorisations: tuple[Authorisation, ...] = ()

    @model_validator(mode="after")
    def _unique(self) -> ManifestDraft:
        _refuse_repeats((n.id for n in self.networks), "network")
        _refuse_repeats((o.name for o in self.organs), "organ")
        _refuse_repeats((c.cancer.value for c in self.cancers), "cancer")
        _refuse_repeats((g.name for g in self.golden), "golden case")
        if sum(n.stage == "localise" for n in self.networks) != 1:
            raise ValueError("exactly one network localises the organs")
        return self

    @model_validator(mode="after")
    def _authorised_on_evidence(self) -> ManifestDraft:
        if self.synthetic and self.authorisations:
            raise ValueError("a synthetic bundle can't be authorised for clinical use")
        measured = {c.cancer for c in self.cancers if _measured_on_patients(c)}
        for authorisation in self.authorisations:
            if missing := sorted(c.value for c in authorisation.cancers if c not in measured):
                raise ValueError(f"authorised without evidence from patients: {', '.join(missing)}")
        return self

    @property
    def localiser(self) -> Network:
        """The network of stage 1."""
        return next(n for n in self.networks if n.stage == "localise")

    def network(self, network_id: str) -> Network:
        """The network with this id; KeyError if there is none."""
        return {n.id: n for n in self.networks}[network_id]

    def organ(self, name: str) -> Organ:
        """The organ with this name; KeyError if there is none."""
        return {o.name: o for o in self.organs}[name]

    def model_of(self, cancer: Cancer) -> CancerModel | None:
        """How this bundle looks for a cancer; None if it does not."""
        return next((c for c in self.cancers if c.cancer is cancer), None)

    def clinical_allowed(self, cancer: Cancer, jurisdiction: str, on: dt.date) -> bool:
        """Whether this bundle may be used on patients for `cancer` there and then. A site's sign-off comes on top."""
        return not self.synthetic and any(
            a.jurisdiction == jurisdiction
            and cancer in a.cancers
            and a.valid_from <= on
            and (a.valid_until is None or on <= a.valid_until)
            for a in self.authorisations
        )

    def unresolved(self) -> tuple[str, ...]:
        """Names in this manifest that lead nowhere, each as a sentence; empty if all resolve."""
        return tuple(self._dangling())

    def _dangling(self) -> Iterator[str]:
        organs = {o.name for o in self.organs}
        for organ in self.organs:
            for label in organ.labels:
                if label not in self.localiser.labels:
                    yield f"organ {organ.name}: the localiser has no label {label}"
        detectors = {n.id: n for n in self.networks if n.stage == "detect"}
        for model in self.cancers:
            where = f"cancer {model.cancer.value}"
            if model.organ not in organs:
                yield f"{where}: no organ {model.organ}"
            if model.network not in detectors:
                yield f"{where}: no detecting network {model.network}"
            elif model.label not in detectors[model.network].labels:
                yield f"{where}: network {model.network} has no label {model.label}"
        for case in self.golden:
            for expected in case.organs:
                if expected.organ not in organs:
                    yield f"golden case {case.name}: no organ {expected.organ}"


class Manifest(ManifestDraft):
    """A whole manifest: a draft plus every file of the bundle."""

    files: tuple[FileEntry, ...]

    @model_validator(mode="after")
    def _files_unique(self) -> Manifest:
        _refuse_repeats((f.name for f in self.files), "file")
        return self

    def file(self, name: str) -> FileEntry:
        """The file with this name; KeyError if there is none."""
        return {f.name: f for f in self.files}[name]

    def _dangling(self) -> Iterator[str]:
        yield from super()._dangling()
        roles = {f.name: f.role for f in self.files}
        for network in self.networks:
            if roles.get(network.file) != "network":
                yield f"network {network.id}: no file {network.file} with role network"
        for case in self.golden:
            if roles.get(case.input) != "golden":
                yield f"golden case {case.name}: no file {case.input} with role golden"

    def to_json(self) -> bytes:
        """The bytes of `manifest.json`: indented UTF-8, the same for the same manifest."""
        return (self.model_dump_json(indent=2) + "\n").encode()


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of `manifest.json`."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Manifest.model_json_schema()}


def _measured_on_patients(model: CancerModel) -> bool:
    return any(p.evidence.kind != "synthetic" for p in model.operating_points)


def _refuse_repeats(names: Iterable[str], kind: str) -> None:
    if repeated := sorted(name for name, n in Counter(names).items() if n > 1):
        raise ValueError(f"{kind} named twice: {', '.join(repeated)}")
