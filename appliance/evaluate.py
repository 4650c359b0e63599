"""`onescan-appliance evaluate`: a hospital judges a bundle on its own cases, read as the box reads studies.

The way of a study is the box's own (`choosing`: which series serve, each one's slices as one volume), so what would be
refused at the scanner is refused here. Nothing is received, sent or stored but the folder of results; how figures
are made of them is `engines.evaluation`'s.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import pydicom
import typer

from appliance import config as configuration
from appliance.choosing import USUAL, Choice, ChosenSeries, SeriesRules, choose
from appliance.imaging.header import ImageHeader
from appliance.imaging.volume import build_volume
from appliance.models import asked_by, series_rules
from appliance.ports import StoredInstance
from core.errors import ConfigError, InputRefused
from core.extent import Extent
from core.finding import Cancer, Reason
from core.volume import Geometry, Volume
from core.wire import as_token
from engines import archive
from engines.cascade import PatientContext
from engines.commands import evaluating
from engines.commands.options import JsonOption, PrecisionOption, RuntimeOption
from engines.evaluation.results import Value
from engines.evaluation.studies import Labels, Source, Study
from engines.evaluation.table import TableSource, read_table
from engines.evaluation.torsos import Cohort, cohort_settings, complete_seeds, study_of

_MAGIC_AT, _MAGIC = 128, b"DICM"
_NOTHING = InputRefused(Reason.NO_CT, "no DICOM files")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="""Judge a bundle on this hospital's own cases: DICOM studies and a table of their outcomes.

1. `run` reads every study as the box would and keeps the answers beside the outcomes (resumable)

2. `report` turns that into a page for people and evaluation.json for machines

`compare` sets two bundles side by side. docs/evaluation.md walks through it. Nothing leaves this machine, and no name
or number of a patient is written: a case goes by its line in your table.
""",
)


@dataclass(frozen=True)
class Scan:
    """A series of a study as one volume, or the refusal that says why there is none.

    refused: the cancers that are not looked for in it, and why. further: what the box would read after it.
    """

    headers: Sequence[ImageHeader]
    volume: Volume | InputRefused
    refused: Mapping[Cancer, tuple[Reason, str]] = field(default_factory=dict)
    further: tuple[ChosenSeries, ...] = ()


@dataclass(frozen=True)
class DicomTable(TableSource):
    """Studies in folders, with a table of their outcomes. rules: which series serves which cancer."""

    rules: SeriesRules = USUAL

    def study(self, index: int) -> Study:
        """Read a study."""
        row = self.table.rows[index]
        scan = read_folder(row.path, self.rules)
        patient = PatientContext(row.age_years, row.sex)
        if isinstance(scan.volume, Volume):
            first = scan.headers[0]
            patient = PatientContext(
                first.age_years if first.age_years is not None else row.age_years, first.sex or row.sex
            )
        attributes = {**told(scan), **row.attributes}
        study = Study(row.case, row.person, row.set, patient, scan.volume, row.truth, attributes, refused=scan.refused)
        return replace(study, further=tuple(partial(_seen_in, study, series) for series in scan.further))


@dataclass(frozen=True)
class DicomCohort(Cohort):
    """Cases as DICOM, one series each, with truth as SEG. rules: which series serves which cancer."""

    rules: SeriesRules = USUAL
    form: ClassVar[str] = " as DICOM"

    def study(self, index: int) -> Study:
        """Read a study and its truth."""
        folder, record = self.record(index)
        scan = read_folder(folder / "ct", self.rules)
        if isinstance(scan.volume, InputRefused):
            return study_of(record, scan.volume, None, None, self.set, self.shifted)
        organs = read_labels(folder / "organs.dcm", scan.volume.geometry)
        numbers = [int(item["number"]) for item in record["findings"] if item["in_scan"]]
        lesions = np.zeros(scan.volume.geometry.shape, np.uint8)
        if (folder / "findings.dcm").exists():
            lesions = read_segments(folder / "findings.dcm", scan.volume.geometry, numbers)
        study = study_of(record, scan.volume, organs, lesions, self.set, self.shifted)
        first = scan.headers[0]
        known = PatientContext(first.age_years, first.sex)
        attributes = {**study.attributes, **told(scan)}
        return replace(study, patient=known, attributes=attributes, refused=scan.refused)


def read_folder(folder: Path, rules: SeriesRules = USUAL) -> Scan:
    """The study whose files lie in a folder or below it, as a box with these rules would read it."""
    instances = [StoredInstance("", "", "", "", Extent(path)) for path in _dicom_files(folder)]
    choice = choose(instances, rules) if instances else Choice((), refusal=_NOTHING)
    if not choice.series:
        return Scan(choice.headers, choice.refusal or _NOTHING)
    first, *further = choice.series
    return Scan(first.headers, _stacked(first), first.refused, tuple(further))


def _seen_in(study: Study, series: ChosenSeries) -> Study:
    """The same study seen in another series."""
    return replace(study, volume=_stacked(series), refused=series.refused)


def _stacked(series: ChosenSeries) -> Volume | InputRefused:
    try:
        return build_volume(series.headers)
    except InputRefused as refusal:
        return refusal


def told(scan: Scan) -> dict[str, Value]:
    """What of a scan's header figures are broken down by: no word of a patient."""
    if isinstance(scan.volume, InputRefused):
        return {}
    first = scan.headers[0]
    values: dict[str, Value] = {"slice_mm": round(scan.volume.geometry.spacing_mm[0], 2)}
    words = {"vendor": as_token(first.manufacturer), "kernel": as_token(first.kernel), "sex": first.sex}
    values.update({name: word for name, word in words.items() if word})
    if first.age_years is not None:
        values["age_years"] = float(first.age_years)
    return values


