"""Every network that we ship is read and built by a real TensorRT, at each precision, without a GPU.

It is TensorRT for RTX, the one member of the family that builds where there is no driver: another product than a
Jetson's, so this proves our files and our code against the API, not a Jetson's plans. Execution: test_execution.py.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from core.errors import EngineError
from engines.build import profile_of
from engines.bundle import open_bundle
from engines.commands.options import REFERENCE
from engines.importers import ImportRefused
from engines.importers.graph import read, to_bytes
from engines.importers.precision import to_fp16
from engines.importers.quantise import convolutions, to_int8
from engines.runtime.plans import Profile
from tests.engines.runtime import networks

tensorrt = pytest.importorskip("engines.runtime.tensorrt", reason="no TensorRT here", exc_type=ImportError)
pytestmark = pytest.mark.skipif(
    "rtx" not in tensorrt.NAME, reason="only TensorRT for RTX builds for a GPU that is not there"
)

TARGET = "SM86"  # Ampere, as Orin (SM87) is
WORKSPACE = 2 << 30  # half of what a build has by default; the localiser of a scan from head to feet takes 1.03 GiB
SHIPPED = open_bundle(REFERENCE)
TILE = Profile.exact((16, 16, 16))


def shipped(network_id: str) -> tuple[bytes, Profile]:
    network = SHIPPED.manifest.network(network_id)
    return SHIPPED.path(network.files[0]).read_bytes(), profile_of(network)


@pytest.mark.parametrize("network_id", [network.id for network in SHIPPED.manifest.networks])
@pytest.mark.parametrize(
    ("half", "tf32", "precision"), [(True, True, "fp16"), (False, True, "tf32"), (False, False, "fp32")]
)
def test_every_shipped_network_builds_at_the_precision_of_its_file(
    network_id: str, half: bool, tf32: bool, precision: str
) -> None:
    content, profile = shipped(network_id)
    if half:
        content = to_bytes(to_fp16(read(content, network_id), network_id))
    steps = []

    def step(phase: str, done: int, total: int) -> bool:
        steps.append((done, total))
        return True

    built = tensorrt.build(content, profile, workspace=WORKSPACE, tf32=tf32, target=TARGET, step=step)
    assert built.content is not None
    assert len(built.content) > len(content) // 2  # it holds the weights
    assert built.precision == precision
    assert steps
    assert all(1 <= done <= total for done, total in steps)


def quantised() -> bytes:
    """Conv, LeakyRelu, Conv with explicit symmetric int8 Q/DQ around both convolutions, as TensorRT wants them."""
    rng = np.random.default_rng(0)
    nodes, weights = [], {}

    def quantise(name: str, scale: float) -> str:
        weights[f"{name}.scale"] = np.float32(scale)
        weights[f"{name}.zero"] = np.int8(0)
        ports = [f"{name}.scale", f"{name}.zero"]
        nodes.append(helper.make_node("QuantizeLinear", [name, *ports], [f"{name}.q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}.q", *ports], [f"{name}.dq"]))
        return f"{name}.dq"

    def convolve(source: str, name: str, inputs: int, outputs: int, target: str) -> None:
        weights[name] = rng.normal(size=(outputs, inputs, 3, 3, 3)).astype(np.float32)
        weights[f"{name}.bias"] = rng.normal(size=outputs).astype(np.float32)
        ports = [quantise(source, 0.05), quantise(name, 0.02), f"{name}.bias"]
        nodes.append(helper.make_node("Conv", ports, [target], kernel_shape=[3, 3, 3], pads=[1] * 6))

    convolve("image", "first", 1, 32, "features")
    nodes.append(helper.make_node("LeakyRelu", ["features"], ["active"], alpha=0.01))
    convolve("active", "second", 32, 2, "logits")
    graph = helper.make_graph(
        nodes,
        "quantised",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, "z", "y", "x"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2, "z", "y", "x"])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def test_explicit_symmetric_int8_is_read_and_built() -> None:
    built = tensorrt.build(quantised(), TILE, workspace=WORKSPACE, target=TARGET)
    assert built.content is not None
    assert built.precision == "int8"


@pytest.mark.parametrize("half", [False, True], ids=["int8", "int8 and fp16"])
@pytest.mark.parametrize("network_id", [network.id for network in SHIPPED.manifest.networks])
def test_every_shipped_network_builds_when_it_is_quantised(network_id: str, half: bool) -> None:
    content, profile = shipped(network_id)
    spec = SHIPPED.manifest.network(network_id)
    shape = (1, 1 + spec.further_channels, *profile.best) if spec.mask else (1, 1, 32, 32, 32)
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    model = read(content, network_id)
    if not convolutions(model):  # calipers: nothing in them is ever quantised
        with pytest.raises(ImportRefused, match="nothing in it is quantised"):
            to_int8(model, [image], network_id)
        assert network_id in {"liver_malignancy", "breast_malignancy", "lung_malignancy"}
        return
    model = to_int8(model, [image], network_id)
    if half:
        model = to_fp16(model, network_id)
    built = tensorrt.build(to_bytes(model), profile, workspace=WORKSPACE, target=TARGET)
    assert built.content is not None
    assert built.precision == "int8"


@pytest.mark.parametrize("content", [networks.bands((0, 1)), networks.channels_summed(3), networks.smoothing()])
def test_the_networks_of_other_tests_build_over_a_range_of_shapes(content: bytes) -> None:
    built = tensorrt.build(content, Profile((4, 4, 4), (16, 16, 16), (32, 64, 64)), workspace=WORKSPACE, target=TARGET)
    assert built.content is not None


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    "content",
    [networks.mean_above(0), networks.mean_in_mask_above(0), networks.follower(0)],
    ids=["classifier", "with a mask", "after another"],
)
def test_classifiers_and_networks_of_several_channels_build(content: bytes, half: bool) -> None:
    if half:
        content = to_bytes(to_fp16(read(content, "toy"), "toy"))
    built = tensorrt.build(content, TILE, workspace=WORKSPACE, target=TARGET)
    assert built.content is not None


@pytest.mark.parametrize("content", [b"", b"not a network", networks.bands((0, 1))[:-30], networks.misnamed()])
def test_a_file_that_is_no_network_of_ours_is_refused(content: bytes) -> None:
    with pytest.raises(EngineError) as refused:
        tensorrt.build(content, TILE, workspace=WORKSPACE, target=TARGET)
    assert refused.value.remedy()


def test_a_shape_that_the_network_can_not_take_is_refused_in_words() -> None:
    content, _ = shipped("lung")
    with pytest.raises(EngineError, match="dimensions must be equal"):
        tensorrt.build(content, Profile.exact((63, 64, 64)), workspace=WORKSPACE, target=TARGET)
    with pytest.raises(EngineError, match="does not take images"):
        tensorrt.build(content, Profile((64, 64, 64), (32, 64, 64), (64, 64, 64)), workspace=WORKSPACE, target=TARGET)


@pytest.mark.parametrize("after", [1, 20, 50])
def test_a_build_ends_when_it_is_told_to(after: int) -> None:
    content, profile = shipped("lung")
    left = after

    def step(phase: str, done: int, total: int) -> bool:
        nonlocal left
        left -= 1
        return left > 0

    built = tensorrt.build(content, profile, workspace=WORKSPACE, target=TARGET, step=step)
    assert built.content is None


def test_a_timing_cache_is_handed_back_and_a_damaged_one_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    first = tensorrt.build(networks.smoothing(), TILE, workspace=WORKSPACE, target=TARGET)
    with caplog.at_level(logging.ERROR):
        again = tensorrt.build(
            networks.smoothing(), TILE, workspace=WORKSPACE, target=TARGET, timing_cache=first.timing_cache
        )
        damaged = tensorrt.build(networks.smoothing(), TILE, workspace=WORKSPACE, target=TARGET, timing_cache=b"torn")
    assert again.content is not None
    assert damaged.content is not None


def test_a_plan_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="does not take the plan") as refused:
        tensorrt.open_plan(b"nonsense")
    assert "onescan-engines build" in refused.value.remedy()


def test_a_gpu_that_it_does_not_know_is_refused() -> None:
    with pytest.raises(EngineError, match="SM53"):
        tensorrt.build(networks.smoothing(), TILE, workspace=WORKSPACE, target="SM53")
