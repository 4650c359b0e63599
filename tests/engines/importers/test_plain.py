"""A hand-written manifest and ONNX files become a bundle that answers; what doesn't fit is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml
from onnx import helper
from typer.testing import CliRunner

from core.errors import BundleRefused, ConfigError, OneScanError
from core.finding import Verdict
from engines import volumefile
from engines.bundle import open_bundle, write_bundle
from engines.importers import ImportRefused
from engines.importers.cli import register
from engines.importers.forms import Forms, check_fp16, with_int8
from engines.importers.graph import to_bytes
from engines.importers.plain import import_onnx
from engines.manifest import ManifestDraft, Network
from engines.measuring.memory import largest_bytes_per_voxel, measured_size, with_margin
from engines.parity import run_golden
from engines.runtime.choice import choose
from tests.engines.bundle import drafts
from tests.engines.cascade import toy

from .networks import model, unet

LABELS = ["background", "lesion"]
Write = Callable[..., Path]


def tiles(*size: int) -> dict[str, Any]:
    return {"kind": "patch", "size": list(size), "overlap": 0.5}


def network(**changes: Any) -> dict[str, Any]:
    spec = {
        "id": "finder", "stage": "detect", "region": "volume", "files": ["finder.onnx"], "spacing_mm": [2, 2, 2],
        "intensity": {"kind": "clip", **drafts.INTENSITY}, "tiling": tiles(16, 16, 16),
        "activation": "softmax", "labels": LABELS,
    }  # fmt: skip
    return {**spec, **changes}


def fields(**changes: Any) -> dict[str, Any]:
    base = {
        "name": "mine", "version": "0.1.0", "label": "Mine", "manufacturer": "A laboratory", "synthetic": True,
        "intended_use": "tests", "licence": "Apache-2.0", "networks": [network()],
    }  # fmt: skip
    return {**base, **changes}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_folder(manifest: dict[str, Any], files: dict[str, bytes], name: str = "manifest.yaml") -> Path:
        for file, content in files.items():
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_bytes(content)
        text = yaml.safe_dump(manifest) if name.endswith("yaml") else json.dumps(manifest)
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return to_folder


@pytest.mark.parametrize("name", ["manifest.yaml", "manifest.json"])
def test_a_bundle_is_made_of_yaml_or_json_and_passes_its_checks(write: Write, tmp_path: Path, name: str) -> None:
    lines: list[str] = []
    path = write(fields(), {"finder.onnx": to_bytes(unet())}, name)
    bundle, files, _ = import_onnx(path, tmp_path / "bundle", lines.append)
    assert open_bundle(tmp_path / "bundle").digest == bundle.digest
    assert files["finder.onnx"].size == (16, 16, 16)
    assert files["finder.onnx"].weights == sum(int(np.prod(t.dims)) for t in unet().graph.initializer)
    assert any("finder.onnx" in line for line in lines)


def test_files_may_lie_elsewhere_and_texts_come_along(write: Write, tmp_path: Path) -> None:
    files = {
        "finder.onnx": "run/7/net.onnx",
        "card.md": {"path": "README.md", "role": "model_card"},
    }
    path = write(fields(files=files), {"run/7/net.onnx": to_bytes(unet()), "README.md": b"# Mine"})
    bundle = import_onnx(path, tmp_path / "bundle").bundle
    assert bundle.path("card.md").read_bytes() == b"# Mine"
    assert {entry.role for entry in bundle.manifest.files} == {"network", "model_card"}


def test_a_golden_case_without_answers_gets_those_of_this_machine(write: Write, tmp_path: Path) -> None:
    manifest = json.loads(toy.draft().model_dump_json())
    manifest["golden"] = [{"name": "lesions", "input": "lesions.npz", "age_years": 60}]
    files = {content.name: content.source for content in toy.files()}
    path = write(manifest, {**files, "lesions.npz": volumefile.to_bytes(toy.torso(lung_lesion_mm=8))})
    bundle = import_onnx(path, tmp_path / "bundle").bundle
    case = bundle.manifest.golden[0]
    assert {answer.cancer.value: answer.verdict for answer in case.answers} == {
        "lung": Verdict.POSITIVE,
        "liver": Verdict.NEGATIVE,
    }
    assert {organ.organ for organ in case.organs} == {"lung", "liver"}
    assert all(outcome.passed for outcome in run_golden(bundle, choose("openvino", 1, "fp32").runtime))


def test_networks_may_be_stored_in_fp16(write: Write, tmp_path: Path) -> None:
    path = write(fields(), {"finder.onnx": to_bytes(unet((16, 32)))})
    full = import_onnx(path, tmp_path / "fp32").bundle
    half = import_onnx(path, tmp_path / "fp16", forms=Forms(fp16=True)).bundle
    sizes = [bundle.path("finder.onnx").stat().st_size for bundle in (half, full)]
    assert sizes[0] < 0.55 * sizes[1]
    x = np.random.default_rng(0).normal(size=(1, 1, 16, 16, 16)).astype(np.float32)
    one, other = (choose("openvino", 1, "fp32").runtime.load(b.path("finder.onnx")).run(x) for b in (half, full))
    np.testing.assert_allclose(one, other, atol=0.02 * np.abs(other).max())


def toy_manifest(write: Write) -> Path:
    """The toy's manifest and files, with one golden case that expects nothing yet."""
    manifest = json.loads(toy.draft().model_dump_json())
    manifest["golden"] = [{"name": "lesions", "input": "lesions.npz", "age_years": 60}]
    files = {content.name: content.source for content in toy.files()}
    volume = volumefile.to_bytes(toy.torso(lung_lesion_mm=9, liver_lesion_mm=10))
    return write(manifest, {**files, "lesions.npz": volume})


