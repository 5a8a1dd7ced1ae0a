"""Worlds of images: simulated scanners of X-rays (digits where X-rays aren't at hand), and made-up fundus cameras."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from methods.data_xray import CENTRE, FILE, SPREAD, Scanner, published
from numpy.typing import NDArray
from scipy.ndimage import zoom
from segmentation.simulated import Camera, photographed, scenes
from segmentation.training import Schedule
from sklearn.datasets import load_digits
from torch import nn

from routing.world import World, table
from securepfl.data.images.intensity import scaled
from securepfl.data.images.spec import ImageSpec
from securepfl.data.table import Table
from securepfl.tasks.binary import BINARY
from securepfl.tasks.networks import build_network
from securepfl.tasks.segmentation import Segmentation
from securepfl.tasks.starts import fill, vessels

Images = NDArray[np.float32]
SCANNERS: Final = (
    Scanner(blur=0.0, gamma=0.5, contrast=1.4, brightness=0.1),
    Scanner(blur=0.0, gamma=1.0, contrast=0.6, brightness=-0.15),
    Scanner(blur=1.0, gamma=2.0, contrast=1.4, brightness=-0.1),
    Scanner(blur=0.5, gamma=1.0, contrast=-1.0, brightness=0.0),
    Scanner(blur=1.0, gamma=0.7, contrast=-0.7, brightness=0.1),
    Scanner(blur=1.5, gamma=1.4, contrast=0.8, brightness=0.15),
)
"""Six makes: a contrast below 0 prints black for white, as digital films come in both polarities."""
EACH: Final = 120
UNSEEN: Final = 200
_SCANNED: Final = Schedule(rounds=15, steps=10, batch=32, rate=4e-3)
CAMERAS: Final = (
    Camera("wide", zoom=0.7, blur=0.4, field=0.95),
    Camera("close", zoom=1.6, blur=1.2, contrast=0.8, noise=0.02),
    Camera("grainy", contrast=0.5, gamma=0.7, noise=0.06, shade=0.5, field=0.9),
    Camera("angiograph", zoom=1.2, blur=0.6, contrast=0.9, noise=0.02, polarity=-1),
)
"""Blur, contrast, field and zoom are made up; an angiograph shows vessels bright, as fluorescein does."""
MIXED: Final = ("close", "angiograph")
SIDE: Final = 96
PATIENTS: Final = 10
_PHOTOGRAPHED: Final = Schedule(rounds=10, steps=10, batch=4, patch=64, rate=2e-3)
_SPEC: Final = ImageSpec.from_mapping(
    {"kind": "images", "size": [SIDE, SIDE], "fields": "fov", "colour": "green", "intensity": "local", "window": 25}
)


def xrays(data: Path | None, seed: int, *, known: bool) -> Mapping[str, World]:
    """Six simulated makes of scanner, a hospital each, and a seventh hospital, unseen.

    `known`: its scanner is of one of the six makes, which the seed picks; else of a make of its own. Training images
    are of the published training part, the unseen hospital's of the test part (other patients). `data` None:
    scikit-learn's digits, odd or even, in their place.
    """
    rng = np.random.default_rng([29, seed])
    (train, sick), (test, ill) = digits() if data is None else published(data / FILE)
    names = [f"make-{number}" for number in range(len(SCANNERS))]
    order = rng.permutation(len(train))
    members = {
        name: _scanned(name, scanner, train[rows], sick[rows])
        for name, scanner, rows in zip(names, SCANNERS, np.split(order[: len(names) * EACH], len(names)), strict=True)
    }
    mine = int(rng.integers(len(names)))
    scanner = SCANNERS[mine] if known else _own(rng)
    rows = rng.permutation(len(test))[:UNSEEN]
    unseen = _scanned("unseen", scanner, test[rows], ill[rows])
    right = np.array([names[mine]] * len(rows)) if known else None
    return {"unseen": World(BINARY, partial(build_network, "cnn", 1), members, unseen, _SCANNED, right)}


def digits() -> tuple[tuple[Images, NDArray[np.int64]], ...]:
    """scikit-learn's handwritten digits as images [n, 28, 28] in [0, 1] and 1 where odd; two thirds, and the rest."""
    found = load_digits()
    images = np.clip(zoom(found.images / 16.0, (1, 3.5, 3.5), order=1), 0, 1).astype(np.float32)
    odd = np.asarray(found.target % 2, np.int64)
    cut = 2 * len(images) // 3
    return (images[:cut], odd[:cut]), (images[cut:], odd[cut:])


def _scanned(site: str, scanner: Scanner, images: Images, labels: NDArray[np.int64]) -> Table:
    rendered = (scanner.render(images) - CENTRE) / SPREAD
    return table(site, rendered[:, None].astype(np.float32), labels.astype(np.float32))


def _own(rng: np.random.Generator) -> Scanner:
    polarity = 1.0 if rng.random() < 0.5 else -1.0
    blur, gamma, contrast, brightness = rng.random(4)
    return Scanner(1.5 * blur, 2.0 ** (2.0 * gamma - 1.0), polarity * (0.6 + 0.8 * contrast), 0.3 * brightness - 0.15)


def cameras(start: Path | None, seed: int) -> Mapping[str, World]:
    """Procedural fundus images under four made-up cameras; the unseen hospital has two of them and uses either.

    Which camera took an image is told to nobody. `start`: a file of `securepfl start fundus-vessels`.
    """
    members = {camera.site: _photos(camera.site, camera, 20 * seed + at, seed) for at, camera in enumerate(CAMERAS)}
    chosen = [camera for camera in CAMERAS if camera.site in MIXED]
    halves = [_photos("unseen", camera, 20 * seed + 10 + at, seed) for at, camera in enumerate(chosen)]
    unseen = table("unseen", *(np.concatenate([getattr(half, of) for half in halves]) for of in ("features", "labels")))
    right = np.repeat([camera.site for camera in chosen], [len(half) for half in halves])
    shares = [rows.labels[:, 0].sum() / rows.labels[:, 1].sum() for rows in members.values()]  # type: ignore[index]
    prior = float(np.mean(shares))
    return {
        "unseen": World(Segmentation(), partial(_network, start), members, unseen, _PHOTOGRAPHED, right, prior=prior)
    }


def _photos(site: str, camera: Camera, number: int, seed: int) -> Table:
    drawn = scenes(vessels.draw, PATIENTS, 7_000_000 + number, SIDE, camera.zoom)
    images, masks, field = photographed(drawn, camera, np.random.default_rng([31, seed, number]))
    fields = ((drawn.labels[:, 1] > 0) & (field > 0)).astype(np.uint8)
    pairs = zip(images, fields, strict=True)
    features = np.stack([scaled(image[:, :, None].astype(np.float64), own, _SPEC) for image, own in pairs])
    return table(site, features, np.stack([masks & (fields > 0), fields], axis=1).astype(np.uint8))


def _network(start: Path | None) -> nn.Module:
    network = build_network("unet", 1)
    if start is not None:
        fill(network, start)
    return network
