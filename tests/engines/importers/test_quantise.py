"""int8 files are explicit symmetric Q/DQ that OpenVINO computes in int8, ONNX Runtime runs and TensorRT builds."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from core.errors import EngineError
from engines.importers import ImportRefused
from engines.importers.graph import opset_of, read, to_bytes
from engines.importers.precision import to_fp16
from engines.importers.quantise import OPSET, check_int8, convolutions, to_int8

from .networks import image, unet
from .running import (
    build_with_tensorrt,
    compiled,
    in_onnx_runtime,
    in_openvino,
    precisions_of_convolutions,
    relative_rms,
)

FEATURES = (8, 16, 32)
EIGHT_BITS = 0.05
"""Relative RMS after three layers: each rounds to 1/127 of its largest value, some 5 of its standard deviations."""
N = 11 + 2  # convolutions and transposed ones


@pytest.fixture(scope="module")
def original() -> ModelProto:
    return unet(FEATURES)


@pytest.fixture(scope="module")
def quantised(original: ModelProto) -> ModelProto:
    return to_int8(original, [image(24, 24, 24, seed=s) for s in range(3)], "unet")


def test_weights_are_int8_with_a_scale_for_each_output_channel_and_biases_float(quantised: ModelProto) -> None:
    weights = {t.name: t for t in quantised.graph.initializer}
    counts = Counter(node.op_type for node in quantised.graph.node)
    assert (counts["QuantizeLinear"], counts["DequantizeLinear"]) == (N, 2 * N)
    producers = {node.output[0]: node for node in quantised.graph.node}
    for node in quantised.graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            dequantised = producers[node.input[1]]
            kernel, scale = weights[dequantised.input[0]], weights[dequantised.input[1]]
            assert kernel.data_type == TensorProto.INT8
            assert list(scale.dims) == [kernel.dims[0 if node.op_type == "Conv" else 1]]
            if len(node.input) > 2:
                assert weights[node.input[2]].data_type == TensorProto.FLOAT


def test_the_file_is_a_quarter_as_large_and_one_that_we_read(original: ModelProto, quantised: ModelProto) -> None:
    assert quantised.ByteSize() < 0.35 * original.ByteSize()
    assert opset_of(quantised) == OPSET
    assert read(to_bytes(quantised), "unet") == quantised


def test_every_runtime_agrees_with_fp32_as_far_as_eight_bits_go() -> None:
    """Two convolutions and a head: deeper networks with random weights amplify any noise."""
    original = unet((16,))
    quantised = to_int8(original, [image(24, 24, 24, seed=s) for s in range(3)], "unet")
    x = image(24, 24, 24, seed=9)
    expected = in_onnx_runtime(original, x)
    for logits in (in_onnx_runtime(quantised, x), in_openvino(quantised, x), in_openvino(quantised, x, "bf16")):
        assert relative_rms(logits, expected) < EIGHT_BITS


def test_openvino_computes_every_convolution_in_int8(original: ModelProto, quantised: ModelProto) -> None:
    assert precisions_of_convolutions(compiled(original, (1, 1, 24, 24, 24), "f32")) == {"f32": N}
    found = precisions_of_convolutions(compiled(quantised, (1, 1, 24, 24, 24), "f32"))
    assert found.keys() <= {"i8", "u8"}
    assert found.total() == N


def test_tensorrt_parses_and_builds_it_and_its_fp16_form(quantised: ModelProto) -> None:
    assert build_with_tensorrt(quantised, (32, 32, 32)) > 0
    assert build_with_tensorrt(to_fp16(quantised, "unet"), (32, 32, 32)) > 0


def test_what_is_not_quantised_becomes_fp16() -> None:
    quantised = to_int8(unet((16,)), [image(16, 16, 16)], "unet")
    x = image(16, 16, 16, seed=4)
    halved = to_fp16(quantised, "unet")
    assert relative_rms(in_onnx_runtime(halved, x), in_onnx_runtime(quantised, x)) < EIGHT_BITS


def test_the_convolutions_that_are_named_stay_float(original: ModelProto) -> None:
    first, *_, last = convolutions(original)
    mixed = to_int8(original, [image(16, 16, 16)], "unet", keep_float=(first, last))
    assert Counter(node.op_type for node in mixed.graph.node)["QuantizeLinear"] == N - 2
    with pytest.raises(ImportRefused, match="no node nowhere"):
        to_int8(original, [image(16, 16, 16)], "unet", keep_float=("nowhere",))


def test_the_same_images_give_the_same_bytes(original: ModelProto) -> None:
    one, other = (to_bytes(to_int8(original, [image(16, 16, 16)], "unet")) for _ in range(2))
    assert one == other


def test_without_images_there_is_no_int8(original: ModelProto) -> None:
    with pytest.raises(ImportRefused, match="images to calibrate"):
        to_int8(original, [], "unet")
    with pytest.raises(EngineError, match="NaN"):
        to_int8(original, [np.full((1, 1, 8, 8, 8), np.nan, np.float32)], "unet")


def test_a_float_network_is_not_int8(original: ModelProto) -> None:
    with pytest.raises(ImportRefused, match="nothing in it is quantised"):
        check_int8(original, "unet")


def broken(model: ModelProto, how: str) -> ModelProto:
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    node = next(n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in tensors)
    conv = next(n for n in graph.node if n.op_type == "Conv")
    if how == "asymmetric":
        zero = tensors[node.input[2]]
        zero.CopyFrom(numpy_helper.from_array(np.full(zero.dims, 3, np.int8), zero.name))
    elif how == "per tensor":
        scale, zero = tensors[node.input[1]], tensors[node.input[2]]
        scale.CopyFrom(numpy_helper.from_array(np.float32(0.01), scale.name))
        zero.CopyFrom(numpy_helper.from_array(np.int8(0), zero.name))
    elif how == "bias":
        bias = tensors[conv.input[2]]
        n = bias.dims[0]
        parts = (("bq", np.ones(n, np.int32)), ("bs", np.ones(n, np.float32)), ("bz", np.zeros(n, np.int32)))
        graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in parts)
        graph.node.insert(0, helper.make_node("DequantizeLinear", ["bq", "bs", "bz"], ["b"], axis=0))
        next(n for n in graph.node if n.op_type == "Conv").input[2] = "b"
    onnx.checker.check_model(result)
    return result


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ("asymmetric", "other than 0"),
        ("per tensor", "no scale for each output channel"),
        ("bias", "type INT32"),
    ],
)
def test_what_tensorrt_would_reject_is_refused(quantised: ModelProto, how: str, complaint: str) -> None:
    with pytest.raises(ImportRefused, match=complaint):
        check_int8(broken(quantised, how), "unet")
