"""What the trainings of a bundle's networks told, as one file of the bundle: recipes, seeds, losses, trials.

training.json belongs to the model card: {network: {"run": run.json, "losses": lines of losses.jsonl}}. Every line that
tells of a trial is kept, and of the others at most MOST, evenly.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import durable
from core.errors import EngineError
from engines.bundle import Bundle, Content

NAME, MOST = "training.json", 200


@dataclass(frozen=True)
class Told:
    """One network's training. run: recipe, seed, steps, versions. losses: means over some steps, and trials."""

    run: dict[str, Any]
    losses: list[dict[str, Any]]

    @classmethod
    def of(cls, folder: Path) -> Told:
        """As `loop` left it."""
        lines = (folder / "losses.jsonl").read_text().splitlines()
        return cls(json.loads((folder / "run.json").read_text()), [json.loads(line) for line in lines])

    def write(self, folder: Path) -> None:
        """As `loop` leaves it."""
        durable.make_folder(folder)
        durable.write_text(folder / "run.json", json.dumps(self.run, indent=2) + "\n")
        durable.write_text(folder / "losses.jsonl", "".join(json.dumps(line) + "\n" for line in self.losses))


def gather(trained: Path, names: Sequence[str]) -> Content:
    """The file, from the folders of training."""
    told = {}
    for name in names:
        one = Told.of(trained / name)
        told[name] = {"run": one.run, "losses": _some(one.losses)}
    return Content(NAME, "model_card", json.dumps(told, indent=0).encode() + b"\n")


def _some(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    every = max(1, -(-len(lines) // MOST))
    return [line for n, line in enumerate(lines, 1) if "validation" in line or n % every == 0]


def read(bundle: Bundle) -> dict[str, Told]:
    """The trainings that a bundle tells of; EngineError where it tells of none."""
    if NAME not in {file.name for file in bundle.manifest.files}:
        raise EngineError(
            f"{bundle.folder} does not say how its networks were trained",
            remedy=f"Take a bundle with {NAME}, as `python -m engines.reference.pack whole` makes it.",
        )
    told = json.loads(bundle.path(NAME).read_text(encoding="utf-8"))
    return {name: Told(fields["run"], fields["losses"]) for name, fields in told.items()}
