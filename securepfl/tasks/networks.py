"""Networks for images, whose shape and starting weights follow from public settings alone, as in models.py.

No layer mixes records: norms are over groups of channels of one image, so each image has a gradient of its own.
"""

import math
from itertools import pairwise
from typing import ClassVar, Final, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from securepfl.errors import ModelError
from securepfl.randomness import RandomStream
from securepfl.tasks.imaging import imaging
from securepfl.tasks.models import public_stream, seed_layer, seeded_linear

NetworkKind = Literal["unet", "cnn"]
_WIDTHS: Final = (1, 2, 4, 6, 8, 1)
"""Channels of the U-Net's five depths and of its last decoder level, in parts of `hidden`."""
_LEVELS: Final = (1, 2, 4)
"""The same of the decoder levels that are features, from full size down. The coarsest costs a fifth of a step more."""
_STAGES: Final = (1, 2, 4, 4)
_STRIDE: Final = 16


class UNet(nn.Module):
    """A small U-Net and an outer layer on what it makes of each pixel: images [n, C, H, W] -> logits [n, 1, H, W].

    `body` is MONAI's BasicUNet (Falk et al. 2019, doi 10.1038/s41592-018-0261-2) with group norms and upsampling that
    isn't trained; `head` a 1x1 convolution of `features`, zero at the start, whose output is added to the body's logit.
    So a frozen body is a public start that a trained head corrects. Names: `head.*`, `body.*`; of the norms
    `body.*.adn.N.*`. Any height and width will do; inside, images are padded to multiples of 16 with zeros.

    `centre` and `spread` [F] standardise the features, and `mixing` [F, F], lower triangular, makes them independent of
    each other; a public start sets them, on images that hold no patient. A step of clipped and noisy gradients then
    moves the logits alike whichever way it goes; rotations of the features don't matter to it, and this one keeps the
    body's logit the first. `hidden` is the width at full size.
    Raises ValueError for a size below 1, and ConfigError without MONAI.

    >>> net = UNet(1, 4, public_stream("example"))
    >>> images = torch.zeros(2, 1, 20, 30)
    >>> net(images).shape, net.features(images).shape == (2, net.width, 20, 30)
    (torch.Size([2, 1, 20, 30]), True)
    """

    output_layer: ClassVar[str] = "head"

    def __init__(self, channels: int, hidden: int, stream: RandomStream) -> None:
        super().__init__()
        _check_sizes(channels=channels, hidden=hidden)
        with imaging('[model] kind = "unet"'):
            from monai.networks.nets import BasicUNet  # noqa: PLC0415 - optional
        self.channels, self.widths = channels, (1, *(hidden * width for width in _LEVELS))
        self.width = sum(self.widths)
        with torch.device("meta"):  # torch's global generator plays no part
            self.body = BasicUNet(
                spatial_dims=2,
                in_channels=channels,
                out_channels=1,
                features=tuple(hidden * width for width in _WIDTHS),
                norm=("group", {"num_groups": math.gcd(4, hidden)}),
                upsample="nontrainable",
            )
            self.head = nn.Conv2d(self.width, 1, kernel_size=1)
        self.to_empty(device="cpu")
        for level in (self.body.upcat_1, self.body.upcat_2, self.body.upcat_3, self.body.upcat_4):
            level.is_pad = False  # images are padded before, and no padding is a copy too
        _seed(self.body, stream)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)
        self.register_buffer("centre", torch.zeros(self.width))
        self.register_buffer("spread", torch.ones(self.width))
        self.register_buffer("mixing", torch.eye(self.width))
        self.centre: Tensor
        self.spread: Tensor
        self.mixing: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Logits [n, 1, ...] of images [n, C, H, W], or of what `features` made of them, at all pixels or at some."""
        if x.ndim != 4 or x.shape[1] not in (self.channels, self.width):
            raise ModelError(
                f"this U-Net takes images [n, {self.channels}, height, width], or its {self.width} features in their "
                f"place, not {list(x.shape)}: mend the images' channels ([data] colour)"
            )
        if x.shape[1] == self.channels and type(self.head) is nn.Conv2d and not self.head._forward_hooks:
            return self._folded(x)
        features = x if x.shape[1] == self.width else self.features(x)
        own = features[:, :1] * (self.spread[0] / self.mixing[0, 0]) + self.centre[0]
        logits: Tensor = own + self.head(features)
        return logits

    def features(self, images: Tensor) -> Tensor:
        """[n, F, H, W] of images [n, C, H, W]: the body's logit and the decoder's levels at full size, standardised and
        mixed.
        """
        height, width = images.shape[-2:]
        levels = self._padded_levels(images)
        centres, spreads = (torch.split(of, list(self.widths)) for of in (self.centre, self.spread))
        scaled = (
            _full_size((level - centre[:, None, None]) / spread[:, None, None], levels[0])
            for level, centre, spread in zip(levels, centres, spreads, strict=True)
        )
        return torch.einsum("kf,nfhw->nkhw", self.mixing, torch.cat(list(scaled), dim=1)[..., :height, :width])

    def _folded(self, images: Tensor) -> Tensor:
        """The logits of images: each level through its part of the head at its own size, then one channel made larger.

        The same sum as of all features at full size, in less time and memory. Hooks on the head, by which private
        training sees each record's gradient, are of one call over all features: with them this isn't asked, nor where
        routing put a layer of its own, or an adapter, in the head's place.
        """
        height, width = images.shape[-2:]
        levels = self._padded_levels(images)
        slopes = self.head.weight[0, :, 0, 0] @ self.mixing / self.spread
        logits = levels[0] + cast(Tensor, self.head.bias) - slopes @ self.centre
        for level, part in zip(levels, torch.split(slopes, list(self.widths)), strict=True):
            told = level.permute(0, 2, 3, 1) @ part
            logits = logits + _full_size(told[:, None], logits)
        return logits[..., :height, :width]

    def _padded_levels(self, images: Tensor) -> tuple[Tensor, ...]:
        height, width = images.shape[-2:]
        padded = functional.pad(images, (0, -width % _STRIDE, 0, -height % _STRIDE))
        # A quarter faster on a CPU; the weights stay as they are.
        return self._levels(padded.contiguous(memory_format=torch.channels_last))

    def _levels(self, images: Tensor) -> tuple[Tensor, ...]:
        """The body's logit and its three finest decoder levels, each at its own size, as BasicUNet.forward has them."""
        body = self.body
        first = body.conv_0(images)
        second = body.down_1(first)
        third = body.down_2(second)
        fourth = body.down_3(third)
        quarter = body.upcat_3(body.upcat_4(body.down_4(fourth), fourth), third)
        half = body.upcat_2(quarter, second)
        full = body.upcat_1(half, first)
        return body.final_conv(full), full, half, quarter


