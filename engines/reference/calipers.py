"""What a radiologist would measure of a candidate with calipers and a region of interest, and what it says.

Of a lesion that differs from its organ by less than the noise of a voxel nearly everything is in a few means: of its
core and its rind, of the shells around it, and how they compare with blood and with the organ. A convolution has to
learn to take them from some thousand examples, and learns those examples by heart besides (ADR 0024).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

HIDDEN = 64
_FAR = 8.0
"""Below every value that a window lets through; standardised numbers are cut off there."""
_LATEST = 0.002
"""How much of what is standardised by comes from the latest batch, at least."""
_LEAST = 1e-3
"""No number is taken to deviate by less; one that never changed would become a division by zero."""
_FINER = (4.0, 12.0)


def numbers_of(references: int) -> int:
    """How many numbers `measured` gives."""
    return 15 + 7 * references


class Calipers(nn.Module):
    """(N, 2 + R, Z, Y, X) → logits (N, classes): a block, the candidate's mask in it, and R references, each filling a
    channel with one number: how bright an organ is in this scan."""

    def __init__(self, classes: int, references: int = 0) -> None:
        super().__init__()
        numbers = numbers_of(references)
        self.scale = Standardised(numbers)
        parts: list[nn.Module] = []
        for inside in (numbers, HIDDEN, HIDDEN):
            parts += [nn.Linear(inside, HIDDEN), nn.ReLU(), nn.Dropout(0.2)]
        self.opinion = nn.Sequential(*parts, nn.Linear(HIDDEN, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(measured(x))

    def read(self, numbers: torch.Tensor) -> torch.Tensor:
        """What was `measured` → logits."""
        logits: torch.Tensor = self.opinion(self.scale(numbers))
        return logits


class Standardised(nn.Module):
    """(N, C) → numbers of mean 0 and deviation 1, cut off far out. By all that was seen so far, not by the batch as a
    batch norm does it: the mean and deviation of a dozen candidates waver by more than the 1 HU that decides."""

    mean: torch.Tensor
    deviation: torch.Tensor
    num_batches_tracked: torch.Tensor

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(numbers))
        self.register_buffer("deviation", torch.ones(numbers))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            with torch.no_grad():
                self.num_batches_tracked += 1
                share = max(1 / int(self.num_batches_tracked), _LATEST)
                self.mean.lerp_(x.mean(dim=0), share)
                variance = self.deviation.square().lerp((x - self.mean).square().mean(dim=0), share)
                self.deviation.copy_(variance.sqrt().clamp(min=_LEAST))
        return ((x - self.mean) / self.deviation).clamp(-_FAR, _FAR)


def measured(x: torch.Tensor) -> torch.Tensor:
    """(N, 15 + 7 R): of a candidate, in units of the window, from a block, its mask and R references:

    means      of its core, its inner and outer rind, and of the shells of 1, 1, 2 and 4 voxels around it
    spread     standard deviation within it, of voxels and of means of 2³ and of 4³ voxels (those on its edge reach
               beyond it): mottle and not noise, and a blurred edge or a sharp one
    extremes   the highest voxel, the highest and the lowest mean of 2³: calcification, necrosis, fat
    size       logarithm of its share of the block, and of its core's share of it: how compact it is
    references each; how much brighter than it are the core and the whole; and this again at finer scales, cut off
               where they end: a haemangioma is within 2 HU of blood, and few cancers are
    """
    image, mask = x[:, :1].float(), x[:, 1:2].float()
    core1 = _shrunk(mask)
    core = _shrunk(core1)
    edges = [mask]
    for voxels in (1, 1, 2, 4):
        edges.append(_grown(edges[-1], voxels))
    regions = [core, core1 - core, mask - core1, *(b - a for a, b in pairwise(edges))]
    # Where a region is empty, as the core of a thin candidate is, the whole stands in for it.
    means = [mean_within(image, region + 0.01 * mask) for region in regions]
    whole = mean_within(image, mask)
    spread, extremes = [], [_highest(image, mask)]
    for edge in (1, 2, 4):
        part, inside = (functional.avg_pool3d(t, edge) if edge > 1 else t for t in (image, mask))
        away = part - mean_within(part, inside)[:, :, None, None, None]
        spread.append((mean_within(away * away, inside).clamp(min=0) + 1e-4).sqrt())
        if edge == 2:
            extremes += [_highest(part, inside), -_highest(-part, inside)]
    share = mask.mean(dim=(2, 3, 4)).clamp(min=1e-5)
    size = [share.log(), core1.mean(dim=(2, 3, 4)) / share]
    known = x[:, 2:].float().mean(dim=(2, 3, 4))
    brighter = torch.cat((means[0] - known, whole - known), dim=1)
    fine = [(brighter * times).clamp(-1, 1) for times in _FINER]
    return torch.cat((*means, *spread, *extremes, *size, known, brighter, *fine), dim=1)


def _grown(mask: torch.Tensor, voxels: int) -> torch.Tensor:
    """A mask grown by so many voxels along every axis. By shifting: pooling takes torch ten times as long."""
    for axis in (2, 3, 4) * voxels:
        n = mask.shape[axis]
        around = functional.pad(mask, [int(axis == a) for a in (4, 3, 2) for _ in "+-"])
        mask = torch.maximum(torch.maximum(around.narrow(axis, 0, n), around.narrow(axis, 2, n)), mask)
    return mask


def _shrunk(mask: torch.Tensor) -> torch.Tensor:
    """A mask without its outermost voxels; the block's border is none of its own."""
    return 1 - _grown(1 - mask, 1)


def _highest(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(N, 1): the highest value where at least half of a voxel is in the mask."""
    return torch.where(mask >= 0.5, x, -_FAR).amax(dim=(2, 3, 4))


def mean_within(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(N, C): mean of each channel, weighted by a mask (N, 1, Z, Y, X); in fp32, for it adds thousands of voxels.

    A ratio of means and not of sums, for in fp16 a sum over a lesion of 8 cm would overflow.
    """
    x, mask = x.float(), mask.float()
    return (x * mask).mean(dim=(2, 3, 4)) / mask.mean(dim=(2, 3, 4)).clamp(min=1e-5)
