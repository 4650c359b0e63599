"""The networks: a 3D U-Net that works at half its input's resolution, and a classifier of single lesions.

    UNet        2³ voxels become one position with `features[0]` channels: nothing is lost, and the dear convolutions at
                full resolution are gone. One transposed convolution gives the full resolution back.
    Characteriser   a block around a candidate in, one score a label out

Convolution, batch norm, ReLU; nothing that a runtime on an edge device could stumble over. Batch norm and not instance
norm: HU are absolute, a tile of much air must not change what 40 HU looks like; at inference it vanishes into the
convolutions, which leaves networks that are quick and quantise well.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

_HIDDEN = 64
_FAR = 8.0
"""Below every value that a window lets through."""
_SMALLEST = 3
"""oneDNN's bf16 weight gradient of a 3³ convolution is garbage where an axis has 2 positions (torch 2.13, CPU: relative
error 1 to infinity; from 3 on it is 0.003): there we compute in fp32."""


class _Conv(nn.Sequential):
    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv3d(inside, outside, 3, stride, 1, bias=False),
            nn.BatchNorm3d(outside, momentum=0.02),
            nn.ReLU(inplace=True),
        )


class _Level(nn.Module):
    """Two convolutions, the first of which may halve the resolution."""

    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__()
        self.first, self.second = _Conv(inside, outside, stride), _Conv(outside, outside)
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_autocast_enabled(x.device.type) and min(x.shape[2:]) < _SMALLEST * self.stride:
            with torch.autocast(x.device.type, enabled=False):
                return self.second(self.first(x.float()))
        return self.second(self.first(x))


class UNet(nn.Module):
    """(N, 1, Z, Y, X) → logits (N, classes, Z, Y, X); Z, Y, X are multiples of 2 ** len(features).

    scenery: classes of a second map at half the resolution. `lesson` gives it besides, and the image without noise; the
    exported network has neither.
    """

    def __init__(self, features: tuple[int, ...], classes: int, scenery: int = 0) -> None:
        super().__init__()
        self.stem = nn.Conv3d(1, features[0], 2, 2)
        self.down = nn.ModuleList(
            _Level(a, b, 1 if level == 0 else 2)
            for level, (a, b) in enumerate(zip((features[0], *features[:-1]), features, strict=True))
        )
        pairs = list(zip(features[:0:-1], features[-2::-1], strict=True))
        self.rise = nn.ModuleList(nn.ConvTranspose3d(a, b, 2, 2) for a, b in pairs)
        self.up = nn.ModuleList(_Conv(2 * b, b) for _, b in pairs)
        self.head = nn.ConvTranspose3d(features[0], classes, 2, 2)
        self.scenery = nn.Conv3d(features[0], scenery + 1, 1) if scenery else None

    def _body(self, x: torch.Tensor) -> torch.Tensor:
        kept: list[torch.Tensor] = []
        x = self.stem(x)
        for level in self.down:
            x = level(x)
            kept.append(x)
        kept.pop()
        for rise, up in zip(self.rise, self.up, strict=True):
            x = up(torch.cat((kept.pop(), rise(x)), dim=1))
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self._body(x))

    def lesson(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits; the scenery's logits (N, scenery, Z / 2, Y / 2, X / 2); the image without noise (N, Z / 2, ...)."""
        assert self.scenery is not None
        x = self._body(x)
        around = self.scenery(x)
        return self.head(x), around[:, 1:], around[:, 0]


class Characteriser(nn.Module):
    """(N, 2 + R, Z, Y, X) → logits (N, classes): a block, the candidate's mask in it, and R references, each filling a
    channel with one number: how bright an organ is in this scan.

    Three opinions are added: of the whole block's mean and highest features; of what every level's features are on
    average within the mask; and of what was `measured`. The second knows a small candidate from the large surroundings
    without having to learn how, the third is what a radiologist would put a caliper and a ROI on.
    """

    def __init__(self, features: tuple[int, ...], classes: int, references: int = 0) -> None:
        super().__init__()
        self.stem = nn.Conv3d(2 + references, features[0], 2, 2)
        self.levels = nn.Sequential(
            *(
                _Level(a, b, 1 if level == 0 else 2)
                for level, (a, b) in enumerate(zip((features[0], *features[:-1]), features, strict=True))
            )
        )
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(2 * features[-1], classes)
        self.inside = _opinion(1 + sum(features), classes)
        numbers = MEASURED + 3 * references
        self.scale = nn.BatchNorm1d(numbers, momentum=0.02)
        self.measured = _opinion(numbers, classes, nn.Linear(_HIDDEN, _HIDDEN), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        numbers = measured(x)
        mask = functional.avg_pool3d(x[:, 1:2], 2)
        within = [mean_within(x[:, :1], x[:, 1:2])]
        x = self.stem(x)
        for number, level in enumerate(self.levels):
            x = level(x)
            if number:
                mask = functional.avg_pool3d(mask, 2)
            within.append(mean_within(x, mask))
        x = torch.cat((x.mean(dim=(2, 3, 4)), x.amax(dim=(2, 3, 4))), dim=1)
        logits = self.head(self.drop(x)) + self.inside(torch.cat(within, dim=1))
        return logits + self.measured(self.scale(numbers))


def _opinion(numbers: int, classes: int, *between: nn.Module) -> nn.Sequential:
    """A few numbers → logits; all zero until it has learned something."""
    last = nn.Linear(_HIDDEN, classes)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(numbers, _HIDDEN), nn.ReLU(), *between, last)


MEASURED = 15
"""How many numbers `measured` gives without references."""


def measured(x: torch.Tensor) -> torch.Tensor:
    """(N, MEASURED + 3 R): of a candidate, in units of the window, from a block, its mask and R references:

    means      of its core, its inner and outer rind, and of the shells of 1, 1, 2 and 4 voxels around it
    spread     standard deviation within it, of voxels and of means of 2³ and of 4³ voxels (those on its edge reach
               beyond it): mottle and not noise, and a blurred edge or a sharp one
    extremes   the highest voxel, the highest and the lowest mean of 2³: calcification, necrosis, fat
    size       logarithm of its share of the block, and of its core's share of it: how compact it is
    references each, and how much brighter than it are the core and the whole
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
        spread.append((mean_within(away * away, inside) + 1e-4).sqrt())
        if edge == 2:
            extremes += [_highest(part, inside), -_highest(-part, inside)]
    share = mask.mean(dim=(2, 3, 4)).clamp(min=1e-5)
    size = [share.log(), core1.mean(dim=(2, 3, 4)) / share]
    known = x[:, 2:].float().mean(dim=(2, 3, 4))
    return torch.cat((*means, *spread, *extremes, *size, known, means[0] - known, whole - known), dim=1)


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
    return torch.where(mask >= 0.5, x, torch.full_like(x, -_FAR)).amax(dim=(2, 3, 4))


def mean_within(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(N, C): mean of each channel, weighted by a mask (N, 1, Z, Y, X); in fp32, for it adds thousands of voxels.

    A ratio of means and not of sums, for in fp16 a sum over a lesion of 8 cm would overflow.
    """
    x, mask = x.float(), mask.float()
    return (x * mask).mean(dim=(2, 3, 4)) / mask.mean(dim=(2, 3, 4)).clamp(min=1e-5)
