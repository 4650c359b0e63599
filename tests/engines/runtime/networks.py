"""Tiny real ONNX networks whose answer on a volume can be told in advance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

INTENSITY = {"kind": "clip", "clip_low_hu": -1024, "clip_high_hu": 1000, "mean_hu": 0, "std_hu": 100}


def _model(
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    channels: int,
    inputs: int = 1,
    scores: bool = False,
    **ports: str,
) -> bytes:
    """inputs: channels of the image. scores: the output is (1, channels), no map."""
    image, logits = ports.get("image", "image"), ports.get("logits", "logits")
    given = [1, channels] if scores else [1, channels, "oz", "oy", "ox"]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(image, TensorProto.FLOAT, [1, inputs, "z", "y", "x"])],
        [helper.make_tensor_value_info(logits, TensorProto.FLOAT, given)],
        [
            numpy_helper.from_array(value if value.dtype == np.int64 else value.astype(np.float32), name)
            for name, value in weights.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def bands(*limits_hu: tuple[float, float], steepness: float = 20.0) -> bytes:
    """Channel 0 is background (logit 0); channel k is positive exactly where low_k < HU < high_k.

    Made for `INTENSITY` (HU / 100): logit_k = steepness * min(x - low, high - x).
    """
    n = len(limits_hu)
    low = np.array([0.0, *(-steepness * low / 100 for low, _ in limits_hu)])
    high = np.array([0.0, *(steepness * high / 100 for _, high in limits_hu)])
    slope = np.array([0.0] + [steepness] * n).reshape(-1, 1, 1, 1, 1)
    nodes = [
        helper.make_node("Conv", ["image", "up", "low"], ["above"], kernel_shape=[1, 1, 1]),
        helper.make_node("Conv", ["image", "down", "high"], ["below"], kernel_shape=[1, 1, 1]),
        helper.make_node("Min", ["above", "below"], ["logits"]),
    ]
    return _model(nodes, {"up": slope, "down": -slope, "low": low, "high": high}, n + 1)


def smoothing(weights: Sequence[float] = (0.25, 0.5, 0.25)) -> bytes:
    """Two channels of a 3x3x3 convolution with zero padding: something that depends on a tile's surroundings."""
    w = np.einsum("i,j,k->ijk", weights, weights, weights)
    kernel = np.stack([w, -w])[:, None]
    node = helper.make_node("Conv", ["image", "w", "b"], ["logits"], kernel_shape=[3, 3, 3], pads=[1, 1, 1, 1, 1, 1])
    return _model([node], {"w": kernel, "b": np.array([0.1, -0.1])}, 2)


def zeros() -> bytes:
    """Two channels of zeros, whatever the image."""
    weights = {"w": np.zeros((2, 1, 1, 1, 1)), "b": np.zeros(2)}
    return _model([helper.make_node("Conv", ["image", "w", "b"], ["logits"])], weights, 2)


def logarithms() -> bytes:
    """Two channels of log(image): NaN where the image is negative, -inf where it is zero."""
    nodes = [
        helper.make_node("Log", ["image"], ["log"]),
        helper.make_node("Concat", ["log", "log"], ["logits"], axis=1),
    ]
    return _model(nodes, {}, 2)


def halving() -> bytes:
    """Two channels on a grid of half the size: the wrong shape."""
    weights = {"w": np.ones((2, 1, 2, 2, 2)), "b": np.zeros(2)}
    return _model([helper.make_node("Conv", ["image", "w", "b"], ["logits"], strides=[2, 2, 2])], weights, 2)


def misnamed() -> bytes:
    """Right in all but the names of its input and output."""
    weights = {"w": np.ones((2, 1, 1, 1, 1)), "b": np.zeros(2)}
    node = helper.make_node("Conv", ["input", "w", "b"], ["output"])
    return _model([node], weights, 2, image="input", logits="output")


def lines(*channels: tuple[float, float]) -> bytes:
    """Channel k is slope_k * image + offset_k; channels: (slope, offset) of each."""
    weights = {
        "w": np.array([slope for slope, _ in channels]).reshape(-1, 1, 1, 1, 1),
        "b": np.array([offset for _, offset in channels]),
    }
    return _model([helper.make_node("Conv", ["image", "w", "b"], ["logits"])], weights, len(channels))


def channels_summed(inputs: int) -> bytes:
    """Two channels: the weighted sum of the input's channels, and its negative."""
    weights = {"w": np.array([1.0, -1.0])[:, None] * np.arange(1, inputs + 1)}
    weights["w"] = weights["w"].reshape(2, inputs, 1, 1, 1)
    node = helper.make_node("Conv", ["image", "w"], ["logits"])
    return _model([node], weights, 2, inputs)


