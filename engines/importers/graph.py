"""ONNX files as the importers take them in: read whole, checked, cleaned, with the ports that our runtimes expect.

`read` refuses what one of the runtimes (OpenVINO, ONNX Runtime, TensorRT) would choke on, by operator and with the
reason, so that an imported bundle runs everywhere. `clean` removes what does not compute: paths of the exporter,
constants disguised as nodes, weights that nobody uses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, NodeProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from engines.importers import ImportRefused
from engines.runtime.trust import INPUT, OUTPUT

OLDEST_OPSET, NEWEST_OPSET = 13, 20
"""13: per-channel quantisation; 20: what the ONNX parser of TensorRT 10.3 (JetPack 6) reads."""
NEWEST_IR = 10
_MAX_BYTES = (1 << 31) - 1  # a protobuf message's own limit

RUNS_EVERYWHERE = frozenset(
    """
    Abs Add And ArgMax AveragePool BatchNormalization Cast Ceil Clip Concat Constant ConstantOfShape Conv
    ConvTranspose DepthToSpace DequantizeLinear Div Einsum Elu Equal Erf Exp Expand Flatten Floor Gather GatherElements
    GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GroupNormalization HardSigmoid
    HardSwish Identity InstanceNormalization LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax MatMul
    Max MaxPool MeanVarianceNormalization Min Mish Mod Mul Neg Not Or PRelu Pad Pow QuantizeLinear Range
    Reciprocal ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
    Round ScatterND Selu Shape Sigmoid Sign Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub
    Sum Tanh Tile Transpose Trilu Unsqueeze Where
    """.split()  # noqa: SIM905
)
_WHY_NOT = {
    "If": "its shapes are decided while it runs",
    "Loop": "its length is decided while it runs",
    "Scan": "its length is decided while it runs",
    "NonZero": "its output's size depends on the image",
    "NonMaxSuppression": "its output's size depends on the image",
    "Unique": "its output's size depends on the image",
    "Compress": "its output's size depends on the image",
    "RandomNormal": "the same image must give the same answer",
    "RandomNormalLike": "the same image must give the same answer",
    "RandomUniform": "the same image must give the same answer",
    "RandomUniformLike": "the same image must give the same answer",
    "Bernoulli": "the same image must give the same answer",
    "Multinomial": "the same image must give the same answer",
    "Dropout": "the network was exported in training mode: export it after `model.eval()`",
    "GridSample": "TensorRT runs it for images, not for volumes",
    "MaxUnpool": "TensorRT has no such layer",
    "AffineGrid": "TensorRT has no such layer for volumes",
}
_FOLDABLE_BYTES = 1 << 20


def read(source: Path | bytes, name: str) -> ModelProto:
    """An ONNX model with its weights in it, checked by onnx's own checker and against `RUNS_EVERYWHERE`.

    name: as in refusals. ImportRefused says what of it can't be used, and why.
    """
    model = _parsed(source, name)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ImportRefused(f"{name} is not valid ONNX: {_first_line(error)}") from error
    _check_opset(model, name)
    if unknown := tuple(_unsupported(model)):
        raise ImportRefused(
            f"{name} has operators that not every runtime runs: {'; '.join(unknown)}",
            remedy="Export the network without them, for instance from its eval() mode and without post-processing.",
        )
    return model


def clean(model: ModelProto) -> ModelProto:
    """The same function, smaller: constants as weights, constant arithmetic done, nothing unused, no source paths."""
    result = ModelProto()
    result.CopyFrom(model)
    result.ir_version = min(result.ir_version, NEWEST_IR)
    result.ClearField("doc_string")
    result.ClearField("metadata_props")
    result.graph.ClearField("doc_string")
    for node in result.graph.node:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    _fold_constants(result)
    _drop_unused(result)
    onnx.checker.check_model(result, full_check=True)
    return result


def with_our_ports(model: ModelProto, name: str) -> ModelProto:
    """The model with its one input called `image` and its one output `logits`. ImportRefused if it has more."""
    result = ModelProto()
    result.CopyFrom(model)
    weights = {tensor.name for tensor in result.graph.initializer}
    inputs = [port for port in result.graph.input if port.name not in weights]
    for ports, ours, what in ((inputs, INPUT, "input"), (list(result.graph.output), OUTPUT, "output")):
        if len(ports) != 1:
            listed = ", ".join(port.name for port in ports) or "none"
            raise ImportRefused(
                f"{name} has {len(ports)} {what}s ({listed}); a bundle's network has one",
                remedy="Export only the head that is wanted (deep supervision off), with one input.",
            )
        _rename(result, ports[0].name, ours)
    return result


def elem_types(model: ModelProto) -> dict[str, int]:
    """ONNX element type of every tensor: ports, weights, and what is between."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    ports = (*graph.input, *graph.output, *graph.value_info)
    types = {port.name: int(port.type.tensor_type.elem_type) for port in ports}
    return types | {tensor.name: int(tensor.data_type) for tensor in graph.initializer}


