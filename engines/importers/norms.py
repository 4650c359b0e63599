"""Batch norms behind convolutions, folded into their weights: what every runtime does by itself in fp32.

Before a file is retyped or quantised it has to be done here: a cast or a scale between the two would keep runtimes from
doing it, and each norm would cost another pass over the volume.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

Values = npt.NDArray[np.float32]
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
        if conv is None or not _foldable(conv, norm, uses, weights):
            continue
        values = [numpy_helper.to_array(weights[name]) for name in (*conv.input[1:], *norm.input[1:])]
        kernel, bias = _folded(values, _epsilon(norm), _OUT_AXIS[conv.op_type])
        name = conv.input[2] if len(conv.input) == 3 else f"{norm.output[0]}_bias"
        if name not in weights:
            conv.input.append(name)
            weights[name] = graph.initializer.add()
        weights[conv.input[1]].CopyFrom(numpy_helper.from_array(kernel, conv.input[1]))
        weights[name].CopyFrom(numpy_helper.from_array(bias, name))
        conv.output[0] = norm.output[0]
        graph.node.remove(norm)
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return result


def _foldable(conv: NodeProto, norm: NodeProto, uses: Counter[str], weights: Mapping[str, TensorProto]) -> bool:
    """Whether nobody else reads the convolution's output and weights, and its output channels are along one axis."""
    if conv.op_type not in _OUT_AXIS or not weights.keys() >= {*conv.input[1:], *norm.input[1:]}:
        return False
    groups = next((a.i for a in conv.attribute if a.name == "group"), 1)
    training = any(a.name == "training_mode" and a.i for a in norm.attribute) or len(norm.output) > 1
    alone = all(uses[name] == 1 for name in (norm.input[0], *conv.input[1:]))
    return alone and not training and (conv.op_type == "Conv" or groups == 1)


def _epsilon(norm: NodeProto) -> float:
    return next((float(a.f) for a in norm.attribute if a.name == "epsilon"), _EPSILON)


def _folded(values: Sequence[Values], epsilon: float, axis: int) -> tuple[Values, Values]:
    """New weights and bias. values: of the convolution (weights, then a bias if it has one), then gain, shift, mean and
    variance of each output channel. axis: of the output channels."""
    kernel, *bias, gain, shift, mean, variance = (array.astype(np.float64) for array in values)
    gain = gain / np.sqrt(variance + epsilon)
    along = [1] * kernel.ndim
    along[axis] = len(gain)
    before = bias[0] if bias else 0.0
    return (kernel * gain.reshape(along)).astype(np.float32), ((before - mean) * gain + shift).astype(np.float32)
