"""A hospital's table: what is taken, what is refused, and that nobody can be told from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import ConfigError
from core.finding import Cancer
from engines.evaluation.table import read_table

GOOD = "study,lung,liver,stage,sex,age_years,set,person\na/1,1,0,IB,F,61,judging,p1\na/2,0,unknown,,M,58,tuning,p2\n"


def table(folder: Path, text: str) -> Path:
    path = folder / "cases.csv"
    path.write_text(text)
    return path


def test_a_case_is_its_line_and_keeps_neither_study_nor_person(tmp_path: Path) -> None:
    first, second = read_table(table(tmp_path, GOOD)).rows
    assert (first.case, first.person, first.set, first.path) == (1, 1, "judging", tmp_path / "a/1")
    assert first.truth == {Cancer.LUNG: 1, Cancer.LIVER: 0}
    assert first.attributes == {"stage": "IB", "sex": "F", "age_years": 61.0}
    assert (second.truth[Cancer.LIVER], second.set, second.age_years) == ("unknown", "tuning", 58)
    assert "stage" not in second.attributes


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("lung\n1\n", "no column study"),
        ("study,stage\na,I\n", "no column is called as a cancer"),
        ("study,lung\n", "no cases"),
        ("study,lung\na,1\na,0\n", "twice"),
        ("study,lung\na,yes\n", "case 1: lung is 0, 1 or unknown"),
        ("study,lung,set\na,1,test\n", "tuning or judging"),
        ("study,lung,set,person\na,1,tuning,p\nb,1,judging,p\n", "prove nothing"),
        ("study,lung\n,1\n", "no study"),
        ("study,lung,site\n" + "".join(f"s{i},1,word{i}\n" for i in range(21)), "21 different words"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        read_table(table(tmp_path, text))


@pytest.mark.parametrize("column", ["PatientID", "name", "date of birth", "mrn", "study_date"])
def test_columns_that_tell_who_somebody_is_are_refused(tmp_path: Path, column: str) -> None:
    path = table(tmp_path, f"study,lung,{column}\na,1,x\n")
    assert read_table(path).rows[0].attributes == {}
    with pytest.raises(ConfigError, match="may tell who somebody is"):
        read_table(path, [column])


def test_other_columns_are_taken_when_asked_for(tmp_path: Path) -> None:
    path = table(tmp_path, "study,lung,Referral Ward\na,1,A\nb,0,B\n")
    assert read_table(path).rows[0].attributes == {}
    assert read_table(path, ["Referral Ward"]).rows[0].attributes == {"referral_ward": "A"}
