"""A study of two series: each cancer's answer comes from the series that serves it, and so do the objects that show it.

The lungs are reconstructed thin, sharp and without the sides of the body; the rest thick, soft and wide. The cascade is
a double that finds a ball of 12 mm in the middle of what it is given.
"""

from __future__ import annotations

import dataclasses
import gc
import re
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path

import jinja2
import numpy as np
import pydicom
import pytest

import appliance.console
from appliance.choosing import SeriesRules, choose
from appliance.console.overview import AnswerView, StudyView
from appliance.pipeline import Desk, Reading, read_each, read_study
from appliance.ports import StoredInstance
from appliance.reporting import Model
from appliance.storage.journal import StudyRow
from appliance.study import State
from core import pages
from core.extent import Extent
from core.finding import Answer, Cancer, Mode, Reason, Verdict, complete
from core.requirement import Requirement, requirements
from core.volume import Volume
from core.wire import result_id
from engines.cascade import Analysis, PatientContext
from engines.cascade.cascade import Refused
from tests.appliance.dicom_samples import ct_series, enhanced, uid, write_files
from tests.appliance.reporting.series import ball, lesion
from tests.appliance.reporting.validators import dciodvfy_errors, pixelmed_sr_errors
from tests.appliance.roles.test_analyser import NAMES, T0, desk

CHEST, ABDOMEN = uid("a", "chest"), uid("a", "abdomen")
MODEL = Model("toy", "1", "ab" * 32, "A toy", synthetic=True)
RULES = SeriesRules(requirements({Cancer.LUNG: Requirement(max_spacing_mm=1.5)}))


