"""MONAI as one uses it: Spacing, SlidingWindowInferer (Gaussian, sigma 1/8), the same network, mirrored runs averaged,
linear logits back to the scan's grid, argmax. precision bf16: torch's autocast on the CPU."""

from __future__ import annotations

import contextlib
from itertools import product
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import Spacing
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from bench.peers import STEP, Labels, Parts, run


def prepare(job: dict[str, Any], hu: Any) -> Any:
    """The network that nnU-Net builds and loads, and what its plans say of spacing, patch and intensities."""
    torch.set_num_threads(job["threads"])
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(job["model"], (0,))
    network = predictor.network
    network.load_state_dict(predictor.list_of_parameters[0])
    network.eval()
    plans = predictor.configuration_manager
    known = predictor.plans_manager.foreground_intensity_properties_per_channel["0"]
    inferer = SlidingWindowInferer(plans.patch_size, 1, STEP, mode="gaussian", sigma_scale=0.125)
    flips = list(product((False, True), repeat=3)) if job["mirror"] else [(False, False, False)]

    def averaged(tile: torch.Tensor) -> torch.Tensor:
        total: Any = 0
        for flip in flips:
            axes = [axis + 2 for axis, turned in enumerate(flip) if turned]
            total = total + torch.flip(network(torch.flip(tile, axes)), axes)
        return total / len(flips)

    image = MetaTensor(
        torch.from_numpy(hu.astype(np.float32))[None], affine=torch.diag(torch.tensor([*job["spacing_mm"], 1.0]))
    )
    lower = torch.autocast("cpu", torch.bfloat16) if job["precision"] == "bf16" else contextlib.nullcontext()

    def segment(parts: dict[str, float]) -> Labels:
        watch = Parts(parts)
        with torch.inference_mode():
            small = Spacing(plans.spacing, mode="bilinear")(image).as_tensor()
            small = (small.clip(known["percentile_00_5"], known["percentile_99_5"]) - known["mean"]) / known["std"]
            watch.note("resampling in, normalising")
            with lower:
                logits = inferer(small[None], averaged)
            watch.note("tiles and network")
            full = torch.nn.functional.interpolate(logits.float(), size=hu.shape, mode="trilinear", align_corners=True)
            labels = full[0].argmax(dim=0).to(torch.uint8).numpy()
            watch.note("logits to the scan's grid, labels")
        return labels

    return segment


if __name__ == "__main__":
    run(prepare)
