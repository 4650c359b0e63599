"""nnU-Net v2's own predictor: the three steps of its `predict_single_npy_array`, timed. On a CPU it only knows fp32."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from nnunetv2.inference.data_iterators import PreprocessAdapterFromNpy
from nnunetv2.inference.export_prediction import (
    convert_predicted_logits_to_segmentation_with_correct_shape as to_labels,
)
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from bench.peers import STEP, Labels, Parts, run


def prepare(job: dict[str, Any], hu: Any) -> Any:
    """Weights and the image as its reader would give it."""
    torch.set_num_threads(job["threads"])
    predictor = nnUNetPredictor(
        tile_step_size=STEP, use_mirroring=job["mirror"], device=torch.device("cpu"), allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(job["model"], (0,))
    image, properties = hu[None].astype(np.float32), {"spacing": job["spacing_mm"]}

    def segment(parts: dict[str, float]) -> Labels:
        watch, p = Parts(parts), predictor
        case = next(
            PreprocessAdapterFromNpy(
                *([image], [None], [properties], [None]),
                *(p.plans_manager, p.dataset_json, p.configuration_manager),
                num_threads_in_multithreaded=1,
                verbose=False,
            )
        )
        watch.note("resampling in, normalising")
        logits = p.predict_logits_from_preprocessed_data(case["data"])
        watch.note("tiles and network")
        labels = to_labels(
            logits, p.plans_manager, p.configuration_manager, p.label_manager, case["data_properties"],
            num_threads_torch=job["threads"],
        )  # fmt: skip
        watch.note("logits to the scan's grid, labels")
        return np.asarray(labels, dtype=np.uint8)

    return segment


if __name__ == "__main__":
    run(prepare)
