"""Simulated hospitals: procedural images under made-up cameras, in the layout of the real folders. No patient in it.

    PYTHONPATH=benchmarks python -m segmentation.simulated vessels|lungs OUT [--patients 14] [--side 192]

For checking studies and examples where the real folders aren't, and for shifts whose size is known: the last site's is
large on purpose. Whatever is measured on it is a simulated figure.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, maximum_filter, minimum_filter

from securepfl.tasks.starts import lungs, vessels
from securepfl.tasks.starts.drawn import Drawn

Floats = NDArray[np.float32]
_LEAST_FIELD: Final = 0.4
_LEAST_STRUCTURE: Final = 0.04
"""Of an image: the generators show windows of which some hardly meet the field of view, or a vessel."""
_SPARE: Final = 5


@dataclass(frozen=True)
class Camera:
    """How a site photographs (`blur` and `noise` in pixels and grey levels of 1) and how its readers mark.

    `zoom` magnifies; `shade` darkens towards one side; `polarity` -1 prints negatives; `field` is the radius of its
    round field in parts of half a side, above 1.4 all of it; `marks` thickens (1) or thins (-1) what is marked;
    `gains` of red, green and blue.
    """

    site: str
    zoom: float = 1.0
    blur: float = 0.0
    contrast: float = 1.0
    gamma: float = 1.0
    noise: float = 0.01
    shade: float = 0.0
    polarity: int = 1
    field: float = 2.0
    marks: int = 0
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)


VESSELS: Final = (
    Camera("north", blur=0.5, noise=0.01, field=0.97, gains=(1.5, 1.0, 0.4)),
    Camera(
        "south", zoom=0.85, blur=0.6, contrast=1.2, gamma=1.3, shade=0.4, field=0.92, marks=-1, gains=(1.3, 1.0, 0.7)
    ),
    Camera("east", zoom=1.3, blur=1.0, contrast=0.7, gamma=0.8, noise=0.03, gains=(1.2, 0.9, 0.6), marks=1),
    Camera("far", zoom=1.6, blur=1.6, contrast=0.6, noise=0.04, shade=0.6, field=0.9, gains=(1.8, 0.7, 0.3), marks=1),
)
LUNGS: Final = (
    Camera("north", blur=0.5),
    Camera("south", zoom=0.9, blur=0.8, contrast=1.2, gamma=1.3, noise=0.02, shade=0.3),
    Camera("east", zoom=1.1, contrast=0.8, gamma=0.8, noise=0.03, polarity=-1),
    Camera("far", zoom=1.25, blur=1.5, contrast=0.6, gamma=0.6, noise=0.06, shade=0.8, polarity=-1),
)
"""East is nearest to far, so that each has an expert to be routed to; the two others are like each other."""
_DECLARED: Final = """# Simulated: procedural images under made-up cameras. No patient is in them.
name = "simulated {kind}"

[model]
kind = "unet"
task = "segmentation"

[privacy]
protection = "none"

[data]
kind = "images"
fields = "fov"
patient = "patient"
size = [{side}, {side}]
{more}

[data.split]
method = "column"
column = "part"
test_values = ["test"]

