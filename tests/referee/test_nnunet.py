"""nnU-Net's own predictor and our import give the same labels for the same model folder and scan.

The folder is made, trained and saved by nnU-Net's trainer. Needs .venv-referees: `scripts/setup referees`.
"""

from __future__ import annotations

import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("nnunetv2", reason="nnU-Net is only in .venv-referees (scripts/setup referees)")

import torch

from core.volume import Volume
from engines import volumefile
from engines.bundle import Bundle, open_bundle
from engines.cascade.budget import Budget, Watch
from engines.cascade.cascade import load
from engines.cascade.segment import label_count, segment
from engines.cascade.splines import Zoom, zoom_image
from engines.importers import ImportRefused
from engines.importers.binding import unbound
from engines.importers.nnunet import find_model, import_model
from engines.importers.nnunet_weights import read_checkpoint
from engines.runtime import Runtime
from engines.runtime.choice import choose
from tests.engines.importers.nnunet_recipes import Recipe
from tests.referee.conftest import AGREEMENT
from tests.referee.nnunet_training import predict, scan, train

pytestmark = [pytest.mark.slow, pytest.mark.referee, pytest.mark.timeout(900)]

Labels = npt.NDArray[np.uint8]
FP32, BF16, FP16 = 0.999, 0.99, 0.99
WHOLE = {"background": 0, "body": [1, 2, 3], "lung": 1, "bone": 2}

CASES = [
    Recipe("plain U-Net"),
    Recipe("residual encoder U-Net", kind="ResidualEncoderUNet"),
    Recipe("plans of nnU-Net 2.0", old_plans=True, scan_mm=(5.0, 5.5, 5.5)),
    Recipe("regions", labels=WHOLE, regions=(3, 1, 2)),
    Recipe("ignore label", labels={"background": 0, "lung": 1, "bone": 2, "soft tissue": 3, "ignore": 4}),
    Recipe("separate z", spacing=(15.0, 5.0, 5.0), scan_mm=(12.0, 3.8, 3.8), patch=(8, 48, 56)),
    Recipe("z-score", normalization="ZScoreNormalization"),
    Recipe("rescaled to 0..1", normalization="RescaleTo01Normalization"),
    Recipe("axes transposed, read as RAS", transpose=(2, 0, 1), reader="NibabelIOWithReorient", patch=(48, 16, 40)),
    Recipe("scan smaller than a tile", patch=(32, 80, 80), iterations=30),
]
TWO_FOLDS = Recipe("two folds")
LOWRES = Recipe("lowres", configuration="3d_lowres", spacing=(11.0, 11.0, 11.0), patch=(12, 32, 40))
CASCADE = Recipe("cascade", configuration="3d_cascade_fullres")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Where nnU-Net puts its models."""
    return tmp_path / "results"


def fp32() -> Runtime:
    return choose("openvino", 1, "fp32").runtime


def reduced() -> Runtime | None:
    """OpenVINO in bf16, where the CPU has it."""
    runtime = choose("openvino", 1).runtime
    return runtime if runtime.precision == "bf16" else None


def ours(bundle: Bundle, network_id: str, volume: Volume, runtime: Runtime) -> Labels:
    """Our label map of a canonical volume; an earlier stage's made first."""
    network = load(bundle, network_id, runtime)
    first = network.spec.after
    watch = Watch(Budget(), lambda: False)
    if first is None:
        return segment(volume.hu, volume.geometry.spacing_mm, network, watch)
    labels = ours(bundle, first, volume, runtime)
    count = label_count(bundle.manifest.network(first))
    return segment(volume.hu, volume.geometry.spacing_mm, network, watch, lambda: (labels, count))


def dices(a: Labels, b: Labels) -> dict[int, float]:
    """Dice of every label that either map has."""
    values = sorted((set(np.unique(a)) | set(np.unique(b))) - {0})
    return {int(v): float(2 * np.sum((a == v) & (b == v)) / (np.sum(a == v) + np.sum(b == v))) for v in values}


