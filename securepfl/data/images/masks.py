"""A mask as 0 and 1, or why it can't be read as one."""

import numpy as np
from numpy.typing import NDArray

from securepfl.data.images.picture import Picture, UnfitError

_MEND = "save it with 0 and 255, or 0 and 1"


def structure_of(picture: Picture, image: Picture) -> NDArray[np.uint8]:
    """A mask or a field of view of `image`, [height, width], 1 where the file says so.

    Raises UnfitError for a file that JPEG has blurred, colours, another size, another place in space, or other values
    than 0 and 255 or 0 and 1: a third value would have to be taken for one of the two.
    """
    if picture.lossy:
        raise UnfitError("is a JPEG file, which blurs where a mask changes; save it as PNG")
    if picture.values.shape[2] != 1:
        raise UnfitError(f"has colours; {_MEND}")
    if picture.size != image.size:
        (height, width), (own, across) = picture.size, image.size
        raise UnfitError(
            f"is {height} x {width} pixels and its image {own} x {across}; save it in the image's own size"
        )
    if (
        image.affine is not None
        and picture.affine is not None
        and not np.allclose(image.affine, picture.affine, atol=1e-3)
    ):
        raise UnfitError("lies elsewhere in space than its image; resample it to the image")
    values = np.unique(picture.values)
    if not (np.isin(values, (0, 1)).all() or np.isin(values, (0, 255)).all()):
        raise UnfitError(f"has other values than two; {_MEND}")
    return (picture.values[:, :, 0] > 0).astype(np.uint8)
