"""A CT study goes in, a seven-cancer answer comes out in PACS and registry."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import psycopg
import pytest
from pydicom import dcmread

from core.finding import Cancer
from deploy.onescan import command
from tests.integration.conftest import Hospital, Sent

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def answered(hospital: Hospital) -> Sent:
    """One phantom study, sent and delivered."""
    sent = hospital.phantom()
    assert hospital.send(sent.files) == 0
    hospital.settled(sent)
    return sent


def test_every_cancer_has_its_answer_on_the_box_and_in_the_registry(hospital: Hospital, answered: Sent) -> None:
    view = hospital.settled(answered)
    assert [answer["cancer"] for answer in view["answers"]] == [cancer.value for cancer in Cancer]
    verdicts = {answer["cancer"]: answer["verdict"] for answer in view["answers"]}
    reasons = {a["cancer"]: a["reason"] for a in view["answers"] if a["verdict"] == "not_analysed"}
    assert reasons == {}, "a whole torso of a woman, and a bundle that looks for all seven"
    [result] = hospital.results(answered)
    assert {c: a["verdict"] for c, a in result["answers"].items()} == verdicts


def test_the_study_was_complete_by_its_geometry(hospital: Hospital, answered: Sent) -> None:
    [result] = hospital.results(answered)
    assert result["complete_by"] in ("geometry", "count")
    assert result["slices"] == len(answered.files)


def test_the_pacs_has_valid_objects_that_belong_to_the_study(hospital: Hospital, answered: Sent) -> None:
    objects = [item.path for item in hospital.stack.pacs.received if item.study_instance_uid == answered.uid]
    assert objects
    patient = dcmread(answered.files[0], stop_before_pixels=True).PatientID
    for path in objects:
        assert dcmread(path, stop_before_pixels=True).PatientID == patient
        words = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True).stderr
        assert [line for line in words.splitlines() if line.startswith("Error")] == []


def test_the_report_says_that_the_model_is_synthetic(hospital: Hospital, answered: Sent) -> None:
    [report] = hospital.reports(answered)
    words = subprocess.run(["dsrdump", "+Pl", str(report)], capture_output=True, text=True, check=True).stdout
    assert "never" in words
    for name in ("Pancreatic", "Oesophageal", "Lung", "Breast", "Liver", "Gastric", "Colorectal"):
        assert f"{name} cancer" in words


def test_no_patient_identity_leaves_the_hospital_or_reaches_a_log(hospital: Hospital, answered: Sent) -> None:
    header = dcmread(answered.files[0], stop_before_pixels=True)
    secrets = [str(header.PatientID), str(header.PatientName), answered.uid, str(header.SeriesInstanceUID)]
    logs = "".join(p.read_text(errors="replace") for p in (hospital.stack.folder / "logs").glob("*.log"))
    with psycopg.connect(hospital.stack.database) as connection:
        payloads = "".join(row[0] for row in connection.execute("SELECT payload FROM message"))
    assert answered.uid not in json.dumps(hospital.stack.studies())
    for secret in filter(None, secrets):
        assert secret not in logs
        assert secret not in payloads


def test_the_registry_knows_the_device_and_its_model(hospital: Hospital, answered: Sent) -> None:
    [device] = json.loads(hospital.stack.ask("devices", "--json"))
    assert (device["site"], device["device"], device["online"]) == ("demo-hospital", "box-1", True)
    assert device["bundle_name"] == "reference"


def test_the_same_study_again_gives_no_second_result(hospital: Hospital, answered: Sent) -> None:
    before = len(hospital.stack.pacs.received)
    assert hospital.send(answered.files) == 0
    marker = hospital.phantom()
    assert hospital.send(marker.files) == 0
    hospital.settled(marker)  # whatever the repeat would have caused has happened by now
    hospital.exactly_one_result(answered)
    again = [r for r in hospital.stack.pacs.received[before:] if r.study_instance_uid == answered.uid]
    assert again == []


def test_one_slice_more_gives_revision_2_that_supersedes(hospital: Hospital) -> None:
    sent = hospital.phantom()
    assert hospital.send(sent.files[:-1]) == 0
    hospital.settled(sent, revision=1)
    assert hospital.send(sent.files[-1:]) == 0
    hospital.settled(sent, revision=2)
    first, second = hospital.results(sent)
    assert (first["revision"], second["revision"]) == (1, 2)
    assert second["supersedes"] == first["result_id"]
    old, new = (dcmread(path) for path in hospital.reports(sent))
    predecessors = new.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert predecessors[0].ReferencedSOPInstanceUID == old.SOPInstanceUID


def test_a_real_chest_ct_runs_the_whole_way(hospital: Hospital, real_data: Path) -> None:
    files = sorted((real_data / "lungpetctdx_A0001_chest_5mm_B").glob("*.dcm"))
    sent = Sent(str(dcmread(files[0], stop_before_pixels=True).StudyInstanceUID), files)
    assert hospital.send(files) == 0
    view = hospital.settled(sent)
    assert view["instances"] == 64
    verdicts = {answer["cancer"]: answer["verdict"] for answer in view["answers"]}
    assert len(verdicts) == 7
    assert verdicts["lung"] in ("negative", "positive", "indeterminate"), view["answers"]
    hospital.exactly_one_result(sent)


def test_a_real_tilted_head_comes_back_as_not_analysed_with_the_geometry_reason(
    hospital: Hospital, real_data: Path
) -> None:
    files = sorted((real_data / "dcm_qa_ct_GE_tilt").glob("*.dcm"))
    sent = Sent(str(dcmread(files[0], stop_before_pixels=True).StudyInstanceUID), files)
    assert hospital.send(files) == 0
    view = hospital.settled(sent)
    assert {answer["verdict"] for answer in view["answers"]} == {"not_analysed"}
    assert {answer["reason"] for answer in view["answers"]} <= {"gantry tilt", "mixed slice spacing"}
    assert len(hospital.reports(sent)) == 1


def test_a_wrong_called_ae_title_is_refused_and_the_service_stays_up(hospital: Hospital) -> None:
    address = ["127.0.0.1", str(hospital.stack.dicom_port)]
    refused = subprocess.run(["echoscu", "-aec", "SOMEBODY", *address], capture_output=True, text=True)
    assert refused.returncode != 0
    assert "Called AE Title Not Recognized" in refused.stderr + refused.stdout
    assert subprocess.run(["echoscu", "-aec", "ONESCAN", *address]).returncode == 0


def test_the_acceptance_test_of_the_field_engineer_passes(hospital: Hospital, answered: Sent) -> None:
    said = json.loads(command("provisioning.cli", "accept", "--config", str(hospital.stack.appliance_config), "--json"))
    assert {check["name"]: check["found"] for check in said["checks"] if check["status"] == "fail"} == {}
    assert len(said["checks"]) >= 5


def test_the_command_line_tells_what_became_of_the_study(hospital: Hospital, answered: Sent) -> None:
    config = str(hospital.stack.appliance_config)
    study = hospital.stack.pseudonyms.study(answered.uid)
    rows = json.loads(command("appliance.cli", "studies", "--config", config, "--json"))
    assert study in {row["pseudonym"] for row in rows}
    box = json.loads(command("appliance.cli", "status", "--config", config, "--json"))
    assert box["bundle"].startswith("reference")
    assert study[:8] in command("appliance.cli", "studies", "--config", config)
