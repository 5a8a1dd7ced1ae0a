"""A frozen start's features and its logit at other zooms, for a head that is trained under differential privacy.

Patients' structures are wider or narrower than the drawn ones, which no head on features at one scale can mend. All are
functions of the one image, scaled by public images: nothing is fitted over patients.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from securepfl.tasks.networks import UNet

ZOOMS: Final = (0.5, 0.67, 1.5, 2.0)
_LEAST: Final = 0.02
"""A feature's deviation over public images counts at least so much."""


class Wider(nn.Module):
    """Images [n, 1, H, W], or what `features` made of them [n, F, ...], to logits [n, 1, ...]; `head` is trained."""

    def __init__(self, start: UNet, public: Tensor) -> None:
        super().__init__()
        self.start = start.requires_grad_(False).eval()
        first = self._of(public)
        self.width = first.shape[1]
        self.head = nn.Conv2d(self.width - 1, 1, kernel_size=1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)
        # The first is the start's own logit, which the head's output is added to.
        scale = torch.ones(2, self.width)
        scale[0] = 0
        scale[0, 1:], scale[1, 1:] = first.mean(dim=(0, 2, 3))[1:], first.std(dim=(0, 2, 3))[1:].clamp(min=_LEAST)
        self.register_buffer("scale", scale)
        self.scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        features = x if x.shape[1] == self.width else self.features(x)
        logits: Tensor = features[:, :1] + self.head(features[:, 1:])
        return logits

    def features(self, images: Tensor) -> Tensor:
        """[n, F, H, W], the start's logit first."""
        return (self._of(images) - self.scale[0, :, None, None]) / self.scale[1, :, None, None]

    def _of(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            own = self.start.features(images)
            return torch.cat([self._logit(own), own, *(self._zoomed(images, zoom) for zoom in ZOOMS)], dim=1)

    def _logit(self, features: Tensor) -> Tensor:
        return features[:, :1] * self.start.spread[0] + self.start.centre[0]

    def _zoomed(self, images: Tensor, zoom: float) -> Tensor:
        size = [max(16, round(side * zoom)) for side in images.shape[-2:]]
        shown = functional.interpolate(images, size=size, mode="bilinear", antialias=zoom < 1, align_corners=False)
        logit = self._logit(self.start.features(shown))
        return functional.interpolate(logit, size=images.shape[-2:], mode="bilinear", align_corners=False)