def agree(name: str, expected: Labels, bundle: Bundle, network_id: str, volume: Volume) -> None:
    """Both precisions agree with nnU-Net, on labels that are not trivial."""
    sizes = np.bincount(expected.ravel(), minlength=2)[1:]
    assert np.count_nonzero(sizes > 1000) >= 2, f"nnU-Net's labels are trivial: {sizes}"
    for runtime, least in ((fp32(), FP32), (reduced(), BF16)):
        if runtime is None:
            AGREEMENT.append(f"{name:32} bf16: this CPU has none")
            continue
        found = dices(ours(bundle, network_id, volume, runtime), expected)
        listed = ", ".join(f"{label}: {dice:.5f}" for label, dice in found.items())
        AGREEMENT.append(f"{name:32} {runtime.precision:5} Dice {listed}")
        assert min(found.values()) >= least, f"{runtime.precision}: {listed}"


@pytest.mark.parametrize("recipe", CASES, ids=lambda recipe: recipe.name.replace(" ", "-"))
def test_labels_are_those_of_nnunets_predictor(recipe: Recipe, results: Path, tmp_path: Path) -> None:
    folder = train(recipe, results)
    volume, _ = scan(13, recipe.scan_mm)
    bundle = import_model(find_model(folder), tmp_path / "bundle", unbound("tiny")).bundle
    agree(recipe.name, predict(folder, recipe, volume, (0,)), bundle, recipe.configuration, volume)


def test_folds_are_averaged_as_nnunet_averages_them(results: Path, tmp_path: Path) -> None:
    folder = train(TWO_FOLDS, results, (0, 1))
    volume, _ = scan(13, TWO_FOLDS.scan_mm)
    bundle = import_model(find_model(folder), tmp_path / "both", unbound("tiny")).bundle
    assert len(bundle.manifest.networks[0].files) == 2
    agree(TWO_FOLDS.name, predict(folder, TWO_FOLDS, volume, (0, 1)), bundle, "3d_fullres", volume)
    second = import_model(find_model(folder), tmp_path / "second", unbound("tiny"), folds=("1",)).bundle
    agree("the second of them", predict(folder, TWO_FOLDS, volume, (1,)), second, "3d_fullres", volume)


def test_folds_in_fp16_verify_and_agree_with_fp32_and_with_nnunet(results: Path, tmp_path: Path) -> None:
    folder = train(TWO_FOLDS, results, (0, 1))
    volume, _ = scan(13, TWO_FOLDS.scan_mm)
    (tmp_path / "chest.npz").write_bytes(volumefile.to_bytes(volume))
    (tmp_path / "binding.yaml").write_text(
        "organs: [{name: lung, labels: [lung], found_from_ml: 1, margin_mm: 2}]\n"
        "golden: [{name: chest, input: chest.npz, age_years: 60}]\n"
    )
    for name, options in (("fp32", []), ("fp16", ["--fp16"])):
        command = ["import", "nnunet", str(folder), "--binding", "binding.yaml", "--to", name, *options]
        subprocess.run([sys.executable, "-m", "engines.cli", *command], cwd=tmp_path, check=True, timeout=600)
        subprocess.run([sys.executable, "-m", "engines.cli", "verify", name], cwd=tmp_path, check=True, timeout=600)
    full, half = (open_bundle(tmp_path / name) for name in ("fp32", "fp16"))
    assert half.manifest.golden == full.manifest.golden
    for name in full.manifest.networks[0].files:
        assert half.path(name).stat().st_size < 0.6 * full.path(name).stat().st_size
    expected = predict(folder, TWO_FOLDS, volume, (0, 1))
    precise = ours(full, "3d_fullres", volume, fp32())
    runtimes = [choose("onnx", 1, "fp32").runtime, fp32(), *([bf16] if (bf16 := reduced()) else [])]
    for runtime in runtimes:
        found = ours(half, "3d_fullres", volume, runtime)
        to_fp32, to_nnunet = dices(found, precise), dices(found, expected)
        AGREEMENT.append(
            f"{'two folds in fp16':32} on {runtime.name} {runtime.precision}: "
            f"Dice to fp32 {min(to_fp32.values()):.5f}, to nnU-Net {min(to_nnunet.values()):.5f}"
        )
        assert min(to_fp32.values()) >= FP16
        assert min(to_nnunet.values()) >= FP16


