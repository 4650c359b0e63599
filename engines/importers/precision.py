"""An fp32 ONNX model → the same in fp16, strongly typed: the file itself says in which precision each tensor is.

TensorRT from 10 on takes a tensor's precision from the file and from nowhere else (its FP16 flag is gone in 11). So:

- weights and tensors are fp16; an input or output of the model stays float32 and is cast at the border;
- whatever sums over many voxels or grows fast runs in fp32 between casts (`IN_FP32`), and so does arithmetic on the
  image's own lengths: fp16 ends at 65504 and has 11 bits, too little for the variance of a million voxels;
- no cast is undone by the next: neighbours in the same precision pass tensors on as they are;
- a weight that fp16 can't hold (beyond ±65504) is refused by name: as infinity it would give NaN, or worse, not.

Works on int8 files (`quantise`) too: what is not quantised becomes fp16, and so do the scales, which by the ONNX
standard decide what a DequantizeLinear gives. That needs opset 19.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from core import durable
from engines.importers import ImportRefused
from engines.importers.graph import clean, elem_types, opset_of, to_bytes
from engines.importers.norms import fold_batch_norms
from engines.runtime import Tensor
from engines.runtime.choice import available_cores
from engines.runtime.onnx import OnnxRuntime

IN_FP32 = frozenset(
    """
    BatchNormalization Div Exp Gemm GlobalAveragePool GroupNormalization InstanceNormalization LayerNormalization Log
    LogSoftmax MeanVarianceNormalization Pow Range Reciprocal ReduceL2 ReduceMean ReduceProd ReduceSum
    ReduceSumSquare Softmax Softplus Sqrt
    """.split()  # noqa: SIM905
)
"""Operators that compute in fp32: sums over many voxels, functions that leave fp16's range, and what a few numbers go
through at the end (ratios, fully connected layers), where exactness is free."""
_FLOAT_ONLY_INPUTS = {"Resize": (1, 2)}
"""Inputs that the ONNX standard wants in float32 whatever the data are: region of interest and scales."""
_OPSET_OF_FP16_SCALES = 19
AGREES_WITHIN = 2e-2
"""Largest RMS of the difference to fp32 on noise, relative to the logits': bf16's, on random weights (ADR 0022)."""
_LARGEST = float(np.finfo(np.float16).max)
_SCALE_KEEPS = 1e-3  # relative; a coarser scale would shift every value that it scales

FLOAT, HALF = int(TensorProto.FLOAT), int(TensorProto.FLOAT16)


def to_fp16(model: ModelProto, name: str) -> ModelProto:
    """A strongly typed fp16 model with float32 ports. ImportRefused where a weight doesn't fit, naming the tensor.

    name: of the model, as in refusals.
    """
    model = fold_batch_norms(clean(model))  # constants are weights then, which is where their values are checked
    scales = _scales(model)
    if scales and opset_of(model) < _OPSET_OF_FP16_SCALES:
        raise ImportRefused(f"{name}: opset {opset_of(model)} has no fp16 scales, {_OPSET_OF_FP16_SCALES} has")
    typed = _Retyped(model, name, scales)
    for node in model.graph.node:
        typed.add(node)
    result = typed.finished()
    onnx.checker.check_model(result, full_check=True)
    return result


def checked_fp16(model: ModelProto, name: str, image: Tensor) -> ModelProto:
    """The fp16 model of a network that takes `image`; ImportRefused if it agrees badly with fp32 on that."""
    halved = to_fp16(model, name)
    with tempfile.TemporaryDirectory(prefix="onescan-") as folder:
        outputs = []
        for kind, content in (("fp32", model), ("fp16", halved)):
            durable.write_bytes(Path(folder) / kind, to_bytes(content))
            outputs.append(OnnxRuntime(available_cores()).load(Path(folder) / kind).run(image))
    expected, found = outputs
    error = float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))
    if not error <= AGREES_WITHIN:
        raise ImportRefused(f"{name} in fp16 differs from fp32 by {error:.1e} of its RMS", remedy="Keep it in fp32.")
    return halved


class _Retyped:
    """A graph on its way: nodes come in order, casts are put where a tensor is first wanted in the other precision."""

    def __init__(self, model: ModelProto, name: str, scales: frozenset[str]) -> None:
        self._source = model
        self._name = name
        self._types = elem_types(model)
        self._scales = scales
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._precision = {port.name: FLOAT for port in model.graph.input if self._types[port.name] == FLOAT}
        self._made: dict[tuple[str, int], str] = {}
        self._of_shape = _computed_from_shapes(model)
        self._outputs = {port.name for port in model.graph.output if self._types[port.name] == FLOAT}
        self._nodes: list[NodeProto] = []
        self._tensors: list[TensorProto] = []

    def add(self, node: NodeProto) -> None:
        """Take a node over, its floating tensors in the precision that its operator wants."""
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise ImportRefused(f"{self._name}: {node.op_type} has a graph inside, which can't be retyped")
        wanted = FLOAT if node.op_type in IN_FP32 or self._of_shape.issuperset(node.output) else HALF
        copy = NodeProto()
        copy.CopyFrom(node)
        fixed = _FLOAT_ONLY_INPUTS.get(node.op_type, ())
        copy.input[:] = [self._as(name, FLOAT if i in fixed else wanted) for i, name in enumerate(node.input)]
        if node.op_type == "Cast":
            _set_target(copy, wanted)
        elif node.op_type == "ConstantOfShape":
            _set_value(copy)
        last_casts = []
        for i, name in enumerate(node.output):
            if self._types.get(name) != FLOAT:
                continue
            if name in self._outputs and wanted == HALF:
                copy.output[i] = self._precise_name(name, HALF)
                self._made[(name, HALF)] = copy.output[i]
                last_casts.append(helper.make_node("Cast", [copy.output[i]], [name], to=FLOAT))
                self._made[(name, FLOAT)] = name
            else:
                self._precision[name] = wanted
        self._nodes += [copy, *last_casts]

    def finished(self) -> ModelProto:
        """The whole model."""
        result = ModelProto()
        result.CopyFrom(self._source)
        graph = result.graph
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self._nodes)
        graph.initializer.extend(self._tensors)
        return result

    def _as(self, name: str, wanted: int) -> str:
        """The tensor `name` in a precision: itself, or a cast made once."""
        if name in self._weights:
            return self._weight(name, wanted)
        if not name or self._types.get(name) != FLOAT or self._precision.get(name) == wanted:
            return name
        if (name, wanted) not in self._made:
            self._made[(name, wanted)] = self._precise_name(name, wanted)
            self._nodes.append(helper.make_node("Cast", [name], [self._made[(name, wanted)]], to=wanted))
        return self._made[(name, wanted)]

    def _weight(self, name: str, wanted: int) -> str:
        tensor = self._weights[name]
        if tensor.data_type != FLOAT:
            wanted = tensor.data_type
        if (name, wanted) not in self._made:
            self._made[(name, wanted)] = self._precise_name(name, wanted) if wanted == HALF else name
            if wanted == HALF:
                halved = self._halved(numpy_helper.to_array(tensor), name)
                tensor = numpy_helper.from_array(halved, self._made[(name, wanted)])
            self._tensors.append(tensor)
        return self._made[(name, wanted)]

    def _halved(self, values: npt.NDArray[np.float32], name: str) -> npt.NDArray[np.float16]:
        largest = float(np.abs(values).max(initial=0))
        if not largest <= _LARGEST:
            raise ImportRefused(
                f"{self._name}: weight {name} reaches {largest:g}, fp16 ends at {_LARGEST:g}",
                remedy="Keep this network in fp32, or scale it so that its weights fit.",
            )
        halved = values.astype(np.float16)
        error = np.abs(halved.astype(np.float32) - values)
        if name in self._scales and not (error <= _SCALE_KEEPS * np.abs(values)).all():
            raise ImportRefused(
                f"{self._name}: scale {name} is as small as {float(values.min()):g}, which fp16 can't tell",
                remedy="Keep this network in fp32, or leave the layer that the scale belongs to unquantised.",
            )
        return halved

    def _precise_name(self, name: str, precision: int) -> str:
        return f"{name}_{'fp16' if precision == HALF else 'fp32'}"


def _computed_from_shapes(model: ModelProto) -> frozenset[str]:
    """Tensors that depend on the image's lengths only, not on what is in it."""
    known = {"", *(tensor.name for tensor in model.graph.initializer)}
    found: set[str] = set()
    for node in model.graph.node:
        if node.op_type in ("Shape", "Size") or known.issuperset(node.input):
            found.update(node.output)
            known.update(node.output)
    return frozenset(found)


def _scales(model: ModelProto) -> frozenset[str]:
    return frozenset(_each_scale(model))


def _each_scale(model: ModelProto) -> Iterator[str]:
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            yield node.input[1]


def _set_target(node: NodeProto, precision: int) -> None:
    for attribute in node.attribute:
        if attribute.name == "to" and attribute.i == FLOAT:
            attribute.i = precision


def _set_value(node: NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name == "value" and attribute.t.data_type == FLOAT:
            values = numpy_helper.to_array(attribute.t).astype(np.float16)
            attribute.t.CopyFrom(numpy_helper.from_array(values, attribute.t.name))
    if not node.attribute:  # the standard's default is one float32 zero
        node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1, np.float16))))
