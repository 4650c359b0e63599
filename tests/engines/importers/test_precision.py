"""An fp16 file is strongly typed, stays close to fp32, and never holds a weight that fp16 can't."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from engines.bundle import open_bundle
from engines.importers import ImportRefused
from engines.importers.graph import elem_types, read, to_bytes
from engines.importers.precision import to_fp16

from .networks import image, model, unet, weight
from .running import build_with_tensorrt, in_onnx_runtime, in_openvino, relative_rms

REFERENCE = Path(__file__).parents[3] / "engines" / "bundles" / "reference"
FP16_KEEPS = 2e-3
"""Largest relative RMS to fp32: four units in the last of fp16's 11 bits, through up to 23 layers."""


def shipped() -> list[str]:
    fields = json.loads((REFERENCE / "manifest.json").read_text())
    return [entry["name"] for entry in fields["files"] if entry["role"] == "network"]


def shape_for(name: str, free: tuple[int, int, int]) -> tuple[int, ...]:
    """What a shipped network takes: a characteriser channels and its own size, others `free`."""
    port = read(open_bundle(REFERENCE).path(name), name).graph.input[0]
    dims = [axis.dim_value for axis in port.type.tensor_type.shape.dim]
    return tuple(dims[1:]) if all(dims) else free


def types_between(m: ModelProto) -> Counter[str]:
    """Element types of the inputs of every operator that computes."""
    types = elem_types(m)
    return Counter(
        f"{node.op_type} {TensorProto.DataType.Name(types[node.input[0]])}"
        for node in m.graph.node
        if node.op_type != "Cast"
    )


@pytest.mark.parametrize("name", shipped())
def test_the_shipped_networks_in_fp16_agree_with_fp32_in_every_runtime(name: str) -> None:
    original = read(open_bundle(REFERENCE).path(name), name)
    halved = to_fp16(original, name)
    x = image(*shape_for(name, (32, 64, 96)))
    x[:, 1:] = x[:, 1:] > 0.5  # a characteriser's mask
    expected = in_onnx_runtime(original, x)
    for runtime in (in_onnx_runtime, in_openvino):
        logits = runtime(halved, x)
        assert logits.dtype == np.float32
        assert relative_rms(logits, expected) < FP16_KEEPS


@pytest.mark.parametrize("name", shipped())
def test_tensorrt_parses_and_builds_the_shipped_networks_in_fp16(name: str) -> None:
    original = read(open_bundle(REFERENCE).path(name), name)
    assert build_with_tensorrt(to_fp16(original, name), shape_for(name, (64, 64, 64))[-3:]) > 0


def test_convolutions_are_fp16_and_norms_fp32() -> None:
    types = types_between(to_fp16(unet((8, 16, 32)), "unet"))
    assert types == {
        "Conv FLOAT16": 11,
        "ConvTranspose FLOAT16": 2,
        "Concat FLOAT16": 2,
        "LeakyRelu FLOAT16": 10,
        "InstanceNormalization FLOAT": 10,
    }


def test_ports_stay_float32_and_the_file_is_half_as_large() -> None:
    original = unet((16, 32, 64))
    halved = to_fp16(original, "unet")
    for port in (*halved.graph.input, *halved.graph.output):
        assert port.type.tensor_type.elem_type == TensorProto.FLOAT
    assert halved.ByteSize() < 0.52 * original.ByteSize()


def test_neighbours_in_the_same_precision_are_joined_without_a_cast() -> None:
    nodes = [
        helper.make_node("Exp", ["image"], ["grown"]),
        helper.make_node("Log", ["grown"], ["shrunk"]),
        helper.make_node("Softmax", ["shrunk"], ["logits"], axis=1),
    ]
    fp32 = model(nodes, [], (1, 2, "z", "y", "x"), (1, 2, "z", "y", "x"))
    assert [node.op_type for node in to_fp16(fp32, "chain").graph.node] == ["Exp", "Log", "Softmax"]


