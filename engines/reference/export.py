"""Checkpoint → ONNX opset 17: input `image` (1,1,Z,Y,X), output `logits` (1,C,Z,Y,X), Z, Y, X dynamic, float32."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import torch

from core.errors import EngineError
from engines.reference.network import UNet
from engines.reference.recipes import Recipe
from engines.runtime.onnx import OnnxRuntime

OPSET = 17
_AGREES_WITHIN = 1e-3
"""Largest allowed difference to torch, relative to the largest logit: both compute in fp32."""


def load_trained(recipe: Recipe, folder: Path) -> UNet:
    """The network of a checkpoint, ready to infer in fp32 on the CPU."""
    model = UNet(recipe.features, len(recipe.labels))
    state = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    model.eval()
    return model


def to_onnx(model: UNet, recipe: Recipe) -> bytes:
    """The ONNX file, checked by onnx's own checker."""
    buffer = BytesIO()
    edge = 4 * recipe.multiple
    axes = {2: "z", 3: "y", 4: "x"}
    torch.onnx.export(
        model,
        (torch.zeros(1, 1, edge, edge, edge),),
        buffer,
        opset_version=OPSET,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": axes, "logits": axes},
        dynamo=False,
    )
    proto = onnx.load_from_string(buffer.getvalue())
    # The exporter notes source paths of the machine that exported: they belong to nobody else.
    for node in proto.graph.node:
        node.ClearField("doc_string")
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString())


def check_against_torch(model: UNet, recipe: Recipe, path: Path) -> float:
    """Largest relative difference of ONNX Runtime to torch on two shapes; EngineError if it is too large."""
    network = OnnxRuntime(1).load(path)
    rng = np.random.Generator(np.random.PCG64(0))
    worst = 0.0
    m = recipe.multiple
    for shape in ((4 * m, 3 * m, 5 * m), (5 * m, 4 * m, 3 * m)):
        image = rng.standard_normal((1, 1, *shape), dtype=np.float32)
        with torch.no_grad():
            expected = model(torch.from_numpy(image)).numpy()
        difference = np.abs(network.run(image) - expected).max() / np.abs(expected).max()
        worst = max(worst, float(difference))
    if worst > _AGREES_WITHIN:
        raise EngineError(f"{recipe.name}: ONNX differs from torch by {worst:.1e} of the largest logit")
    return worst
