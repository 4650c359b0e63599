"""MONAI bundles as MONAI itself makes and runs them: a network trained a little, a configuration, its pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.losses import DiceCELoss
from monai.networks import nets
from scipy import ndimage

NETWORKS: dict[str, dict[str, Any]] = {
    "UNet": {"channels": [8, 16, 32], "strides": [2, 2], "num_res_units": 2, "norm": ["INSTANCE", {"affine": True}]},
    "AttentionUnet": {"channels": [8, 16, 32], "strides": [2, 2]},
    "BasicUNet": {"features": [8, 8, 16, 16, 32, 8]},
    "DynUNet": {
        "kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [8, 16, 32],
        "deep_supervision": True, "deep_supr_num": 1, "res_block": True,
    },
    "SegResNet": {"init_filters": 8, "blocks_down": [1, 2, 2], "blocks_up": [1, 1]},
    "SegResNetDS": {"init_filters": 8, "blocks_down": [1, 2, 2], "dsdepth": 2, "norm": "instance"},
    "FlexibleUNet": {"backbone": "efficientnet-b0", "decoder_channels": [32, 16, 16, 8, 8], "norm": "instance"},
    "SwinUNETR": {"feature_size": 12, "window_size": 4, "depths": [2, 2, 2, 2], "num_heads": [2, 2, 4, 4]},
    "VNet": {"dropout_prob_down": 0.2, "dropout_prob_up": [0.2, 0.2]},
    "UNETR": {"img_size": [48, 48, 32], "feature_size": 8, "hidden_size": 48, "mlp_dim": 96, "num_heads": 4},
}  # fmt: skip

TILE = (48, 48, 32)
TILES = {"FlexibleUNet": (64, 64, 64), "SwinUNETR": (64, 64, 32)}
"""Tiles of networks that halve five times, and of one whose norms then still need several voxels in training."""
SEES_PADDING = {"SwinUNETR"}
"""Networks that lose a label where a scan is smaller than their tile: padding changes the means of their norms."""


def scan(seed: int, shape: tuple[int, int, int] = (56, 60, 44)) -> tuple[np.ndarray, np.ndarray]:
    """HU int16 (x, y, z) and labels 0, 1, 2: smooth blobs of two densities in soft tissue with noise."""
    rng = np.random.default_rng(seed)
    hu = rng.normal(30, 15, shape)
    labels = np.zeros(shape, np.int64)
    for label, value in ((1, 110), (2, -70)):
        field = ndimage.gaussian_filter(rng.normal(size=shape), 5)
        inside = field > 1.3 * field.std()
        labels[inside], hu[inside] = label, hu[inside] + value
    return np.clip(np.round(hu), -1024, 3071).astype(np.int16), labels


def save_nifti(hu: np.ndarray, spacing_mm: tuple[float, float, float], path: Path) -> None:
    """As converters write a CT: indices grow to Left, Posterior, Superior."""
    dx, dy, dz = spacing_mm
    nibabel.save(nibabel.Nifti1Image(hu, np.diag([-dx, -dy, dz, 1.0])), path)


def configuration(network: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """An inference.json of the usual kind; `changes` replace top-level keys."""
    fields: dict[str, Any] = {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "device": "$torch.device('cpu')",
        "spacing": [1.5, 1.5, 2.0],
        "patch": "$[16 * 3, 16 * 3, 32]",
        "network_def": network,
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
                {"_target_": "Spacingd", "keys": "image", "pixdim": "@spacing", "mode": "bilinear"},
                {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -160, "a_max": 240, "b_min": 0.0,
                 "b_max": 1.0, "clip": True},
                {"_target_": "EnsureTyped", "keys": "image"},
            ],
        },
        "dataset": {"_target_": "Dataset", "data": "$[{'image': i} for i in glob.glob('*.nii')]"},
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": "@patch", "sw_batch_size": 4, "overlap": 0.5,
                    "mode": "gaussian"},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image",
                 "nearest_interp": False, "to_tensor": True},
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            ],
        },
    }  # fmt: skip
    return {**fields, **changes}


METADATA = {
    "name": "Blob segmentation",
    "version": "0.1.0",
    "network_data_format": {
        "inputs": {"image": {"type": "image", "modality": "CT", "num_channels": 1, "spatial_shape": [48, 48, 32]}},
        "outputs": {"pred": {"channel_def": {"0": "background", "1": "Dense blob", "2": "Fat"}}},
    },
}


def definition(kind: str) -> dict[str, Any]:
    """network_def of one of `NETWORKS`."""
    common = {"in_channels": 1, "out_channels": 3} | {"spatial_dims": 3}
    return {"_target_": kind, **common, **NETWORKS[kind]}


def train(kind: str, steps: int, seed: int = 0) -> torch.nn.Module:
    """A network that has learnt to tell the blobs, a little."""
    torch.manual_seed(seed)
    tile = TILES.get(kind, TILE)
    arguments = {k: v for k, v in definition(kind).items() if not k.startswith("_")}
    network = getattr(nets, kind)(**arguments)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    loss = DiceCELoss(to_onehot_y=True, softmax=True)
    for step in range(steps):
        hu, labels = scan(1000 + step, tile)
        image = torch.from_numpy((np.clip(hu, -160, 240) + 160).astype(np.float32) / 400)[None, None]
        if kind in SEES_PADDING and step % 2:
            image[:, :, 52:], image[:, :, :, 56:] = 0, 0
            labels[52:], labels[:, 56:] = 0, 0
        network.train()
        given = network(image)
        given = given[0] if isinstance(given, (list, tuple)) else given[:, 0] if given.ndim == 6 else given
        optimiser.zero_grad()
        loss(given, torch.from_numpy(labels)[None, None]).backward()
        optimiser.step()
    return with_every_label(network.eval(), tile)


def with_every_label(network: torch.nn.Module, tile: tuple[int, int, int]) -> torch.nn.Module:
    """The network with the last bias such that each label wins somewhere, however little it has learnt."""
    heads = [m for m in network.modules() if isinstance(m, torch.nn.Conv3d) and m.out_channels == 3]
    hu, _ = scan(999, tile)
    image = torch.from_numpy((np.clip(hu, -160, 240) + 160).astype(np.float32) / 400)[None, None]
    with torch.no_grad():
        logits = network(image)[0].reshape(3, -1)
        for label in (1, 2):
            others = torch.stack([logits[k] for k in range(3) if k != label]).max(dim=0).values
            lead = logits[label] - others
            if (lead > 0).float().mean() < 0.03:
                shift = -torch.quantile(lead, 0.94)
                logits[label] += shift
                assert heads[-1].bias is not None
                heads[-1].bias[label] += shift
    return network


def save(folder: Path, network: torch.nn.Module, config: dict[str, Any], torchscript: bool = False) -> Path:
    """The bundle's folder."""
    for part in ("configs", "models"):
        (folder / part).mkdir(parents=True)
    (folder / "configs" / "metadata.json").write_text(json.dumps(METADATA))
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    if torchscript:
        torch.jit.trace(network, torch.zeros(1, 1, 48, 48, 32)).save(str(folder / "models" / "model.ts"))
    else:
        torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder


def run(folder: Path, image: Path, every_channel: bool = False) -> np.ndarray:
    """MONAI's own labels (x, y, z) in the file's order, by its parser, transforms and inferer; or all its channels."""
    parser = ConfigParser(json.loads((folder / "configs" / "inference.json").read_text()))
    before = parser.get_parsed_content("preprocessing")
    network = parser.get_parsed_content("network")
    network.load_state_dict(torch.load(folder / "models" / "model.pt", weights_only=True))
    network.eval()
    case = before({"image": str(image)})
    with torch.inference_mode():
        pred = parser.get_parsed_content("inferer")(case["image"][None], network)[0]
    case["pred"] = MetaTensor(torch.as_tensor(pred.as_tensor() if isinstance(pred, MetaTensor) else pred).clone())
    case["image"] = case["image"].clone()
    pred = np.asarray(parser.get_parsed_content("postprocessing")(case)["pred"]).astype(np.int64)
    return pred if every_channel else pred[0]
