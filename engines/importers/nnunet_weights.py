"""Checkpoints of nnU-Net v2 → ONNX. The one module that reads them with torch and builds what they belong to.

A stock checkpoint is a pickle; it is read with `weights_only=True` and an explicit list of NumPy's scalars (the
training log in it holds some), so that nothing that it names is ever called. The network comes from the plans and the
same library that trained it (dynamic-network-architectures), and every weight must find its place in it.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet

from core.errors import EngineError
from core.volume import Index
from engines.importers import ImportRefused
from engines.importers.graph import clean, read
from engines.runtime.onnx import OnnxRuntime
from engines.runtime.trust import INPUT, OUTPUT

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 17
_AGREES_WITHIN = 1e-3
"""Largest allowed difference of ONNX Runtime to torch, relative to the largest logit: both compute in fp32."""
_KINDS = {"PlainConvUNet": PlainConvUNet, "ResidualEncoderUNet": ResidualEncoderUNet}
_PARTS = {
    kind.__name__: kind
    for kind in (
        torch.nn.Conv3d,
        torch.nn.InstanceNorm3d,
        torch.nn.BatchNorm3d,
        torch.nn.Dropout3d,
        torch.nn.LeakyReLU,
        torch.nn.ReLU,
    )
}
"""What plans may name as a network's parts; they give a dotted path, of which the last word counts."""
_NAMED = ("conv_op", "norm_op", "dropout_op", "nonlin")
_DTYPES = ("Float64", "Float32", "Float16", "Int64", "Int32", "Bool")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What matters of one fold's checkpoint. mirror: the network's axes that it may be mirrored along."""

    weights: Mapping[str, torch.Tensor]
    configuration: str
    trainer: str
    mirror: tuple[int, ...]


def read_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint's weights and what they say about themselves. ImportRefused: it is none, or wants code to be run."""
    try:
        with torch.serialization.safe_globals(list(_allowed())):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ImportRefused(f"can't read {path}: {error.strerror or error}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ImportRefused(
            f"{path} is not a checkpoint of weights and plain values only: {_gist(error)}",
            remedy="Don't open this file with other tools before you know where it comes from: a checkpoint can carry "
            "code. One that nnU-Net wrote itself is read.",
        ) from error
    try:
        return Checkpoint(
            {_bare(name): tensor for name, tensor in content["network_weights"].items()},
            str(content["init_args"]["configuration"]),
            str(content.get("trainer_name", "")),
            tuple(int(axis) for axis in content.get("inference_allowed_mirroring_axes") or ()),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ImportRefused(f"{path} is not a checkpoint of nnU-Net v2: {error} is missing or no such thing") from error


def build(kind: str, arguments: Mapping[str, Any], channels: int, heads: int, weights: Mapping[str, Any]) -> Any:
    """The network (torch.nn.Module), ready to infer in fp32. ImportRefused: weights and architecture don't match."""
    given = {name: value for name, value in arguments.items() if name not in _NAMED}
    parts = {name: _part(arguments.get(name), name) for name in _NAMED}
    parts["conv_op"] = parts["conv_op"] or torch.nn.Conv3d
    given.pop("deep_supervision", None)  # its heads are in the weights all the same, and are not exported
    if "block" in given and str(given["block"]).rsplit(".", 1)[-1] not in ("BasicBlockD", "None"):
        raise ImportRefused(f"the architecture's blocks are {given['block']}: only BasicBlockD is known")
    given.pop("block", None)
    try:
        network = _KINDS[kind](input_channels=channels, num_classes=heads, deep_supervision=False, **given, **parts)
        network.load_state_dict(dict(weights), strict=True)
    except (TypeError, AssertionError, RuntimeError) as error:
        raise ImportRefused(f"the weights are not those of the {kind} in plans.json: {_gist(error)}") from error
    return network.eval()


def to_onnx(network: Any, channels: int, multiple: Index, name: str) -> ModelProto:
    """The ONNX model: `image` (1, channels, Z, Y, X) → `logits`, spatial axes dynamic, fp32.

    multiple: what each axis of an image must be a multiple of. name: of the file, in errors.
    """
    buffer = BytesIO()
    axes = {2: "z", 3: "y", 4: "x"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        torch.onnx.export(
            network,
            (torch.zeros(1, channels, *(2 * n for n in multiple)),),
            buffer,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: axes, OUTPUT: axes},
            dynamo=False,
        )
    return clean(read(buffer.getvalue(), name))


def compare(network: Any, path: Path, channels: int, shapes: tuple[Index, ...]) -> float:
    """Largest difference of the ONNX file to torch, relative to the largest logit; EngineError if it is too large."""
    loaded = OnnxRuntime(1).load(path)
    rng = np.random.Generator(np.random.PCG64(0))
    worst = 0.0
    for shape in shapes:
        image = rng.standard_normal((1, channels, *shape), dtype=np.float32)
        with torch.inference_mode():
            expected = network(torch.from_numpy(image)).numpy()
        worst = max(worst, float(np.abs(loaded.run(image) - expected).max() / np.abs(expected).max()))
    if not worst <= _AGREES_WITHIN:
        raise EngineError(f"the exported network differs from torch by {worst:.1e} of the largest logit")
    return worst


def _allowed() -> Iterator[Any]:
    """NumPy's scalars and their types, under NumPy 2's name and the one of older files."""
    scalar = np.float64(0).__reduce__()[0]
    yield from ((scalar, f"{module}.multiarray.scalar") for module in ("numpy.core", "numpy._core"))
    yield np.dtype
    yield from (getattr(np.dtypes, f"{name}DType") for name in _DTYPES)


def _bare(name: str) -> str:
    """A weight's name without what torch's wrappers put before it."""
    return name.removeprefix("module.").removeprefix("_orig_mod.")


def _part(path: object, name: str) -> Any:
    if path is None:
        return None
    kind = _PARTS.get(str(path).rsplit(".", 1)[-1])
    if kind is None:
        raise ImportRefused(f"the architecture's {name} is {path}; known are {', '.join(_PARTS)}")
    return kind


def _gist(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "Unsupported" in line or "GLOBAL" in line or "Missing" in line]
    return (telling or lines or [type(error).__name__])[0][:300]
