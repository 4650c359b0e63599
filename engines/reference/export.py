"""Checkpoint → ONNX opset 17, float32, batch norms folded into the convolutions.

a map           input `image` (1, 1, Z, Y, X), output `logits` (1, C, Z, Y, X); Z, Y, X dynamic
a characteriser input `image` (1, 2, Z, Y, X) of fixed size, output `logits` (1, C)
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from core.errors import EngineError
from core.volume import Index
from engines.reference.network import Characteriser, UNet
from engines.reference.recipes import CharacteriserRecipe, Recipe
from engines.runtime.onnx import OnnxRuntime

OPSET = 17
_AGREES_WITHIN = 1e-3
"""Largest allowed difference to torch, relative to the largest logit: both compute in fp32."""


def load_trained(recipe: Recipe | CharacteriserRecipe, folder: Path) -> Any:
    """The moving average of a checkpoint's weights as a network ready to infer in fp32 on the CPU."""
    if isinstance(recipe, CharacteriserRecipe):
        model: Any = Characteriser(recipe.features, len(recipe.labels))
    else:
        model = UNet(recipe.features, len(recipe.labels))
    state = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)["average"]
    model.load_state_dict({k: v for k, v in state.items() if not k.startswith("scenery.")})
    model.eval()
    return model


def to_onnx(model: Any, recipe: Recipe | CharacteriserRecipe) -> bytes:
    """The ONNX file, checked by onnx's own checker."""
    axes = {2: "z", 3: "y", 4: "x"}
    fixed = isinstance(recipe, CharacteriserRecipe)
    buffer = BytesIO()
    torch.onnx.export(
        model,
        (torch.zeros(1, 2 if fixed else 1, *input_shapes(recipe)[0]),),
        buffer,
        opset_version=OPSET,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={} if fixed else {"image": axes, "logits": axes},
        dynamo=False,
    )
    proto = onnx.load_from_string(buffer.getvalue())
    # The exporter notes source paths of the machine that exported: they belong to nobody else.
    for node in proto.graph.node:
        node.ClearField("doc_string")
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString())


def input_shapes(recipe: Recipe | CharacteriserRecipe) -> Sequence[Index]:
    """Shapes (z, y, x) to try a network on."""
    if isinstance(recipe, CharacteriserRecipe):
        return [recipe.block]
    m = recipe.multiple
    return [(4 * m, 3 * m, 5 * m), (5 * m, 4 * m, 3 * m)]


def check_against_torch(model: Any, recipe: Recipe | CharacteriserRecipe, path: Path) -> float:
    """Largest relative difference of ONNX Runtime to torch; EngineError if it is too large."""
    network = OnnxRuntime(1).load(path)
    rng = np.random.Generator(np.random.PCG64(0))
    channels = 2 if isinstance(recipe, CharacteriserRecipe) else 1
    worst = 0.0
    for shape in input_shapes(recipe):
        image: npt.NDArray[np.float32] = rng.standard_normal((1, channels, *shape), dtype=np.float32)
        with torch.no_grad():
            expected = model(torch.from_numpy(image)).numpy()
        difference = np.abs(network.run(image) - expected).max() / np.abs(expected).max()
        worst = max(worst, float(difference))
    if worst > _AGREES_WITHIN:
        raise EngineError(f"{recipe.name}: ONNX differs from torch by {worst:.1e} of the largest logit")
    return worst
