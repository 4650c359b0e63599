"""plans.json and dataset.json of tiny nnU-Net v2 models, as its planner writes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_FUNCTION = "resample_data_or_seg_to_shape"
LABELS = {"background": 0, "lung": 1, "bone": 2, "soft tissue": 3}


@dataclass(frozen=True)
class Recipe:
    """A model to make. spacing, patch, strides: along the network's axes (after transpose_forward)."""

    name: str
    configuration: str = "3d_fullres"
    spacing: tuple[float, float, float] = (7.0, 7.0, 7.0)
    patch: tuple[int, int, int] = (16, 40, 48)
    kind: str = "PlainConvUNet"
    old_plans: bool = False
    labels: dict[str, Any] = field(default_factory=lambda: dict(LABELS))
    regions: tuple[int, ...] | None = None
    normalization: str = "CTNormalization"
    transpose: tuple[int, int, int] = (0, 1, 2)
    reader: str = "SimpleITKIO"
    scan_mm: tuple[float, float, float] = (6.0, 5.0, 5.0)
    iterations: int = 60


def architecture(recipe: Recipe) -> dict[str, Any]:
    """As nnU-Net 2.4 and newer write it."""
    blocks = "n_conv_per_stage" if recipe.kind == "PlainConvUNet" else "n_blocks_per_stage"
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{recipe.kind}",
        "arch_kwargs": {
            "n_stages": 3,
            "features_per_stage": [8, 16, 32],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
            "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
            blocks: [2, 2, 2],
            "n_conv_per_stage_decoder": [2, 2],
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def old_architecture(recipe: Recipe) -> dict[str, Any]:
    """As nnU-Net 2.0 wrote it, beside the other fields of a configuration."""
    return {
        "UNet_class_name": recipe.kind,
        "UNet_base_num_features": 8,
        "unet_max_num_features": 320,
        "n_conv_per_stage_encoder": [2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2],
        "num_pool_per_axis": [1, 2, 2],
        "pool_op_kernel_sizes": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        "conv_kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
    }


def plans_of(recipe: Recipe) -> dict[str, Any]:
    """plans.json."""
    own: dict[str, Any] = {
        "data_identifier": "tiny",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(recipe.patch),
        "median_image_size_in_voxels": [60.0, 100.0, 120.0],
        "spacing": list(recipe.spacing),
        "normalization_schemes": [recipe.normalization],
        "use_mask_for_norm": [False],
        "resampling_fn_data": _FUNCTION,
        "resampling_fn_seg": _FUNCTION,
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
        "resampling_fn_probabilities": _FUNCTION,
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
        "batch_dice": False,
        **(old_architecture(recipe) if recipe.old_plans else {"architecture": architecture(recipe)}),
    }
    configurations: dict[str, Any] = {"3d_fullres": own}
    if recipe.configuration == "3d_lowres":
        configurations["3d_lowres"] = {**own, "next_stage": "3d_cascade_fullres"}
    if recipe.configuration == "3d_cascade_fullres":
        configurations["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
        configurations["3d_lowres"] = {**own, "next_stage": "3d_cascade_fullres"}
    back = [recipe.transpose.index(axis) for axis in range(3)]
    intensities = {"mean": -120.0, "std": 320.0, "percentile_00_5": -960.0, "percentile_99_5": 320.0}
    return {
        "dataset_name": "Dataset007_Phantom",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": list(recipe.spacing),
        "original_median_shape_after_transp": [60, 100, 120],
        "image_reader_writer": recipe.reader,
        "transpose_forward": list(recipe.transpose),
        "transpose_backward": back,
        "configurations": configurations,
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {**intensities, "max": 2000.0, "min": -1024.0, "median": 20.0}
        },
    }


def dataset_of(recipe: Recipe) -> dict[str, Any]:
    """dataset.json."""
    fields: dict[str, Any] = {
        "channel_names": {"0": "CT"},
        "labels": recipe.labels,
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    return fields if recipe.regions is None else {**fields, "regions_class_order": list(recipe.regions)}
