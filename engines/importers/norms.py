"""Batch norms behind convolutions, folded into their weights: what every runtime does by itself in fp32.

Before a file is retyped or quantised it has to be done here: a cast or a scale between the two would keep runtimes from
doing it, and each norm would cost another pass over the volume.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, numpy_helper

_OUT_AXIS = {"Conv": 0, "ConvTranspose": 1}
"""Of the weights: where output channels are."""
_EPSILON = 1e-5
"""The ONNX standard's default."""


def fold_batch_norms(model: ModelProto) -> ModelProto:
    """The same network with fewer nodes. A norm stays where its convolution's output is used elsewhere too, where
    weights are computed or shared, or where channels are in groups of a transposed convolution."""
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(port.name for port in graph.output)
    made = {name: node for node in graph.node for name in node.output}
    for norm in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        conv = made.get(norm.input[0])
        alone = conv is not None and uses[norm.input[0]] == 1 and conv.op_type in _OUT_AXIS
        if not alone or not weights.keys() >= {*conv.input[1:], *norm.input[1:]} or not _simple(conv, norm, uses):
            continue
        arrays = [numpy_helper.to_array(weights[name]).astype(np.float64) for name in norm.input[1:]]
        kernel = numpy_helper.to_array(weights[conv.input[1]]).astype(np.float64)
        before = numpy_helper.to_array(weights[conv.input[2]]).astype(np.float64) if len(conv.input) == 3 else 0.0
        kernel, bias = _folded(kernel, before, arrays, _epsilon(norm), _OUT_AXIS[conv.op_type])
        weights[conv.input[1]].CopyFrom(numpy_helper.from_array(kernel, conv.input[1]))
        name = conv.input[2] if len(conv.input) == 3 else f"{norm.output[0]}_bias"
        if len(conv.input) == 3:
            weights[name].CopyFrom(numpy_helper.from_array(bias, name))
        else:
            graph.initializer.append(numpy_helper.from_array(bias, name))
            conv.input.append(name)
        conv.output[0] = norm.output[0]
        graph.node.remove(norm)
    left = {name for node in graph.node for name in node.input} | {port.name for port in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in left]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return result


def _simple(conv: NodeProto, norm: NodeProto, uses: Counter[str]) -> bool:
    """Whether nobody else reads the weights, and output channels of the convolution are all along one axis."""
    groups = next((a.i for a in conv.attribute if a.name == "group"), 1)
    training = any(a.name == "training_mode" and a.i for a in norm.attribute) or len(norm.output) > 1
    own = all(uses[name] == 1 for name in conv.input[1:])
    return own and not training and (conv.op_type == "Conv" or groups == 1)


def _epsilon(norm: NodeProto) -> float:
    return next((float(a.f) for a in norm.attribute if a.name == "epsilon"), _EPSILON)


def _folded(
    kernel: npt.NDArray[np.float64],
    bias: npt.NDArray[np.float64] | float,
    norm: list[npt.NDArray[np.float64]],
    epsilon: float,
    axis: int,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Weights and bias. norm: scale, shift, mean and variance of each output channel."""
    gain, shift, mean, variance = norm
    gain = gain / np.sqrt(variance + epsilon)
    along = [1] * kernel.ndim
    along[axis] = len(gain)
    return (kernel * gain.reshape(along)).astype(np.float32), ((bias - mean) * gain + shift).astype(np.float32)
