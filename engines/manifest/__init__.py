"""What a model bundle is: networks, how to feed them, how to read them, the evidence, and cases to check it on.

`manifest.json` of a bundle is one `Manifest`, UTF-8 JSON, unknown fields forbidden. Other parts of a manifest name each
other by `name` or `id`; `unresolved()` lists names that lead nowhere. The file's SHA-256 is the bundle's digest: one
signature over it binds everything, because every other file stands in it with its own SHA-256.

    vocabulary   names, numbers
    networks     how a network is fed and read                     stage 1 localise, 2 detect and classify,
    cancers      how a cancer is looked for, for whom it holds     3 characterise
    evidence     what was measured, what is authorised
    golden       cases that every device must reproduce

Axis order is z-y-x, along each network's own axes. This package imports nothing but pydantic and `core`: the registry
reads manifests too.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from core.finding import Cancer, Mode
from engines.manifest.cancers import (
    Calibration,
    CancerModel,
    Characteriser,
    Classifier,
    Contraindications,
    ContrastWindow,
    Extraction,
    Familiar,
    Isotonic,
    Organ,
    Platt,
)
from engines.manifest.evidence import Authorisation, CaseLevel, Evidence, OperatingPoint
from engines.manifest.golden import GoldenAnswer, GoldenCase, GoldenOrgan
from engines.manifest.networks import (
    CANONICAL,
    Area,
    Axes,
    Centred,
    Clip,
    Intensity,
    Linear,
    Network,
    Patches,
    Raw,
    Reference,
    Resampling,
    Rescale,
    Spline,
    Stage,
    Stretched,
    Tiling,
    WholeVolume,
    ZScore,
)
from engines.manifest.vocabulary import Name, Part, Sha256, Share, Version, refuse_repeats

SCHEMA_VERSION: Literal[2] = 2
"""Raised when an older reader could misread a newer manifest, or could not read it at all."""

Role = Literal["network", "golden", "model_card", "licence"]


class FileEntry(Part):
    """One content-addressed file: it lies at `blobs/<sha256>`."""

    name: Name = Field(description="what the manifest's other parts call it, e.g. localiser.onnx")
    role: Role = Field(description="network: ONNX; golden: volume (.npz); model_card, licence: text")
    sha256: Sha256 = Field(description="SHA-256 of the content, hex; also its file name")
    size: int = Field(ge=0, description="bytes")


class ManifestDraft(Part):
    """A manifest before its files are known; `engines.bundle.write_bundle` makes a `Manifest` of it."""

    schema_version: Literal[2] = SCHEMA_VERSION
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
    organs: tuple[Organ, ...] = ()
    cancers: tuple[CancerModel, ...] = ()
    case_level: CaseLevel | None = Field(default=None, description="all cancers together on people without any")
    golden: tuple[GoldenCase, ...] = ()
    authorisations: tuple[Authorisation, ...] = ()

    @model_validator(mode="after")
    def _unique(self) -> ManifestDraft:
        refuse_repeats((n.id for n in self.networks), "network")
        refuse_repeats((o.name for o in self.organs), "organ")
        refuse_repeats((c.cancer.value for c in self.cancers), "cancer")
        refuse_repeats((g.name for g in self.golden), "golden case")
        localisers = sum(n.stage == "localise" for n in self.networks)
        if localisers > 1 or (self.organs and localisers != 1):
            raise ValueError("exactly one network localises the organs")
        if self.cancers and not self.organs:
            raise ValueError("cancers are looked for in organs: name those")
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
        """The network of stage 1; StopIteration never: a bundle with organs has one."""
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

    def compared_with(self, model: CancerModel) -> frozenset[str]:
        """The organs whose brightness the networks are told that look at a cancer's candidates."""
        networks = [self.network(characteriser.network) for characteriser in model.characterisers]
        return frozenset(reference.organ for network in networks for reference in network.references)

    def clinical_allowed(self, cancer: Cancer, jurisdiction: str, on: dt.date) -> bool:
        """Whether this bundle may be used on patients for `cancer` there and then. A site's sign-off comes on top."""
        return not self.synthetic and any(a.covers(cancer, jurisdiction, on) for a in self.authorisations)

    def highest_mode(self, cancer: Cancer, jurisdiction: str, on: dt.date) -> Mode:
        """The most that a site may do with this bundle's answers for `cancer`."""
        if self.model_of(cancer) is None:
            return Mode.SILENT
        return Mode.CLINICAL if self.clinical_allowed(cancer, jurisdiction, on) else Mode.RESEARCH

    def unresolved(self) -> tuple[str, ...]:
        """Names in this manifest that lead nowhere, each as a sentence; empty if all resolve."""
        return tuple(self._dangling())

    def _dangling(self) -> Iterator[str]:
        organs = {o.name for o in self.organs}
        for organ in self.organs:
            for label in organ.labels:
                if label not in self.localiser.labels:
                    yield f"organ {organ.name}: the localiser has no label {label}"
        for network in self.networks:
            yield from self._dangling_predecessor(network)
            for reference in network.references:
                if reference.organ not in organs:
                    yield f"network {network.id}: no organ {reference.organ} to compare with"
        for model in self.cancers:
            for fault in self._dangling_in(model, organs):
                yield f"cancer {model.cancer.value}: {fault}"
        for case in self.golden:
            for expected in case.organs:
                if expected.organ not in organs:
                    yield f"golden case {case.name}: no organ {expected.organ}"

    def _dangling_predecessor(self, network: Network) -> Iterator[str]:
        if network.after is None:
            return
        before = next((n for n in self.networks if n.id == network.after), None)
        if before is None or before is network:
            yield f"network {network.id}: no other network {network.after} to follow"
        elif before.classifies or before.after is not None or not before.sees_all:
            yield f"network {network.id}: {network.after} must give a map of the whole scan by itself"

    def _dangling_in(self, model: CancerModel, organs: set[str]) -> Iterator[str]:
        contrast = model.contraindications.contrast
        asked = [model.organ, *(f.organ for f in model.contraindications.familiar)]
        if contrast is not None:
            asked.append(contrast.organ)
        for organ in asked:
            if organ not in organs:
                yield f"no organ {organ}"
        yield from self._dangling_label("detect", model.network, model.label)
        if model.classifier is not None:
            yield from self._dangling_label("classify", model.classifier.network, model.classifier.label)
        for characteriser in model.characterisers:
            yield from self._dangling_label("characterise", characteriser.network, characteriser.label)

    def _dangling_label(self, stage: Stage, network_id: str | None, label: str | None) -> Iterator[str]:
        if network_id is None:
            return
        network = next((n for n in self.networks if n.id == network_id and n.stage == stage), None)
        if network is None:
            yield f"no network {network_id} that is to {stage}"
        elif label is not None and label not in network.labels:
            yield f"network {network_id} has no label {label}"


