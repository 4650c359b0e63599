"""The networks: a 3D U-Net that works at half its input's resolution, and a classifier of single lesions.

    UNet        2³ voxels become one position with `features[0]` channels: nothing is lost, and the dear convolutions at
                full resolution are gone. One transposed convolution gives the full resolution back.
    Characteriser   a block around a candidate in, one score a label out; or `calipers`, which only measure it

Convolution, batch norm, ReLU; nothing that a runtime on an edge device could stumble over. Batch norm and not instance
norm: HU are absolute, a tile of much air must not change what 40 HU looks like; at inference it vanishes into the
convolutions, which leaves networks that are quick and quantise well.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from engines.reference.calipers import HIDDEN, Calipers, mean_within
from engines.reference.recipes import CharacteriserRecipe

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
    """(N, 2, Z, Y, X), a block and the candidate's mask in it → logits (N, classes).

    Two opinions are added: one of the whole block's mean and highest features, one of what every level's features are
    on average within the mask. The second knows a small candidate from the large surroundings without having to learn
    how, and what it is made of to a fraction of the noise of a voxel.
    """

    def __init__(self, features: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv3d(2, features[0], 2, 2)
        self.levels = nn.Sequential(
            *(
                _Level(a, b, 1 if level == 0 else 2)
                for level, (a, b) in enumerate(zip((features[0], *features[:-1]), features, strict=True))
            )
        )
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(2 * features[-1], classes)
        self.inside = nn.Sequential(nn.Linear(1 + sum(features), HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, classes))
        nn.init.zeros_(self.inside[2].weight)
        nn.init.zeros_(self.inside[2].bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = functional.avg_pool3d(x[:, 1:], 2)
        within = [mean_within(x[:, :1], x[:, 1:])]
        x = self.stem(x)
        for number, level in enumerate(self.levels):
            x = level(x)
            if number:
                mask = functional.avg_pool3d(mask, 2)
            within.append(mean_within(x, mask))
        x = torch.cat((x.mean(dim=(2, 3, 4)), x.amax(dim=(2, 3, 4))), dim=1)
        return self.head(self.drop(x)) + self.inside(torch.cat(within, dim=1))


def looking_network(recipe: CharacteriserRecipe) -> Characteriser | Calipers:
    """What a recipe of the third stage builds, untrained: without features, calipers."""
    if recipe.features:
        return Characteriser(recipe.features, len(recipe.labels))
    return Calipers(len(recipe.labels), len(recipe.references))
