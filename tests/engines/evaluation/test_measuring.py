"""Figures from results: who counts as what, thresholds from tuning cases alone, pairs of models, pages that hold it."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from core.errors import ConfigError
from core.finding import Cancer, Reason, Verdict
from engines.evaluation.beside import beside
from engines.evaluation.comparing import compare
from engines.evaluation.counting import counts, right
from engines.evaluation.figures import Evaluation, schema
from engines.evaluation.grouping import by_attribute
from engines.evaluation.handing_on import case_file
from engines.evaluation.measuring import Results, evaluate
from engines.evaluation.report.page import comparison_page, page, percent
from engines.evaluation.results import CancerResult, CaseResult
from engines.evaluation.thresholds import chosen_thresholds
from engines.evaluation.wanted import Wanted
from tests.engines.evaluation.toys import KINDS, ran

NOW = dt.datetime(2026, 11, 25, tzinfo=dt.timezone.utc)
LUNG, LIVER = Cancer.LUNG, Cancer.LIVER


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    folder = tmp_path_factory.mktemp("toys")
    run, cases = ran(folder, KINDS)
    return folder / "run", Results(run, tuple(cases))


def result(truth: Any, verdict: Verdict, score: float | None = None, **more: Any) -> CancerResult:
    return CancerResult(truth=truth, verdict=verdict, score=score, raw=score, **more)


def test_the_figures_are_those_counted_by_hand(toys: tuple[Path, Results]) -> None:
    found = evaluate([toys[1]], Wanted(), NOW)
    lung, liver = found.cancers
    assert (lung.cancer, lung.sensitivity.hits, lung.sensitivity.n) == (LUNG, 1, 2)
    assert (lung.specificity.hits, lung.specificity.n) == (4, 5)
    assert (liver.sensitivity.hits, liver.sensitivity.n, liver.specificity.hits) == (1, 2, 5)
    assert [case.case for case in lung.misses] == [2]
    assert [(case.case, case.why) for case in lung.false_alarms] == [(6, "on dense")]
    assert lung.lesions is not None
    assert (lung.lesions.found.hits, lung.lesions.found.n, lung.lesions.marks) == (1, 2, 1)
    assert lung.lesions.marks_on == {"dense": 1}
    assert (found.healthy.unflagged.hits, found.healthy.unflagged.n) == (2, 3)
    assert found.healthy.flagged_for == {LUNG: 1, LIVER: 0}
    assert lung.baseline is not None
    assert liver.baseline is not None
    # at one false alarm, as the bundle; the small lesion is lost in the mean over 3 mm
    assert (lung.baseline.sensitivity.hits, lung.baseline.sensitivity.n) == (1, 2)
    assert (lung.baseline.specificity.hits, lung.baseline.specificity.n) == (4, 5)
    assert liver.baseline.sensitivity.hits == 0  # they are brighter, or as faint as the liver; the rule asks for darker
    assert liver.baseline.specificity.hits == 5
    assert {goal.key: goal.outcome for goal in found.goals} == {
        "lung_sensitivity": "missed",
        "lung_specificity": "missed",
        "liver_sensitivity": "missed",
        "liver_specificity": "met",
        "healthy": "missed",
    }


def test_the_threshold_detector_may_raise_as_many_false_alarms_as_the_bundle_and_no_more() -> None:
    def sized(truth: int, mm: float | None, verdict: Verdict = Verdict.NEGATIVE) -> CaseResult:
        answer = result(truth, verdict, 0.0, baseline_mm=mm)
        one = next(numbers)
        return CaseResult(case=one, person=one, set="judging", attributes={}, cancers={LUNG: answer}, seconds={})

    numbers = itertools.count(1)

    ill = [sized(1, mm) for mm in (5.0, 12.0, 20.0, None)]
    well = [sized(0, mm) for mm in (0.0, 10.0, 15.0, None)]
    found = beside(LUNG, [*ill, *well])
    assert found is not None
    assert (found.sensitivity.hits, found.sensitivity.n, found.specificity.value) == (1, 3, 1.0)
    false_alarm = sized(0, 3.0, Verdict.POSITIVE)
    found = beside(LUNG, [*ill, *well, false_alarm])
    assert found is not None
    assert (found.sensitivity.hits, found.specificity.hits, found.specificity.n) == (2, 3, 4)
    assert found.from_mm == pytest.approx(10)
    assert beside(LUNG, ill) is None
    assert beside(LUNG, [sized(1, None), sized(0, None)]) is None


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (result(1, Verdict.POSITIVE, 0.9), (True, True)),
        (result(1, Verdict.INDETERMINATE, 0.5), (True, False)),
        (result(0, Verdict.INDETERMINATE, 0.5), (True, True)),
        (result(0, Verdict.POSITIVE, 0.9), (True, False)),
        (result("unknown", Verdict.POSITIVE, 0.9), (False, None)),
        (result(0, Verdict.NOT_ANALYSED, reason=Reason.FAILED), (True, False)),
        (result(0, Verdict.NOT_ANALYSED, reason=Reason.AGE), (False, None)),
        (result(1, Verdict.NOT_ANALYSED, reason=Reason.NOT_COVERED, whole=True), (True, False)),
        (result(1, Verdict.NOT_ANALYSED, reason=Reason.NOT_COVERED, whole=False), (False, None)),
        (result(0, Verdict.NOT_ANALYSED, reason=Reason.NOT_COVERED), (False, None)),
        (result(0, Verdict.NOT_ANALYSED, reason=Reason.ORGAN_NOT_FOUND), (True, False)),
    ],
)
def test_a_case_counts_as_its_truth_and_reason_say(answer: CancerResult, expected: tuple[bool, bool | None]) -> None:
    assert counts(answer) is expected[0]
    if expected[1] is not None:
        assert right(answer) is expected[1]


def drawn(part: Results, case_set: str, first: int, scores: list[tuple[int, float]]) -> Results:
    """Cases of lung alone, with these (truth, score)."""
    cases = tuple(
        CaseResult(
            case=first + i,
            person=first + i,
            set=case_set,  # type: ignore[arg-type]
            attributes={},
            cancers={
                LUNG: result(truth, Verdict.POSITIVE if score >= 0.9 else Verdict.NEGATIVE, score),
                LIVER: result(0, Verdict.NEGATIVE, 0.0 if i else 0.1),
            },
            seconds={},
        )
        for i, (truth, score) in enumerate(scores)
    )
    run = part.run.model_copy(update={"source": f"{first:064x}", "cases": len(cases)})
    return Results(run, cases)


def test_thresholds_are_chosen_on_the_tuning_cases_and_on_no_others(toys: tuple[Path, Results]) -> None:
    rows = [(i % 2, 0.2 + 0.5 * (i % 2)) for i in range(20)]
    tuning, judging = drawn(toys[1], "tuning", 100, rows), drawn(toys[1], "judging", 200, rows)
    with pytest.raises(ConfigError, match="liver"):  # no tuning case has one
        evaluate([tuning, judging], Wanted(choose=(0.9, 0.9)), NOW)
    only = [
        Results(part.run, tuple(c.model_copy(update={"cancers": {LUNG: c.cancers[LUNG]}}) for c in part.cases))
        for part in (tuning, judging)
    ]
    limits = {LUNG: toys[1].run.bundle.thresholds[LUNG]}
    only = [
        Results(p.run.model_copy(update={"bundle": p.run.bundle.model_copy(update={"thresholds": limits})}), p.cases)
        for p in only
    ]
    assert evaluate(only, Wanted(), NOW).cancers[0].sensitivity.hits == 0
    found = evaluate(only, Wanted(choose=(0.9, 0.9)), NOW)
    assert found.thresholds_from == "tuning cases"
    assert (found.tuning_cases, found.cases) == (20, 20)
    assert found.cancers[0].sensitivity.hits == 10
    worse = [only[0], Results(only[1].run, tuple(c for c in only[1].cases if c.cancers[LUNG].truth == 0))]
    assert evaluate(worse, Wanted(choose=(0.9, 0.9)), NOW).cancers[0].thresholds == found.cancers[0].thresholds


def test_thresholds_that_others_keep_too_are_higher(toys: tuple[Path, Results]) -> None:
    """Of 100 without, 5 above show no specificity of 0.95 among others: with 90 % confidence one may be."""
    rows = [(0, i / 101) for i in range(100)] + [(1, 0.5)] * 4 + [(1, 0.999)] * 16
    alone = [
        case.model_copy(update={"cancers": {LUNG: case.cancers[LUNG]}})
        for case in drawn(toys[1], "tuning", 1, rows).cases
    ]
    here = chosen_thresholds(alone, [LUNG], 0.9, 0.95)[LUNG].positive_above
    others = chosen_thresholds(alone, [LUNG], 0.9, 0.95, 0.9)[LUNG].positive_above
    assert [sum(score >= limit for truth, score in rows if not truth) for limit in (here, others)] == [5, 1]


def test_a_case_that_is_named_twice_is_refused(toys: tuple[Path, Results]) -> None:
    rows = [(1, 0.9), (0, 0.1)]
    with pytest.raises(ConfigError, match="two of the folders"):
        evaluate([drawn(toys[1], "judging", 100, rows), drawn(toys[1], "tuning", 101, rows)], Wanted(), NOW)


def test_scans_of_one_person_widen_intervals_and_the_first_of_two_tables_are_two_people(
    toys: tuple[Path, Results],
) -> None:
    rows = [(1, 0.95), (1, 0.95), (1, 0.5), (1, 0.95), (1, 0.5), (1, 0.5), (0, 0.1), (0, 0.2)]

    def table(first: int, scans: int) -> Results:
        """A hospital's own: people are numbered in it, each with so many scans."""
        part = drawn(toys[1], "judging", first, rows)
        cases = [case.model_copy(update={"person": i // scans}) for i, case in enumerate(part.cases)]
        return Results(part.run.model_copy(update={"synthetic": False}), tuple(cases))

    single = evaluate([table(100, 1), table(200, 1)], Wanted(), NOW)
    double = evaluate([table(100, 2), table(200, 2)], Wanted(), NOW)
    assert (single.cases, single.persons, double.persons) == (16, 16, 8)
    once, twice = single.cancers[0].sensitivity, double.cancers[0].sensitivity
    assert (once.hits, once.n) == (twice.hits, twice.n) == (6, 12)
    assert once.ci95 == pytest.approx((0.2109, 0.7891), abs=1e-4)
    assert twice.ci95[0] < once.ci95[0] < once.ci95[1] < twice.ci95[1]
    assert "Some people have several scans" in page(double, [])
    assert "Some people have several scans" not in page(single, [])


def test_the_cases_can_be_handed_on_to_calibrate(toys: tuple[Path, Results]) -> None:
    tuning = drawn(toys[1], "tuning", 100, [(1, 0.9), (0, 0.1)])
    file = case_file([toys[1], tuning])
    assert (file.kind, file.bundle, len(file.of("tuning"))) == ("synthetic", toys[1].run.bundle.digest, 2)
    again = drawn(toys[1], "judging", 100, [(1, 0.9)])
    again = Results(again.run.model_copy(update={"source": "f" * 64}), again.cases)  # the same person, in another run
    with pytest.raises(ConfigError, match="prove nothing"):
        case_file([again, tuning])


def test_two_models_are_compared_on_the_same_cases_alone(toys: tuple[Path, Results]) -> None:
    a = drawn(toys[1], "judging", 100, [(1, 0.95), (1, 0.5), (1, 0.4), (0, 0.1), (0, 0.92), (0, 0.2)])
    b = drawn(toys[1], "judging", 100, [(1, 0.95), (1, 0.91), (1, 0.93), (0, 0.1), (0, 0.3), (0, 0.2)])
    lung = compare([a], [b], NOW).cancers[0]
    assert (lung.on_ill.only_a, lung.on_ill.only_b, lung.on_well.only_b) == (0, 2, 1)
    assert lung.on_ill.p == pytest.approx(0.5)
    assert lung.on_ill.p_holm == 1
    assert lung.auc is not None
    assert lung.auc.difference > 0
    assert "0 : 2" in comparison_page(compare([a], [b], NOW))
    with pytest.raises(ConfigError, match="same cases"):
        compare([a], [toys[1]], NOW)


def test_the_page_is_one_file_that_says_synthetic_and_asks_nobody(toys: tuple[Path, Results]) -> None:
    html = page(evaluate([toys[1]], Wanted(), NOW), [toys[0]])
    assert "<script" not in html
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", html)
    assert "no evidence about people" in html
    assert html.count("a detector of contrast and size") == 2
    assert "1/2" in html.split("contrast and size find")[1]
    assert html.count("data:image/jpeg;base64,") == 3
    assert html.count("<svg") >= 8
    assert "@media print" in html
    assert "prefers-color-scheme: dark" in html
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", html, re.S)
    assert all("synthetic" in heading for heading in headings if "method" not in heading)


def test_the_json_is_what_its_published_schema_says(toys: tuple[Path, Results]) -> None:
    found = evaluate([toys[1]], Wanted(), NOW)
    assert Evaluation.model_validate_json(found.model_dump_json()) == found
    published = Path(__file__).parents[3] / "docs" / "evaluation.schema.json"
    assert json.loads(published.read_text()) == schema(), (
        "onescan-engines evaluate schema > docs/evaluation.schema.json"
    )


def test_numbers_are_grouped_in_classes_and_words_as_they_are(toys: tuple[Path, Results]) -> None:
    cases = toys[1].cases
    assert [(value, len(members)) for value, members in by_attribute(cases, "sex")] == [("F", 3), ("M", 4)]
    assert [value for value, _ in by_attribute(cases, "age_years")] == ["40 to 50"]
    assert by_attribute(cases, "no such column") == []


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (1.0, "100.0%"), (0.99996, "> 99.99%"), (0.999, "99.90%"), (0.5, "50.0%")]
)
def test_a_percentage_never_rounds_an_error_away(value: float | None, text: str) -> None:
    assert percent(value) == text
