"""Does an ONNX network do what the manifest says of it? Ports, channels, sizes, and one run on noise of its own size.

A mismatch found here costs its maker a minute; found on the device it would cost a study. `fitted` returns the model as
the bundle will hold it: cleaned, under our ports' names, batch 1.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto

from core import durable
from core.errors import EngineError
from core.volume import Index
from engines.importers import ImportRefused
from engines.importers.graph import clean, opset_of, shape_of, to_bytes, with_our_ports
from engines.manifest import Network
from engines.runtime import Tensor
from engines.runtime.choice import available_cores
from engines.runtime.onnx import OnnxRuntime

_ACTIVATIONS = ("Softmax", "LogSoftmax", "Sigmoid", "HardSigmoid")
_WHOLE_STEPS = ((4, 3, 5), (5, 4, 3))  # two shapes, in multiples of what it is padded to


@dataclass(frozen=True)
class Fitted:
    """A network file ready for a bundle. weights: how many numbers it has learnt; seconds: one run on its own size."""

    model: ModelProto
    opset: int
    weights: int
    size: Index
    seconds: float


def fitted(model: ModelProto, spec: Network, name: str, others: Mapping[str, Network]) -> Fitted:
    """The model of the file `name`, checked against `spec` and run. others: all networks of the manifest by id.

    ImportRefused says what doesn't fit, in the words of both sides.
    """
    model = clean(with_our_ports(model, name))
    _check_types(model, name)
    channels = input_channels(spec, others)
    _check_input(model, spec, channels, name)
    _check_output(model, spec, name)
    for port in (*model.graph.input, *model.graph.output):
        port.type.tensor_type.shape.dim[0].dim_value = 1
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = channels
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = len(spec.labels)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ImportRefused(f"{name} does not fit batch 1, {channels} channels in, {len(spec.labels)} out") from error
    shape, seconds = _tried(model, spec, channels, name)
    weights = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    return Fitted(model, opset_of(model), weights, shape, seconds)


def input_channels(spec: Network, others: Mapping[str, Network]) -> int:
    """Channels that the cascade feeds: the scan, one for each label of the network before, mask and references."""
    before = others.get(spec.after) if spec.after is not None else None
    labels = 0
    if before is not None:
        labels = len(before.labels) - 1 if before.activation == "softmax" else max(before.region_order, default=0)
        labels = labels or len(before.labels)
    return 1 + labels + spec.further_channels


def _check_types(model: ModelProto, name: str) -> None:
    for port in (*model.graph.input, *model.graph.output):
        kind = port.type.tensor_type.elem_type
        if kind != TensorProto.FLOAT:
            found = TensorProto.DataType.Name(kind)
            raise ImportRefused(
                f"{name}: {port.name} is {found}, not float32",
                remedy="Export the network in float32 with logits as output (no argmax).",
            )


def _check_input(model: ModelProto, spec: Network, channels: int, name: str) -> None:
    shape = shape_of(model.graph.input[0])
    if len(shape) != 5:
        raise ImportRefused(f"{name} takes {_listed(shape)}: our networks take volumes (1, channels, Z, Y, X)")
    if isinstance(shape[0], int) and shape[0] != 1:
        raise ImportRefused(
            f"{name} takes {shape[0]} volumes at once; the cascade gives one", remedy="Export with a batch of 1."
        )
    if isinstance(shape[1], int) and shape[1] != channels:
        raise ImportRefused(
            f"{name} takes {shape[1]} channels; by the manifest network {spec.id} is given {channels}",
            remedy="A CT has one channel; labels of another network (`after`) and a mask (`mask`) come on top.",
        )
    _check_lengths(shape[2:], spec, name)


def _check_lengths(lengths: tuple[int | str, ...], spec: Network, name: str) -> None:
    fixed = [n for n in lengths if isinstance(n, int)]
    if not fixed:
        return
    if spec.tiling.kind == "whole":
        raise ImportRefused(
            f"{name} takes only {_listed(lengths)}; with tiling `whole` it has to take a volume of any size",
            remedy="Export it with dynamic axes 2, 3 and 4, or use tiling `patch` of just that size.",
        )
    for n, wanted in zip(lengths, spec.tiling.size, strict=True):
        if isinstance(n, int) and n != wanted:
            raise ImportRefused(
                f"{name} takes {_listed(lengths)}; the manifest gives it {_listed(spec.tiling.size)}",
                remedy="Correct the size in the manifest, or export with dynamic axes 2, 3 and 4.",
            )


def _check_output(model: ModelProto, spec: Network, name: str) -> None:
    shape = shape_of(model.graph.output[0])
    axes = 2 if spec.classifies else 5
    if shape and len(shape) != axes:
        wanted = "(1, labels)" if spec.classifies else "(1, labels, Z, Y, X)"
        raise ImportRefused(f"{name} gives {_listed(shape)}; a network that is to {spec.stage} gives {wanted}")
    if len(shape) > 1 and isinstance(shape[1], int) and shape[1] != len(spec.labels):
        raise ImportRefused(
            f"{name} gives {shape[1]} channels; the manifest names {len(spec.labels)} labels: {', '.join(spec.labels)}",
            remedy="Name one label for each output channel, the background included where they exclude each other.",
        )
    last = next((node for node in model.graph.node if model.graph.output[0].name in node.output), None)
    if last is not None and last.op_type in _ACTIVATIONS:
        raise ImportRefused(
            f"{name} ends with {last.op_type}: it gives probabilities, the cascade wants logits",
            remedy="Export without the last activation; the manifest's `activation` names it.",
        )


def _tried(model: ModelProto, spec: Network, channels: int, name: str) -> tuple[Index, float]:
    """Run on noise: the largest size tried and its seconds."""
    with tempfile.TemporaryDirectory(prefix="onescan-") as folder:
        path = Path(folder) / "network"
        durable.write_bytes(path, to_bytes(model))
        sizes = _sizes(spec)
        try:
            network = OnnxRuntime(available_cores()).load(path)
            for shape in sizes:
                image = noise(channels, shape)
                begun = time.monotonic()
                logits = network.run(image)
                seconds = time.monotonic() - begun
                _check_logits(logits, spec, name)
        except EngineError as error:
            raise ImportRefused(
                f"{name} does not run on a volume of {_listed(shape)}: {error}",
                remedy="Sizes must fit its strides: as a rule multiples of 2 to the number of its poolings.",
            ) from error
    return shape, seconds


def noise(channels: int, shape: Index) -> Tensor:
    """White noise (1, channels, *shape), always the same."""
    return np.random.Generator(np.random.PCG64(0)).standard_normal((1, channels, *shape), dtype=np.float32)


def _sizes(spec: Network) -> tuple[Index, ...]:
    if spec.tiling.kind != "whole":
        return (spec.tiling.size,)
    m = spec.tiling.pad_multiple
    return tuple((a * m, b * m, c * m) for a, b, c in _WHOLE_STEPS)


def _check_logits(logits: Tensor, spec: Network, name: str) -> None:
    if logits.ndim != (2 if spec.classifies else 5) or logits.shape[1] != len(spec.labels):
        raise ImportRefused(f"{name} gave {_listed(logits.shape)} for {len(spec.labels)} labels")


def _listed(shape: tuple[int | str, ...]) -> str:
    return "(" + ", ".join(str(n) for n in shape) + ")"
