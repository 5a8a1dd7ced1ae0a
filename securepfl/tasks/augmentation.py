"""Random patches of images and their labels, for training: vectorised, from a public stream."""

import math
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from securepfl.randomness import RandomStream

_ZOOM: Final = (0.75, 1.35)
_CONTRAST: Final = (0.75, 1.35)
_SHIFT: Final = 0.2
_NOISE: Final = 0.1
"""The most that brightness moves and that noise deviates, in parts of a patch's own deviation."""
_DRAWS: Final = 8


def patches(
    images: Tensor, labels: Tensor, count: int, size: int, stream: RandomStream, turn: float = 180.0
) -> tuple[Tensor, Tensor]:
    """`count` random patches of at most `size` x `size`, drawn evenly from all images: x, y.

    images: floating [n, C, H, W]; labels: [n, 2, H, W], the structure and what is scored. x is [count, C, h, w], y
    [count, 2, h, w] in the labels' type, with h and w the lesser of `size` and the image's own. Each patch lies in its
    image's field as far as it has room, is turned by up to `turn` degrees either way, zoomed by .75 to 1.35 and
    mirrored at random; its contrast, brightness and noise differ. An image no larger than a patch is taken whole, about
    its middle. What lies outside an image is 0 and not scored. Raises ValueError where there is no image or count or
    size is below 1.

    >>> from securepfl.tasks.models import public_stream
    >>> x, y = patches(torch.randn(3, 1, 90, 80), torch.ones(3, 2, 90, 80, dtype=torch.uint8), 4, 64, public_stream(1))
    >>> x.shape, y.shape, y.dtype
    (torch.Size([4, 1, 64, 64]), torch.Size([4, 2, 64, 64]), torch.uint8)
    """
    if not len(images) or count < 1 or size < 1:
        raise ValueError(f"patches need an image, a count and a size of at least 1, not {len(images)}, {count}, {size}")
    height, width = images.shape[-2:]
    shape = min(size, height), min(size, width)
    of = torch.from_numpy(_evenly(len(images), count, stream)).to(images.device)
    drawn = torch.from_numpy(stream.uniform(_DRAWS * count).reshape(_DRAWS, count, 1, 1)).to(images.device).float()
    own = labels.index_select(0, of)
    rows, columns = _places(own[:, 1], drawn[:5], shape, turn)
    x = _interpolated(images.index_select(0, of), rows, columns)
    return _recoloured(x, drawn[5:], stream), _nearest(own, rows, columns)


def _evenly(images: int, count: int, stream: RandomStream) -> NDArray[np.int64]:
    """Which image each patch is of: every image once in random order, then again."""
    turns = -(-count // images)
    order: NDArray[np.int64] = np.argsort(stream.uniform(turns * images).reshape(turns, images), axis=1)
    return order.ravel()[:count]


def _places(fields: Tensor, drawn: Tensor, shape: tuple[int, int], turn: float) -> tuple[Tensor, Tensor]:
    """Row and column in its image of each pixel of each patch, [count, h, w], from fields [count, H, W]."""
    angle, zoom, mirrored, down, right = drawn
    # From 0 on where any angle will do, as starts were made.
    angle = math.radians(2 * turn) * angle - (0.0 if turn >= 180.0 else math.radians(turn))
    scale = 1 / (_ZOOM[0] + (_ZOOM[1] - _ZOOM[0]) * zoom)
    down, right = (
        _middle(fields.amax(dim=axis), side, at) for axis, side, at in ((2, shape[0], down), (1, shape[1], right))
    )
    own_rows, own_columns = (torch.arange(side, device=fields.device) - (side - 1) / 2 for side in shape)
    rows, columns = scale * own_rows[:, None], scale * own_columns * torch.where(mirrored < 0.5, -1.0, 1.0)
    return (
        down + torch.cos(angle) * rows + torch.sin(angle) * columns,
        right - torch.sin(angle) * rows + torch.cos(angle) * columns,
    )


def _middle(occupied: Tensor, side: int, drawn: Tensor) -> Tensor:
    """Where patches of `side` are centred along an axis, within the span that is `occupied` [count, length]."""
    length = occupied.shape[1]
    some = occupied.amax(dim=1) > 0
    first = torch.where(some, occupied.argmax(dim=1), 0)
    last = torch.where(some, length - 1 - occupied.flip(1).argmax(dim=1), length - 1)
    low, high = first + (side - 1) / 2, last - (side - 1) / 2
    centre = (first + last) / 2 if side < length else torch.full_like(low, (length - 1) / 2)
    fits = (low <= high) & (side < length)
    low, high = torch.where(fits, low, centre), torch.where(fits, high, centre)
    return low[:, None, None] + (high - low)[:, None, None] * drawn


def _interpolated(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    grid = torch.stack([2 * columns / max(1, width - 1) - 1, 2 * rows / max(1, height - 1) - 1], dim=-1)
    return functional.grid_sample(images, grid.to(images.dtype), padding_mode="zeros", align_corners=True)


def _nearest(labels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    height, width = labels.shape[-2:]
    row, column = rows.round().long(), columns.round().long()
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    place = torch.where(inside, row * width + column, 0)[:, None].expand(-1, labels.shape[1], -1, -1)
    found = labels.flatten(2).gather(2, place.flatten(2)).view(place.shape)
    return found * inside[:, None]


def _recoloured(x: Tensor, drawn: Tensor, stream: RandomStream) -> Tensor:
    contrast, shift, level = drawn[:, :, None].to(x.dtype)
    deviation = x.std(dim=(1, 2, 3), keepdim=True, correction=0)
    # Drawn on the CPU whatever the device, so that every machine draws the same.
    generator = np.random.Generator(np.random.Philox(int(stream.words(1)[0])))
    noise = torch.from_numpy(generator.standard_normal(tuple(x.shape), dtype=np.float32)).to(x)
    varied: Tensor = x * (_CONTRAST[0] + (_CONTRAST[1] - _CONTRAST[0]) * contrast)
    varied += deviation * (_SHIFT * (2 * shift - 1) + _NOISE * level * noise)
    return varied
