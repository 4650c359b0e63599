"""Batch norms are folded where that changes nothing, and stay where it would."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper

from engines.importers.norms import fold_batch_norms
from engines.importers.precision import to_fp16

from .networks import image, model, weight
from .running import in_onnx_runtime, relative_rms

RNG = np.random.default_rng(5)


def norm(x: str, out: str, channels: int, **attributes: float) -> tuple[NodeProto, list[TensorProto]]:
    names = [f"{out}.{part}" for part in ("gain", "shift", "mean", "variance")]
    values = [RNG.normal(1, 0.3, channels), RNG.normal(size=channels), RNG.normal(size=channels)]
    values.append(RNG.uniform(0.2, 3, channels))
    node = helper.make_node("BatchNormalization", [x, *names], [out], **attributes)
    return node, [weight(name, value) for name, value in zip(names, values, strict=True)]


def network(*, bias: bool, seen_twice: bool = False, groups: int = 1, shared: bool = False) -> ModelProto:
    """Convolution, norm, transposed convolution, norm."""
    one, ones = norm("a", "b", 4, epsilon=1e-3)
    two, twos = norm("c", "d", 6)
    weights = [weight("k", RNG.normal(size=(4, 1, 3, 3, 3))), weight("t", RNG.normal(size=(4, 6 // groups, 2, 2, 2)))]
    weights += [*ones, *twos, *([weight("z", RNG.normal(size=4))] if bias else [])]
    nodes = [
        helper.make_node("Conv", ["image", "k", *(["z"] if bias else [])], ["a"], pads=[1] * 6),
        one,
        helper.make_node("ConvTranspose", ["b", "t"], ["c"], strides=[2] * 3, group=groups),
        two,
        helper.make_node("MaxPool", ["d"], ["e"], kernel_shape=[2] * 3, strides=[2] * 3),
    ]
    if seen_twice:
        nodes += [helper.make_node("Concat", ["e", "a"], ["logits"], axis=1)]
    elif shared:
        other = helper.make_node("Conv", ["image", "k", *(["z"] if bias else [])], ["f"], pads=[1] * 6)
        nodes += [other, helper.make_node("Concat", ["e", "f"], ["logits"], axis=1)]
    else:
        nodes += [helper.make_node("Identity", ["e"], ["logits"])]
    channels = 10 if seen_twice or shared else 6
    return model(nodes, weights, (1, 1, "z", "y", "x"), (1, channels, "z", "y", "x"))


def norms(m: ModelProto) -> int:
    return Counter(node.op_type for node in m.graph.node)["BatchNormalization"]


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (network(bias=True), 0),
        (network(bias=False), 0),
        (network(bias=True, seen_twice=True), 1),
        (network(bias=True, shared=True), 1),
        (network(bias=False, groups=2), 1),
    ],
    ids=["with bias", "without", "output seen twice", "weights shared", "transposed in groups"],
)
def test_the_same_comes_out_with_fewer_norms(given: ModelProto, left: int) -> None:
    folded = fold_batch_norms(given)
    assert (norms(given), norms(folded)) == (2, left)
    x = image(8, 10, 6)
    assert relative_rms(in_onnx_runtime(folded, x), in_onnx_runtime(given, x)) < 1e-6
    used = {name for node in folded.graph.node for name in node.input}
    assert {tensor.name for tensor in folded.graph.initializer} <= used


def test_a_norm_without_a_convolution_stays() -> None:
    node, weights = norm("image", "logits", 1)
    given = model([node], weights, (1, 1, "z", "y", "x"), (1, 1, "z", "y", "x"))
    assert norms(fold_batch_norms(given)) == 1


def test_in_fp16_no_cast_is_between_a_convolution_and_its_norm() -> None:
    types = Counter(node.op_type for node in to_fp16(network(bias=False), "network").graph.node)
    assert types["Cast"] == 2  # of the image, and of the logits
    assert types["BatchNormalization"] == 0
