"""Made-up images for a new federation to be tried on: grey noise, in which a yes has a bright spot; or in which each
has a structure, somewhat brighter, and a mask that outlines it.
"""

import io
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from securepfl.tasks.imaging import imaging

IMAGES: Final = 160
"""Of each hospital, each of a patient of its own; about 105 of them train."""
SIDE: Final = 32
OUTLINED: Final = 120
"""Of each hospital, each of a patient of its own; about 80 of them train."""
COVERED: Final = 0.11
"""The share of an image that its structure covers, in the mean."""


def images_of(hospital: int) -> Iterator[tuple[str, bytes, bool]]:
    """Each image of the hospital of this number: its name, a PNG of SIDE x SIDE, and whether it is a yes.

    Hospitals differ in how bright their cameras are. Raises ConfigError without Pillow.
    """
    draw = np.random.default_rng([2027, hospital])
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for number, found in enumerate(draw.permuted(np.arange(IMAGES) % 2 == 0).tolist(), start=1):
        row, column = draw.uniform(SIDE / 3, 2 * SIDE / 3, 2)
        spot = 90 * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * 5.0**2)) * found
        values = 60 + 15 * (hospital % 4) + spot + draw.normal(0, 12, (SIDE, SIDE))
        yield f"{number:03}.png", _png(values), found


def outlined_of(hospital: int, images: int | None = None) -> Iterator[tuple[str, bytes, bytes]]:
    """Images of the hospital of this number: each one's name, a PNG of SIDE x SIDE, and its mask, 255 in an ellipse of
    any size and direction; OUTLINED of them, or `images`. Hospitals differ as above. Raises ConfigError without Pillow.
    """
    draw = np.random.default_rng([2028, hospital])
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for number in range(1, (OUTLINED if images is None else images) + 1):
        row, column = draw.uniform(0.3 * SIDE, 0.7 * SIDE, 2)
        along, across = draw.uniform(0.12 * SIDE, 0.25 * SIDE, 2)
        turn = draw.uniform(0, np.pi)
        down, right = rows - row, columns - column
        first, second = down * np.cos(turn) + right * np.sin(turn), right * np.cos(turn) - down * np.sin(turn)
        inside = (first / along) ** 2 + (second / across) ** 2 <= 1
        values = 60 + 15 * (hospital % 4) + 45 * inside + draw.normal(0, 25, (SIDE, SIDE))
        yield f"{number:03}.png", _png(values), _png(255.0 * inside)


def _png(values: NDArray[np.float64]) -> bytes:
    with imaging("making images"):
        from PIL import Image  # noqa: PLC0415 - optional
    file = io.BytesIO()
    Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()
