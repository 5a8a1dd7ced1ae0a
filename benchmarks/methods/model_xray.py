"""The network of the chest X-rays: three convolutions of stride 2 with GroupNorm, and a head."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

CHANNELS = 16
CELLS = 4
"""Rows and columns that are left of 28 after three strides of 2."""
READ = CHANNELS * (CELLS // 2) ** 2
"""Features that the small network's head reads: each channel's mean over each quarter of the image."""
PUBLIC_SEED = 28


class XrayNet(nn.Module):
    """[B, 1, 28, 28] -> logits [B], from a fixed public start; torch's global generator is left as it was.

    GroupNorm, not BatchNorm: a record's gradient must not depend on other records. tanh as in the MLP. `width` 0: the
    head reads quarter means (3,713 parameters). Else a Linear layer `wide` of `width` units stands before the head
    (width 4,096: 1.06 million), which only makes the update large; its output is scaled so that the small
    network's learning rates suit it too. Raises ValueError where `width` is negative.
    """

    def __init__(self, width: int = 0) -> None:
        super().__init__()
        if width < 0:
            raise ValueError(f"width must be at least 0, not {width}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(PUBLIC_SEED)
            self.conv1 = nn.Conv2d(1, CHANNELS // 2, 3, stride=2, padding=1)
            self.norm1 = nn.GroupNorm(2, CHANNELS // 2)
            self.conv2 = nn.Conv2d(CHANNELS // 2, CHANNELS, 3, stride=2, padding=1)
            self.norm2 = nn.GroupNorm(4, CHANNELS)
            self.conv3 = nn.Conv2d(CHANNELS, CHANNELS, 3, stride=2, padding=1)
            self.norm3 = nn.GroupNorm(4, CHANNELS)
            self.wide = nn.Linear(CHANNELS * CELLS * CELLS, width) if width else None
            self.head = nn.Linear(width or READ, 1)

    def forward(self, images: Tensor) -> Tensor:
        seen = torch.tanh(self.norm1(self.conv1(images)))
        seen = torch.tanh(self.norm2(self.conv2(seen)))
        seen = torch.tanh(self.norm3(self.conv3(seen)))
        logits: Tensor = self.head(self._read(seen))
        return logits.squeeze(-1)

    def _read(self, seen: Tensor) -> Tensor:
        if self.wide is None:
            return functional.avg_pool2d(seen, 2).flatten(1)
        wide = torch.tanh(self.wide(seen.flatten(1)))
        return wide * math.sqrt(READ / self.wide.out_features)
