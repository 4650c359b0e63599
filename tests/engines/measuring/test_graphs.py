"""Operations are counted as one counts them by hand; the matrix products are what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from core.errors import EngineError
from engines.measuring.graphs import GEMM_CHANNELS, GEMM_FLOP, GEMM_SHAPE, flop, gemm
from engines.runtime.choice import choose
from tests.engines.runtime import networks


def written(tmp_path: Path, raw: bytes) -> Path:
    path = tmp_path / "network"
    path.write_bytes(raw)
    return path


def unet(tmp_path: Path) -> Path:
    """Conv 1→4 (3³, stride 2), grouped Conv 4→4 (3³), ConvTranspose 4→2 (2³, stride 2), dynamic in z, y, x."""
    weights = {"a": (4, 1, 3, 3, 3), "b": (4, 2, 3, 3, 3), "c": (4, 2, 2, 2, 2)}
    nodes = [
        helper.make_node("Conv", ["image", "a"], ["x"], pads=[1] * 6, strides=[2, 2, 2]),
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("Conv", ["y", "b"], ["z"], pads=[1] * 6, group=2),
        helper.make_node("ConvTranspose", ["z", "c"], ["logits"], strides=[2, 2, 2]),
    ]
    graph = helper.make_graph(
        nodes,
        "unet",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, "z", "y", "x"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2, "oz", "oy", "ox"])],
        [numpy_helper.from_array(np.ones(shape, dtype=np.float32), name) for name, shape in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return written(tmp_path, model.SerializeToString())


def test_convolutions_are_counted_as_by_hand(tmp_path: Path) -> None:
    half = 4 * 6 * 8
    by_hand = 2 * half * (4 * 1 * 27 + 4 * 2 * 27 + 4 * 2 * 8)
    assert flop(unet(tmp_path), (8, 12, 16)) == by_hand
    assert flop(unet(tmp_path), (16, 12, 16)) == 2 * by_hand


def test_a_pointwise_convolution_is_a_matrix_product(tmp_path: Path) -> None:
    assert flop(written(tmp_path, networks.lines((1, 0), (2, 0), (3, 0))), (2, 3, 4)) == 2 * 3 * 24


def test_a_graph_whose_shapes_are_not_known_is_refused(tmp_path: Path) -> None:
    model = onnx.load(unet(tmp_path))
    model.graph.node[1].op_type, model.graph.node[1].domain = "Strange", "elsewhere"
    model.opset_import.append(helper.make_opsetid("elsewhere", 1))
    with pytest.raises(EngineError, match="can't be told"):
        flop(written(tmp_path, model.SerializeToString()), (8, 8, 8))


@pytest.mark.parametrize("as_int8", [False, True])
def test_the_matrix_products_are_right_and_as_many_as_claimed(tmp_path: Path, as_int8: bool) -> None:
    path = written(tmp_path, gemm(as_int8))
    assert flop(path, GEMM_SHAPE) == GEMM_FLOP
    image = np.random.default_rng(0).standard_normal((1, GEMM_CHANNELS, *GEMM_SHAPE)).astype(np.float32)
    logits = choose("onnx", 1).runtime.load(path).run(image)
    assert logits.shape == image.shape
    assert 0.5 < logits.std() < 2  # neither vanishing nor overflowing after eight of them
    if not as_int8:
        arrays = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
        expected = image.reshape(-1, GEMM_CHANNELS)
        for layer in range(8):
            expected = expected @ arrays[f"w{layer}"]
        assert np.allclose(logits.reshape(expected.shape), expected, atol=1e-3)
