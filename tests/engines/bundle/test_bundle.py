"""A damaged, partial or foreign bundle is refused with the number of the check that failed."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from core.errors import BundleRefused
from core.finding import Cancer
from engines.bundle import MANIFEST, Bundle, Content, open_bundle, write_bundle
from engines.manifest import Manifest, ManifestDraft, schema

from .drafts import FILES, POINT, draft, fields


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path / "tiny", draft(), FILES)


def edit(bundle: Bundle, change: Callable[[dict[str, Any]], None]) -> None:
    path = bundle.folder / MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def check_of(folder: Path) -> int:
    with pytest.raises(BundleRefused) as refusal:
        open_bundle(folder)
    assert str(refusal.value.check) in str(refusal.value)
    assert refusal.value.remedy()
    return refusal.value.check


def test_a_written_bundle_opens_and_its_digest_is_that_of_its_manifest(bundle: Bundle) -> None:
    again = open_bundle(bundle.folder)
    assert again == bundle
    assert again.digest == hashlib.sha256((bundle.folder / MANIFEST).read_bytes()).hexdigest()
    assert again.path("localiser.onnx").read_bytes() == b"the localiser's bytes"
    assert again.blob(again.manifest.file("chest.npz").sha256).read_bytes() == b"a volume's bytes"


def test_the_same_draft_gives_the_same_digest(bundle: Bundle, tmp_path: Path) -> None:
    assert write_bundle(tmp_path / "again", draft(), FILES).digest == bundle.digest


def test_nothing_is_left_behind_when_writing_fails(tmp_path: Path) -> None:
    with pytest.raises(BundleRefused) as refusal:
        write_bundle(tmp_path / "tiny", draft(), FILES[:2])
    assert refusal.value.check == 7
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_never_overwritten(bundle: Bundle) -> None:
    with pytest.raises(BundleRefused):
        write_bundle(bundle.folder, draft(version="2.0.0"), FILES)
    assert open_bundle(bundle.folder).manifest.version == "1.0.0"


def test_check_1_a_manifest_that_is_missing_cut_short_or_has_unknown_or_repeated_fields(bundle: Bundle) -> None:
    path = bundle.folder / MANIFEST
    whole = path.read_bytes()
    for broken in (
        whole[:-20],
        b"[]",
        b"\xff\xfe",
        whole.replace(b'"name": "tiny"', b'"name": "tiny", "colour": 1', 1),
        whole.replace(b'"name": "tiny"', b'"name": "tiny", "name": "tiny"', 1),
        whole.replace(b'"std_hu": 300.0', b'"std_hu": NaN', 1),
        b"[" * 100_000,
    ):
        assert broken != whole
        path.write_bytes(broken)
        assert check_of(bundle.folder) == 1
    path.unlink()
    assert check_of(bundle.folder) == 1


def test_check_1_a_manifest_too_large_to_be_one(bundle: Bundle) -> None:
    with (bundle.folder / MANIFEST).open("ab") as file:
        file.write(b" " * 5_000_000)
    assert check_of(bundle.folder) == 1


def test_check_2_another_schema_version_is_named_as_such_although_its_fields_are_unknown(bundle: Bundle) -> None:
    edit(bundle, lambda m: m.update(schema_version=3, stages=[]))
    assert check_of(bundle.folder) == 2


def test_check_3_a_missing_file_and_a_link_in_its_place(bundle: Bundle, tmp_path: Path) -> None:
    path = bundle.path("localiser.onnx")
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    assert check_of(bundle.folder) == 3
    path.symlink_to(elsewhere)
    assert check_of(bundle.folder) == 3


def test_check_4_a_truncated_file(bundle: Bundle) -> None:
    path = bundle.path("localiser.onnx")
    path.write_bytes(path.read_bytes()[:-1])
    assert check_of(bundle.folder) == 4


def test_check_5_one_flipped_bit(bundle: Bundle) -> None:
    path = bundle.path("localiser.onnx")
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)
    assert check_of(bundle.folder) == 5


@pytest.mark.parametrize("where", ["extra", "blobs/extra", "blobs/deep/extra"])
def test_check_6_a_file_that_the_manifest_does_not_list(bundle: Bundle, where: str) -> None:
    path = bundle.folder / where
    path.parent.mkdir(exist_ok=True)
    path.write_text("x")
    assert check_of(bundle.folder) == 6


def _set(*keys: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        part: Any = manifest
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = to

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("networks", 0, "files", to=["other.onnx"]),
        _set("networks", 0, "files", to=["chest.npz"]),
        _set("golden", 0, "input", to="localiser.onnx"),
        _set("golden", 0, "organs", 0, "organ", to="liver"),
        _set("organs", 0, "labels", to=["liver"]),
        _set("cancers", 0, "organ", to="liver"),
        _set("cancers", 0, "network", to="localiser"),
        _set("cancers", 0, "label", to="nodule"),
    ],
)
def test_check_7_a_name_that_leads_nowhere(bundle: Bundle, change: Callable[[dict[str, Any]], None]) -> None:
    edit(bundle, change)
    assert check_of(bundle.folder) == 7


def test_check_8_another_bundle_than_the_one_asked_for(bundle: Bundle) -> None:
    assert open_bundle(bundle.folder, bundle.digest) == bundle
    with pytest.raises(BundleRefused) as refusal:
        open_bundle(bundle.folder, "0" * 64)
    assert refusal.value.check == 8


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a" * 63, "A" * 64, "..", ""])
def test_a_blob_name_that_is_no_hash_never_becomes_a_path(bundle: Bundle, name: str) -> None:
    edit(bundle, _set("files", 0, "sha256", to=name))
    assert check_of(bundle.folder) == 1


@pytest.mark.parametrize("field", ["name", "version"])
@pytest.mark.parametrize("value", ["../up", "a/b", "", "1 2", "1\n", ".."])
def test_name_and_version_can_stand_in_a_path(field: str, value: str) -> None:
    with pytest.raises(ValidationError):
        draft(**{field: value})


AUTHORISATION = {
    "jurisdiction": "DE",
    "authority": "a notified body",
    "reference": "0001",
    "cancers": ["lung"],
    "valid_from": "2026-01-01",
    "valid_until": "2027-01-01",
}


def patient_evidence() -> dict[str, Any]:
    cancer = fields()["cancers"][0]
    point = {**POINT, "evidence": {**POINT["evidence"], "kind": "retrospective"}}  # type: ignore[dict-item]
    return {**cancer, "operating_points": [point]}


def test_a_synthetic_bundle_can_never_be_clinical() -> None:
    with pytest.raises(ValidationError, match="synthetic"):
        draft(authorisations=[AUTHORISATION], cancers=[patient_evidence()])
    assert not draft().clinical_allowed(Cancer.LUNG, "DE", dt.date(2026, 6, 1))


def test_an_authorisation_needs_evidence_from_patients() -> None:
    with pytest.raises(ValidationError, match="without evidence from patients: lung"):
        draft(synthetic=False, authorisations=[AUTHORISATION])


def test_clinical_use_is_bound_to_cancer_jurisdiction_and_dates() -> None:
    authorised = draft(synthetic=False, authorisations=[AUTHORISATION], cancers=[patient_evidence()])
    day = dt.date(2026, 6, 1)
    assert authorised.clinical_allowed(Cancer.LUNG, "DE", day)
    assert not authorised.clinical_allowed(Cancer.LIVER, "DE", day)
    assert not authorised.clinical_allowed(Cancer.LUNG, "FR", day)
    assert not authorised.clinical_allowed(Cancer.LUNG, "DE", dt.date(2025, 12, 31))
    assert not authorised.clinical_allowed(Cancer.LUNG, "DE", dt.date(2027, 1, 2))


def cancer_with(**changes: Any) -> list[dict[str, Any]]:
    return [{**fields()["cancers"][0], **changes}]


@pytest.mark.parametrize(
    "changes",
    [
        {"cancers": cancer_with(negative_below=0.7)},
        {"cancers": cancer_with(negative_below=0)},
        {"cancers": cancer_with(operating_points=[])},
        {"cancers": cancer_with() * 2},
        {"networks": fields()["networks"][1:]},
        {"networks": fields()["networks"] * 2},
        {"organs": []},
    ],
    ids=["crossed", "zero", "no-evidence", "twice", "no-localiser", "two-localisers", "no-organ"],
)
def test_a_draft_that_contradicts_itself_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        draft(**changes)


def test_every_field_with_a_unit_says_it_in_the_schema() -> None:
    for name, part in schema()["$defs"].items():
        for field, spec in part.get("properties", {}).items():
            for suffix, unit in (("_mm", "mm"), ("_hu", "HU"), ("_ml", "mL"), ("_mm2", "mm²"), ("_mm3", "mm³")):
                if field.endswith(suffix):
                    assert unit in spec.get("description", ""), f"{name}.{field}"


def test_a_draft_survives_json_and_a_manifest_can_be_a_draft_again(bundle: Bundle, tmp_path: Path) -> None:
    assert ManifestDraft.model_validate_json(draft().model_dump_json()) == draft()
    assert Manifest.model_validate_json(bundle.manifest.to_json()) == bundle.manifest
    files = [Content(f.name, f.role, bundle.blob(f.sha256)) for f in bundle.manifest.files]
    assert write_bundle(tmp_path / "copy", bundle.manifest, files).digest == bundle.digest
