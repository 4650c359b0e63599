"""The whole cascade on real networks of which the answer is known: verdicts, lesions, masks, limits, failures."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from core.finding import Answer, Cancer, Reason, Verdict
from core.volume import Geometry, Index, Volume
from engines.bundle import Bundle
from engines.cascade import Budget, Cancelled, PatientContext
from tests.engines.runtime import networks

from . import toy

Flips = tuple[bool, bool, bool]
UNMODELLED = {Cancer.PANCREAS, Cancer.OESOPHAGUS, Cancer.BREAST, Cancer.STOMACH, Cancer.COLORECTUM}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return toy.bundle(tmp_path_factory.mktemp("bundles") / "toy")


@pytest.fixture(params=["onnx", "openvino"])
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def truth(volume: Volume, value: int) -> npt.NDArray[np.bool_]:
    return volume.hu == value


def dice(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> float:
    return float(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))


def test_a_healthy_torso_is_negative_where_there_is_a_model_and_says_so_where_there_is_none(
    bundle: Bundle, runtime: str
) -> None:
    analysis = toy.cascade(bundle, runtime).analyse(toy.torso(), toy.ADULT)
    assert [answer.cancer for answer in analysis.answers] == list(Cancer)
    answers = toy.answers(analysis)
    assert answers[Cancer.LUNG] == Answer(Cancer.LUNG, Verdict.NEGATIVE, score=0.0)
    assert answers[Cancer.LIVER] == Answer(Cancer.LIVER, Verdict.NEGATIVE, score=0.0)
    assert all(answers[c] == Answer.not_analysed(c, Reason.NO_MODEL) for c in UNMODELLED)
    assert analysis.masks == {}
    ball_ml = 4 / 3 * np.pi * 4**3
    assert analysis.organs_ml["lung"] == pytest.approx(ball_ml, rel=0.15)
    assert analysis.organs_ml["liver"] == pytest.approx(ball_ml, rel=0.15)


def test_lesions_are_found_where_they_are_and_as_large_as_they_are(bundle: Bundle, runtime: str) -> None:
    volume = toy.torso(lung_lesion_mm=12, liver_lesion_mm=10)
    analysis = toy.cascade(bundle, runtime).analyse(volume, toy.ADULT)
    for cancer, value, radius in ((Cancer.LUNG, toy.LUNG_LESION, 12), (Cancer.LIVER, toy.LIVER_LESION, 10)):
        answer, real = toy.answers(analysis)[cancer], truth(volume, value)
        assert answer.verdict is Verdict.POSITIVE
        (lesion,) = answer.lesions
        mask = analysis.masks[cancer]
        assert (mask.dtype, mask.shape) == (np.uint8, volume.hu.shape)
        assert dice(mask == lesion.label, real) > 0.88
        assert lesion.score == answer.score
        assert lesion.diameter_mm == pytest.approx(2 * radius, abs=4)
        assert lesion.volume_mm3 == pytest.approx(np.count_nonzero(mask) * volume.geometry.voxel_mm3)
        np.testing.assert_allclose(lesion.centroid, np.argwhere(real).mean(axis=0), atol=0.7)
        (z0, y0, x0), (z1, y1, x1) = lesion.box
        assert np.count_nonzero(mask[z0:z1, y0:y1, x0:x1]) == np.count_nonzero(mask)
        np.testing.assert_array_equal(np.argwhere(mask).min(axis=0), (z0, y0, x0))
        np.testing.assert_array_equal(np.argwhere(mask).max(axis=0) + 1, (z1, y1, x1))


def test_openvino_and_onnx_runtime_give_the_same_answers_and_masks(bundle: Bundle) -> None:
    volume = toy.torso(lung_lesion_mm=9, liver_lesion_mm=11)
    one, other = (toy.cascade(bundle, name).analyse(volume, toy.ADULT) for name in ("onnx", "openvino"))
    for a, b in zip(one.answers, other.answers, strict=True):
        assert (a.verdict, a.reason, len(a.lesions)) == (b.verdict, b.reason, len(b.lesions))
        if a.score is not None and b.score is not None:
            assert a.score == pytest.approx(b.score, abs=1e-4)
    assert one.organs_ml == pytest.approx(other.organs_ml)
    for cancer, mask in one.masks.items():
        assert dice(mask > 0, other.masks[cancer] > 0) > 0.999


def test_the_same_volume_gives_the_same_bytes(bundle: Bundle, runtime: str) -> None:
    volume = toy.torso(lung_lesion_mm=12)
    cascade = toy.cascade(bundle, runtime)
    first, second = cascade.analyse(volume, toy.ADULT), cascade.analyse(volume, toy.ADULT)
    assert first.answers == second.answers
    assert first.masks[Cancer.LUNG].tobytes() == second.masks[Cancer.LUNG].tobytes()


@pytest.mark.parametrize(
    ("order", "flips"),
    [((0, 1, 2), (True, False, False)), ((0, 1, 2), (True, True, True)), ((0, 2, 1), (False, True, False))],
    ids=["head-first-stack", "all-reversed", "rows-and-columns-swapped"],
)
def test_the_answer_does_not_depend_on_how_the_scan_is_stored(bundle: Bundle, order: Index, flips: Flips) -> None:
    plain = toy.torso(lung_lesion_mm=12, liver_lesion_mm=10)
    stored = stored_otherwise(plain, order, flips)
    expected = toy.cascade(bundle).analyse(plain, toy.ADULT)
    analysis = toy.cascade(bundle).analyse(stored, toy.ADULT)
    for cancer in (Cancer.LUNG, Cancer.LIVER):
        one, other = toy.answers(expected)[cancer], toy.answers(analysis)[cancer]
        assert (one.verdict, one.score) == (other.verdict, other.score)
        np.testing.assert_allclose(  # the same place in the patient
            plain.geometry.to_patient(one.lesions[0].centroid),
            stored.geometry.to_patient(other.lesions[0].centroid),
            atol=1e-3,
        )
        np.testing.assert_array_equal(analysis.masks[cancer], rearranged(expected.masks[cancer], order, flips))
        assert np.count_nonzero(analysis.masks[cancer][boxed(other.lesions[0].box)]) == np.count_nonzero(
            analysis.masks[cancer]
        )


def rearranged(array: npt.NDArray[Any], order: Index, flips: Flips) -> npt.NDArray[Any]:
    z, y, x = (slice(None, None, -1 if flip else 1) for flip in flips)
    return np.ascontiguousarray(array.transpose(order)[z, y, x])


def stored_otherwise(volume: Volume, order: Index, flips: Flips) -> Volume:
    hu = rearranged(volume.hu, order, flips)
    old = volume.geometry
    corner = np.zeros(3)
    axes = []
    for axis, flip in zip(order, flips, strict=True):
        if flip:
            corner[axis] = old.shape[axis] - 1
        axes.append(tuple(-a if flip else a for a in old.axes[axis]))
    origin = tuple(float(v) for v in old.to_patient(corner))
    spacing = tuple(old.spacing_mm[axis] for axis in order)
    return Volume(hu, Geometry(hu.shape, spacing, origin, tuple(axes)))  # type: ignore[arg-type]


def boxed(box: tuple[tuple[int, int, int], tuple[int, int, int]]) -> tuple[slice, ...]:
    return tuple(slice(a, b) for a, b in zip(*box, strict=True))


def test_a_score_between_the_thresholds_is_indeterminate_and_its_lesion_is_shown(bundle: Bundle) -> None:
    # The toy detector's probability is sigmoid(20 * (HU - 100) / 100): 104 HU gives 0.69, between 0.6 and 0.9.
    analysis = toy.cascade(bundle).analyse(toy.torso(lung_lesion_mm=14, lung=104), toy.ADULT)
    answer = toy.answers(analysis)[Cancer.LUNG]
    assert answer.verdict is Verdict.INDETERMINATE
    assert answer.score == pytest.approx(0.69, abs=0.02)
    assert len(answer.lesions) == 1
    assert analysis.masks[Cancer.LUNG].any()


def test_what_lies_outside_the_organ_and_its_margin_is_no_lesion_of_it(bundle: Bundle) -> None:
    volume = toy.torso()
    toy.ball(volume.hu, volume.geometry, (60, 10, 10), 9, toy.LUNG_LESION)  # 20 mm from the lung
    analysis = toy.cascade(bundle).analyse(volume, toy.ADULT)
    assert toy.answers(analysis)[Cancer.LUNG].verdict is Verdict.NEGATIVE


def test_stages_disagree_when_the_lesion_lies_in_the_margin_only(tmp_path: Path) -> None:
    strict = toy.draft(
        organs=[
            {"name": "lung", "labels": ["lung_air"], "found_from_ml": 100, "margin_mm": 30},
            {"name": "liver", "labels": ["liver"], "found_from_ml": 100, "margin_mm": 8},
        ],
        cancers=[toy.cancer("lung", "lung", "lung_lesion", "lesion", extraction={"inside_share": 0.5})],
    )
    volume = toy.torso()
    toy.ball(volume.hu, volume.geometry, (60, 13, 60), 7, toy.LUNG_LESION)  # its centre 7 mm outside the lung
    analysis = toy.cascade(toy.bundle(tmp_path / "strict", strict)).analyse(volume, toy.ADULT)
    answer = toy.answers(analysis)[Cancer.LUNG]
    assert answer.verdict is Verdict.INDETERMINATE
    assert "stages disagree" in answer.detail
    assert answer.lesions


def test_several_lesions_are_numbered_by_score_and_their_masks_do_not_overlap(bundle: Bundle) -> None:
    volume = toy.torso()
    for x, value in ((40.0, 105), (60.0, 600), (80.0, 104)):
        toy.ball(volume.hu, volume.geometry, (60, 60, x), 7, value)
    analysis = toy.cascade(bundle).analyse(volume, toy.ADULT)
    lesions = toy.answers(analysis)[Cancer.LUNG].lesions
    assert [lesion.label for lesion in lesions] == [1, 2, 3]
    assert [lesion.score for lesion in lesions] == sorted((lesion.score for lesion in lesions), reverse=True)
    sizes = np.bincount(analysis.masks[Cancer.LUNG].ravel(), minlength=4)[1:]
    np.testing.assert_allclose(sizes * volume.geometry.voxel_mm3, [lesion.volume_mm3 for lesion in lesions])


def test_a_lesion_thinner_than_a_slice_still_has_a_mask(tmp_path: Path) -> None:
    manifest = toy.draft()
    volume = toy.torso(shape=(36, 80, 80), spacing=(6.0, 1.5, 1.5))
    volume.hu[10, 38:44, 38:44] = toy.LUNG_LESION  # one slice of 6 mm, 9 mm wide
    analysis = toy.cascade(toy.bundle(tmp_path / "toy", manifest)).analyse(volume, toy.ADULT)
    (lesion,) = toy.answers(analysis)[Cancer.LUNG].lesions
    assert analysis.masks[Cancer.LUNG][10].any()
    assert lesion.box[0][0] <= 10 < lesion.box[1][0]


NO_ORGANS = Volume(np.zeros((40, 40, 40), np.int16), Geometry((40, 40, 40), (3, 3, 3), (0, 0, 0)))


@pytest.mark.parametrize(
    ("name", "volume", "patient", "reason"),
    [
        ("child", toy.torso(lung_lesion_mm=12), PatientContext(17), Reason.AGE),
        ("age unknown", toy.torso(lung_lesion_mm=12), PatientContext(None), Reason.AGE),
        ("thick", toy.torso((28, 80, 80), (7.5, 1.5, 1.5), 12), toy.ADULT, Reason.TOO_THICK),
        ("no lung", NO_ORGANS, toy.ADULT, Reason.ORGAN_NOT_FOUND),
    ],
)
def test_a_scan_that_is_not_fit_is_not_analysed_and_says_why(
    bundle: Bundle, name: str, volume: Volume, patient: PatientContext, reason: Reason
) -> None:
    analysis = toy.cascade(bundle).analyse(volume, patient)
    assert toy.answers(analysis)[Cancer.LUNG].reason is reason, name
    assert analysis.masks == {}


@pytest.mark.parametrize("from_slice", [0, 12])
def test_an_organ_cut_off_by_the_scan_is_not_covered(bundle: Bundle, from_slice: int) -> None:
    whole = toy.torso(lung_lesion_mm=12)
    part = Volume(
        np.ascontiguousarray(whole.hu[from_slice : 56 + from_slice]),
        Geometry((56, 80, 80), whole.geometry.spacing_mm, whole.geometry.origin_mm),
    )
    answers = toy.answers(toy.cascade(bundle).analyse(part, toy.ADULT))
    assert answers[Cancer.LIVER].reason is Reason.NOT_COVERED
    assert "liver" in answers[Cancer.LIVER].detail
    if from_slice:
        assert answers[Cancer.LUNG].reason is Reason.NOT_COVERED
    else:
        assert answers[Cancer.LUNG].verdict is Verdict.POSITIVE


def test_what_an_earlier_stage_refused_stays_refused_and_the_others_are_answered(bundle: Bundle) -> None:
    refused = {Cancer.LUNG: (Reason.CONTRAST, "arterial"), Cancer.BREAST: (Reason.CONTRAST, "arterial")}
    volume = toy.torso(lung_lesion_mm=12, liver_lesion_mm=10)
    answers = toy.answers(toy.cascade(bundle).analyse(volume, toy.ADULT, refused))
    assert answers[Cancer.LUNG] == Answer.not_analysed(Cancer.LUNG, Reason.CONTRAST, "arterial")
    assert answers[Cancer.BREAST].reason is Reason.NO_MODEL
    assert answers[Cancer.LIVER].verdict is Verdict.POSITIVE


BROKEN = {
    "zeros": networks.zeros(),
    "nan": networks.logarithms(),
    "wrong shape": networks.halving(),
    "wrong channels": networks.bands((0, 1), (1, 2)),
    "no network": b"not a network",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_detector_fails_its_own_cancer_visibly_and_no_other(
    tmp_path: Path, kind: str, runtime: str, caplog: pytest.LogCaptureFixture
) -> None:
    broken = toy.bundle(tmp_path / "toy", lung_lesion=BROKEN[kind])
    with caplog.at_level(logging.ERROR):
        analysis = toy.cascade(broken, runtime).analyse(toy.torso(liver_lesion_mm=10), toy.ADULT)
    answers = toy.answers(analysis)
    assert answers[Cancer.LUNG].reason is Reason.FAILED
    assert answers[Cancer.LIVER].verdict is Verdict.POSITIVE
    assert [record for record in caplog.records if "lung detector failed" in record.getMessage()]


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_localiser_fails_every_modelled_cancer(tmp_path: Path, kind: str, runtime: str) -> None:
    broken = toy.bundle(tmp_path / "toy", localiser=BROKEN[kind])
    answers = toy.answers(toy.cascade(broken, runtime).analyse(toy.torso(lung_lesion_mm=12), toy.ADULT))
    assert {c for c in Cancer if answers[c].reason is Reason.FAILED} == {Cancer.LUNG, Cancer.LIVER}
    assert all(answers[c].reason is Reason.NO_MODEL for c in UNMODELLED)


def test_the_deadline_stops_the_analysis_and_names_itself(bundle: Bundle) -> None:
    time = 0.0

    def clock() -> float:
        nonlocal time
        time += 1.0
        return time

    cascade = toy.cascade(bundle, budget=Budget(deadline_s=15), clock=clock)
    answers = toy.answers(cascade.analyse(toy.torso(lung_lesion_mm=12, liver_lesion_mm=10), toy.ADULT))
    assert answers[Cancer.LIVER].reason is Reason.DEADLINE
    assert "15 s" in answers[Cancer.LIVER].detail
    time = 0.0
    cascade = toy.cascade(bundle, budget=Budget(deadline_s=1), clock=clock)
    answers = toy.answers(cascade.analyse(toy.torso(lung_lesion_mm=12), toy.ADULT))
    assert {answers[c].reason for c in (Cancer.LUNG, Cancer.LIVER)} == {Reason.DEADLINE}


def test_what_other_series_of_the_study_took_counts_towards_its_deadline(bundle: Bundle) -> None:
    cascade = toy.cascade(bundle, budget=Budget(deadline_s=1000))
    for spent, reasons in ((0.0, set()), (1001.0, {Reason.DEADLINE})):
        answers = toy.answers(cascade.analyse(toy.torso(lung_lesion_mm=12), toy.ADULT, spent_s=spent))
        assert {r for c in (Cancer.LUNG, Cancer.LIVER) if (r := answers[c].reason)} == reasons


def test_cancelling_ends_the_analysis_at_every_point_where_it_is_asked(bundle: Bundle) -> None:
    volume = toy.torso(lung_lesion_mm=12)
    cascade = toy.cascade(bundle)
    asked = 0

    def never() -> bool:
        nonlocal asked
        asked += 1
        return False

    cascade.analyse(volume, toy.ADULT, cancelled=never)
    assert asked > 10
    for patience in range(0, asked, 3):
        left = iter([False] * patience)
        with pytest.raises(Cancelled):
            cascade.analyse(volume, toy.ADULT, cancelled=lambda left=left: next(left, True))  # type: ignore[misc]


def test_a_study_that_needs_more_memory_than_allowed_says_so_before_it_takes_it(bundle: Bundle) -> None:
    volume = toy.torso(lung_lesion_mm=12)
    answers = toy.answers(toy.cascade(bundle, budget=Budget(memory_mb=1)).analyse(volume, toy.ADULT))
    assert {answers[c].reason for c in (Cancer.LUNG, Cancer.LIVER)} == {Reason.MEMORY}
    assert "MiB" in answers[Cancer.LUNG].detail
    # Enough for the localiser (24 x 20 x 20 voxels of 548 bytes), not for a detector's tile (32768 voxels).
    answers = toy.answers(toy.cascade(bundle, budget=Budget(memory_mb=8)).analyse(volume, toy.ADULT))
    assert {answers[c].reason for c in (Cancer.LUNG, Cancer.LIVER)} == {Reason.MEMORY}
    assert "lesions" in answers[Cancer.LUNG].detail


def test_tiles_that_hold_nothing_of_the_organ_are_not_run(tmp_path: Path) -> None:
    asked = {}
    fields = toy.draft().model_dump()
    for tile in (16, 128):
        tiling = {"kind": "patch", "size": [tile] * 3, "overlap": 0}
        detector = toy.detector("lung_lesion", ["background", "lesion"], tiling=tiling)
        manifest = toy.draft(networks=[fields["networks"][0], detector], cancers=fields["cancers"][:1])
        counting = Counting(toy.cascade(toy.bundle(tmp_path / str(tile), manifest)))
        answers = toy.answers(counting.cascade.analyse(toy.torso(lung_lesion_mm=12), toy.ADULT))
        assert answers[Cancer.LUNG].verdict is Verdict.POSITIVE
        asked[tile] = counting.voxels
    # The lung and its margin are a ball in a cube: of its 4 x 4 x 4 tiles of 32 mm the corners hold nothing.
    assert asked[16] < asked[128]


class Counting:
    """Counts the voxels that a cascade's networks are run on, by wrapping the runtime's own networks."""

    def __init__(self, cascade: Any) -> None:
        self.cascade, self.voxels = cascade, 0
        load = cascade._runtime.load

        def counted(path: Path) -> Any:
            network = load(path)
            run = network.run

            def running(image: Any) -> Any:
                self.voxels += image.size
                return run(image)

            network.run = running
            return network

        cascade._runtime.load = counted


def test_cancers_that_share_a_network_and_an_organ_share_its_run(tmp_path: Path) -> None:
    """Cyst and tumour of the liver as two "cancers": twice the answers, the voxels of one run."""
    tumour = toy.cancer("liver", "liver", "liver_lesion", "tumour")
    cyst = toy.cancer("stomach", "liver", "liver_lesion", "cyst")
    asked, answers = {}, {}
    volume = toy.torso(liver_lesion_mm=12, liver=120)  # a cyst
    for name, cancers in (("one", [tumour]), ("both", [tumour, cyst])):
        counting = Counting(toy.cascade(toy.bundle(tmp_path / name, toy.draft(cancers=cancers))))
        answers[name] = toy.answers(counting.cascade.analyse(volume, toy.ADULT))
        asked[name] = counting.voxels
    assert asked["both"] == asked["one"]
    assert answers["both"][Cancer.LIVER] == answers["one"][Cancer.LIVER]
    assert answers["both"][Cancer.LIVER].verdict is Verdict.NEGATIVE
    assert answers["both"][Cancer.STOMACH].verdict is Verdict.POSITIVE


def test_times_are_given_for_each_stage_and_the_networks(bundle: Bundle, runtime: str) -> None:
    times = toy.cascade(bundle, runtime).analyse(toy.torso(lung_lesion_mm=12), toy.ADULT).timings_s
    assert {"total", "localise", "detect", "lesions", "preprocess", "compile", "network", "blend"} <= set(times)
    assert 0 < times["network"] < times["total"]
    assert times["localise"] + times["detect"] + times["lesions"] <= times["total"]


def test_a_bundle_that_only_localises_says_how_large_organs_are(tmp_path: Path) -> None:
    manifest = toy.draft(cancers=[])
    analysis = toy.cascade(toy.bundle(tmp_path / "toy", manifest)).analyse(toy.torso(), toy.ADULT)
    assert analysis.organs_ml["lung"] == pytest.approx(4 / 3 * np.pi * 4**3, rel=0.15)
    assert {answer.reason for answer in analysis.answers} == {Reason.NO_MODEL}
