"""`onescan-engines` as a person or a script meets it: in its own process, by exit status and output."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines import volumefile
from engines.bundle import Bundle, Content, open_bundle, write_bundle
from engines.manifest import schema
from engines.measuring.memory import with_margin
from tests.engines.bundle.test_parity import CASE
from tests.engines.cascade import toy


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    golden = Content("torso.npz", "golden", toy.golden_file(toy.torso(lung_lesion_mm=12)).source)
    folder = tmp_path_factory.mktemp("cli") / "toy"
    return write_bundle(folder, toy.draft(golden=[CASE]), [*toy.files(), golden])


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    path = tmp_path / "torso.npz"
    path.write_bytes(volumefile.to_bytes(toy.torso(lung_lesion_mm=12)))
    return path


def engines(*arguments: object, status: int = 0) -> str:
    command = [sys.executable, "-m", "engines.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "COLUMNS": "200"})
    assert done.returncode == status, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def as_json(*arguments: object, status: int = 0) -> Any:
    return json.loads(engines(*arguments, "--json", status=status))


def test_help_teaches() -> None:
    said = engines("--help")
    for command in ("inspect", "verify", "schema", "run", "segment", "phantom", "pack", "unpack"):
        assert command in said
        assert "Usage" in engines(command, "--help")
    for command in ("bench", "compare", "calibrate", "publish", "import"):
        assert command in said
    assert "onescan-engines run --phantom 7" in said


def test_inspect_shows_what_it_is_and_that_it_is_not_clinical(bundle: Bundle) -> None:
    said = engines("inspect", bundle.folder)
    assert bundle.digest in said
    assert "can never be used clinically" in said
    assert "sensitivity 90.0%" in said
    assert "lung_lesion" in said
    assert as_json("inspect", bundle.folder)["manifest"]["name"] == "toy"


def test_verify_passes_a_whole_bundle_with_its_golden_cases(bundle: Bundle) -> None:
    said = engines("verify", bundle.folder, "--runtime", "onnx", "--threads", 1)
    assert "checks 1 to 8" in said
    assert "golden case torso: agrees" in said
    assert "ONNX Runtime on 1 core (asked for)" in said
    assert as_json("verify", bundle.folder, "--no-golden") == {
        "digest": bundle.digest,
        "passed": True,
        "runtime": None,
        "golden": [],
    }


def test_verify_names_the_check_that_failed_and_what_to_do(bundle: Bundle, tmp_path: Path) -> None:
    damaged = write_bundle(
        tmp_path / "b", bundle.manifest, [Content(f.name, f.role, bundle.blob(f.sha256)) for f in bundle.manifest.files]
    )
    blob = damaged.path("localiser.onnx")
    blob.write_bytes(blob.read_bytes()[:-1])
    said = engines("verify", damaged.folder, status=1)
    assert "bundle check 4" in said
    assert "Fetch or build the bundle again" in said
    error = as_json("verify", damaged.folder, status=1)
    assert "bundle check 4" in error["error"]
    assert error["remedy"]


def test_verify_fails_where_a_golden_case_differs(tmp_path: Path) -> None:
    bundle = toy.bundle(tmp_path / "b")
    report = as_json("verify", bundle.folder, status=1)
    assert report["passed"] is False
    assert report["golden"][0]["case"] == "coverage"


def test_run_prints_seven_answers(bundle: Bundle, volume: Path) -> None:
    said = engines("run", volume, "--bundle", bundle.folder, "--age", 60)
    for cancer in ("pancreas", "oesophagus", "lung", "breast", "liver", "stomach", "colorectum"):
        assert cancer in said
    assert "positive" in said
    assert "not for clinical use" in said
    assert "no model in bundle" in said


def test_run_gives_scripts_everything_as_json_and_the_masks_as_a_file(
    bundle: Bundle, volume: Path, tmp_path: Path
) -> None:
    result = as_json("run", volume, "--bundle", bundle.folder, "--age", 60, "--masks", tmp_path / "masks.npz")
    answers = {answer["cancer"]: answer for answer in result["answers"]}
    assert list(answers) == ["pancreas", "oesophagus", "lung", "breast", "liver", "stomach", "colorectum"]
    (lesion,) = answers["lung"]["lesions"]
    with np.load(tmp_path / "masks.npz", allow_pickle=False) as masks:
        assert list(masks) == ["lung"]
        voxels = np.count_nonzero(masks["lung"] == lesion["label"])
    assert voxels * 2.5 * 1.5 * 1.5 == pytest.approx(lesion["volume_mm3"])
    assert result["bundle"]["digest"] == bundle.digest


def test_run_without_an_age_says_why_it_does_not_analyse(bundle: Bundle, volume: Path) -> None:
    answers = as_json("run", volume, "--bundle", bundle.folder)["answers"]
    assert answers[2]["reason"] == "no evidence for this age"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give either a volume file or --phantom"),
        (["nothing.npz"], "nothing.npz is not a volume file"),
        (["nothing.npz", "--phantom", "1"], "give either"),
    ],
)
def test_wrong_input_is_a_sentence_and_a_remedy(bundle: Bundle, arguments: list[str], said: str) -> None:
    output = engines("run", *arguments, "--bundle", bundle.folder, status=1)
    assert said in output


def test_the_schema_is_that_of_the_manifest(tmp_path: Path) -> None:
    assert json.loads(engines("schema")) == schema()
    engines("schema", "--to", tmp_path / "schema.json")
    published = Path(__file__).parents[3] / "docs" / "manifest.schema.json"
    assert published.read_text() == (tmp_path / "schema.json").read_text(), (
        "make it anew: onescan-engines schema --to docs/manifest.schema.json"
    )


def test_commands_take_an_archive_in_place_of_a_folder(bundle: Bundle, volume: Path, tmp_path: Path) -> None:
    packed = tmp_path / "toy.osb"
    made = as_json("pack", bundle.folder, packed)
    assert made["size"] == packed.stat().st_size
    assert made["digest"] == bundle.digest
    assert "exists already" in engines("pack", bundle.folder, packed, status=1)
    assert as_json("inspect", packed)["digest"] == bundle.digest
    assert "checks 11 to 13" in engines("verify", packed, "--no-golden")
    answers = as_json("run", volume, "--bundle", packed, "--age", 60)["answers"]
    assert answers == as_json("run", volume, "--bundle", bundle.folder, "--age", 60)["answers"]
    assert as_json("unpack", packed, tmp_path / "again")["digest"] == bundle.digest
    packed.write_bytes(packed.read_bytes()[:-1])
    assert "bundle check 12" in engines("run", volume, "--bundle", packed, status=1)


def test_segment_labels_every_voxel_in_the_volumes_own_order(bundle: Bundle, volume: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "labels.npz"
    result = as_json("segment", volume, "--bundle", bundle.folder, "--to", target)
    assert result["labels"] == {"background": 0, "lung_air": 1, "liver": 2, "lung_mass": 3}
    hu = volumefile.read(volume).hu
    with np.load(target, allow_pickle=False) as arrays:
        labels = arrays["labels"]
    assert labels.shape == hu.shape
    assert (labels[hu == toy.LIVER] == 2).mean() > 0.85  # its rim is lost at 6 mm
    assert (labels[hu == toy.LUNG] == 1).mean() > 0.8
    assert (labels[hu == toy.BODY] == 2).mean() < 0.02
    voxel_ml = 2.5 * 1.5 * 1.5 / 1000
    assert result["volumes_ml"]["liver"] == pytest.approx((labels == 2).sum() * voxel_ml)
    assert "liver" in engines("segment", volume, "--bundle", bundle.folder, "--network", "localiser", "--to", target)


def test_segment_refuses_networks_that_give_no_map_of_the_scan(bundle: Bundle, volume: Path, tmp_path: Path) -> None:
    for network, said in (("lung_lesion", "no map of the whole scan"), ("none", "has no network none")):
        arguments = ("--bundle", bundle.folder, "--network", network, "--to", tmp_path / "x.npz")
        assert said in engines("segment", volume, *arguments, status=1)
        assert not (tmp_path / "x.npz").exists()


def test_the_sex_that_is_given_reaches_the_rules(tmp_path: Path, volume: Path) -> None:
    draft = toy.draft()
    lung = draft.cancers[0]
    women = lung.contraindications.model_copy(update={"sexes": ("F",)})
    only = draft.model_copy(update={"cancers": (lung.model_copy(update={"contraindications": women}),)})
    bundle = toy.bundle(tmp_path / "b", only)
    arguments = ("run", volume, "--bundle", bundle.folder, "--age", 60)
    assert as_json(*arguments, "--sex", "M")["answers"][2]["reason"] == "no evidence for this sex"
    assert as_json(*arguments, "--sex", "F")["answers"][2]["verdict"] == "positive"


def test_phantom_writes_a_volume_that_run_can_read(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "phantom.npz"
    made = as_json("phantom", 3, path, "--slice-mm", 10, "--pixel-mm", 5)
    assert made["files"] == 1
    assert made["age_years"] >= 18
    volume = volumefile.read(path)
    assert volume.geometry.spacing_mm == (10, 5, 5)
    answers = as_json("run", path, "--bundle", bundle.folder, "--age", 60)["answers"]
    assert answers[2]["reason"] == "slices too thick"


def test_phantom_writes_a_dicom_series(tmp_path: Path) -> None:
    made = as_json("phantom", 3, tmp_path / "study", "--slice-mm", 10, "--pixel-mm", 5)
    assert len(list((tmp_path / "study").iterdir())) == made["files"] > 40
    assert "no vendor" in engines("phantom", 3, tmp_path / "x", "--vendor", "acme", status=1)


def test_phantom_makes_a_cohort_of_torsos_and_goes_on_where_it_was_left(tmp_path: Path) -> None:
    wish = ("--count", 2, "--cancer", "liver", "--jobs", 1, "--slice-mm", 10, "--pixel-mm", 6)
    made = as_json("phantom", 40, tmp_path / "people", *wish)
    assert made["made"] == 2
    assert made["wanted"] == {"liver": 1}
    assert (tmp_path / "people" / "0000041" / "record.json").is_file()
    assert as_json("phantom", 40, tmp_path / "people", *wish)["made"] == 0
    assert "other settings" in engines("phantom", 40, tmp_path / "people", "--count", 2, "--healthy", status=1)
    assert "healthy" in engines("phantom", 40, tmp_path / "x", *wish, "--healthy", status=1)
    assert "file" in engines("phantom", 40, tmp_path / "x.npz", *wish, status=1)


def _cases(path: Path, digest: str | None, scans: int = 1) -> Path:
    """Lung scores of people with (0.7 and more) and without it (0.3 and less), a few the other way round. scans: of
    each person."""
    rows = []
    for index in range(80):
        truth = index % 2
        score = (0.7 + index / 400 if truth else 0.3 - index / 400) if index % 20 > 1 else 0.5
        outcomes = {"lung": {"truth": truth, "score": score}, "liver": {"truth": 0, "score": 0.0}}
        case_set = "tuning" if index < 40 else "judging"
        rows.append({"case": f"{index:03}", "person": f"p{index // scans}", "set": case_set, "cancers": outcomes})
    path.write_text(json.dumps({"bundle": digest, "kind": "synthetic", "cohort": "drawn", "cases": rows}))
    return path


def test_calibrate_writes_a_new_bundle_that_verifies(bundle: Bundle, tmp_path: Path) -> None:
    cases, made = _cases(tmp_path / "cases.json", bundle.digest), tmp_path / "made"
    result = as_json(
        *("calibrate", bundle.folder, cases, "--to", made, "--version", "1.1.0", "--cancer", "lung"),
        *("--sensitivity", 0.9, "--specificity", 0.9, "--method", "isotonic"),
    )
    new = open_bundle(made)
    assert result["digest"] == new.digest != bundle.digest
    assert (result["too_few"], result["repeats"]) == ({"lung": 20}, 0)
    lung, liver = new.manifest.cancers
    assert liver == bundle.manifest.cancers[1]
    assert lung.calibration is not None
    assert lung.calibration.kind == "isotonic"
    assert [point.name for point in lung.operating_points] == ["rule-out", "rule-in"]
    evidence = lung.operating_points[1].evidence
    assert (evidence.n_positive, evidence.n_negative, evidence.cohort) == (20, 20, "drawn")
    assert evidence.sensitivity >= 0.9
    assert new.manifest.version == "1.1.0"
    assert as_json("verify", made, "--runtime", "onnx")["passed"]
    (old_case,), (new_case,) = bundle.manifest.golden, new.manifest.golden
    assert {a.cancer: a.score for a in old_case.answers} != {a.cancer: a.score for a in new_case.answers}
    assert new_case.organs == old_case.organs
    again = ("calibrate", bundle.folder, cases, "--to", made, "--version", "1.2.0")
    assert "exists already" in engines(*again, status=1)


def test_calibrate_says_where_people_are_too_few_and_raises_the_threshold_of_who_wants_to_be_sure(
    bundle: Bundle, tmp_path: Path
) -> None:
    cases, at = _cases(tmp_path / "cases.json", bundle.digest), []
    for version, specificity, options, said in (
        ("1.1.0", 0.8, (), False),
        ("1.2.0", 0.8, ("--confidence", 0.9), False),
        ("1.3.0", 0.9, ("--confidence", 0.9), True),
    ):
        made = tmp_path / version
        wish = ("--to", made, "--version", version, "--cancer", "lung", "--specificity", specificity, *options)
        told = " ".join(engines("calibrate", bundle.folder, cases, *wish).split())
        assert (
            f"to show a specificity of {specificity} to others, wherever the threshold lies: lung 20" in told
        ) == said
        at.append(open_bundle(made).manifest.cancers[0].positive_above)
    assert at[0] < at[1] == at[2]
    assert "further ones" not in told
    wish = ("--to", tmp_path / "twice", "--version", "1.4.0", "--cancer", "lung", "--specificity", 0.8)
    told = " ".join(engines("calibrate", bundle.folder, _cases(tmp_path / "2.json", bundle.digest, 2), *wish).split())
    assert "40 cases are further ones of people who have one before" in told


def test_calibrate_refuses_what_does_not_belong_together(bundle: Bundle, tmp_path: Path) -> None:
    foreign = _cases(tmp_path / "foreign.json", "0" * 64)
    cases = _cases(tmp_path / "cases.json", bundle.digest)
    table = tmp_path / "cases.csv"
    table.write_text("case,set,cancer,truth,score\n1,tuning,lung,1,0.5\n2,judging,breast,1,0.5\n")
    for arguments, said in (
        ((foreign,), "the scores are those of bundle 000000000000"),
        ((cases,), "liver: 0 tuning cases with it"),
        ((cases, "--cancer", "breast"), "no model or no scores of breast"),
        ((cases, "--cancer", "lung", "--budget", 0.1), "all the bundle's cancers together"),
        ((cases, "--cancer", "lung", "--kind", "prospective"), "the file says kind 'synthetic'"),
        ((table, "--kind", "synthetic", "--cohort", "x"), "no model of breast"),
    ):
        to = ("--to", tmp_path / "made", "--version", "1.1.0")
        assert said in engines("calibrate", bundle.folder, *arguments, *to, status=1)
    same = ("--to", tmp_path / "made", "--version", "1.0.0", "--cancer", "lung")
    assert "A version is never changed" in engines("calibrate", bundle.folder, cases, *same, status=1)
    assert not (tmp_path / "made").exists()


def test_bench_measures_and_writes_what_a_network_needs(bundle: Bundle, volume: Path, tmp_path: Path) -> None:
    arguments = (
        "bench",
        bundle.folder,
        "--volume",
        volume,
        "--age",
        60,
        "--runs",
        1,
        "--runtime",
        "onnx",
        "--threads",
        1,
    )
    found = as_json(*arguments, "--write-memory", tmp_path / "measured", "--version", "1.0.1")
    assert found["runtime"] == "onnx fp32"
    assert [network["network"] for network in found["networks"]] == ["localiser", "lung_lesion", "liver_lesion"]
    assert found["ratio"] == pytest.approx(found["total_s"] / found["loop_s"])
    measured = {network["network"]: network["bytes_per_voxel"] for network in found["networks"]}
    copy = open_bundle(tmp_path / "measured").manifest
    written = {network: with_margin(found) for network, found in measured.items()}
    assert {network.id: network.bytes_per_voxel for network in copy.networks} == written
    assert copy.version == "1.0.1"
    assert copy.golden == bundle.manifest.golden
    said = engines(*arguments, "--no-memory")
    assert "plain loop over the same tiles" in said
    assert "not measured (manifest 512)" in said
    assert "go together" in engines(*arguments, "--write-memory", tmp_path / "x", status=1)


def test_compare_says_what_differs_and_strict_fails_on_it(bundle: Bundle, volume: Path, tmp_path: Path) -> None:
    draft = toy.draft()
    lung, liver = draft.cancers
    blind = lung.model_copy(update={"extraction": lung.extraction.model_copy(update={"min_volume_mm3": 1e6})})
    other = toy.bundle(tmp_path / "other", draft.model_copy(update={"cancers": (blind, liver)}))
    both = (bundle.folder, other.folder, volume, "--age", 60, "--runtime", "onnx", "--threads", 1)
    said = engines("compare", *both)
    assert "positive → negative" in said
    assert "1 of 1" in said
    found = as_json("compare", *both, "--strict", status=1)
    assert found["agree"] is False
    lung_case = found["cases"][0]
    assert (lung_case["a"], lung_case["b"], lung_case["dice"]) == ("positive", "negative", 0.0)
    same = (bundle.folder, bundle.folder, volume, "--age", 60, "--runtime", "onnx", "--runtime-b", "openvino")
    assert as_json("compare", *same, "--precision", "fp32", "--strict")["agree"] is True
    assert "no volume to run on" in engines("compare", bundle.folder, bundle.folder, status=1)