class ConvNet(nn.Module):
    """A small classifier of images: [n, C, H, W] -> [n], or [n, outputs] of several. Parameters `body.*` and `head.*`.

    Four convolutions, each halving height and width, with group norms; then the mean over the image.
    Raises ValueError for a size below 1.

    >>> ConvNet(1, 4, public_stream("example"), outputs=3)(torch.zeros(2, 1, 20, 30)).shape
    torch.Size([2, 3])
    """

    def __init__(self, channels: int, hidden: int, stream: RandomStream, outputs: int = 1) -> None:
        super().__init__()
        _check_sizes(channels=channels, hidden=hidden)
        widths = [channels, *(hidden * width for width in _STAGES)]
        with torch.device("meta"):
            stages = [
                stage
                for before, after in pairwise(widths)
                for stage in (
                    nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1),
                    nn.GroupNorm(math.gcd(4, hidden), after),
                    nn.ReLU(),
                )
            ]
            self.body = nn.Sequential(*stages)
        self.body.to_empty(device="cpu")
        _seed(self.body, stream)
        self.head = seeded_linear(widths[-1], outputs, stream)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images).mean(dim=(2, 3)))
        return logits.squeeze(-1)


def build_network(kind: NetworkKind, channels: int, hidden: int = 8, seed: int = 0, outputs: int = 1) -> nn.Module:
    """The network `kind` for images of `channels`, of public starting weights that `seed` picks.

    Raises ModelError where `kind` is unknown, or a U-Net is to have more than the one output that it has.
    """
    if kind not in ("unet", "cnn"):
        raise ModelError(f'model kind "{kind}" is unknown: use "unet" or "cnn"')
    stream = public_stream(kind, channels, hidden, seed)
    if kind == "cnn":
        return ConvNet(channels, hidden, stream, outputs)
    if outputs != 1:
        raise ModelError(f'[model] kind = "unet" has one output a pixel, not {outputs}: set task = "segmentation"')
    return UNet(channels, hidden, stream)


def _full_size(level: Tensor, like: Tensor) -> Tensor:
    size = like.shape[-2:]
    if level.shape[-2:] == size:
        return level
    larger = functional.interpolate(level, size=size, mode="bilinear", align_corners=False)
    if larger.requires_grad:
        # A 1x1 convolution's gradient may come channels first, for which upsampling takes seven times as long.
        larger.register_hook(_channels_last)  # type: ignore[no-untyped-call]
    return larger


def _channels_last(gradient: Tensor) -> Tensor:
    return gradient.contiguous(memory_format=torch.channels_last)


def _seed(body: nn.Module, stream: RandomStream) -> None:
    """Convolutions drawn from `stream`, in the order of modules(); norms at the identity."""
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            seed_layer(module, stream)
        elif isinstance(module, nn.GroupNorm):
            module.reset_parameters()


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, not {size}")
