"""Chest X-rays (pneumonia or normal) dealt to simulated hospitals with label skew and scanner shift.

Training rows come from the published training and validation parts, test rows from the official test part, because
only that part holds other patients: dealing a pool of all three would put one patient's images on both sides.
Copies of an image within a part are dropped, so that none lies in two hospitals.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from methods.data_tables import site_of
from methods.model_xray import XrayNet
from methods.task import Site, Task
from securepfl.errors import DataError
from securepfl.randomness import RandomStream, derive_key

FILE = Path("pneumonia_xray") / "pneumoniamnist_3882_524_624.npz"
LEAST_SICK, MOST_SICK = 0.45, 0.8
"""Shares of pneumonia, declared: hospitals are spaced evenly between them, training and test rows alike."""
CENTRE, SPREAD = 0.5, 0.25
"""Public constants that scale pixels of [0, 1]."""

Images = NDArray[np.float32]


@dataclass(frozen=True)
class Scanner:
    """How a hospital renders pixels of [0, 1]: blur (standard deviation in pixels), gamma, contrast, brightness."""

    blur: float
    gamma: float
    contrast: float
    brightness: float

    def render(self, images: Images) -> Images:
        """Images [n, 28, 28] as this scanner would have stored them, in [0, 1]."""
        seen = gaussian_filter(images, sigma=(0.0, self.blur, self.blur)) ** self.gamma
        clipped: Images = np.clip((seen - CENTRE) * self.contrast + CENTRE + self.brightness, 0.0, 1.0)
        return clipped


def xray(data: Path, seed: int, sites: int = 6, width: int = 0) -> Task:
    """28 x 28 images [n, 1, 28, 28] at `sites` simulated hospitals: another deal and other scanners each seed.

    All hospitals hold equally many normal images, and pneumonia as their declared share asks: with 6
    hospitals 158 to 435 training and 58 to 160 test rows, with 20 hospitals 47 to 130 and 18 to 50. Pneumonia images
    beyond that are left over. `width` 0 is the small network, else the hidden units of the wide one. Raises DataError
    where the file is missing.
    """
    (train, sick), (test, ill) = published(data / FILE)
    shares = np.linspace(LEAST_SICK, MOST_SICK, sites)[_stream(seed, sites, "shares").permutation(sites)]
    for_training = _dealt(sick, shares, _stream(seed, sites, "train"))
    for_test = _dealt(ill, shares, _stream(seed, sites, "test"))
    made = {
        f"simulated-{number:02d}": _site(
            _scanner(_stream(seed, sites, "scanner", number)), (train[rows], sick[rows]), (test[kept], ill[kept])
        )
        for number, (rows, kept) in enumerate(zip(for_training, for_test, strict=True))
    }
    head, norms = ("head.*",), ("norm*",)
    return Task(f"xray{sites}" + ("_wide" if width else ""), made, partial(XrayNet, width), head, norms)


def published(path: Path) -> tuple[tuple[Images, NDArray[np.int64]], ...]:
    """(images in [0, 1], 1 where pneumonia) of training with validation, and of test; no image twice."""
    if not path.is_file():
        raise DataError(f"{path}: is missing; give the folder that holds {FILE} with --data")
    with np.load(path, allow_pickle=False) as file:
        parts = {name: (file[f"{name}_images"], file[f"{name}_labels"][:, 0]) for name in ("train", "val", "test")}
    training = tuple(np.concatenate([parts["train"][k], parts["val"][k]]) for k in (0, 1))
    return _distinct(*training), _distinct(*parts["test"])


def _distinct(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> tuple[Images, NDArray[np.int64]]:
    numbered: dict[bytes, int] = {}
    for number, image in enumerate(images):
        numbered.setdefault(image.tobytes(), number)
    first = list(numbered.values())
    return images[first].astype(np.float32) / 255.0, labels[first].astype(np.int64)


def _dealt(labels: NDArray[np.int64], shares: NDArray[np.float64], stream: RandomStream) -> list[NDArray[np.int64]]:
    """Each hospital's rows: as many normal ones as fit all declared shares, each row to one hospital at most."""
    normal, sick = (np.flatnonzero(labels == kind) for kind in (0, 1))
    odds = shares / (1.0 - shares)
    each = min(len(normal) // len(shares), int(len(sick) / odds.sum()))
    normal, sick = normal[stream.permutation(len(normal))], sick[stream.permutation(len(sick))]
    ends = np.cumsum(np.floor(odds * each)).astype(int)
    starts = np.concatenate([[0], ends[:-1]])
    return [
        np.concatenate([normal[number * each : (number + 1) * each], sick[start:end]])
        for number, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]


def _scanner(stream: RandomStream) -> Scanner:
    draws = stream.uniform(4)
    return Scanner(
        blur=float(draws[0]),
        gamma=float(2.0 ** (2.0 * draws[1] - 1.0)),
        contrast=float(0.6 + 0.8 * draws[2]),
        brightness=float(0.3 * draws[3] - 0.15),
    )


def _site(scanner: Scanner, train: tuple[Images, NDArray[np.int64]], test: tuple[Images, NDArray[np.int64]]) -> Site:
    def scaled(images: Images) -> Images:
        return ((scanner.render(images) - CENTRE) / SPREAD)[:, None].astype(np.float32)

    return site_of(scaled(train[0]), train[1].astype(np.float32), scaled(test[0]), test[1].astype(np.float32))


def _stream(seed: int, *labels: str | int) -> RandomStream:
    return RandomStream(derive_key(b"securepfl benchmark simulated x-ray hospitals", seed, *labels))
