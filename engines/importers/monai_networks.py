"""Networks of `monai.networks.nets` with a state dict's weights → ONNX. The one module that imports monai.

Weights are read, none of the bundle's code runs: a pickle that wants more than tensors is refused, and TorchScript is
opened only where whoever made it is trusted.
"""

from __future__ import annotations

import inspect
import operator
import pickle
import warnings
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from monai.networks import nets
from onnx import ModelProto

from core.errors import EngineError
from core.volume import Index
from engines.importers import ImportRefused
from engines.importers.graph import clean, read, to_bytes
from engines.importers.monai_config import Component
from engines.runtime.onnx import OnnxRuntime
from engines.runtime.trust import INPUT, OUTPUT

OPSET = 17
KNOWN = (
    "UNet", "AttentionUnet", "BasicUNet", "DynUNet", "FlexibleUNet", "SegResNet", "SegResNetDS", "SwinUNETR", "UNETR",
    "VNet",
)  # fmt: skip
_ONE_SIZE = ("SwinUNETR", "UNETR")
"""Transformers: their positions, windows and masks are of one size of tile."""
_STRAIGHTENED = ("SwinUNETR",)
_MODULE = "monai.networks.nets"
_WRAPPERS = ("state_dict", "model", "network", "net")
_AGREES_WITHIN = 1e-3
"""Largest allowed difference of ONNX to torch, relative to the largest logit: both compute in fp32."""


def build(definition: Component, channels: int, labels: int) -> Any:
    """The network that `network_def` describes, untrained. ImportRefused if it is not one of `KNOWN`, or in 2D."""
    module = definition.target.rpartition(".")[0]
    if definition.name not in KNOWN or not (module == "" or module.startswith(_MODULE)):
        raise ImportRefused(
            f"network_def wants {definition.target}; known are {', '.join(KNOWN)} of {_MODULE}",
            remedy="Export the network to ONNX yourself and use `onescan-engines import onnx`.",
        )
    kind = getattr(nets, definition.name)
    defaults = {name: parameter.default for name, parameter in inspect.signature(kind).parameters.items()}
    arguments = {name: _plain(value, f"network_def::{name}") for name, value in definition.arguments.items()}
    for name, wanted in (("spatial_dims", 3), ("in_channels", channels), ("out_channels", labels)):
        given = arguments.get(name, defaults.get(name, wanted))
        if given not in (wanted, inspect.Parameter.empty):
            raise ImportRefused(f"network_def: {name} is {given}; this bundle needs {wanted}")
    if "pretrained" in defaults:
        arguments["pretrained"] = False  # MONAI would fetch weights from afar; the bundle's own replace them anyway
    try:
        network = kind(**arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError, KeyError) as error:
        raise ImportRefused(f"network_def: monai does not build this {definition.name}: {_gist(error)}") from error
    for part in network.modules():
        if hasattr(part, "set_swish"):
            part.set_swish(memory_efficient=False)  # the same numbers; the other one exists for training only
    return network.eval()


def load_weights(network: Any, path: Path, trust_torchscript: bool) -> None:
    """Give a network the weights of a state dict (.pt) or a TorchScript file (.ts). ImportRefused: they don't fit."""
    weights = _torchscript(path, trust_torchscript) if path.suffix == ".ts" else _state_dict(path)
    try:
        network.load_state_dict({name.removeprefix("module."): value for name, value in weights.items()}, strict=True)
    except RuntimeError as error:
        raise ImportRefused(f"the weights in {path.name} are not those of network_def: {_gist(error)}") from error