class BallFinder:
    """Answers every cancer that is not refused: with a ball in the middle, or as negative. Remembers what it saw."""

    def __init__(self, positive: tuple[Cancer, ...] = (Cancer.LUNG, Cancer.LIVER)) -> None:
        self.positive = positive
        self.seen: list[tuple[tuple[int, int, int], tuple[Cancer, ...], float]] = []
        self.volumes: list[weakref.ref[Volume]] = []

    def analyse(
        self,
        volume: Volume,
        patient: PatientContext,
        refused: Refused,
        cancelled: Callable[[], bool],
        spent_s: float,
    ) -> Analysis:
        gc.collect()
        assert [ref() for ref in self.volumes] == [None] * len(self.volumes), "an earlier volume is still in memory"
        self.volumes.append(weakref.ref(volume))
        answers: dict[Cancer, Answer] = {c: Answer.not_analysed(c, *refused[c]) for c in refused}
        wanted = tuple(c for c in Cancer if c not in refused)
        self.seen.append((volume.geometry.shape, wanted, spent_s))
        masks = {}
        for cancer in wanted:
            answers[cancer] = Answer(cancer, Verdict.NEGATIVE, score=0.1)
            if cancer in self.positive:
                shape, spacing = volume.geometry.shape, volume.geometry.spacing_mm
                middle = (shape[0] // 2, shape[1] // 2, shape[2] // 2)
                mask = ball(shape, middle, 12.0, spacing).astype(np.uint8)
                masks[cancer] = mask
                found = (lesion(mask, 1, 0.9, spacing),)
                answers[cancer] = Answer(cancer, Verdict.POSITIVE, score=0.9, lesions=found)
        return Analysis(complete(answers, Reason.NO_MODEL), masks, {}, {"total": 2.0}, "toy")


@pytest.fixture
def instances(tmp_path: Path) -> list[StoredInstance]:
    chest = ct_series(40, series="chest", spacing=1.25, PixelSpacing=[4.2, 4.2], SeriesNumber=3,
                      ConvolutionKernel="B70f")  # fmt: skip
    abdomen = ct_series(20, series="abdomen", spacing=3.0, PixelSpacing=[6.0, 6.0], SeriesNumber=5)
    paths = write_files(tmp_path / "in", [*abdomen, *chest])
    return [StoredInstance("", "", "", "", Extent(path)) for path in paths]


def study() -> StudyRow:
    row = {field.name: None for field in dataclasses.fields(StudyRow)}
    row |= {"pseudonym": "ab" * 16, "complete_by": "geometry", "received_at": T0, "complete_at": T0, "started_at": T0,
            "revision": 1, "state": State.ANALYSING}  # fmt: skip
    return StudyRow(**row)  # type: ignore[arg-type]


def at_desk(state: Path, cascade: object, **changes: object) -> Desk:
    shown = dict.fromkeys(Cancer, Mode.RESEARCH)
    given = {"cascade": cascade, "model": MODEL, "modes": shown, "rules": RULES}
    return dataclasses.replace(desk(state), **(given | changes))  # type: ignore[arg-type]


def read(state: Path, instances: list[StoredInstance], **changes: object) -> Reading:
    return read_study(at_desk(state, BallFinder(), **changes), study(), instances)


def by_kind(reading: Reading, state: Path) -> Mapping[str, list[pydicom.Dataset]]:
    found: dict[str, list[pydicom.Dataset]] = {}
    for item in reading.objects:
        found.setdefault(item.kind, []).append(pydicom.dcmread(state / item.path))
    return found


def series_of(paths: list[StoredInstance]) -> dict[str, str]:
    """SOP Instance UID → Series Instance UID."""
    images = [pydicom.dcmread(instance.extent.path, stop_before_pixels=True) for instance in paths]
    return {str(image.SOPInstanceUID): str(image.SeriesInstanceUID) for image in images}


def test_each_series_is_read_once_for_its_cancers_and_one_volume_at_a_time(
    tmp_path: Path, instances: list[StoredInstance]
) -> None:
    finder = BallFinder()
    parts = read_each(at_desk(tmp_path, finder), choose(instances, RULES))
    rest = tuple(c for c in Cancer if c is not Cancer.LUNG)
    # the second series is told how long the first one took: the study has one deadline
    assert finder.seen == [((20, 64, 64), rest, 0.0), ((40, 64, 64), (Cancer.LUNG,), 2.0)]
    gc.collect()
    assert [ref() for ref in finder.volumes] == [None, None]  # not even what is kept for the report holds one
    kept = [array.nbytes for part in parts if part.shown for array in part.shown.hu.values()]
    assert kept == [2 * 64 * 64] * 2


def test_all_seven_are_answered_and_say_where_from(tmp_path: Path, instances: list[StoredInstance]) -> None:
    reading = read(tmp_path, instances)
    verdicts = {answer.cancer: answer.verdict for answer in reading.answers}
    assert verdicts == {c: Verdict.POSITIVE if c in (Cancer.LUNG, Cancer.LIVER) else Verdict.NEGATIVE for c in Cancer}
    chest, abdomen = NAMES.series(CHEST), NAMES.series(ABDOMEN)
    assert {a.cancer: a.series for a in reading.body.answers} == {
        c: chest if c is Cancer.LUNG else abdomen for c in Cancer
    }
    assert reading.body.slices == 60
    assert reading.body.result_id == result_id("ab" * 16, f"{abdomen}+{chest}", MODEL.digest, 1)
    assert reading.timings_s == {"total": 4.0}


def test_objects_refer_to_the_series_that_their_answer_comes_from(
    tmp_path: Path, instances: list[StoredInstance]
) -> None:
    objects = by_kind(read(tmp_path, instances), tmp_path)
    home = series_of(instances)
    spacing = {}
    for seg in objects["seg"]:
        organ = seg.SegmentSequence[0].AnatomicRegionSequence[0].CodeMeaning
        [source] = seg.ReferencedSeriesSequence
        assert source.SeriesInstanceUID == {"Lung": CHEST, "Liver": ABDOMEN}[organ]
        sources = [
            str(item.SourceImageSequence[0].ReferencedSOPInstanceUID)
            for group in seg.PerFrameFunctionalGroupsSequence
            for item in group.DerivationImageSequence
        ]
        assert {home[instance] for instance in sources} == {source.SeriesInstanceUID}
        measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        spacing[organ] = (float(measures.SpacingBetweenSlices), *map(float, measures.PixelSpacing))
        heights = [float(g.PlanePositionSequence[0].ImagePositionPatient[2])
                   for g in seg.PerFrameFunctionalGroupsSequence]  # fmt: skip
        middle = {"Lung": 20 * 1.25, "Liver": 10 * 3.0}[organ]
        assert min(heights) < middle < max(heights)
        assert max(heights) - min(heights) <= 24.0
    assert spacing == {"Lung": (1.25, 4.2, 4.2), "Liver": (3.0, 6.0, 6.0)}
    images = {image.SourceImageSequence[0].ReferencedSOPInstanceUID for image in objects["keyimage"]}
    assert sorted(home[str(instance)] for instance in images) == sorted([CHEST, ABDOMEN])


def test_the_report_rests_on_both_series_and_names_the_one_of_each_answer(
    tmp_path: Path, instances: list[StoredInstance]
) -> None:
    [report] = by_kind(read(tmp_path, instances), tmp_path)["sr"]
    [evidence] = report.CurrentRequestedProcedureEvidenceSequence
    counts = {str(s.SeriesInstanceUID): len(s.ReferencedSOPSequence) for s in evidence.ReferencedSeriesSequence}
    assert (counts[ABDOMEN], counts[CHEST], sorted(counts.values())) == (20, 40, [1, 1, 20, 40])
    evaluations = next(i for i in report.ContentSequence if i.get("ConceptNameCodeSequence")[0].CodeValue == "C0034375")
    named = {
        item.ConceptNameCodeSequence[0].CodeMeaning: str(part.UID)
        for item in evaluations.ContentSequence
        for part in item.get("ContentSequence", ())
        if part.ValueType == "UIDREF"
    }
    assert named.pop("Lung cancer") == CHEST
    assert set(named.values()) == {ABDOMEN}
    assert len(named) == 6
    texts = [i.TextValue for i in evaluations.ContentSequence if i.ValueType == "TEXT"]
    assert any(text.startswith("Lung cancer: POSITIVE") and text.endswith(" Read in series 3.") for text in texts)
    assert sum(text.endswith(" Read in series 5.") for text in texts) == 6


def test_all_objects_are_valid(tmp_path: Path, instances: list[StoredInstance]) -> None:
    reading = read(tmp_path, instances)
    assert sorted(item.kind for item in reading.objects) == ["keyimage", "keyimage", "seg", "seg", "sr"]
    for item in reading.objects:
        assert dciodvfy_errors(tmp_path / item.path) == [], item.kind
    assert pixelmed_sr_errors(tmp_path / next(i.path for i in reading.objects if i.kind == "sr")) == []


def test_a_repeat_writes_the_same_bytes(tmp_path: Path, instances: list[StoredInstance]) -> None:
    states = (tmp_path / "one", tmp_path / "two")
    readings = [read(state, list(order)) for state, order in zip(states, (instances, instances[::-1]), strict=True)]
    assert readings[0].body == readings[1].body
    written = [{i.path: (s / i.path).read_bytes() for i in r.objects} for s, r in zip(states, readings, strict=True)]
    assert len(written[0]) == 5
    assert written[0] == written[1]


def test_a_series_that_cannot_be_decoded_costs_only_its_cancers(
    tmp_path: Path, instances: list[StoredInstance]
) -> None:
    home = series_of(instances)
    path = next(i.extent.path for i, series in zip(instances, home.values(), strict=True) if series == CHEST)
    image = pydicom.dcmread(path)
    image.PixelData = image.PixelData[:-100]
    image.save_as(path)
    reading = read(tmp_path, instances)
    reasons = {answer.cancer: answer.reason for answer in reading.answers}
    assert reasons == {c: Reason.UNREADABLE if c is Cancer.LUNG else None for c in Cancer}
    assert {a.series for a in reading.body.answers} == {None}  # one series was read: that goes without saying
    assert reading.body.result_id == result_id("ab" * 16, NAMES.series(ABDOMEN), MODEL.digest, 1)
    assert reading.body.slices == 20


def test_a_series_for_cancers_that_the_model_does_not_know_is_not_read(
    tmp_path: Path, instances: list[StoredInstance]
) -> None:
    finder = BallFinder(positive=())
    rules = SeriesRules(RULES.asked, looked_for=(Cancer.LIVER,))
    reading = read_study(at_desk(tmp_path, finder, rules=rules), study(), instances)
    assert [shape for shape, _, _ in finder.seen] == [(20, 64, 64)]
    assert len(reading.body.answers) == 7


def test_without_a_model_the_first_series_is_named_and_the_reason_is_everybodys(
    tmp_path: Path, instances: list[StoredInstance]
) -> None:
    reading = read_study(desk(tmp_path), study(), instances)
    assert {answer.reason for answer in reading.answers} == {Reason.NO_ACTIVE_BUNDLE}
    assert reading.body.result_id == result_id("ab" * 16, NAMES.series(ABDOMEN), "none", 1)


def test_one_series_for_all_gives_the_result_id_that_it_always_gave(
    tmp_path: Path, instances: list[StoredInstance]
) -> None:
    only = [i for i, series in zip(instances, series_of(instances).values(), strict=True) if series == ABDOMEN]
    reading = read(tmp_path, only)
    series = NAMES.series(ABDOMEN)
    assert reading.body.result_id == result_id("ab" * 16, series, MODEL.digest, 1)
    assert '"series"' not in reading.body.model_dump_json(exclude_none=True)
    assert reading.read_in == {}
    lung = next(answer for answer in reading.answers if answer.cancer is Cancer.LUNG)
    assert (lung.reason, lung.detail) == (Reason.TOO_THICK, "3 mm between slices, at most 1.5 mm")


def test_the_page_says_the_number_of_the_series_that_each_answer_comes_from(
    tmp_path: Path, instances: list[StoredInstance]
) -> None:
    reading = read(tmp_path, instances)
    assert reading.read_in == {cancer: 3 if cancer is Cancer.LUNG else 5 for cancer in Cancer}
    answers = [
        AnswerView(a.cancer.value, a.verdict.value, a.mode.value, a.score, "", 0, series=reading.read_in[a.cancer])
        for a in reading.answers
    ]
    view = StudyView("a", "ab" * 16, T0, 60, "answered", "", 1, answers, 0, False)
    where = [Path(appliance.console.__file__).parent / "templates", pages.TEMPLATES]
    templates = jinja2.Environment(loader=jinja2.FileSystemLoader(where), autoescape=True)
    templates.filters.update(ago=pages.ago, moment=pages.moment)
    page = templates.get_template("study_parts.html").render(study=view, objects=[], steps=[])
    shown = dict(re.findall(r"<tr><td>(\w+)</td>.*?>series (\d)<", page, re.DOTALL))
    assert shown == {cancer.value: str(number) for cancer, number in reading.read_in.items()}


@pytest.fixture
def multi_frame(tmp_path: Path) -> list[StoredInstance]:
    """The same study; the chest as one Enhanced CT image, its frames from head to feet."""
    chest = ct_series(40, series="chest", spacing=1.25, PixelSpacing=[4.2, 4.2], SeriesNumber=3)
    abdomen = ct_series(20, series="abdomen", spacing=3.0, PixelSpacing=[6.0, 6.0], SeriesNumber=5)
    paths = write_files(tmp_path / "in", [*abdomen, enhanced(chest[::-1])])
    return [StoredInstance("", "", "", "", Extent(path)) for path in paths]


def test_objects_refer_to_the_frames_of_a_multi_frame_image(tmp_path: Path, multi_frame: list[StoredInstance]) -> None:
    reading = read(tmp_path, multi_frame)
    assert reading.body.slices == 60
    objects = by_kind(reading, tmp_path)
    source = pydicom.dcmread(multi_frame[-1].extent.path)
    seg = next(s for s in objects["seg"] if s.ReferencedSeriesSequence[0].SeriesInstanceUID == CHEST)
    [instance] = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    whole = (source.SOPClassUID, source.SOPInstanceUID)
    assert (instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID) == whole
    for group in seg.PerFrameFunctionalGroupsSequence:
        [image] = group.DerivationImageSequence[0].SourceImageSequence
        assert (image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID) == whole
        frame = source.PerFrameFunctionalGroupsSequence[int(image.ReferencedFrameNumber) - 1]
        place = frame.PlanePositionSequence[0].ImagePositionPatient
        assert place == group.PlanePositionSequence[0].ImagePositionPatient
    references = {i.ReferencedSOPInstanceUID: i for k in objects["keyimage"] for i in k.SourceImageSequence}
    shown = source.PerFrameFunctionalGroupsSequence[int(references[source.SOPInstanceUID].ReferencedFrameNumber) - 1]
    assert abs(shown.PlanePositionSequence[0].ImagePositionPatient[2] - 20 * 1.25) < 2.0  # in the middle of the ball
    assert len(references) == 2
    [report] = objects["sr"]
    [evidence] = report.CurrentRequestedProcedureEvidenceSequence
    listed = {str(s.SeriesInstanceUID): s.ReferencedSOPSequence for s in evidence.ReferencedSeriesSequence}
    assert [i.ReferencedSOPInstanceUID for i in listed[CHEST]] == [source.SOPInstanceUID]
    for item in reading.objects:
        assert dciodvfy_errors(tmp_path / item.path) == [], item.kind


def test_a_multi_frame_image_gives_the_same_bytes_again(tmp_path: Path, multi_frame: list[StoredInstance]) -> None:
    states = (tmp_path / "one", tmp_path / "two")
    first, second = ({i.path: (s / i.path).read_bytes() for i in read(s, multi_frame).objects} for s in states)
    assert len(first) == 5
    assert first == second


def test_after_a_kill_between_two_series_the_study_is_read_again_to_the_same_bytes(
    tmp_path: Path, instances: list[StoredInstance]
) -> None:
    class Killed(BallFinder):
        def analyse(self, *args: object, **more: object) -> Analysis:
            if self.seen:
                raise KeyboardInterrupt
            return super().analyse(*args, **more)  # type: ignore[arg-type]

    undisturbed, state = read(tmp_path / "other", instances), tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        read_study(at_desk(state, Killed()), study(), instances)
    assert not list(state.rglob("*.dcm"))  # nothing is written before all series are read
    again = read(state, instances)
    assert again.body == undisturbed.body
    for item in again.objects:
        assert (state / item.path).read_bytes() == (tmp_path / "other" / item.path).read_bytes()