def test_a_cascade_starts_from_the_labels_of_its_earlier_stage(results: Path, tmp_path: Path) -> None:
    first, then = train(LOWRES, results), train(CASCADE, results)
    volume, _ = scan(13, CASCADE.scan_mm)
    before = predict(first, LOWRES, volume, (0,))
    expected = predict(then, CASCADE, volume, (0,), before)
    bundle = import_model(find_model(then), tmp_path / "bundle", unbound("tiny")).bundle
    assert [network.after for network in bundle.manifest.networks] == [None, "3d_lowres"]
    agree("cascade, its lowres stage", before, bundle, "3d_lowres", volume)
    agree(CASCADE.name, expected, bundle, CASCADE.configuration, volume)


def test_resampling_is_nnunets_own_function() -> None:
    from nnunetv2.preprocessing.resampling.default_resampling import (
        determine_do_sep_z_and_axis,
        resample_data_or_seg_to_shape,
    )

    from engines.cascade.splines import lone_axis, zoomed_shape

    rng = np.random.default_rng(0)
    worst = 0.0
    for _ in range(60):
        shape = tuple(int(n) for n in rng.integers(4, 40, 3))
        source, target = (tuple(float(mm) for mm in rng.choice([0.7, 1, 1.5, 3, 5], 3)) for _ in range(2))
        new = zoomed_shape(shape, source, target)  # type: ignore[arg-type]
        separate, axis = determine_do_sep_z_and_axis(None, source, target)
        assert lone_axis(source, target) == (axis if separate else None)  # type: ignore[arg-type]
        image = rng.normal(size=shape).astype(np.float32)
        expected = resample_data_or_seg_to_shape(image[None], new, source, target, order=3, force_separate_z=None)[0]
        zoom = Zoom(shape, new, 3, lone_axis(source, target))  # type: ignore[arg-type]
        worst = max(worst, float(np.abs(zoom_image(image, zoom) - expected).max()))
    AGREEMENT.append(f"{'resampling, order 3':32} largest difference {worst:.1e} of a standard deviation")
    assert worst < 1e-4


class _Hostile:
    """What a checkpoint must never get to do."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self._trace,))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_that_carries_code_is_refused_and_the_code_is_not_run(tmp_path: Path, legacy: bool) -> None:
    path, trace = tmp_path / "checkpoint_final.pth", tmp_path / "it-ran"
    content = {"network_weights": {"a": torch.zeros(1)}, "init_args": _Hostile(trace)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ImportRefused, match="only"):
        read_checkpoint(path)
    assert not trace.exists()
    with path.open("rb") as file, pytest.raises(pickle.UnpicklingError):  # torch's own reader says the same of it
        torch.load(file, weights_only=True)


def test_weights_of_another_architecture_are_refused(results: Path, tmp_path: Path) -> None:
    folder = train(Recipe("short", iterations=1), results)
    plans = (folder / "plans.json").read_text().replace("[8, 16, 32]", "[8, 16, 24]")
    (folder / "plans.json").write_text(plans)
    with pytest.raises(ImportRefused, match="not those of the PlainConvUNet"):
        import_model(find_model(folder), tmp_path / "bundle", unbound("tiny"))
    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(ImportRefused, match="not a checkpoint"):
        import_model(find_model(folder), tmp_path / "bundle", unbound("tiny"))
    assert not (tmp_path / "bundle").exists()


def test_the_documents_commands_work(results: Path) -> None:
    """Every command of docs/bring-your-own-model/nnunet.md, in its order, beside a model folder of that name."""
    root = Path(__file__).parents[2]
    here = train(Recipe("short", iterations=1), results).parent.parent
    blocks = re.findall(r"```sh\n(.*?)```", (root / "docs/bring-your-own-model/nnunet.md").read_text(), re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) >= 5
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "onescan-engines"
        subprocess.run([sys.executable, "-m", "engines.cli", *arguments], cwd=here, check=True, timeout=600)
    assert (here / "labels.npz").is_file()