[sites]
{sites}
"""
_MORE: Final = {
    "vessels": 'colour = "green"\nintensity = "local"\nwindow = 49',
    "lungs": 'intensity = "image"\nstructures = 2\nholes = false',
}


def photographed(drawn: Drawn, camera: Camera, rng: np.random.Generator) -> tuple[Floats, NDArray[np.bool_], Floats]:
    """Images float32 [n, H, W] in [0, 1] as the camera has them, marked structures bool [n, H, W], its field [H, W]."""
    images, side = drawn.images[:, 0], drawn.images.shape[-1]
    low, high = np.quantile(images, (0.02, 0.98))
    images = np.clip((images - low) / (high - low), 0, 1)
    if camera.blur:
        images = gaussian_filter(images, (0, camera.blur, camera.blur))
    y, x = (np.mgrid[:side, :side].astype(np.float32) + 0.5) / side
    turn = rng.uniform(0, 2 * np.pi, (len(images), 1, 1))
    light = 1 - camera.shade * (0.5 + np.cos(turn) * (x - 0.5) + np.sin(turn) * (y - 0.5))
    images = (0.5 + camera.contrast * camera.polarity * (images - 0.5)).clip(0, 1) ** camera.gamma * light
    images = images + camera.noise * rng.standard_normal(images.shape)
    masks = drawn.labels[:, 0] > 0
    if camera.marks:
        thicker, thinner = maximum_filter, minimum_filter
        masks = (thicker if camera.marks > 0 else thinner)(masks, (1, 2, 2))
    field = (np.hypot(x - 0.5, y - 0.5) < camera.field / 2).astype(np.float32)
    return images.clip(0, 1).astype(np.float32), masks, field


def scenes(draw: Callable[[int, int, int], Drawn], count: int, seed: int, side: int, zoom: float) -> Drawn:
    """`count` scenes of `side` pixels seen at `zoom`, of those that show enough of the field of view."""
    whole = max(32, round(side / zoom))
    drawn = draw(_SPARE * count, seed, whole)
    structure, field = (drawn.labels[:, part].mean(axis=(1, 2)) for part in (0, 1))
    shown = np.flatnonzero((field >= _LEAST_FIELD) & (structure >= _LEAST_STRUCTURE))[:count]
    if len(shown) < count:
        raise click.UsageError(f"only {len(shown)} of {_SPARE * count} scenes show enough; ask for fewer patients")
    images = _resized(drawn.images[shown, 0], side)
    labels = np.stack([_resized(drawn.labels[shown, part].astype(np.float32), side) > 0.5 for part in (0, 1)], axis=1)
    return Drawn(images[:, None], labels.astype(np.uint8))


def write_sites(kind: str, folder: Path, patients: int, side: int, seed: int = 0) -> None:
    """Folders SITE/{images,masks,fov}, index.csv and the declaration federation.toml. Every fourth patient has two
    images, every third one tests."""
    draw = {"vessels": vessels.draw, "lungs": lungs.draw}[kind]
    cameras: Sequence[Camera] = {"vessels": VESSELS, "lungs": LUNGS}[kind]
    names = [f"p{at:02}{eye}" for at in range(patients) for eye in ("LR" if at % 4 == 0 else "L")]
    rows = []
    for number, camera in enumerate(cameras):
        # Seeds that no start is made of.
        drawn = scenes(draw, len(names), 9_000_000 + 100 * seed + number, side, camera.zoom)
        images, masks, field = photographed(drawn, camera, np.random.default_rng([seed, number]))
        fields = (drawn.labels[:, 1] > 0) & (field > 0)
        for at, name in enumerate(names):
            _write(folder / camera.site, name, images[at], masks[at], fields[at], camera)
            part = "test" if int(name[1:-1]) % 3 == 1 else "train"
            rows.append({"site": camera.site, "file": name, "patient": f"{camera.site}-{name[:-1]}", "part": part})
    with (folder / "index.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["site", "file", "patient", "part"])
        table.writeheader()
        table.writerows(rows)
    sites = "\n".join(f"{camera.site} = {{ units = {patients} }}" for camera in cameras)
    (folder / "federation.toml").write_text(_DECLARED.format(kind=kind, side=side, more=_MORE[kind], sites=sites))


def _write(
    site: Path, name: str, image: Floats, mask: NDArray[np.bool_], field: NDArray[np.bool_], camera: Camera
) -> None:
    grey = np.stack([image * gain for gain in camera.gains], axis=-1) if len(set(camera.gains)) > 1 else image
    pictures: Mapping[str, Any] = {
        "images": Image.fromarray(np.uint8(np.rint(255 * np.clip(grey, 0, 1) * _last(field, grey.ndim)))),
        "masks": Image.fromarray(255 * (mask & field).astype(np.uint8)).convert("1"),
        "fov": Image.fromarray(255 * field.astype(np.uint8)).convert("1"),
    }
    for part, picture in pictures.items():
        (site / part).mkdir(parents=True, exist_ok=True)
        picture.save(site / part / f"{name}.png")


def _last(field: NDArray[np.bool_], axes: int) -> NDArray[np.bool_]:
    return field[..., None] if axes == 3 else field


def _resized(images: Floats, side: int) -> Floats:
    if images.shape[-1] == side:
        return images
    made = [np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)) for image in images]
    return np.stack(made).astype(np.float32)


@click.command()
@click.argument("kind", type=click.Choice(["vessels", "lungs"]))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--patients", default=14, show_default=True)
@click.option("--side", default=192, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(kind: str, out: Path, patients: int, side: int, seed: int) -> None:
    """Write the folders."""
    write_sites(kind, out, patients, side, seed)


if __name__ == "__main__":
    main()