def shifting(axis: int) -> bytes:
    """Two channels: 0, and the image moved by one voxel to higher indices of `axis` (0 z, 1 y, 2 x)."""
    kernel = np.zeros((2, 1, 3, 3, 3))
    at = [1, 1, 1]
    at[axis] = 0
    kernel[(1, 0, *at)] = 1
    node = helper.make_node("Conv", ["image", "w", "b"], ["logits"], kernel_shape=[3, 3, 3], pads=[1, 1, 1, 1, 1, 1])
    return _model([node], {"w": kernel, "b": np.array([1e-6, 0.0])}, 2)


def mean_above(limit_hu: float, steepness: float = 20.0) -> bytes:
    """Scores (0, k) of a whole image, made for `INTENSITY`: k is positive where the mean is above `limit_hu`."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        helper.make_node("Conv", ["mean", "w", "b"], ["map"]),
        helper.make_node("Flatten", ["map"], ["logits"]),
    ]
    weights = {
        "w": np.array([0.0, steepness]).reshape(2, 1, 1, 1, 1),
        "b": np.array([0.0, -steepness * limit_hu / 100]),
    }
    return _model(nodes, weights, 2, scores=True)


def mean_in_mask_above(limit_hu: float, steepness: float = 20.0) -> bytes:
    """The same of the image (channel 0) inside the mask (channel 1) alone."""
    nodes = [
        helper.make_node("Split", ["image", "parts"], ["scan", "mask"], axis=1),
        helper.make_node("Mul", ["scan", "mask"], ["inside"]),
        helper.make_node("GlobalAveragePool", ["inside"], ["sum"]),
        helper.make_node("GlobalAveragePool", ["mask"], ["size"]),
        helper.make_node("Div", ["sum", "size"], ["mean"]),
        helper.make_node("Conv", ["mean", "w", "b"], ["map"]),
        helper.make_node("Flatten", ["map"], ["logits"]),
    ]
    weights = {
        "w": np.array([0.0, steepness]).reshape(2, 1, 1, 1, 1),
        "b": np.array([0.0, -steepness * limit_hu / 100]),
    }
    return _model(nodes, {**weights, "parts": np.array([1, 1])}, 2, inputs=2, scores=True)


def mean_in_mask_above_reference(by_hu: float, steepness: float = 20.0) -> bytes:
    """The same, above a reference (channel 2) by so much."""
    nodes = [
        helper.make_node("Split", ["image", "parts"], ["scan", "mask", "reference"], axis=1),
        helper.make_node("Sub", ["scan", "reference"], ["away"]),
        helper.make_node("Mul", ["away", "mask"], ["inside"]),
        helper.make_node("GlobalAveragePool", ["inside"], ["sum"]),
        helper.make_node("GlobalAveragePool", ["mask"], ["size"]),
        helper.make_node("Div", ["sum", "size"], ["mean"]),
        helper.make_node("Conv", ["mean", "w", "b"], ["map"]),
        helper.make_node("Flatten", ["map"], ["logits"]),
    ]
    weights = {
        "w": np.array([0.0, steepness]).reshape(2, 1, 1, 1, 1),
        "b": np.array([0.0, -steepness * by_hu / 100]),
    }
    return _model(nodes, {**weights, "parts": np.array([1, 1, 1])}, 2, inputs=3, scores=True)


def without_convolution() -> bytes:
    """Scores 0 and the mean of the image (channel 0), whatever the mask (channel 1)."""
    nodes = [
        helper.make_node("Split", ["image", "parts"], ["scan", "mask"], axis=1),
        helper.make_node("GlobalAveragePool", ["scan"], ["mean"]),
        helper.make_node("Mul", ["mean", "both"], ["map"]),
        helper.make_node("Flatten", ["map"], ["logits"]),
    ]
    weights = {"parts": np.array([1, 1]), "both": np.array([0.0, 1.0]).reshape(1, 2, 1, 1, 1)}
    return _model(nodes, weights, 2, inputs=2, scores=True)


def follower(limit_hu: float, steepness: float = 20.0) -> bytes:
    """Image and one channel of an earlier stage's label: positive above `limit_hu` inside that label only."""
    kernel = np.array([[0.0, 0.0], [steepness, 1000.0]]).reshape(2, 2, 1, 1, 1)
    bias = np.array([0.0, -steepness * limit_hu / 100 - 1000.0])
    node = helper.make_node("Conv", ["image", "w", "b"], ["logits"])
    return _model([node], {"w": kernel, "b": bias}, 2, inputs=2)