def to_onnx(network: Any, name: str, kind: str, tile: Index, scratch: Path) -> tuple[ModelProto, float]:
    """The ONNX model, and its largest difference to torch on a tile of noise, relative to the largest logit."""
    buffer = BytesIO()
    axes = {} if kind in _ONE_SIZE else {port: {2: "z", 3: "y", 4: "x"} for port in (INPUT, OUTPUT)}
    image = torch.from_numpy(np.random.Generator(np.random.PCG64(0)).standard_normal((1, 1, *tile), np.float32))
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        try:
            torch.onnx.export(
                _straightened(network, image) if kind in _STRAIGHTENED else network,
                (image,),
                buffer,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes=axes,
                dynamo=False,
                training=torch.onnx.TrainingMode.PRESERVE,  # `build` has chosen
            )
            expected = network(image).numpy()
        except (RuntimeError, ValueError, torch.onnx.errors.OnnxExporterError) as error:
            raise ImportRefused(
                f"torch can't export this {kind}: {_gist(error)}",
                remedy="roi_size must fit the network's strides; otherwise export it yourself: `import onnx`.",
            ) from error
    model = clean(read(buffer.getvalue(), name))
    onnx.save_model(model, scratch / name)
    found = OnnxRuntime(1).load(scratch / name).run(image.numpy())
    difference = float(np.abs(found - expected).max() / np.abs(expected).max())
    if not difference <= _AGREES_WITHIN:
        raise EngineError(f"{name} differs from torch by {difference:.1e} of the largest logit")
    return read(to_bytes(model), name), difference


def _straightened(network: Any, image: Any) -> Any:
    """The network for images of just this size: lengths as numbers, and what does not depend on the image as constants.

    The exporter's tracer loses what SwinUNETR writes into slices of its attention masks (its logits would be off by
    2 %), and the number of channels after a layer norm over a traced length. torch.export loses neither, and what is
    left after folding are operators that the exporter knows.
    """
    module = torch.export.export(network, (image,)).run_decompositions({}).module()
    values: dict[Any, Any] = {}
    for node in list(module.graph.nodes):
        if node.op == "get_attr":
            values[node] = operator.attrgetter(node.target)(module)
        elif node.op == "call_function" and all(used in values for used in node.all_input_nodes):
            args, named = torch.fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = node.target(*args, **named)
    for node in list(module.graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            module.graph.erase_node(node)
        elif node.target is torch.ops.aten._unsafe_view.default:
            node.target = torch.ops.aten.reshape.default
        elif node.op == "call_function" and node in values and any(user not in values for user in node.users):
            name = f"constant_{node.name}"
            module.register_buffer(name, values[node])
            with module.graph.inserting_before(node):
                node.replace_all_uses_with(module.graph.get_attr(name))
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _state_dict(path: Path) -> Mapping[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ImportRefused(f"can't read {path}: {error.strerror or error}") from error
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError) as error:
        raise ImportRefused(
            f"{path.name} is no plain state dict: {_gist(error)}",
            remedy="Save `network.state_dict()` with torch.save; anything else in the file could be code.",
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ImportRefused(f"{path.name} is no state dict: names and tensors are wanted")
    return content


def _torchscript(path: Path, trusted: bool) -> Mapping[str, Any]:
    if not trusted:
        raise ImportRefused(
            f"{path.name} is TorchScript: a program, which runs when it is opened",
            remedy="Use the state dict (models/model.pt); or, if you trust who made this file, --trust-torchscript.",
        )
    try:
        weights: Mapping[str, Any] = torch.jit.load(str(path), map_location="cpu").state_dict()
    except (RuntimeError, ValueError, OSError) as error:
        raise ImportRefused(f"{path.name} can't be read as TorchScript: {_gist(error)}") from error
    return weights


def _plain(value: Any, where: str) -> Any:
    """Data for a constructor; MONAI takes (name, arguments) pairs as tuples."""
    if isinstance(value, Component):
        raise ImportRefused(f"{where} wants {value.target}: only plain values are known there")
    if isinstance(value, list):
        return tuple(_plain(part, where) for part in value)
    if isinstance(value, dict):
        return {key: _plain(part, where) for key, part in value.items()}
    return value


def _gist(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300] or type(error).__name__
