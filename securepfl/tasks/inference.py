"""Images larger than memory allows at once: in overlapping windows, blended where they meet."""

from typing import Any, Final, cast

from torch import Tensor, nn

from securepfl.tasks.imaging import imaging
from securepfl.tasks.networks import UNet

_PIXELS: Final = 2**20
"""Of an image that is taken whole: it takes a U-Net about a GiB."""
_WINDOW: Final = 768
_OVERLAP: Final = 0.25


def is_large(model: nn.Module, rows: Tensor) -> bool:
    """Whether `rows` are images that `model` should take in windows: a U-Net's of over 2^20 pixels."""
    return isinstance(model, UNet) and rows.ndim == 4 and rows.shape[1] == model.channels and _pixels(rows) > _PIXELS


def logits_in_windows(model: nn.Module, images: Tensor, window: int = _WINDOW) -> Tensor:
    """Logits [n, 1, H, W] of images [n, C, H, W], by MONAI's sliding-window inference: windows of `window` pixels a
    side overlap by a quarter, and count the less the farther from a window's middle. Near to the model's on the whole
    image, not equal: group norms are over what they see. Raises ConfigError without MONAI.

    >>> from securepfl.tasks.networks import build_network
    >>> import torch
    >>> logits_in_windows(build_network("unet", 1, 4), torch.zeros(1, 1, 50, 70), window=32).shape
    torch.Size([1, 1, 50, 70])
    """
    with imaging("an image of over a million pixels"):
        from monai.inferers import sliding_window_inference  # noqa: PLC0415 - optional
    predictor = cast(Any, model)
    return cast(
        Tensor, sliding_window_inference(images, (window, window), 1, predictor, overlap=_OVERLAP, mode="gaussian")
    )


def _pixels(images: Tensor) -> int:
    return images.shape[-2] * images.shape[-1]