def test_golden_cases_are_answered_in_fp32_and_fp16_has_to_agree(write: Write, tmp_path: Path) -> None:
    path = toy_manifest(write)
    full = import_onnx(path, tmp_path / "fp32").bundle
    half = import_onnx(path, tmp_path / "fp16", forms=Forms(fp16=True)).bundle
    assert half.manifest.golden == full.manifest.golden
    assert half.path("localiser.onnx").read_bytes() != full.path("localiser.onnx").read_bytes()
    assert all(outcome.passed for outcome in run_golden(half, choose("openvino", 1, "fp32").runtime))


def test_fp16_that_misses_a_golden_case_is_refused(write: Write, tmp_path: Path) -> None:
    half = import_onnx(toy_manifest(write), tmp_path / "fp16", forms=Forms(fp16=True)).bundle
    fields = half.manifest.model_dump(exclude={"files"})
    fields["golden"][0]["organs"] = [{"organ": "lung", "volume_ml": 1.0, "tolerance_ml": 0.1}]
    wrong = write_bundle(tmp_path / "wrong", ManifestDraft.model_validate(fields), half.contents())
    check_fp16(half)
    with pytest.raises(ImportRefused, match=r"lesions: .*lung"):
        check_fp16(wrong)


@pytest.mark.parametrize("fp16", [False, True])
def test_int8_at_import_is_int8_afterwards(write: Write, tmp_path: Path, fp16: bool) -> None:
    path = toy_manifest(write)
    float_only = import_onnx(path, tmp_path / "float", forms=Forms(fp16)).bundle
    afterwards, _ = with_int8(float_only, (tmp_path / "lesions.npz",), tmp_path / "afterwards", lambda line: None)
    made = import_onnx(path, tmp_path / "both", forms=Forms(fp16, int8=True))
    assert made.bundle.digest == afterwards.digest
    assert any(network.int8_files for network in made.bundle.manifest.networks)
    assert [note.split(":")[0] for note in made.notes] == ["localiser", "lung_lesion", "liver_lesion"]


def test_a_volume_without_int8_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="calibrated"):
        Forms(volumes=(Path("scan.npz"),))


def test_memory_is_measured_with_a_margin_where_the_manifest_says_none(write: Write, tmp_path: Path) -> None:
    said = network(id="said", bytes_per_voxel=4321)
    path = write(fields(networks=[network(), said]), {"finder.onnx": to_bytes(unet((16, 32)))})
    bundle = import_onnx(path, tmp_path / "bundle").bundle
    measured, kept = (spec.bytes_per_voxel for spec in bundle.manifest.networks)
    assert kept == 4321
    again = with_margin(largest_bytes_per_voxel(bundle, bundle.manifest.network("finder")))
    # 16³ voxels are a page for each of their bytes: pages, not the network, make two measurements differ
    assert measured > 2 * 4 * 16  # it holds two maps of sixteen features at once, at least
    assert measured == pytest.approx(again, rel=0.5)


@pytest.mark.parametrize(
    ("tiling", "spacing", "size"),
    [
        (tiles(16, 24, 32), [2, 2, 2], (16, 24, 32)),
        ({"kind": "whole", "pad_multiple": 16}, [6, 6, 6], (96, 48, 64)),
        ({"kind": "whole", "pad_multiple": 16}, [1, 1, 1], (144, 80, 96)),
    ],
)
def test_memory_is_measured_on_a_tile_or_a_torso(tiling: Any, spacing: Any, size: Any) -> None:
    stage = "localise" if tiling["kind"] == "whole" else "detect"
    assert measured_size(Network.model_validate(network(tiling=tiling, spacing_mm=spacing, stage=stage))) == size


