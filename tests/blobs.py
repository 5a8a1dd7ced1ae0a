"""A made-up hospital's images: bright discs on a slope of grey, each image of its own size, with masks."""

from pathlib import Path

import numpy as np
from PIL import Image

from securepfl.data.images.spec import ImageSpec

SIZE = (48, 48)
SPEC = {"kind": "images", "size": list(SIZE), "patient": r"pattern:(p\d+)_", "fit": "resize"}


def image_spec(**changes):
    return ImageSpec.from_mapping(SPEC | changes)


def blob(generator, height, width, bright=120.0):
    """An image [height, width] from 0 to 255, and its mask."""
    rows, columns = np.mgrid[:height, :width]
    radius = generator.uniform(0.14, 0.26) * min(height, width)
    row, column = generator.uniform(radius, height - radius), generator.uniform(radius, width - radius)
    mask = (rows - row) ** 2 + (columns - column) ** 2 < radius**2
    values = 60 + 40 * columns / width + bright * mask + generator.normal(0, 12, (height, width))
    return np.clip(values, 0, 255).astype(np.uint8), mask


def write_hospital(folder: Path, count=4, seed=0, masks=True, bright=120.0, patients=2):
    """`count` PNGs of sizes of their own in `folder`/images, and masks; every second one is the next patient's."""
    generator = np.random.default_rng(seed)
    for name in ("images", *(["masks"] if masks else [])):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        height, width = int(generator.integers(40, 90)), int(generator.integers(40, 90))
        values, mask = blob(generator, height, width, bright)
        name = f"p{1 + number // patients}_{number}"
        Image.fromarray(values).save(folder / "images" / f"{name}.png")
        if masks:
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / f"{name}.png")
    return folder
