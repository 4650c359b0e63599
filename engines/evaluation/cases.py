"""A file of cases with a known outcome and the score that a bundle gave each: JSON, or CSV with a line a cancer.

JSON is one `CaseFile`. CSV has the columns `case,set,cancer,truth,score` and may have `person`; it can't say `kind`,
`cohort` and `bundle`, so the command line does.

    case,person,set,cancer,truth,score
    0001,p17,tuning,lung,1,0.83
    0001,p17,tuning,liver,0,0
    0002,p18,judging,lung,unknown,

Scores are raw: what `engines.cascade.rules.case_score` gives without a calibration. An empty one says that the cancer
was not analysed. Names of cases and persons are numbers that tell nobody who they are.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from core.errors import ConfigError
from core.finding import Cancer
from engines.manifest import Share
from engines.manifest.evidence import Kind
from engines.manifest.vocabulary import Part, Sha256

FORM = "Its form is told in engines/evaluation/cases.py and docs/models.md."
Truth = Literal[0, 1, "unknown"]
CaseSet = Literal["tuning", "judging"]
_COLUMNS = ("case", "set", "cancer", "truth", "score")


class Outcome(Part):
    """One cancer in one case."""

    truth: Truth = Field(description="1: the person has it; 0: has not, and that was followed up; unknown")
    score: Share | None = Field(default=None, description="raw case score; absent: not analysed")


class Case(Part):
    """One scan of one person."""

    case: str = Field(min_length=1, max_length=64)
    person: str | None = Field(default=None, min_length=1, max_length=64, description="absent: one scan a person")
    set: CaseSet = Field(description="tuning: thresholds are chosen on it; judging: evidence is measured on it")
    cancers: Mapping[Cancer, Outcome] = Field(min_length=1)

    @property
    def who(self) -> str:
        """The person, or the case where every scan is another's."""
        return self.person if self.person is not None else self.case


class CaseFile(Part):
    """All cases of one evaluation. No case stands there twice, and nobody is in both sets."""

    format: Literal["onescan-cases"] = "onescan-cases"
    version: Literal[1] = 1
    bundle: Sha256 | None = Field(default=None, description="digest of the bundle that gave the scores")
    kind: Kind | None = Field(default=None, description="of the evidence that the judging cases are")
    cohort: str | None = Field(default=None, min_length=1, description="judging cases: which, from where, of when")
    cases: tuple[Case, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _apart(self) -> CaseFile:
        if twice := [name for name, n in Counter(case.case for case in self.cases).items() if n > 1]:
            raise ValueError(f"named twice: {_some(twice)}")
        tuning, judging = ({case.who for case in self.cases if case.set == name} for name in ("tuning", "judging"))
        if both := tuning & judging:
            raise ValueError(
                f"{len(both)} of the persons are both for tuning and for judging, so they prove nothing: {_some(both)}"
            )
        return self

    def of(self, name: CaseSet) -> tuple[Case, ...]:
        """The cases of one set."""
        return tuple(case for case in self.cases if case.set == name)

    @property
    def repeats(self) -> int:
        """Cases of somebody of whom there is another before."""
        return len(self.cases) - len({case.who for case in self.cases})


def read_cases(path: Path) -> CaseFile:
    """The cases in a file; ConfigError says what is wrong with it and where."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"can't read {path}: {error}", remedy=FORM) from error
    try:
        if path.suffix.lower() == ".csv":
            return CaseFile.model_validate({"cases": list(_rows(text, path.name))})
        return CaseFile.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{path.name}: {where + ': ' if where else ''}{what}", remedy=FORM) from error


def _rows(text: str, name: str) -> Iterator[dict[str, Any]]:
    """The cases of a CSV file, as JSON has them."""
    reader = csv.DictReader(io.StringIO(text))
    if missing := [column for column in _COLUMNS if column not in (reader.fieldnames or ())]:
        raise ConfigError(f"{name}: no column {', '.join(missing)}", remedy=FORM)
    cases: dict[str, dict[str, Any]] = {}
    for row in reader:
        where = f"{name}, line {reader.line_num}"
        fields = {"case": row["case"], "person": row.get("person") or None, "set": row["set"]}
        case = cases.setdefault(row["case"], {**fields, "cancers": {}})
        if any(case[key] != value for key, value in fields.items()):
            raise ConfigError(f"{where}: case {row['case']} has another person or set than before", remedy=FORM)
        if row["cancer"] in case["cancers"]:
            raise ConfigError(f"{where}: case {row['case']} has {row['cancer']} twice", remedy=FORM)
        case["cancers"][row["cancer"]] = _outcome(row, where)
    yield from cases.values()


def _outcome(row: Mapping[str, str | None], where: str) -> dict[str, Any]:
    truth = {"0": 0, "1": 1, "unknown": "unknown", "": "unknown"}.get((row["truth"] or "").strip())
    if truth is None:
        raise ConfigError(f"{where}: truth is 0, 1 or unknown, not {row['truth']}", remedy=FORM)
    score = (row["score"] or "").strip()
    try:
        return {"truth": truth, "score": float(score) if score else None}
    except ValueError as error:
        raise ConfigError(f"{where}: {score} is no score", remedy=FORM) from error


def _some(names: list[str] | set[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:5]) + (", ..." if len(shown) > 5 else "")
