"""Files of cases: JSON and CSV say the same; what is wrong with one is said with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import ConfigError
from core.finding import Cancer
from engines.evaluation.cases import CaseFile, read_cases

CSV = """case,person,set,cancer,truth,score
0001,p17,tuning,lung,1,0.83
0001,p17,tuning,liver,0,0
0002,,judging,lung,unknown,
"""
CASES: list[dict[str, Any]] = [
    {
        "case": "0001",
        "person": "p17",
        "set": "tuning",
        "cancers": {"lung": {"truth": 1, "score": 0.83}, "liver": {"truth": 0, "score": 0}},
    },
    {"case": "0002", "set": "judging", "cancers": {"lung": {"truth": "unknown"}}},
]


def file(tmp_path: Path, content: str | dict[str, Any]) -> Path:
    path = tmp_path / ("cases.json" if isinstance(content, dict) else "cases.csv")
    path.write_text(json.dumps(content) if isinstance(content, dict) else content)
    return path


def refusal(tmp_path: Path, content: str | dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as error:
        read_cases(file(tmp_path, content))
    assert "docs/models.md" in error.value.remedy()
    return str(error.value)


def test_csv_and_json_say_the_same(tmp_path: Path) -> None:
    read = read_cases(file(tmp_path, CSV))
    assert read == read_cases(file(tmp_path, {"cases": CASES}))
    assert read == CaseFile.model_validate_json(read.model_dump_json())
    first, second = read.cases
    assert first.cancers[Cancer.LUNG].score == 0.83
    assert (first.who, second.who) == ("p17", "0002")
    assert second.cancers[Cancer.LUNG].truth == "unknown"
    assert second.cancers[Cancer.LUNG].score is None
    assert read.of("judging") == (second,)


def test_a_table_from_a_spreadsheet_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    assert len(read_cases(file(tmp_path, "\ufeff" + CSV)).cases) == 2


def test_a_case_in_both_sets_is_refused(tmp_path: Path) -> None:
    again = {**CASES[1], "case": "0001", "set": "judging"}
    assert "0001" in refusal(tmp_path, {"cases": [*CASES, again]})


def test_a_person_in_both_sets_is_refused(tmp_path: Path) -> None:
    again = {**CASES[1], "case": "0003", "person": "p17"}
    assert "both for tuning and for judging, so they prove nothing: p17" in refusal(
        tmp_path, {"cases": [*CASES, again]}
    )
    other_case_named_as_person = {**CASES[1], "case": "p17"}
    assert "p17" in refusal(tmp_path, {"cases": [*CASES, other_case_named_as_person]})


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0003,p3,tuning,lung,maybe,0.5", "line 5: truth is 0, 1 or unknown, not maybe"),
        ("0003,p3,tuning,lung,1,high", "line 5: high is no score"),
        ("0003,p3,tuning,lung,1,1.5", "cases.2.cancers.lung.score"),
        ("0003,p3,tuning,lung,1,nan", "cases.2.cancers.lung.score"),
        ("0003,p3,training,lung,1,0.5", "cases.2.set"),
        ("0003,p3,tuning,spleen,1,0.5", "cases.2.cancers.spleen"),
        ("0001,p18,tuning,breast,1,0.5", "line 5: case 0001 has another person or set"),
        ("0001,p17,tuning,lung,1,0.5", "line 5: case 0001 has lung twice"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    assert said in refusal(tmp_path, CSV + line + "\n")


def test_what_is_no_file_of_cases_is_refused(tmp_path: Path) -> None:
    assert "no column set, truth" in refusal(tmp_path, "case,cancer,score\n1,lung,1\n")
    assert "cases" in refusal(tmp_path, {"cases": []})
    assert "colour" in refusal(tmp_path, {"cases": CASES, "colour": "red"})
    with pytest.raises(ConfigError, match="can't read"):
        read_cases(tmp_path / "nothing.csv")