def test_the_margin_is_a_quarter_or_a_little_more() -> None:
    assert [with_margin(n) for n in (1, 3, 141, 148, 700)] == [2, 4, 192, 192, 896]
    assert all(1.25 * n <= with_margin(n) <= 1.25 * n * 1.25 + 2 for n in range(1, 5000))


def test_every_importer_has_the_same_precisions() -> None:
    commands = typer.main.get_command(engines_app()).commands["import"].commands  # type: ignore[attr-defined]
    wanted = {"--fp16", "--int8", "--volume"}
    for name in ("onnx", "nnunet", "monai"):
        options = {option for parameter in commands[name].params for option in parameter.opts}
        assert wanted <= options, name


def test_ports_of_any_name_become_ours(write: Write, tmp_path: Path) -> None:
    path = write(fields(), {"finder.onnx": to_bytes(unet(image="x.1", logits="out"))})
    bundle = import_onnx(path, tmp_path / "bundle").bundle
    choose("onnx", 1).runtime.load(bundle.path("finder.onnx"))


softmaxed = model(
    [
        helper.make_node("Concat", ["image", "image"], ["two"], axis=1),
        helper.make_node("Softmax", ["two"], ["logits"], axis=1),
    ],
    [],
    (1, 1, "z", "y", "x"),
    (1, 2, "z", "y", "x"),
)


@pytest.mark.parametrize(
    ("spec", "content", "complaint"),
    [
        (network(labels=["background", "lesion", "vessel"]), unet(), r"gives 2 channels.*3 labels: .*vessel"),
        (network(), unet(inputs=4), "takes 4 channels"),
        (network(), unet(shape=(32, 32, 32)), r"takes \(32, 32, 32\).*\(16, 16, 16\)"),
        (network(tiling={"kind": "whole", "pad_multiple": 8}), unet(shape=(16, 16, 16)), "any size"),
        (network(tiling=tiles(16, 15, 16)), unet((4, 8, 16)), r"\(16, 15, 16\)"),
        (network(tiling={"kind": "whole", "pad_multiple": 3}), unet((4, 8, 16)), "does not run"),
        (network(stage="classify", tiling={"kind": "fixed", "size": [16, 16, 16]}), unet(), "to classify"),
        (network(), softmaxed, "ends with Softmax"),
        (network(spacing_mm=[2, 2]), unet(), "spacing_mm"),
        (network(files=["missing.onnx"]), unet(), r"missing\.onnx"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_nothing_is_written(
    write: Write, tmp_path: Path, spec: dict[str, Any], content: Any, complaint: str
) -> None:
    path = write(fields(networks=[spec]), {"finder.onnx": to_bytes(content)})
    with pytest.raises(ImportRefused, match=complaint) as refusal:
        import_onnx(path, tmp_path / "bundle")
    assert refusal.value.remedy()
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    "text", ["", "- a list", "name: [unclosed", "a: !!python/object/apply:os.system [true]", "networks: 7", "\x00"]
)
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.yaml").write_text(text)
    with pytest.raises(ImportRefused):
        import_onnx(tmp_path / "manifest.yaml", tmp_path / "bundle")


def test_a_file_that_nothing_uses_is_refused(write: Write, tmp_path: Path) -> None:
    path = write(fields(files={"finder.onx": "finder.onnx"}), {"finder.onnx": to_bytes(unet())})
    with pytest.raises(ImportRefused, match=r"nothing in the manifest uses finder\.onx"):
        import_onnx(path, tmp_path / "bundle")


def test_an_existing_folder_is_never_touched(write: Write, tmp_path: Path) -> None:
    path = write(fields(), {"finder.onnx": to_bytes(unet()), "bundle/precious": b"1"})
    with pytest.raises(BundleRefused, match="exists already"):
        import_onnx(path, tmp_path / "bundle")
    assert (tmp_path / "bundle" / "precious").read_bytes() == b"1"


def engines_app() -> typer.Typer:
    app = typer.Typer()
    register(app)
    return app


def test_the_command_says_what_it_made(write: Write, tmp_path: Path) -> None:
    path = write(fields(networks=[network(bytes_per_voxel=100)]), {"finder.onnx": to_bytes(unet())})
    said = CliRunner().invoke(engines_app(), ["import", "onnx", str(path), "--to", str(tmp_path / "one")])
    assert said.exit_code == 0
    assert "bundle mine 0.1.0" in said.output
    told = CliRunner().invoke(engines_app(), ["import", "onnx", str(path), "--to", str(tmp_path / "two"), "--json"])
    assert json.loads(told.stdout)["digest"] == open_bundle(tmp_path / "one").digest


def test_the_command_fails_with_our_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        engines_app(), ["import", "onnx", str(tmp_path / "none.yaml"), "--to", str(tmp_path / "b")]
    )
    assert isinstance(result.exception, OneScanError)
