"""Stage 2: how likely is each voxel part of a lesion? Tiles over an organ's region in, probabilities out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from core.errors import EngineError
from core.volume import Index, Vector
from engines import manifest
from engines.cascade.budget import Watch
from engines.cascade.localise import FoundOrgan
from engines.cascade.measured import MeasuredNetwork
from engines.cascade.preprocess import Float, Grid, normalise, padded, resample
from engines.cascade.region import Region, region_box, region_of
from engines.cascade.tiles import tiles
from engines.runtime import Tensor

# hu 4, probability 4, two masks 2, components and their bookkeeping 4 + 4
_BYTES_PER_REGION_VOXEL = 18


def detect(
    hu: npt.NDArray[np.int16],
    spacing_mm: Vector,
    organ: FoundOrgan,
    margin_mm: float,
    label: str,
    network: MeasuredNetwork,
    watch: Watch,
) -> tuple[Float, Region]:
    """Probability (z, y, x) of `label` over the organ's region; 0 outside the organ and its margin. hu: canonical."""
    z, y, x = hu.shape
    grid = Grid((z, y, x), spacing_mm, network.spec.spacing_mm)
    tiling = network.tiling
    box = region_box(organ, margin_mm, grid, tiling.size if tiling.kind == "patch" else (1, 1, 1))
    size = _input_shape(box, tiling)
    watch.reserve(_voxels(box) * _BYTES_PER_REGION_VOXEL + network.memory_bytes(size), "looking for lesions")
    with watch.timed("preprocess"):
        region = region_of(organ, margin_mm, grid, box)
        image = resample(hu, grid, box)
    watch.check()
    air_below = tiling.air_below_hu if tiling.kind == "patch" else -np.inf
    wanted = region.search & (image > air_below)
    normalise(image, network.intensity)
    probability = _over_tiles(image, wanted, label, size, network, watch)
    probability[~region.search] = 0
    return probability, region


def _over_tiles(
    image: Float, wanted: npt.NDArray[np.bool_], label: str, size: Index, network: MeasuredNetwork, watch: Watch
) -> Float:
    spec = network.spec
    channel = spec.labels.index(label)
    overlap = network.tiling.overlap if network.tiling.kind == "patch" else 0.0
    z, y, x = image.shape
    result = np.zeros((z, y, x), dtype=np.float32)
    for tile in tiles((z, y, x), size, overlap):
        if not wanted[tile.where].any():
            continue  # no voxel that counts lies in it: leaving it out changes nothing there
        watch.check()
        logits = network.run(padded(image[tile.where], size, network.intensity), watch)
        with watch.timed("blend"):
            part = probability_of(logits, channel, spec.activation)
            part = part[tuple(slice(0, b - a) for a, b in zip(tile.start, tile.stop, strict=True))]
            along_z, along_y, along_x = tile.weights
            result[tile.where] += part * along_z[:, None, None] * (along_y[:, None] * along_x)
    return result


def probability_of(logits: Tensor, channel: int, activation: str) -> Float:
    """Probability (z, y, x) of one channel."""
    if activation == "sigmoid":
        return _sigmoid(logits[0, channel])
    if logits.shape[1] == 2:
        return _sigmoid(logits[0, channel] - logits[0, 1 - channel])
    shifted = np.exp(logits[0] - logits[0].max(axis=0))
    return np.asarray(shifted[channel] / shifted.sum(axis=0), dtype=np.float32)


def _sigmoid(x: Float) -> Float:
    # tanh never overflows
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)), dtype=np.float32)


def _input_shape(box: tuple[Index, Index], tiling: manifest.WholeVolume | manifest.Patches) -> Index:
    if tiling.kind == "patch":
        return tiling.size
    z, y, x = (-(-(high - low) // tiling.pad_multiple) * tiling.pad_multiple for low, high in zip(*box, strict=True))
    return (z, y, x)


def _voxels(box: tuple[Index, Index]) -> int:
    z, y, x = (high - low for low, high in zip(*box, strict=True))
    if min(z, y, x) < 1:
        raise EngineError(f"an empty region {box}")
    return z * y * x
