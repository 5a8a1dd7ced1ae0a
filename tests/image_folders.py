"""Small folders of made-up images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from securepfl.data.declared import spec_of
from securepfl.data.images.spec import ImageSpec
from securepfl.data.loading import load_sites
from securepfl.errors import DataError

SHAPE = (40, 30)
SITES = ("north", "south")
EACH = 4


def declare(**entries: Any) -> ImageSpec:
    given = {"kind": "images", "size": [48, 48], "patient": "pattern:^([a-z]+_\\d+)_", **entries}
    spec = spec_of({key: value for key, value in given.items() if value is not None})
    assert isinstance(spec, ImageSpec)
    return spec


def save(values: np.ndarray, path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)
    return path


def noise(seed: int, shape: tuple[int, ...] = SHAPE, most: int = 256, kind: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, most, shape).astype(kind)


def box(value: int = 255, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[10:20, 5:9] = value
    return mask


def name_of(site: str, number: int) -> str:
    """Two images a patient."""
    return f"{site}_{number // 2}_{number}"


def fill(folder: Path) -> Path:
    """Hospitals of four images with masks and fields each."""
    for place, site in enumerate(SITES):
        for number in range(EACH):
            name = f"{name_of(site, number)}.png"
            save(noise(10 * place + number), folder / site / "images" / name)
            save(box(), folder / site / "masks" / name)
            save(np.ones(SHAPE, np.uint8), folder / site / "fov" / name)
    return folder


def refusal(path: Path, spec: ImageSpec, *private: str) -> str:
    """The message of the DataError, checked to be one line that names no file of an image."""
    with pytest.raises(DataError) as caught:
        load_sites(path, spec)
    message = str(caught.value)
    assert "\n" not in message
    for word in (*private, *(name_of(site, number) for site in SITES for number in range(EACH))):
        assert word not in message
    return message
