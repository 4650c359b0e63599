"""An fp32 ONNX network → int8 as explicit, symmetric Q/DQ, from images that the network will see.

Made when a bundle is made, so that no device needs a quantiser. TensorRT builds int8 from this form only; OpenVINO and
ONNX Runtime read the same file. What that asks for, and what `check_int8` proves of every file:

    1  QuantizeLinear and DequantizeLinear of signed int8 with zero point 0, on activations and weights alike
    2  weights are stored in int8, with a scale for each output channel; activations have one scale
    3  biases stay float: a DequantizeLinear of int32, ONNX Runtime's default, is what TensorRT rejects
    4  convolutions alone are quantised, at their inputs: norms, activations and sums stay float

Scales come from the largest magnitude seen (ONNX Runtime's MinMax calibration). Clipping by the mean square error, and
NNCF, gave no better agreement on our networks (docs/adr/0022).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from core import durable
from engines.importers import ImportRefused
from engines.importers.graph import clean, opset_of, to_bytes
from engines.importers.norms import fold_batch_norms
from engines.runtime import Tensor
from engines.runtime.trust import INPUT, check_image

OPSET = 19
"""The least whose scales may be fp16, which `precision` needs."""
QUANTISED = ("Conv", "ConvTranspose")
_OPTIONS = {
    "QuantizeBias": False,
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "OpTypesToExcludeOutputQuantization": list(QUANTISED),
}


def to_int8(model: ModelProto, images: Iterable[Tensor], name: str, keep_float: Sequence[str] = ()) -> ModelProto:
    """The quantised model. images: float32 (1, I, Z, Y, X) as the network sees them, all that matters to it among them.

    keep_float: names of convolutions to leave out. name: of the model, as in refusals. ImportRefused without images, or
    where the result breaks one of the rules above.
    """
    images = list(images)
    if not images:
        raise ImportRefused(f"{name}: int8 needs images to calibrate with", remedy="Give volumes like those to read.")
    for image in images:
        check_image(image)
    prepared = _prepared(model)
    unknown = set(keep_float) - {node.name for node in prepared.graph.node}
    if unknown:
        raise ImportRefused(f"{name} has no node {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(prefix="onescan-") as folder:
        source, result = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        durable.write_bytes(source, to_bytes(prepared))
        quantize_static(
            source,
            result,
            _Images(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(keep_float),
            calibrate_method=CalibrationMethod.MinMax,
            extra_options=_OPTIONS,
        )
        quantised = clean(onnx.load_model(str(result)))
    quantised.producer_name, quantised.producer_version = model.producer_name, model.producer_version
    check_int8(quantised, name)
    return quantised


def check_int8(model: ModelProto, name: str) -> None:
    """ImportRefused unless the model is explicit symmetric int8 by the rules 1 to 4 above, and has some of it."""
    if broken := next(_violations(model), None):
        raise ImportRefused(
            f"{name} is not the int8 that every runtime takes: {broken}",
            remedy="Quantise with `onescan-engines import int8`, or symmetric Q/DQ per channel without biases.",
        )


def convolutions(model: ModelProto) -> tuple[str, ...]:
    """Names of the convolutions, in order, as `keep_float` takes them."""
    return tuple(node.name for node in _prepared(model).graph.node if node.op_type in QUANTISED)


class _Images(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, images: Sequence[Tensor]) -> None:
        self._next = iter(images)

    def get_next(self) -> dict[str, Tensor] | None:
        image = next(self._next, None)
        return None if image is None else {INPUT: image}


def _prepared(model: ModelProto) -> ModelProto:
    """Of an opset that knows fp16 scales, every node with a name."""
    prepared = fold_batch_norms(clean(model))
    if opset_of(prepared) < OPSET:
        prepared = onnx.version_converter.convert_version(prepared, OPSET)
    prepared.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")  # or it asks for just that
    for i, node in enumerate(prepared.graph.node):
        node.name = node.name or f"{node.op_type}_{i}"
    return prepared


def _violations(model: ModelProto) -> Iterator[str]:
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    users: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for used in node.input:
            users.setdefault(used, []).append(node)
    pairs = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    if not pairs:
        yield "nothing in it is quantised"
    for node in pairs:
        yield from _violations_of(node, constants, users)
    for node in model.graph.node:
        if node.op_type in ("QLinearConv", "ConvInteger", "DynamicQuantizeLinear", "QLinearMatMul", "MatMulInteger"):
            yield f"{node.op_type} is another form of int8"


def _violations_of(
    node: NodeProto, constants: dict[str, TensorProto], users: dict[str, list[NodeProto]]
) -> Iterator[str]:
    scale = constants.get(node.input[1])
    zero = constants.get(node.input[2]) if len(node.input) > 2 else None
    if scale is None or zero is None:
        yield f"scale and zero point of {node.output[0]} are no constants"
        return
    if zero.data_type != TensorProto.INT8 or np.any(numpy_helper.to_array(zero)):
        kind = TensorProto.DataType.Name(zero.data_type)
        yield f"{node.output[0]} has a zero point of type {kind} or other than 0"
    weight = constants.get(node.input[0])
    if weight is not None and weight.data_type != TensorProto.INT8:
        yield f"{weight.name} is {TensorProto.DataType.Name(weight.data_type)}, not int8"
    if weight is None and len(scale.dims) and scale.dims != [1]:
        yield f"activation {node.input[0]} has a scale for each channel"
    for user in users.get(node.output[0], ()):
        if weight is not None and user.op_type in QUANTISED:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            if list(user.input).index(node.output[0]) == 2:
                yield f"the bias of {user.name} is quantised"
            elif axis != (0 if user.op_type == "Conv" else 1) or list(scale.dims) != [weight.dims[axis]]:
                yield f"{weight.name} has no scale for each output channel"
