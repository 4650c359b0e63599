"""Real ONNX networks with random weights: a plain 3D U-Net as nnU-Net builds it, in the small."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper


class _Builder:
    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []

    def kernel(self, name: str, *shape: int, fan: int) -> str:
        return self.constant(name, self._rng.normal(size=shape) * np.sqrt(2 / fan))

    def spread(self, name: str, n: int, mean: float, sd: float) -> str:
        return self.constant(name, mean + sd * self._rng.normal(size=n))

    def constant(self, name: str, values: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

    def node(self, operator: str, inputs: Sequence[str], name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def block(self, x: str, inside: int, outside: int, tag: str, stride: int) -> str:
        for i in range(2):
            name, channels = f"{tag}.{i}", inside if i == 0 else outside
            weight = self.kernel(f"{name}.weight", outside, channels, 3, 3, 3, fan=27 * channels)
            bias = self.spread(f"{name}.bias", outside, 0, 0.1)
            edge = {"kernel_shape": [3] * 3, "pads": [1] * 6, "strides": [stride if i == 0 else 1] * 3}
            x = self.node("Conv", [x, weight, bias], f"{name}.conv", **edge)
            affine = [self.spread(f"{name}.gain", outside, 1, 0.3), self.spread(f"{name}.shift", outside, 0, 0.3)]
            x = self.node("InstanceNormalization", [x, *affine], f"{name}.norm", epsilon=1e-5)
            x = self.node("LeakyRelu", [x], f"{name}.act", alpha=0.01)
        return x


def unet(
    features: Sequence[int] = (8, 16),
    classes: int = 2,
    *,
    seed: int = 0,
    inputs: int = 1,
    image: str = "image",
    logits: str = "logits",
    shape: Sequence[int | str] = ("z", "y", "x"),
    opset: int = 17,
) -> ModelProto:
    """`image` float32 (1, inputs, Z, Y, X) → `logits` float32 (1, classes, Z, Y, X)."""
    b = _Builder(seed)
    x, kept, inside = image, [], inputs
    for level, outside in enumerate(features):
        x = b.block(x, inside, outside, f"down{level}", 1 if level == 0 else 2)
        kept.append(x)
        inside = outside
    kept.pop()
    for level in range(len(features) - 2, -1, -1):
        deep, flat = features[level + 1], features[level]
        weight = b.kernel(f"rise{level}.weight", deep, flat, 2, 2, 2, fan=deep)
        x = b.node("ConvTranspose", [x, weight], f"rise{level}", kernel_shape=[2] * 3, strides=[2] * 3)
        x = b.node("Concat", [x, kept.pop()], f"concat{level}", axis=1)
        x = b.block(x, 2 * flat, flat, f"up{level}", 1)
    head = b.kernel("head.weight", classes, features[0], 1, 1, 1, fan=features[0])
    b.node("Conv", [x, head, b.spread("head.bias", classes, 0, 0.1)], "head", kernel_shape=[1] * 3)
    b.nodes[-1].output[0] = logits
    return model(b.nodes, b.weights, (1, inputs, *shape), (1, classes, *shape), image, logits, opset)


def model(
    nodes: Sequence[NodeProto],
    weights: Sequence[TensorProto],
    takes: Sequence[int | str],
    gives: Sequence[int | str],
    image: str = "image",
    logits: str = "logits",
    opset: int = 17,
) -> ModelProto:
    """Any graph of one float32 input and one float32 output."""
    graph = helper.make_graph(
        list(nodes),
        "network",
        [helper.make_tensor_value_info(image, TensorProto.FLOAT, takes)],
        [helper.make_tensor_value_info(logits, TensorProto.FLOAT, gives)],
        list(weights),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def weight(name: str, values: object) -> TensorProto:
    """A float32 weight."""
    return numpy_helper.from_array(np.asarray(values, np.float32), name)


def image(*shape: int, seed: int = 1) -> np.ndarray:
    """White noise (1, 1, *shape), or (1, *shape) with the channels given."""
    full = (1, 1, *shape) if len(shape) == 3 else (1, *shape)
    return np.random.default_rng(seed).normal(size=full).astype(np.float32)
