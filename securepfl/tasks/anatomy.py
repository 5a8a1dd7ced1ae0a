"""What is known of a structure's shape: how many regions it has, and whether it has holes."""

import numpy as np
from numpy.typing import NDArray

Masks = NDArray[np.bool_]


def shaped(masks: Masks, structures: int | None = None, *, holes: bool = True) -> Masks:
    """Masks [n, height, width] with the `structures` largest connected regions only (None: all), and filled if it has
    no `holes`. Pixels that touch at a corner are connected. Of equal regions the upper one comes first.
    Raises ValueError for fewer than one structure.

    >>> mask = np.array([[[1, 1, 1, 0, 1], [1, 0, 1, 0, 0], [1, 1, 1, 0, 0]]], dtype=bool)
    >>> shaped(mask, 1, holes=False)[0].astype(int).tolist()
    [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0]]
    """
    if structures is not None and structures < 1:
        raise ValueError(f"structures = {structures}: at least 1, or None for any number")
    if structures is None and holes:
        return masks
    return np.stack([_shaped(mask, structures, holes) for mask in masks]) if len(masks) else masks


def _shaped(mask: Masks, structures: int | None, holes: bool) -> Masks:
    from scipy import ndimage  # noqa: PLC0415 - for images alone

    if structures is not None:
        regions, count = ndimage.label(mask, structure=np.ones((3, 3)))
        if count > structures:
            sizes = np.bincount(regions.ravel())
            sizes[0] = 0
            largest = np.argsort(-sizes, kind="stable")[:structures]
            mask = np.isin(regions, largest)
    return mask if holes else np.asarray(ndimage.binary_fill_holes(mask), dtype=np.bool_)
