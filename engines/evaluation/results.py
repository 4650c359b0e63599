"""What a bundle said of each case, beside the truth: the folder that `evaluate run` fills and the reports read.

    run.json              bundle, cases, thresholds: one `Run`; a later run into the folder must ask for the same
    shards/00000.jsonl    one `CaseResult` a line; a shard is there whole, or is made again
    pictures/             JPEG: the cases of each shard that the bundle found hardest, <case>-<cancer>.jpg

Cases go by number: a synthetic person's seed, or the line in a table that stays with its owner. Nothing here names,
dates or otherwise singles out a person.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, ValidationError

from core import durable
from core.errors import ConfigError
from core.finding import Cancer, Reason, Verdict
from engines.evaluation.cases import CaseSet, Truth
from engines.manifest import Share
from engines.manifest.vocabulary import Name, Part, Sha256, Version

Value = str | float | bool
Word = Annotated[str, StringConstraints(min_length=1, max_length=64)]
_HEADER, _SHARDS, _PICTURES = "run.json", "shards", "pictures"


class TrueLesion(Part):
    """A cancer of the truth, as far as this scan shows it."""

    number: int = Field(ge=1, description="in the case's label map")
    kind: Word | None = Field(default=None, description="subtype")
    diameter_mm: float | None = Field(default=None, ge=0, description="longest axial diameter")
    size: Word | None = Field(default=None, description="class of the diameter, as the cohort's law has it")
    score: Share | None = Field(default=None, description="highest raw score of a mark that hits it; null: none does")


class FalseMark(Part):
    """A candidate that hits no lesion of its cancer."""

    score: Share = Field(description="raw")
    diameter_mm: float = Field(ge=0)
    on: Word | None = Field(default=None, description="the harmless finding, or other cancer, that it lies on")


class CancerResult(Part):
    """One cancer in one case."""

    truth: Truth = Field(description="1 also has to show in the scan; unknown: not judged")
    whole: bool | None = Field(default=None, description="whether all of the organ is in the scan; null: not known")
    verdict: Verdict
    reason: Reason | None = Field(default=None, description="why it was not analysed")
    score: Share | None = Field(default=None, description="calibrated case score, which thresholds are on")
    raw: Share | None = Field(default=None, description="case score before calibration")
    baseline_mm: float | None = Field(
        default=None, ge=0, description="largest mark of the threshold detector in the organ's true outline; null: none"
    )
    marked: bool = Field(default=False, description="truth has lesions, and marks were compared with them")
    lesions: tuple[TrueLesion, ...] = ()
    marks: tuple[FalseMark, ...] = ()


class CaseResult(Part):
    """One scan of one person."""

    case: int = Field(ge=0)
    person: int = Field(ge=0, description="the same for all scans of a person")
    set: CaseSet
    attributes: Mapping[Name, Value] = Field(description="what figures are broken down by")
    cancers: Mapping[Cancer, CancerResult]
    seconds: Mapping[str, float] = Field(description="load, analyse, all; wall time")

    @property
    def healthy(self) -> bool:
        """Known to have none of the cancers that were asked for."""
        return bool(self.cancers) and all(result.truth == 0 for result in self.cancers.values())


class Thresholds(Part):
    """As in the bundle's manifest, on the calibrated score."""

    negative_below: Share
    positive_above: Share


class JudgedBundle(Part):
    """The bundle that answered."""

    name: Name
    version: Version
    label: str
    digest: Sha256
    synthetic: bool
    thresholds: Mapping[Cancer, Thresholds]


class Run(Part):
    """What a folder of results is made of."""

    format: Literal["onescan-run"] = "onescan-run"
    version: Literal[1] = 1
    bundle: JudgedBundle
    cohort: str = Field(min_length=1, description="which cases: a sentence for people")
    synthetic: bool = Field(description="whether the patients are synthetic")
    source: Sha256 = Field(description="digest of what the cases are: the same for the same cases")
    cases: int = Field(ge=1)
    shard_size: int = Field(ge=1)
    runtime: str = Field(description="what ran the networks, and its precision")

    @property
    def shards(self) -> range:
        """Their numbers."""
        return range(-(-self.cases // self.shard_size))

    def cases_of(self, shard: int) -> range:
        """Indices of the cases in a shard."""
        return range(shard * self.shard_size, min(self.cases, (shard + 1) * self.shard_size))


def claim(folder: Path, run: Run) -> None:
    """Make the folder this run's own; ConfigError where it holds another's."""
    for name in ("", _SHARDS, _PICTURES):
        durable.make_folder(folder / name)
        durable.sweep(folder / name)
    if not (folder / _HEADER).exists():
        durable.write_text(folder / _HEADER, run.model_dump_json(indent=1) + "\n")
        return
    there = read_header(folder)
    if differing := sorted(name for name in type(run).model_fields if getattr(there, name) != getattr(run, name)):
        raise ConfigError(
            f"{folder} holds another run: it differs in {', '.join(differing)}",
            remedy="Go on with the same bundle, cases and runtime as before, or choose another folder.",
        )


def missing_shards(folder: Path, run: Run) -> list[int]:
    """Those that still have to be made."""
    return [shard for shard in run.shards if not _shard(folder, shard).is_file()]


def write_shard(folder: Path, shard: int, cases: Sequence[CaseResult], pictures: Mapping[str, bytes]) -> None:
    """A shard with its pictures (by name); the shard last, so that one that is there has its pictures."""
    for name, content in pictures.items():
        durable.write_bytes(folder / _PICTURES / name, content)
    durable.write_text(_shard(folder, shard), "".join(case.model_dump_json() + "\n" for case in cases))


def read_header(folder: Path) -> Run:
    """Whose results a folder holds. ConfigError where it holds none."""
    try:
        return Run.model_validate_json((folder / _HEADER).read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigError(
            f"{folder} holds no results: {error}", remedy="Name a folder that `evaluate run` filled."
        ) from error


def read_cases(folder: Path, run: Run) -> Iterator[CaseResult]:
    """All cases, in order. ConfigError where shards are missing or damaged."""
    if missing := missing_shards(folder, run):
        raise ConfigError(
            f"{len(missing)} of {len(run.shards)} shards in {folder} are still missing",
            remedy="Give the same `evaluate run` command again: it makes only what is missing.",
        )
    for shard in run.shards:
        path = _shard(folder, shard)
        try:
            for line in path.read_text(encoding="utf-8").splitlines():
                yield CaseResult.model_validate_json(line)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} can't be read: {error}", remedy="Remove it and run again.") from error


def picture_of(folder: Path, case: int, cancer: Cancer) -> Path | None:
    """The picture of a case, where one was kept."""
    path = folder / _PICTURES / picture_name(case, cancer)
    return path if path.is_file() else None


def picture_name(case: int, cancer: Cancer) -> str:
    """What a case's picture is called."""
    return f"{case:07d}-{cancer.value}.jpg"


def _shard(folder: Path, shard: int) -> Path:
    return folder / _SHARDS / f"{shard:05d}.jsonl"
