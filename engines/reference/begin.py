"""A bundle → a folder of training to go on from: its weights, and what its trainings told.

    python -m engines.reference.begin --bundle engines/bundles/reference --work var/reference

Whoever gives recipes more steps (`recipes`) then trains another leg by `python -m engines.reference --work
var/reference`; with unchanged recipes the first two stages count as done. What the optimiser and the memory of hard
places held is not in a bundle, nor is the head that names scenery: they come back within some hundred steps.
"""

from __future__ import annotations

import argparse
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from core import durable
from core.errors import EngineError
from engines.bundle import Bundle, open_bundle
from engines.manifest import Network
from engines.reference import journal
from engines.reference.export import weights_of
from engines.reference.network import UNet, looking_network
from engines.reference.recipes import CHARACTERISERS, RECIPES, SCENERY


class OtherNetwork(EngineError):
    """A network of the bundle isn't the one that the recipe of its name builds."""

    default_remedy = "Begin with a bundle that was trained by these recipes, or train from nothing."


def begin(bundle: Bundle, work: Path) -> list[str]:
    """Write a checkpoint for each network of the bundle that has none in `work` yet; their names."""
    begun = []
    told = journal.read(bundle)
    for network in bundle.manifest.networks:
        folder = work / network.id
        if network.id not in RECIPES.keys() | CHARACTERISERS.keys() or (folder / "checkpoint.pt").exists():
            continue
        step = int(told[network.id].run["step"])
        state = _filled(network, bundle.path(network.files[0]), step)
        checkpoint: dict[str, Any] = {
            "model": state, "average": state, "optimiser": None, "step": step, "goal": step, "task": None,
            "skipped": told[network.id].run["skipped"], "begun": told[network.id].run["begun"],
        }  # fmt: skip
        buffer = BytesIO()
        torch.save(checkpoint, buffer)
        told[network.id].write(folder)
        durable.write_bytes(folder / "checkpoint.pt", buffer.getvalue())
        begun.append(network.id)
    return begun


def _filled(network: Network, path: Path, step: int) -> dict[str, torch.Tensor]:
    """The network that the recipe builds, with the file's weights, as after `step` batches."""
    torch.manual_seed(0)
    if network.id in RECIPES:
        recipe = RECIPES[network.id]
        scenery = len(SCENERY) + 1 if recipe.stage == "detect" else 0
        model: Any = UNet(recipe.features, len(recipe.labels), scenery)
    else:
        looking = CHARACTERISERS[network.id]
        model = looking_network(looking)
    state: dict[str, torch.Tensor] = model.state_dict()
    weights = weights_of(path)
    counts = {k: torch.tensor(step) for k in state if k.endswith("num_batches_tracked")}  # no file has them
    wanted = {k for k in state if not k.startswith("scenery.")} - counts.keys()
    shapes = {k: tuple(state[k].shape) for k in wanted}
    if shapes != {k: tuple(v.shape) for k, v in weights.items() if k in wanted}:
        raise OtherNetwork(f"{path.name} does not have the weights of the recipe {network.id}")
    return {**state, **counts, **{k: weights[k] for k in wanted}}


def main() -> None:
    """Make a folder of training; see the module's docstring."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    a = parser.parse_args()
    print("to go on from:", ", ".join(begin(open_bundle(a.bundle), a.work)) or "nothing that is not there already")


if __name__ == "__main__":
    main()
