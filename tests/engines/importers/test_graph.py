"""An ONNX file comes in whole, valid, in operators that every runtime runs, under our ports' names, or is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from engines.importers import ImportRefused
from engines.importers.graph import RUNS_EVERYWHERE, clean, opset_of, read, shape_of, to_bytes, with_our_ports

from .networks import image, model, unet, weight
from .running import in_onnx_runtime

VOLUME = (1, 1, "z", "y", "x")


def one_node(operator: str, opset: int = 17, **attributes: object) -> ModelProto:
    return model([helper.make_node(operator, ["image"], ["logits"], **attributes)], [], VOLUME, VOLUME, opset=opset)


def test_every_operator_of_the_list_is_one_of_the_standard() -> None:
    standard = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    assert standard >= RUNS_EVERYWHERE


def test_a_sound_file_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(to_bytes(unet()))
    assert read(tmp_path / "net.onnx", "net") == unet() == read(to_bytes(unet()), "net")


def test_weights_in_a_second_file_are_taken_in(tmp_path: Path) -> None:
    onnx.save_model(unet(), tmp_path / "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    taken = read(tmp_path / "net.onnx", "net")
    (tmp_path / "weights.bin").unlink()
    x = image(8, 8, 8)
    np.testing.assert_array_equal(in_onnx_runtime(taken, x), in_onnx_runtime(unet(), x))


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    onnx.save_model(unet(), tmp_path / "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ImportRefused, match=r"net"):
        read(tmp_path / "net.onnx", "net")


@pytest.mark.parametrize("raw", [b"", b"not a network", to_bytes(unet())[:200], to_bytes(unet())[:-40]])
def test_a_file_that_is_no_onnx_is_refused(raw: bytes) -> None:
    with pytest.raises(ImportRefused, match="broken"):
        read(raw, "broken")


@pytest.mark.parametrize(
    ("network", "complaint"),
    [
        (one_node("RandomNormalLike"), "RandomNormalLike.*same image must give the same answer"),
        (one_node("Cos"), "Cos.*not among those"),
        (one_node("Relu", opset=11), "opset 11"),
        (one_node("Relu", opset=22), "opset 22"),
    ],
)
def test_what_not_every_runtime_runs_is_refused_with_the_reason(network: ModelProto, complaint: str) -> None:
    with pytest.raises(ImportRefused, match=complaint) as refusal:
        read(to_bytes(network), "net")
    assert "Export" in refusal.value.remedy()


def test_operators_of_a_vendor_are_refused() -> None:
    node = helper.make_node("FusedConv", ["image"], ["logits"], domain="com.microsoft")
    network = model([node], [], VOLUME, VOLUME)
    network.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(ImportRefused, match=r"com\.microsoft"):
        read(to_bytes(network), "net")


def test_cleaning_changes_no_bit_of_the_answer_and_leaves_only_what_computes() -> None:
    nodes = [
        helper.make_node("Constant", [], ["two"], value=weight("", [2.0])),
        helper.make_node("Constant", [], ["three"], value=weight("", [3.0])),
        helper.make_node("Mul", ["two", "three"], ["six"]),
        helper.make_node("Mul", ["image", "six"], ["scaled"]),
        helper.make_node("Relu", ["image"], ["nobody_wants_this"]),
        helper.make_node("Add", ["scaled", "offset"], ["logits"]),
    ]
    network = model(nodes, [weight("offset", [0.5]), weight("unused", [1.0])], VOLUME, VOLUME)
    network.graph.node[3].doc_string = "/home/somebody/train.py(12)"
    network.producer_name = "test"
    cleaned = clean(network)
    assert Counter(node.op_type for node in cleaned.graph.node) == {"Mul": 1, "Add": 1}
    assert {tensor.name for tensor in cleaned.graph.initializer} == {"six", "offset"}
    assert b"somebody" not in to_bytes(cleaned)
    x = image(4, 4, 4)
    np.testing.assert_array_equal(in_onnx_runtime(cleaned, x), in_onnx_runtime(network, x))


def test_weights_that_stand_among_the_inputs_are_no_inputs() -> None:
    network = unet()
    for tensor in network.graph.initializer:
        network.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.dims))
    assert [port.name for port in clean(network).graph.input] == ["image"]
    assert [port.name for port in with_our_ports(network, "net").graph.output] == ["logits"]


def test_ports_get_our_names_even_where_those_are_taken_inside() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["image"]), helper.make_node("Neg", ["image"], ["y"])]
    network = with_our_ports(model(nodes, [], VOLUME, VOLUME, image="x", logits="y"), "net")
    onnx.checker.check_model(network, full_check=True)
    assert (network.graph.input[0].name, network.graph.output[0].name) == ("image", "logits")
    x = image(4, 4, 4)
    np.testing.assert_array_equal(in_onnx_runtime(network, x), -np.maximum(x, 0))


def test_several_outputs_are_refused_by_name() -> None:
    network = unet()
    network.graph.output.append(helper.make_tensor_value_info("down0.1.act", TensorProto.FLOAT, None))
    with pytest.raises(ImportRefused, match=r"2 outputs \(logits, down0\.1\.act\)") as refusal:
        with_our_ports(network, "net")
    assert "deep supervision" in refusal.value.remedy()


def test_what_a_file_says_of_itself() -> None:
    assert opset_of(unet(opset=19)) == 19
    assert shape_of(unet().graph.input[0]) == (1, 1, "z", "y", "x")
