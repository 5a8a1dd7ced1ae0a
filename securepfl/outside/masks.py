"""Predicted masks as images, each in its image's own size."""

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from securepfl.data.images.placing import Placement
from securepfl.outside.answered import Answered
from securepfl.tasks.imaging import imaging

MASKS: Final = "masks"
"""Folder of what is written."""


def placement_of(answered: Answered, place: int) -> Placement:
    """How the image at `place` lies in the array of declared size."""
    height, width = answered.table.features.shape[2:]
    sizes = answered.table.sizes
    own = (height, width) if sizes is None else (int(sizes[place][0]), int(sizes[place][1]))
    return Placement.of(own, (height, width), getattr(answered.experts.spec, "fit", "pad"))


def own_mask(answered: Answered, place: int, *, shared: bool = False) -> NDArray[np.bool_]:
    """The mask [height, width] of the image at `place` in its own size: probabilities are brought to it, and decided
    there. `shared`: the shared model's in place of the routed one's.
    """
    said = (answered.shared if shared else answered.predictions)[place]
    back = placement_of(answered, place).back(said)
    mask: NDArray[np.bool_] = answered.task.decide(back[None], answered.experts.point)[0] != 0
    return mask


def write_masks(answered: Answered, folder: Path) -> None:
    """Write every mask as PNG, 255 on 0, under its image's name in `folder`. Raises ConfigError without the extra."""
    for place, name in enumerate(answered.places):
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_png(path, own_mask(answered, place).astype(np.uint8) * np.uint8(255))


def _write_png(path: Path, values: NDArray[Any]) -> None:
    with imaging("a mask's PNG"):
        from PIL import Image  # noqa: PLC0415 - optional
    Image.fromarray(values).save(path, format="PNG")
