"""A plain 3D U-Net: two convolutions a level, instance norm, leaky ReLU, strided convolutions down, transposed up.

As in nnU-Net (Isensee et al., Nature Methods 18:203, 2021) in the small: no attention, no residuals, nothing that a
runtime on an edge device could stumble over.
"""

from __future__ import annotations

import torch
from torch import nn


class _Block(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(2):
            layers += [
                nn.Conv3d(inside if i == 0 else outside, outside, 3, stride if i == 0 else 1, 1, bias=False),
                nn.InstanceNorm3d(outside, affine=True),
                nn.LeakyReLU(0.01, inplace=True),
            ]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class UNet(nn.Module):
    """(N, 1, Z, Y, X) → logits (N, classes, Z, Y, X); Z, Y, X are multiples of 2 ** (len(features) - 1)."""

    def __init__(self, features: tuple[int, ...], classes: int) -> None:
        super().__init__()
        inputs = (1, *features[:-1])
        self.down = nn.ModuleList(
            _Block(a, b, 1 if level == 0 else 2) for level, (a, b) in enumerate(zip(inputs, features, strict=True))
        )
        pairs = list(zip(features[:0:-1], features[-2::-1], strict=True))
        self.rise = nn.ModuleList(nn.ConvTranspose3d(a, b, 2, 2) for a, b in pairs)
        self.up = nn.ModuleList(_Block(2 * b, b) for _, b in pairs)
        self.head = nn.Conv3d(features[0], classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept: list[torch.Tensor] = []
        for level, block in enumerate(self.down):
            # oneDNN's bf16 weight gradient of a 3³ convolution on 2 × 4 × 4 voxels is garbage (1e27, torch 2.13 CPU).
            with torch.autocast(x.device.type, enabled=torch.is_autocast_enabled(x.device.type) and level < 4):
                x = block(x if level < 4 else x.float())
            kept.append(x)
        kept.pop()
        for rise, block in zip(self.rise, self.up, strict=True):
            x = block(torch.cat((kept.pop(), rise(x)), dim=1))
        return self.head(x)