class Manifest(ManifestDraft):
    """A whole manifest: a draft plus every file of the bundle."""

    files: tuple[FileEntry, ...]

    @model_validator(mode="after")
    def _files_unique(self) -> Manifest:
        refuse_repeats((f.name for f in self.files), "file")
        return self

    def file(self, name: str) -> FileEntry:
        """The file with this name; KeyError if there is none."""
        return {f.name: f for f in self.files}[name]

    def _dangling(self) -> Iterator[str]:
        yield from super()._dangling()
        roles = {f.name: f.role for f in self.files}
        for network in self.networks:
            for name in network.all_files:
                if roles.get(name) != "network":
                    yield f"network {network.id}: no file {name} with role network"
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


__all__ = [
    "CANONICAL",
    "SCHEMA_VERSION",
    "Area",
    "Authorisation",
    "Axes",
    "Calibration",
    "CancerModel",
    "CaseLevel",
    "Centred",
    "Characteriser",
    "Classifier",
    "Clip",
    "Contraindications",
    "ContrastWindow",
    "Evidence",
    "Extraction",
    "Familiar",
    "FileEntry",
    "GoldenAnswer",
    "GoldenCase",
    "GoldenOrgan",
    "Intensity",
    "Isotonic",
    "Linear",
    "Manifest",
    "ManifestDraft",
    "Name",
    "Network",
    "OperatingPoint",
    "Organ",
    "Patches",
    "Platt",
    "Raw",
    "Reference",
    "Resampling",
    "Rescale",
    "Role",
    "Share",
    "Spline",
    "Stage",
    "Stretched",
    "Tiling",
    "Version",
    "WholeVolume",
    "ZScore",
    "schema",
]
