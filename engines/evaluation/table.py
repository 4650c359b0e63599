"""A table of a hospital's own cases with their outcomes: CSV, a line a study.

    study,lung,liver,stage,sex,age_years,set,person
    cases/0001,1,0,IB,F,61,judging,p1
    cases/0002,0,0,,M,58,judging,p2
    cases/0003,unknown,0,,M,58,tuning,p2x

study   where the scan is: a path, from the table's folder
lung …  a column a cancer: 1 has it, proven; 0 has not, and that was followed up; unknown or empty
set     tuning or judging (empty: judging); person: the same word for all scans of a person (absent: one scan each)
others  what figures are broken down by: `KNOWN` ones are taken, others when asked for by name

Study and person are read and forgotten: a case goes by its line among the cases (the first is 1), which only the owner
of the table can trace back. Columns that could tell who somebody is are refused.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import ConfigError
from core.finding import Cancer
from engines.evaluation.cases import CaseSet, Truth
from engines.evaluation.results import Value

FORM = "Its form is told in docs/evaluation.md."
KNOWN = frozenset(
    {"stage", "subtype", "histology", "size_mm", "sex", "age_years", "habitus", "bmi", "vendor", "model", "kernel"}
    | {"slice_mm", "dose", "contrast", "site", "indication", "smoking", "difficulty", "cohort"}
)
"""Columns that are always used for breaking down, where they are there."""
MOST_VALUES = 20
"""Different words in a column; one with more singles people out and explains nothing."""
_TELLTALE = re.compile(
    r"name|patient|(^|_)id($|_)|mrn|birth|dob|accession|uid|insurance|address|phone|mail|date|zip|postcode"
)
_TRUTH: Mapping[str, Truth] = {"1": 1, "0": 0, "": "unknown", "unknown": "unknown"}
_SETS: Mapping[str, CaseSet] = {"": "judging", "judging": "judging", "tuning": "tuning"}


@dataclass(frozen=True)
class Row:
    """A case: case is its line, from 1; path where its scan is."""

    case: int
    person: int
    set: CaseSet
    path: Path
    truth: Mapping[Cancer, Truth]
    age_years: int | None
    sex: str | None
    attributes: Mapping[str, Value]


@dataclass(frozen=True)
class Table:
    """All cases; digest: SHA-256 of the file."""

    rows: tuple[Row, ...]
    digest: str


@dataclass(frozen=True)
class TableSource:
    """The cases of a table as a `studies.Source`, but for how a scan is read. title: which cases, in a sentence."""

    table: Table
    title: str
    synthetic: bool = False

    @property
    def digest(self) -> str:
        """Of the table."""
        return self.table.digest

    def __len__(self) -> int:
        return len(self.table.rows)


def read_table(path: Path, by: Collection[str] = ()) -> Table:
    """The cases in a CSV file. by: columns to break figures down by, beside those known.

    ConfigError says what is wrong, and in which line.
    """
    try:
        raw = path.read_bytes()
        reader = csv.DictReader(io.StringIO(raw.decode("utf-8-sig")))
        lines = [{k: (v or "").strip() for k, v in line.items() if k is not None} for line in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"can't read {path}: {error}", remedy=FORM) from error
    columns = tuple(reader.fieldnames or ())
    cancers = _cancers(path.name, columns, lines)
    used = _columns(path.name, columns, lines, by)
    people: dict[str, int] = {}
    rows = tuple(_row(path, number, line, cancers, used, people) for number, line in enumerate(lines, 1))
    _check_apart(path.name, rows)
    return Table(rows, hashlib.sha256(raw + repr(sorted(by)).encode()).hexdigest())


def _cancers(name: str, columns: Sequence[str], lines: Sequence[Mapping[str, str]]) -> tuple[Cancer, ...]:
    if "study" not in columns:
        raise ConfigError(f"{name}: no column study", remedy=FORM)
    cancers = tuple(cancer for cancer in Cancer if cancer.value in columns)
    if not cancers:
        named = ", ".join(cancer.value for cancer in Cancer)
        raise ConfigError(f"{name}: no column is called as a cancer is ({named})", remedy=FORM)
    if not lines:
        raise ConfigError(f"{name} has no cases", remedy=FORM)
    twice = [study for study, n in Counter(line["study"] for line in lines).items() if n > 1]
    if twice:
        raise ConfigError(f"{name}: {len(twice)} studies stand there twice", remedy="A line a study.")
    return cancers


def _columns(
    name: str, columns: Sequence[str], lines: Sequence[Mapping[str, str]], by: Collection[str]
) -> dict[str, bool]:
    """The columns to break down by, and whether they are numbers."""
    if missing := sorted(set(by) - set(columns)):
        raise ConfigError(f"{name}: no column {', '.join(missing)}")
    if telltale := sorted(column for column in by if _TELLTALE.search(column.lower())):
        raise ConfigError(
            f"{name}: {', '.join(telltale)} may tell who somebody is", remedy="Break down by something else."
        )
    used = {}
    for column in columns:
        if column not in KNOWN and column not in by:
            continue
        values = {line.get(column, "") for line in lines} - {""}
        numbers = bool(values) and all(_number(value) is not None for value in values)
        if not numbers and len(values) > MOST_VALUES:
            raise ConfigError(
                f"{name}: column {column} has {len(values)} different words, at most {MOST_VALUES} can be told apart",
                remedy="Group them, or rename the column so that it is not used.",
            )
        used[column] = numbers
    return used


def _row(
    path: Path,
    number: int,
    line: Mapping[str, str],
    cancers: Sequence[Cancer],
    used: Mapping[str, bool],
    people: dict[str, int],
) -> Row:
    where = f"{path.name}, case {number}"
    truth: dict[Cancer, Truth] = {}
    for cancer in cancers:
        said = line.get(cancer.value, "").lower()
        if said not in _TRUTH:
            raise ConfigError(f"{where}: {cancer.value} is 0, 1 or unknown, not {said!r}", remedy=FORM)
        truth[cancer] = _TRUTH[said]
    if (case_set := line.get("set", "").lower()) not in _SETS:
        raise ConfigError(f"{where}: set is tuning or judging, not {case_set!r}", remedy=FORM)
    if not line["study"]:
        raise ConfigError(f"{where}: no study", remedy=FORM)
    age = _number(line.get("age_years", ""))
    attributes: dict[str, Value] = {}
    for column, numeric in used.items():
        if value := line.get(column, ""):
            attributes[_plain(column)] = float(value) if numeric else value[:64]
    return Row(
        case=number,
        person=people.setdefault(line.get("person") or f"line {number}", len(people) + 1),
        set=_SETS[case_set],
        path=path.parent / line["study"],
        truth=truth,
        age_years=None if age is None else int(age),
        sex=line.get("sex", "").upper() if line.get("sex", "").upper() in ("F", "M", "O") else None,
        attributes=attributes,
    )


def _check_apart(name: str, rows: Sequence[Row]) -> None:
    tuning, judging = ({row.person for row in rows if row.set == wanted} for wanted in ("tuning", "judging"))
    if both := tuning & judging:
        raise ConfigError(
            f"{name}: {len(both)} of the persons are both for tuning and for judging, so they prove nothing",
            remedy="Give all scans of a person the same set.",
        )


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < 1e9 else None  # neither nan nor inf


def _plain(column: str) -> str:
    """A column's name as results have names: lower case, no spaces."""
    return re.sub(r"[^a-z0-9._-]+", "_", column.lower()).strip("_.-")[:63] or "column"
