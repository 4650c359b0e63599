"""`python -m bench.peers.model FOLDER FEATURES ITERATIONS`: a model folder, made and saved by nnU-Net's own trainer.

PlainConvUNet, 5 stages (FEATURES, comma-separated), patch 64×96×96 at 6×4×4 mm, four classes, trained for some steps on
a phantom, so that its labels are neither trivial nor noise: what it segments does not matter.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from tests.engines.importers.nnunet_recipes import Recipe, dataset_of, plans_of
from tests.referee import nnunet_training as training

RECIPE = Recipe("bench", spacing=(6.0, 4.0, 4.0), patch=(64, 96, 96), scan_mm=(6.0, 4.0, 4.0))
CROP = (32, 48, 48)


def plans(features: list[int]) -> dict[str, Any]:
    """plans.json of a network with as many stages as features."""
    fields = plans_of(RECIPE)
    stages = len(features)
    fields["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"] |= {
        "n_stages": stages,
        "features_per_stage": features,
        "kernel_sizes": [[3, 3, 3]] * stages,
        "strides": [[1, 1, 1], *[[2, 2, 2]] * (stages - 1)],
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
    }
    return fields


def main() -> None:
    """Make the folder; its path is printed."""
    results, features, iterations = Path(sys.argv[1]), [int(n) for n in sys.argv[2].split(",")], int(sys.argv[3])
    torch.manual_seed(0)
    made, dataset = plans(features), dataset_of(RECIPE)
    with training._environment(results):
        trainer = nnUNetTrainer({**made, "continue_training": False}, "3d_fullres", 0, dataset, torch.device("cpu"))
        trainer.initialize()
        trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        case = training._preprocessed(trainer, dataclasses.replace(RECIPE), 11)
        rng = np.random.default_rng(0)
        trainer.network.train()
        for _ in range(iterations):
            data, target = training._crop(case, CROP, rng)
            batch = {"data": torch.from_numpy(data[None]), "target": training._pyramid(trainer, target[None])}
            trainer.train_step(batch)
        trainer.on_train_epoch_end([{"loss": np.zeros(1)}])
        trainer.save_checkpoint(os.path.join(trainer.output_folder, "checkpoint_final.pth"))
        folder = Path(trainer.output_folder_base)
    for name, content in (("plans", made), ("dataset", dataset)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    print(folder)


if __name__ == "__main__":
    main()