def test_a_tensor_that_both_precisions_want_is_cast_once() -> None:
    nodes = [
        helper.make_node("Neg", ["image"], ["negative"]),
        helper.make_node("Exp", ["negative"], ["one"]),
        helper.make_node("Sqrt", ["negative"], ["two"]),
        helper.make_node("Add", ["one", "two"], ["logits"]),
    ]
    fp32 = model(nodes, [], (1, 1, "z", "y", "x"), (1, 1, "z", "y", "x"))
    halved = to_fp16(fp32, "fork")
    assert Counter(node.op_type for node in halved.graph.node if node.op_type == "Cast") == {"Cast": 5}
    x = -(image(4, 4, 4) ** 2)
    np.testing.assert_allclose(in_onnx_runtime(halved, x), np.exp(-x) + np.sqrt(-x), rtol=2e-3)


def test_a_large_mean_survives() -> None:
    """In fp16 the sum of these voxels is infinite."""
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[2, 3, 4], keepdims=1),
        helper.make_node("Sub", ["image", "mean"], ["logits"]),
    ]
    fp32 = model(nodes, [], (1, 1, "z", "y", "x"), (1, 1, "z", "y", "x"))
    x = 300 + image(48, 48, 48)
    assert x.sum() > np.finfo(np.float16).max
    difference = in_onnx_runtime(to_fp16(fp32, "mean"), x) - in_onnx_runtime(fp32, x)
    assert np.abs(difference).max() < 0.25  # one step of fp16 at 300


def test_lengths_of_the_image_are_not_computed_in_fp16() -> None:
    """A voxel count of 110,592 is infinite in fp16."""
    count = [
        helper.make_node("Shape", ["image"], ["shape"]),
        helper.make_node("Cast", ["shape"], ["lengths"], to=TensorProto.FLOAT),
        helper.make_node("ReduceProd", ["lengths"], ["voxels"], keepdims=1),
        helper.make_node("Div", ["voxels", "voxels"], ["one"]),
        helper.make_node("Mul", ["image", "one"], ["logits"]),
    ]
    fp32 = model(count, [], (1, 1, "z", "y", "x"), (1, 1, "z", "y", "x"))
    x = image(48, 48, 48)
    np.testing.assert_allclose(in_onnx_runtime(to_fp16(fp32, "count"), x), x, rtol=1e-3, atol=1e-6)


def test_resize_keeps_its_scales_in_float32() -> None:
    nodes = [helper.make_node("Resize", ["image", "", "scales"], ["logits"], mode="linear")]
    fp32 = model(nodes, [weight("scales", [1, 1, 2, 2, 2])], (1, 1, "z", "y", "x"), (1, 1, "a", "b", "c"))
    x = image(6, 6, 6)
    assert relative_rms(in_onnx_runtime(to_fp16(fp32, "resize"), x), in_onnx_runtime(fp32, x)) < FP16_KEEPS


@pytest.mark.parametrize("value", [65600.0, -1e6, np.inf, np.nan])
def test_a_weight_that_fp16_cannot_hold_is_refused_by_name(value: float) -> None:
    kernel = np.ones((2, 1, 1, 1, 1))
    kernel[1] = value
    node = helper.make_node("Conv", ["image", "lesion.weight"], ["logits"])
    fp32 = model([node], [weight("lesion.weight", kernel)], (1, 1, "z", "y", "x"), (1, 2, "z", "y", "x"))
    with pytest.raises(ImportRefused, match=r"detector.*lesion\.weight") as refusal:
        to_fp16(fp32, "detector")
    assert "fp32" in refusal.value.remedy()


def test_a_scale_that_fp16_cannot_tell_is_refused_by_name() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "tiny.scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "tiny.scale", "zero"], ["logits"]),
    ]
    zero = numpy_helper.from_array(np.int8(0), "zero")
    weights = [numpy_helper.from_array(np.float32(1.23e-7), "tiny.scale"), zero]
    fp32 = model(nodes, weights, (1, 1, "z", "y", "x"), (1, 1, "z", "y", "x"), opset=19)
    with pytest.raises(ImportRefused, match=r"tiny\.scale"):
        to_fp16(fp32, "network")


def test_the_same_model_gives_the_same_bytes() -> None:
    assert to_bytes(to_fp16(unet(), "unet")) == to_bytes(to_fp16(unet(), "unet"))
