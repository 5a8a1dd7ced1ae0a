"""Views of an image: the eight flips and quarter turns, each with its exact inverse.

A network that has learnt no preferred direction should answer alike in all of them. Pixels are moved, never resampled:
`seen_back(seen(x, view), view)` is x to the last bit.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from securepfl.errors import ConfigError

_MOVES: Final[Mapping[str, tuple[bool, int]]] = MappingProxyType(
    {
        "same": (False, 0),
        "turned": (False, 1),
        "half-turned": (False, 2),
        "turned-back": (False, 3),
        "mirrored": (True, 0),
        "mirrored-turned": (True, 1),
        "upside-down": (True, 2),
        "mirrored-turned-back": (True, 3),
    }
)
"""Mirrored left to right first or not, then so many quarter turns to the left."""
VIEWS: Final[tuple[str, ...]] = tuple(_MOVES)
"""Names of all views; "mirrored" is left for right, "upside-down" top for bottom."""


def seen(images: Tensor, view: str) -> Tensor:
    """`images` [..., H, W] as `view` shows them; quarter turns give [..., W, H].

    >>> seen(torch.tensor([[1, 2], [3, 4]]), "mirrored").tolist()
    [[2, 1], [4, 3]]
    """
    mirrored, turns = _MOVES[view]
    return torch.rot90(images.flip(-1) if mirrored else images, turns, (-2, -1))


def seen_back(maps: Tensor, view: str) -> Tensor:
    """The inverse of seen: `maps` [..., H, W] of a view in the image's own place.

    >>> image = torch.arange(6).reshape(2, 3)
    >>> all(torch.equal(seen_back(seen(image, view), view), image) for view in VIEWS)
    True
    """
    mirrored, turns = _MOVES[view]
    plain = torch.rot90(maps, -turns, (-2, -1))
    return plain.flip(-1) if mirrored else plain


def turns_sides(view: str) -> bool:
    """Whether height and width change places."""
    return _MOVES[view][1] % 2 == 1


def require_views(views: tuple[str, ...]) -> None:
    """Raises ConfigError for none, an unknown one, or one that is named twice."""
    if unknown := [view for view in views if view not in _MOVES]:
        raise ConfigError(f"view {unknown[0]!r} is unknown: known are {', '.join(VIEWS)}")
    if not views or len(set(views)) != len(views):
        raise ConfigError(f"views {list(views)}: name at least one, each once")