def shape_of(port: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    """Lengths of a port's axes; a name (or ?) where an axis is dynamic."""
    axes = port.type.tensor_type.shape.dim
    return tuple(int(axis.dim_value) if axis.HasField("dim_value") else axis.dim_param or "?" for axis in axes)


def opset_of(model: ModelProto) -> int:
    """Version of the standard operator set that a model uses."""
    return max(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def to_bytes(model: ModelProto) -> bytes:
    """The same bytes for the same model."""
    return bytes(model.SerializeToString(deterministic=True))


def _parsed(source: Path | bytes, name: str) -> ModelProto:
    try:
        if isinstance(source, bytes):
            return onnx.load_model_from_string(source)
        model = onnx.load_model(str(source), load_external_data=True)
    except OSError as error:
        raise ImportRefused(f"can't read {name}: {error.strerror or error}") from error
    except (DecodeError, onnx.checker.ValidationError, ValueError) as error:
        raise ImportRefused(f"{name} is not ONNX: {_first_line(error)}") from error
    if model.ByteSize() > _MAX_BYTES:
        raise ImportRefused(f"{name} is larger than 2 GB, which one ONNX file can't hold")
    return model


def _check_opset(model: ModelProto, name: str) -> None:
    foreign = sorted({entry.domain for entry in model.opset_import} - {"", "ai.onnx"})
    used = sorted({node.domain for node in model.graph.node} - {"", "ai.onnx"})
    if used:
        raise ImportRefused(
            f"{name} uses operators of {', '.join(used)}, which only their maker's runtime knows",
            remedy="Export with standard operators only.",
        )
    for entry in [e for e in model.opset_import if e.domain in foreign]:
        model.opset_import.remove(entry)
    version = opset_of(model)
    if not OLDEST_OPSET <= version <= NEWEST_OPSET:
        raise ImportRefused(
            f"{name} uses opset {version}; our runtimes have {OLDEST_OPSET} to {NEWEST_OPSET} in common",
            remedy="Export with opset_version=17.",
        )


def _unsupported(model: ModelProto) -> Iterator[str]:
    counts: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.op_type not in RUNS_EVERYWHERE:
            counts.setdefault(node.op_type, []).append(node.name or node.output[0])
    for operator, where in sorted(counts.items()):
        reason = _WHY_NOT.get(operator, "it is not among those that OpenVINO, ONNX Runtime and TensorRT share")
        yield f"{operator} ({where[0]}{f' and {len(where) - 1} more' if len(where) > 1 else ''}): {reason}"


def _fold_constants(model: ModelProto) -> None:
    graph = model.graph
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = {tensor.name for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        values = _folded(node, known, model)
        if values is None:
            kept.append(node)
        else:
            known.update(zip(node.output, values, strict=True))
    used = {name for node in kept for name in node.input} | {port.name for port in graph.output}
    graph.initializer.extend(
        numpy_helper.from_array(known[name], name) for name in known if name in used and name not in weights
    )
    del graph.node[:]
    graph.node.extend(kept)


def _folded(
    node: NodeProto, known: dict[str, npt.NDArray[np.generic]], model: ModelProto
) -> list[npt.NDArray[np.generic]] | None:
    """What a node always gives, where its inputs are constants and small; None otherwise."""
    if node.op_type in ("DequantizeLinear", "QuantizeLinear") or any(name and name not in known for name in node.input):
        return None
    if sum(known[name].nbytes for name in node.input if name) > _FOLDABLE_BYTES:
        return None
    graph = onnx.helper.make_graph(
        [node],
        "constant",
        [
            onnx.helper.make_tensor_value_info(
                name, onnx.helper.np_dtype_to_tensor_dtype(known[name].dtype), known[name].shape
            )
            for name in dict.fromkeys(node.input)
            if name
        ],
        [onnx.helper.make_empty_tensor_value_info(name) for name in node.output],
    )
    part = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    values = ReferenceEvaluator(part).run(None, {name: known[name] for name in node.input if name})
    return [np.asarray(value) for value in values]


def _drop_unused(model: ModelProto) -> None:
    graph = model.graph
    wanted = {port.name for port in graph.output}
    kept = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(node.input)
    _replace(graph.node, reversed(kept))
    weights = {tensor.name for tensor in graph.initializer}
    _replace(graph.initializer, (tensor for tensor in graph.initializer if tensor.name in wanted))
    _replace(graph.input, (port for port in graph.input if port.name not in weights))
    del graph.value_info[:]


def _replace(field: object, items: Iterable[object]) -> None:
    kept = list(items)
    del field[:]  # type: ignore[attr-defined]
    field.extend(kept)  # type: ignore[attr-defined]


def _rename(model: ModelProto, old: str, new: str) -> None:
    if old == new:
        return
    graph = model.graph
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    if new in taken:
        _rename(model, new, f"{new}_of_the_exporter")
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    for port in (*graph.input, *graph.output, *graph.value_info):
        if port.name == old:
            port.name = new
    for tensor in graph.initializer:
        if tensor.name == old:
            tensor.name = new


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
