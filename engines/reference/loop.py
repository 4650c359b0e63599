"""One network's way from nothing to trained: steps, moving average, schedule, checkpoints. What is learned is a `Task`.

Step i draws from a generator seeded (seed, i), and the checkpoint holds whatever else it depends on, so a training that
was killed goes on exactly where it was. losses.jsonl and run.json in the folder say what was done.

A training that came to its end goes on where its recipe is given more steps: another leg, with a warm-up and an end of
its own, that learns from other patients. `begin` makes a folder to go on from out of a bundle.
"""

from __future__ import annotations

import json
import platform
import time
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from core import durable
from engines.phantom import difficulty

_EMA = 0.998
_TOLD_EVERY, _SAVED_EVERY = 50, 250
_WARM_UP, _LEVEL = 200, 0.75


class Task(Protocol):
    """What is learned."""

    @property
    def iterations(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...

    def build(self) -> Any:
        """The network, untrained."""

    def begin(self, leg: int) -> None:
        """Called once before all else: which leg it is, from 0."""

    def prepare(self, step: int) -> None:
        """Called before each step of a leg, which is counted from its beginning."""

    def loss(self, model: Any, rng: np.random.Generator, device: str) -> tuple[torch.Tensor, dict[str, float]]:
        """Draw a batch; its loss, and parts of it to be told."""

    def state(self) -> dict[str, torch.Tensor]:
        """What of the past the next batches depend on."""

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Take up what `state` gave."""

    def describe(self) -> dict[str, Any]:
        """For run.json."""


class Training:
    """A network on its way: model, its moving average, optimiser, and the step that it has reached.

    begun: the step that each leg began at.
    """

    def __init__(self, task: Task, folder: Path, seed: int) -> None:
        torch.manual_seed(seed)
        self.task, self.folder, self.seed, self.step, self.skipped = task, folder, seed, 0, 0
        self.begun = [0]
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model: Any = task.build().to(self.device, memory_format=torch.channels_last_3d)
        self.average: Any = task.build().to(self.device, memory_format=torch.channels_last_3d)
        self.average.load_state_dict(self.model.state_dict())
        self.average.eval()
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=task.learning_rate, weight_decay=0.01)
        self._parts: list[dict[str, float]] = []
        self._resume()

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.task.iterations

    def run(self, until: int | None = None) -> None:
        """Train to the end, or to step `until`."""
        end = self.task.iterations if until is None else min(until, self.task.iterations)
        begun = time.monotonic()
        while self.step < end:
            self.task.prepare(self.step - self.begun[-1])
            rate = self._set_rate()
            self._parts.append(self._advance())
            self.step += 1
            if self.step % _TOLD_EVERY == 0 or self.step == end:
                self._tell_losses(rate, time.monotonic() - begun)
            if self.step % _SAVED_EVERY == 0 or self.step == end:
                self.save()

    def _advance(self) -> dict[str, float]:
        rng = np.random.Generator(np.random.PCG64([self.seed, self.step]))
        torch.manual_seed(int(rng.integers(2**62)))
        self.model.train()
        self.optimiser.zero_grad(set_to_none=True)
        loss, parts = self.task.loss(self.model, rng, self.device)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        if torch.isfinite(norm):
            self.optimiser.step()
            self._follow()
        else:
            self.skipped += 1  # an overflow in bf16 must not poison the weights
        return {"loss": float(loss.detach()), **parts}

    def _follow(self) -> None:
        """The moving average: quick at first, then over some hundred steps. Its batch norms follow as they are."""
        keep = min(_EMA, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            mine, new = self.average.state_dict(), self.model.state_dict()
            for name, value in mine.items():
                if value.is_floating_point():
                    value.lerp_(new[name], 1 - keep)
                else:
                    value.copy_(new[name])

    def _set_rate(self) -> float:
        """Linear warm-up, then level, then for the last quarter of the leg a cosine to a hundredth.

        Level for long, so that what has been learned so far never depends on how long training will go on.
        """
        step = self.step - self.begun[-1]
        done = step / (self.task.iterations - self.begun[-1])
        late = max(0.0, (done - _LEVEL) / (1 - _LEVEL))
        factor = min((step + 1) / _WARM_UP, 1.0) * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * min(late, 1.0))))
        rate = float(self.task.learning_rate * factor)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        return rate

    def _tell_losses(self, rate: float, seconds: float) -> None:
        means = {name: round(float(np.mean([p[name] for p in self._parts])), 4) for name in self._parts[0]}
        self._parts.clear()
        self.tell({**means, "rate": round(rate, 6), "s": round(seconds)})

    def tell(self, line: dict[str, Any]) -> None:
        """One line more in losses.jsonl, with the step."""
        told = {"step": self.step, **line}
        durable.write_text(self._journal, self._told() + json.dumps(told) + "\n")
        print(json.dumps(told), flush=True)

    def was_told(self, name: str) -> bool:
        """Whether losses.jsonl has a line of this step with `name` in it."""
        lines = (json.loads(line) for line in self._told().splitlines())
        return any(line["step"] == self.step and name in line for line in lines)

    @property
    def _journal(self) -> Path:
        return self.folder / "losses.jsonl"

    def _told(self) -> str:
        return self._journal.read_text() if self._journal.exists() else ""

    def save(self) -> None:
        """Checkpoint, durably and in one step."""
        buffer = BytesIO()
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "skipped": self.skipped,
            "begun": self.begun,
            "goal": self.task.iterations,
            "task": self.task.state(),
        }
        torch.save(state, buffer)
        durable.write_bytes(self.folder / "checkpoint.pt", buffer.getvalue())
        run = {
            "task": self.task.describe(), "seed": self.seed, "step": self.step, "begun": self.begun,
            "skipped": self.skipped, "law": {"version": difficulty.VERSION, "sha256": difficulty.digest()},
            "device": self.device, "torch": torch.__version__, "python": platform.python_version(),
            "threads": torch.get_num_threads(),
        }  # fmt: skip
        durable.write_text(self.folder / "run.json", json.dumps(run, indent=2) + "\n")

    def _resume(self) -> None:
        durable.make_folder(self.folder)
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            self.task.begin(0)
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.step, self.skipped, self.begun = state["step"], state["skipped"], list(state["begun"])
        ended = self.step >= state["goal"] and not self.finished
        if ended:
            self.begun.append(self.step)
        self.task.begin(len(self.begun) - 1)
        if state["optimiser"] is not None:
            self.optimiser.load_state_dict(state["optimiser"])
        if state["task"] and not ended:  # of another leg's patients nothing is remembered
            self.task.restore(state["task"])
        # What was told of steps after the checkpoint will be told again.
        kept = [line for line in self._told().splitlines(keepends=True) if json.loads(line)["step"] <= self.step]
        durable.write_text(self._journal, "".join(kept))
