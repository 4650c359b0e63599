"""Checkpoint → ONNX opset 17, float32, weights rounded to fp16's ten bits; and back, to go on training from a bundle.

Batch norms stay nodes of their own, so that nothing of what was learned is lost: every runtime folds them into the
convolutions when it loads the file. Weights have the names that torch knows them by.

Rounded, and yet float32: the low bits of a weight are noise that no compression can make smaller, and every runtime
reads plain float32. A bundle takes three fifths of the room in git and in a package, and half precision on a device
changes the weights no further.

a map           input `image` (1, 1, Z, Y, X), output `logits` (1, C, Z, Y, X); Z, Y, X dynamic
a characteriser input `image` (1, 2 + R, Z, Y, X) of fixed size, output `logits` (1, C)
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
from onnx import numpy_helper

from core.errors import EngineError
from core.volume import Index
from engines.reference.network import UNet, looking_network
from engines.reference.recipes import CharacteriserRecipe, Recipe
from engines.runtime.onnx import OnnxRuntime

OPSET = 17
_DROPPED = 13
"""Of a float32's 23 bits behind the point."""
EXACT, COMPACT = 1e-3, 3e-3
"""Largest allowed differences to torch. Both compute in fp32, so as exported it is 1e-6. Rounded weights make it 1e-3
in the abdomen's network, a seventh of what computing in bf16 does."""


def load_trained(recipe: Recipe | CharacteriserRecipe, folder: Path) -> Any:
    """The moving average of a checkpoint's weights as a network ready to infer in fp32 on the CPU."""
    if isinstance(recipe, CharacteriserRecipe):
        model: Any = looking_network(recipe)
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
        (torch.zeros(1, channels_of(recipe), *input_shapes(recipe)[0]),),
        buffer,
        opset_version=OPSET,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={} if fixed else {"image": axes, "logits": axes},
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE,  # it is in `eval`; this only leaves batch norms unfolded
    )
    proto = onnx.load_from_string(buffer.getvalue())
    # The exporter notes source paths of the machine that exported: they belong to nobody else.
    for node in proto.graph.node:
        node.ClearField("doc_string")
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString())


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of an exported network, by torch's names."""
    return {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in onnx.load(path).graph.initializer}


def compact(content: bytes) -> bytes:
    """The same network with `rounded` weights: no smaller by itself, but it compresses."""
    proto = onnx.load_from_string(content)
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(rounded(numpy_helper.to_array(tensor)), tensor.name))
    return bytes(proto.SerializeToString())


def rounded(weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """float32 whose significands have ten bits behind the point, as fp16's have; to nearest, ties to even."""
    bits = np.ascontiguousarray(weights).view(np.uint32)
    odd = (bits >> _DROPPED) & np.uint32(1)
    half = np.uint32(2 ** (_DROPPED - 1) - 1)
    kept = (bits + half + odd) & ~np.uint32(2**_DROPPED - 1)
    return np.asarray(kept.view(np.float32).reshape(weights.shape), np.float32)


def channels_of(recipe: Recipe | CharacteriserRecipe) -> int:
    """How many channels a network's input has."""
    return 2 + len(recipe.references) if isinstance(recipe, CharacteriserRecipe) else 1


def input_shapes(recipe: Recipe | CharacteriserRecipe) -> Sequence[Index]:
    """Shapes (z, y, x) to try a network on."""
    if isinstance(recipe, CharacteriserRecipe):
        return [recipe.block]
    m = recipe.multiple
    return [(4 * m, 3 * m, 5 * m), (5 * m, 4 * m, 3 * m)]


def check_against_torch(model: Any, recipe: Recipe | CharacteriserRecipe, path: Path, within: float) -> float:
    """Largest difference of ONNX Runtime to torch, relative to the largest logit; EngineError if it is beyond `within`:
    EXACT as exported, COMPACT with rounded weights."""
    network = OnnxRuntime(1).load(path)
    rng = np.random.Generator(np.random.PCG64(0))
    worst = 0.0
    for shape in input_shapes(recipe):
        image: npt.NDArray[np.float32] = rng.standard_normal((1, channels_of(recipe), *shape), dtype=np.float32)
        image[:, 1:2] = image[:, 1:2] > 0.5  # a mask
        with torch.no_grad():
            expected = model(torch.from_numpy(image)).numpy()
        difference = np.abs(network.run(image) - expected).max() / np.abs(expected).max()
        worst = max(worst, float(difference))
    if worst > within:
        raise EngineError(f"{recipe.name}: ONNX differs from torch by {worst:.1e} of the largest logit")
    return worst
