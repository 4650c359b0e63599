"""ONNX graphs to measure by: how much arithmetic a network is, and one that is nothing but matrix products."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from core.errors import EngineError
from core.volume import Index

_WIDTH, _ROWS, _DEPTH = 1024, 2048, 8
GEMM_SHAPE: Index = (1, 1, _ROWS)
"""Image (z, y, x) that `gemm` takes, of 1024 channels."""
GEMM_CHANNELS = _WIDTH
GEMM_FLOP = 2 * _WIDTH * _WIDTH * _ROWS * _DEPTH


def flop(source: Path, shape: Index) -> int:
    """Floating-point operations (a multiply-add is two) of convolutions and matrix products on an image (z, y, x).

    Norms, activations and interpolation are left out: they are a percent of a U-Net's, and no part of a GEMM peak.
    EngineError where the graph's shapes can't be inferred.
    """
    model = onnx.load(str(source), load_external_data=False)
    axes = model.graph.input[0].type.tensor_type.shape.dim
    for axis, length in zip(list(axes)[2:], shape, strict=True):
        axis.dim_value = length
    del model.graph.value_info[:]
    for port in model.graph.output:
        for axis in list(port.type.tensor_type.shape.dim)[2:]:
            axis.Clear()
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    shapes = _shapes(inferred)
    return sum(_flop_of(node, shapes) for node in inferred.graph.node)


def gemm(as_int8: bool = False) -> bytes:
    """A network whose time is that of eight products of 2048 × 1024 with 1024 × 1024: `GEMM_FLOP` operations.

    as_int8: with symmetric QuantizeLinear/DequantizeLinear around each product.
    """
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((_WIDTH, _WIDTH)) / np.sqrt(_WIDTH)  # products keep the size of what they multiply
    shape = [1, _WIDTH, *GEMM_SHAPE]
    constants = {"rows": np.array([_ROWS, _WIDTH]), "back": np.array(shape)}
    nodes = [helper.make_node("Reshape", ["image", "rows"], ["x0"])]
    for layer in range(_DEPTH):
        weight = np.roll(weights, layer, axis=0).astype(np.float32)
        left, right = f"x{layer}", f"w{layer}"
        if as_int8:
            constants[f"{right}_q"] = np.clip(np.rint(weight * 127 / 0.16), -127, 127).astype(np.int8)
            nodes += _quantised(left, f"{left}_dq", "step", "zero")
            nodes.append(helper.make_node("DequantizeLinear", [f"{right}_q", "fine", "zero"], [right]))
            left = f"{left}_dq"
        else:
            constants[right] = weight
        nodes.append(helper.make_node("MatMul", [left, right], [f"x{layer + 1}"]))
    if as_int8:
        constants |= {"step": np.float32(5 / 127), "fine": np.float32(0.16 / 127), "zero": np.int8(0)}
    nodes.append(helper.make_node("Reshape", [f"x{_DEPTH}", "back"], ["logits"]))
    image, logits = (helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("image", "logits"))
    arrays = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "gemm", [image], [logits], arrays)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _quantised(source: str, target: str, step: str, zero: str) -> list[NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [source, step, zero], [f"{target}_q"]),
        helper.make_node("DequantizeLinear", [f"{target}_q", step, zero], [target]),
    ]


def _shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    found = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for port in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        axes = port.type.tensor_type.shape.dim
        if all(axis.HasField("dim_value") for axis in axes):
            found[port.name] = tuple(axis.dim_value for axis in axes)
    return found


def _flop_of(node: NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    if node.op_type not in ("Conv", "ConvTranspose", "MatMul", "Gemm"):
        return 0
    names = (*node.input[:2], node.output[0])
    if missing := [name for name in names if name not in shapes]:
        raise EngineError(f"the shape of {missing[0]} ({node.op_type}) can't be told from the ONNX file")
    left, right, out = (shapes[name] for name in names)
    if node.op_type == "Conv":  # weights (out, in / groups, kernel...)
        return 2 * prod(out) * prod(right[1:])
    if node.op_type == "ConvTranspose":  # weights (in, out / groups, kernel...)
        return 2 * prod(left) * prod(right[1:])
    if node.op_type == "Gemm":
        turned = next((a.i for a in node.attribute if a.name == "transA"), 0)
        return 2 * prod(out) * left[0 if turned else 1]
    return 2 * prod(out) * left[-1]