def read_labels(path: Path, geometry: Geometry) -> Labels:
    """A label map segmentation (PS3.3 A.51.5) on the volume's slices; slices without a frame are 0."""
    ds = pydicom.dcmread(path)
    labels = np.zeros(geometry.shape, np.uint8)
    for frame, z, _ in _frames(ds, geometry):
        labels[z] = frame
    return labels


def read_segments(path: Path, geometry: Geometry, numbers: Sequence[int]) -> Labels:
    """A binary segmentation on the volume's slices: segment k is written as numbers[k - 1]."""
    ds = pydicom.dcmread(path)
    labels = np.zeros(geometry.shape, np.uint8)
    for frame, z, segment in _frames(ds, geometry):
        labels[z][frame > 0] = numbers[segment - 1]
    return labels


def _frames(ds: pydicom.Dataset, geometry: Geometry) -> Iterator[tuple[Labels, int, int]]:
    """Each frame with the slice of the volume that it lies on, and its segment (0 in a label map)."""
    pixels = ds.pixel_array
    frames = pixels if pixels.ndim == 3 else pixels[None]
    for frame, group in zip(frames, ds.PerFrameFunctionalGroupsSequence, strict=True):
        position = [float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient]
        z = round(float(geometry.to_index(position)[0]))
        named = group.get("SegmentIdentificationSequence")
        yield frame, z, int(named[0].ReferencedSegmentNumber) if named else 0


def _dicom_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and _is_dicom(path))


def _is_dicom(path: Path) -> bool:
    """A Part 10 file (PS3.10 7.1) that is no directory of others."""
    if path.name.upper() == "DICOMDIR":
        return False
    with path.open("rb") as file:
        return file.read(_MAGIC_AT + len(_MAGIC))[_MAGIC_AT:] == _MAGIC


@app.command("run")
def run(
    cases: Annotated[
        Path, typer.Argument(help="A table (CSV) of studies and outcomes; or a cohort of synthetic DICOM studies.")
    ],
    to: evaluating.ToOption,
    title: Annotated[str | None, typer.Option(help="The table's cases in a sentence: which, of when.")] = None,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", help="Bundle: a folder, or an archive. Default: the box's active one.")
    ] = None,
    config: Annotated[
        Path, typer.Option("--config", "-c", envvar="ONESCAN_CONFIG", help="Names the box's active bundle.")
    ] = Path("/etc/onescan/appliance.yaml"),
    by: evaluating.ByOption = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Worker processes, up to 3 GB each. Let 1 run where the box is at work.")
    ] = 1,
    runtime: RuntimeOption = "auto",
    precision: PrecisionOption = "auto",
    pictures: evaluating.PicturesOption = True,
    as_json: JsonOption = False,
) -> None:
    """Read every study as the box would, and keep the answers beside the outcomes. Killed, it goes on where it was.

    Example: `onescan-appliance evaluate run cases.csv --title "our clinic, 2024" --to results/`
    """
    from engines.evaluation.running import run_cases

    judged = bundle or _active(config)
    source = _source(cases, title, by or [], _rules(judged, None if bundle else config))
    os.nice(10)  # the box's own roles go first
    threads = 1 if jobs > 1 else 0
    how = partial(run_cases, jobs=jobs, threads=threads, runtime=runtime, precision=precision, pictures=pictures)
    evaluating.answer_all(how, judged, source, to, "onescan-appliance", as_json)


for name, command in (("report", evaluating.report), ("compare", evaluating.compare_command)):
    app.command(name)(command)


def _rules(bundle: Path, config: Path | None) -> SeriesRules:
    """As the bundle has them, and the box, where its own bundle is judged."""
    with archive.opened(bundle) as opened:
        asked = asked_by(opened.manifest)
    return series_rules(asked, configuration.load(config).analyser.series if config else {})


def _source(cases: Path, title: str | None, by: Sequence[str], rules: SeriesRules) -> Source:
    if cases.is_dir():
        settings = cohort_settings(cases)
        if not settings.get("dicom"):
            raise ConfigError(
                f"{cases} holds volumes, not DICOM", remedy="Judge them with `onescan-engines evaluate run`."
            )
        return DicomCohort(cases, complete_seeds(cases), settings, rules=rules)
    if title is None:
        raise ConfigError(
            "a table does not say which cases these are", remedy='Give --title "which, from where, of when".'
        )
    return DicomTable(read_table(cases, by), title, rules=rules)


def _active(config: Path) -> Path:
    from contextlib import closing

    from appliance import parts

    settings = configuration.load(config)
    with closing(parts.open_journal(settings)) as journal:
        row = journal.shelf.active()
    if row is None:
        raise ConfigError("this box has no active bundle", remedy="Name one with --bundle.")
    return settings.bundles / row.digest
