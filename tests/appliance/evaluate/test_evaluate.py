"""DICOM with outcomes: read as the box reads it, truth from segmentations, and nobody's name in what comes out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from appliance import cli
from appliance.choosing import SeriesRules
from appliance.evaluate import DicomCohort, DicomTable, read_folder
from core import durable
from core.errors import InputRefused
from core.finding import Answer, Cancer, Reason, Verdict, complete
from core.requirement import Requirement, requirements
from core.volume import Volume
from engines.bundle import open_bundle
from engines.cascade import Analysis, Cascade
from engines.cascade.cascade import Refused
from engines.evaluation.scoring import score
from engines.evaluation.table import read_table
from engines.evaluation.torsos import complete_seeds, is_whole
from engines.phantom import Rendered, Scan, build, sample_person
from engines.phantom.cohort import Order, folder_of
from engines.phantom.dicom import write_study
from engines.runtime.onnx import OnnxRuntime
from tests.appliance.dicom_samples import ct_series, write_files

SEEDS = (41, 42)
REFERENCE = Path(__file__).parents[3] / "engines" / "bundles" / "reference"
SETTINGS = Order(None, {"lung": 1, "liver": 1}, dicom=True).settings()


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, Rendered]]:
    """Two coarse studies, by two vendors; with lung and liver cancer, and without."""
    folder = tmp_path_factory.mktemp("cohort")
    durable.write_text(folder / "cohort.json", json.dumps(SETTINGS))
    rendered = {}
    for seed, vendor, wanted in zip(SEEDS, ("ge", "canon"), ({Cancer.LUNG: 1, Cancer.LIVER: 1}, {}), strict=True):
        torso = build(sample_person(seed, wanted))
        rendered[seed] = write_study(torso, Scan((5.0, 3.0, 3.0), None), folder_of(folder, seed), vendor)
    return folder, rendered


def test_a_synthetic_study_comes_back_with_the_truth_it_was_written_with(
    cohort: tuple[Path, dict[int, Rendered]],
) -> None:
    folder, rendered = cohort
    source = DicomCohort(folder, complete_seeds(folder), SETTINGS)
    for index, seed in enumerate(SEEDS):
        study, truth = source.study(index), rendered[seed]
        assert isinstance(study.volume, Volume)
        assert study.volume.geometry.shape == truth.volume.geometry.shape
        kept = study.volume.hu != -1024  # outside of the scanner's circle, vendors write padding
        assert kept.mean() > 0.4
        assert np.array_equal(study.volume.hu[kept], truth.volume.hu[kept])
        assert study.marks is not None
        assert np.array_equal(study.marks, np.where(np.isin(truth.lesions, np.unique(study.marks)), truth.lesions, 0))
        assert set(np.unique(truth.lesions)) == set(np.unique(study.marks))
        assert study.whole == {cancer: is_whole(truth.organs, cancer) for cancer in Cancer}
        assert study.truth[Cancer.LUNG] == (1 if seed == SEEDS[0] else 0)
        assert study.attributes["slice_mm"] == 5.0
        assert study.patient.sex in ("F", "M")
    assert [source.study(i).attributes["vendor"] for i in (0, 1)] == ["GE MEDICAL SYSTEMS", "Canon Medical Systems"]


def test_what_the_box_would_refuse_is_refused_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no DICOM here")
    scan = read_folder(tmp_path)
    assert isinstance(scan.volume, InputRefused)
    assert scan.volume.reason is Reason.NO_CT
    (tmp_path / "cases.csv").write_text("study,lung\nabsent,1\n")
    study = DicomTable(read_table(tmp_path / "cases.csv"), "none").study(0)
    assert isinstance(study.volume, InputRefused)
    assert study.volume.reason is Reason.NO_CT


def test_a_cancer_that_a_series_does_not_serve_on_the_box_is_not_judged_in_it(
    cohort: tuple[Path, dict[int, Rendered]],
) -> None:
    folder, _ = cohort
    rules = SeriesRules(requirements({Cancer.LUNG: Requirement(max_spacing_mm=3.0)}))
    study = DicomCohort(folder, complete_seeds(folder), SETTINGS, rules=rules).study(0)
    assert isinstance(study.volume, Volume)
    assert study.refused[Cancer.LUNG][0] is Reason.TOO_THICK
    assert Cancer.LIVER not in study.refused
    result = score(study, Cascade(open_bundle(REFERENCE), OnnxRuntime(1)), began=0.0, pictures=False).result
    assert result.cancers[Cancer.LUNG].reason is Reason.TOO_THICK
    assert result.cancers[Cancer.LIVER].reason is not Reason.TOO_THICK


def test_a_table_is_judged_in_every_series_that_the_box_would_read(tmp_path: Path) -> None:
    class Seeing:
        """Scores a cancer that it is asked for by the number of slices."""

        def analyse(self, volume: Volume, patient: object, refused: Refused, **_: object) -> Analysis:
            score = volume.geometry.shape[0] / 100
            wanted = {c: Answer(c, Verdict.NEGATIVE, score=score) for c in Cancer if c not in refused}
            return Analysis(complete(wanted, Reason.NO_MODEL), {}, {}, {}, "toy")

    thick = ct_series(20, series="thick", spacing=3.0)
    write_files(tmp_path / "study", [*thick, *ct_series(40, series="thin", spacing=1.25, ConvolutionKernel="B70f")])
    (tmp_path / "cases.csv").write_text("study,lung,liver\nstudy,1,0\n")
    rules = SeriesRules(requirements({Cancer.LUNG: Requirement(max_spacing_mm=2.0)}))
    study = DicomTable(read_table(tmp_path / "cases.csv"), "one", rules=rules).study(0)
    cancers = score(study, Seeing(), began=0.0).result.cancers  # type: ignore[arg-type]
    assert {cancer: result.score for cancer, result in cancers.items()} == {Cancer.LUNG: 0.4, Cancer.LIVER: 0.2}


def test_a_hospital_judges_its_own_cases_and_names_nobody(
    cohort: tuple[Path, dict[int, Rendered]], tmp_path: Path
) -> None:
    folder, _ = cohort
    table = tmp_path / "cases.csv"
    first, second = (folder_of(folder, seed) / "ct" for seed in SEEDS)
    table.write_text(f"study,lung,liver,stage,person\n{first},1,1,IB,Jane Roe\n{second},0,0,,John Doe\n")
    results, report = tmp_path / "results", tmp_path / "report"
    runner = CliRunner()
    said = runner.invoke(
        cli.app,
        ["evaluate", "run", str(table), "--title", "two cases", "--bundle", str(REFERENCE), "--to", str(results)],
        catch_exceptions=False,
    )
    assert said.exit_code == 0, said.output
    said = runner.invoke(
        cli.app, ["evaluate", "report", str(results), "--to", str(report), "--json"], catch_exceptions=False
    )
    assert said.exit_code == 0, said.output
    found = json.loads((report / "evaluation.json").read_text())
    assert not found["synthetic"]  # a table's cases are whoever the hospital says they are
    assert {part["cancer"] for part in found["cancers"]} == {"lung", "liver"}
    assert found["cases"] == 2
    for path in [p for p in (*results.rglob("*"), *report.rglob("*")) if p.is_file()]:
        content = path.read_bytes()
        for secret in (b"Jane", b"John", b"Phantom^", b"PHANTOM-", str(folder).encode(), b"2.25."):
            assert secret not in content, f"{secret!r} in {path.name}"
