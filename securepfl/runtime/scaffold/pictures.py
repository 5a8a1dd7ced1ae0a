"""Made-up images for a new federation to be tried on: grey noise, in which a yes has a bright spot."""

import io
from collections.abc import Iterator
from typing import Final

import numpy as np

from securepfl.tasks.imaging import imaging

IMAGES: Final = 160
"""Of each hospital, each of a patient of its own; about 105 of them train."""
SIDE: Final = 32


def images_of(hospital: int) -> Iterator[tuple[str, bytes, bool]]:
    """Each image of the hospital of this number: its name, a PNG of SIDE x SIDE, and whether it is a yes.

    Hospitals differ in how bright their cameras are. Raises ConfigError without Pillow.
    """
    with imaging("making images"):
        from PIL import Image  # noqa: PLC0415 - optional
    draw = np.random.default_rng([2027, hospital])
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for number, found in enumerate(draw.permuted(np.arange(IMAGES) % 2 == 0).tolist(), start=1):
        row, column = draw.uniform(SIDE / 3, 2 * SIDE / 3, 2)
        spot = 90 * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * 5.0**2)) * found
        values = 60 + 15 * (hospital % 4) + spot + draw.normal(0, 12, (SIDE, SIDE))
        file = io.BytesIO()
        Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(file, "PNG")
        yield f"{number:03}.png", file.getvalue(), found
