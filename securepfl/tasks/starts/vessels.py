"""Synthetic photographs of the retina with their vessels, made of anatomy and optics alone.

trees.py grows the vessels; here a camera looks at them: a window of 256 pixels somewhere in a field of 30 to 50
degrees, 16 to 45 micrometres a pixel. No patient's image was used, nor looked at for any number below.

| what | value here | source |
|---|---|---|
| contrast of blood: 1 - exp(-depth / t), t 30 to 70 um, at most .25 to .55 | arterioles .6 to .95 | Delori 1988 |
| bright streak along a vessel, a third of its width | mostly arterioles | Brinchmann-Hansen 1986 |
| disc brighter, with a cup; macula darker, sigma .5 to 1 mm | | Quigley 1990; Delori 1988 |
| blur of eye and camera, sensor noise, light falling off to the edge | | Westheimer 1986 |
| choroid's texture; bright and dark lesions, some as long as they are wide, in two of five eyes | not vessels | |
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from securepfl.tasks.starts.drawn import (
    Drawn,
    Floats,
    between,
    blurred,
    floats,
    generator,
    grid,
    happens,
    octaves,
    smooth,
    step,
)
from securepfl.tasks.starts.strokes import Painted, Strokes, painted
from securepfl.tasks.starts.trees import STRIDE, Eyes, Vessels, grown

SIDE: Final = 256
"""Pixels of a window's side."""
MM_A_DEGREE: Final = 0.29
"""On the retina of an eye of ordinary length (Bennett 1994)."""


@dataclass(frozen=True, eq=False)
class Camera:
    """Windows [n]: their middle (mm), mm a pixel, their field's middle, radius and cut (mm), which eye (+-1)."""

    x: Floats
    y: Floats
    pitch: Floats
    field: tuple[Floats, Floats, Floats, Floats]
    side: Floats

    @classmethod
    def drawn(cls, rng: np.random.Generator, count: int) -> "Camera":
        """`count` windows at random in `count` fields; some see the field's edge."""
        radius = MM_A_DEGREE * rng.uniform(30, 50, count) / 2
        middle = np.stack([rng.uniform(-0.5, 4.5, count), rng.normal(0, 0.4, count)])
        pitch = np.exp(rng.uniform(np.log(0.016), np.log(0.045), count))
        angle, out = rng.uniform(0, 2 * np.pi, count), radius * np.sqrt(rng.uniform(0, 0.6, count))
        cut = radius * np.where(rng.random(count) < 0.5, 1, rng.uniform(0.8, 1, count))
        x, y = middle[0] + out * np.cos(angle), middle[1] + out * np.sin(angle)
        numbers = [value.astype(np.float32) for value in (x, y, pitch, *middle, radius, cut)]
        side = np.where(rng.random(count) < 0.5, -1, 1).astype(np.float32)
        return cls(numbers[0], numbers[1], numbers[2], (numbers[3], numbers[4], numbers[5], numbers[6]), side)


def draw(count: int, seed: int, side: int = SIDE) -> Drawn:
    """`count` photographs [count, 1, side, side] and truths [count, 2, side, side]; a seed draws the same again."""
    rng = generator("fundus-vessels", seed)
    eyes, camera = Eyes.drawn(rng, count), Camera.drawn(rng, count)
    size = (side, side)
    vessels = grown(rng, eyes)
    arteries, veins = (painted(_strokes(vessels, vein, camera, side), count, size) for vein in (False, True))
    x, y = _places(camera, side)
    field = _field(camera, x, y)
    back, left = _background(rng, eyes, camera, x, y), _through(rng, arteries, veins, camera)
    images = _photographed(rng, back * left, field)
    truth = _truth(rng, np.maximum(arteries.inside, veins.inside), left)
    return Drawn(images[:, None] * field[:, None], np.stack([truth & (field > 0), field > 0], 1).astype(np.uint8))


def _strokes(vessels: Vessels, vein: bool, camera: Camera, side: int) -> Strokes:
    """One kind's strokes in the pixels of the window that sees their eye."""
    chosen = vessels.select(vessels.vein == vein)
    eye, pitch = chosen.eye, camera.pitch[chosen.eye]
    half = STRIDE / 2
    across = camera.side[eye] * (chosen.x - half * np.cos(chosen.heading) - camera.x[eye])
    down = -(chosen.y - half * np.sin(chosen.heading) - camera.y[eye])
    way = (-half * np.sin(chosen.heading) / pitch, camera.side[eye] * half * np.cos(chosen.heading) / pitch)
    return Strokes(
        image=eye,
        row=(down / pitch + side / 2).astype(np.float32),
        column=(across / pitch + side / 2).astype(np.float32),
        radius=(chosen.radius / pitch).astype(np.float32),
        half=(way[0].astype(np.float32), way[1].astype(np.float32)),
    )


def _places(camera: Camera, side: int) -> tuple[Floats, Floats]:
    """Each pixel's place on the retina, mm: x [n, 1, W], y [n, H, 1]."""
    rows, columns = grid((side, side))
    pitch = camera.pitch[:, None, None]
    x = camera.x[:, None, None] + camera.side[:, None, None] * (columns - side / 2) * pitch
    return x.astype(np.float32), (camera.y[:, None, None] - (rows - side / 2) * pitch).astype(np.float32)


def _field(camera: Camera, x: Floats, y: Floats) -> Floats:
    """1 in the camera's round field, which some cameras cut above and below."""
    across, up, radius, cut = (value[:, None, None] for value in camera.field)
    return floats((np.hypot(x - across, y - up) < radius) & (np.abs(y - up) < cut))


def _through(rng: np.random.Generator, arteries: Painted, veins: Painted, camera: Camera) -> Floats:
    """The share of light that vessels leave [n, H, W]: both kinds where they cross, and the bright streaks."""
    count, pitch = len(camera.x), camera.pitch[:, None, None]
    most, soon = between(rng, count, 0.25, 0.55), between(rng, count, 0.03, 0.07)
    red, streak = between(rng, count, 0.6, 0.95), between(rng, count, 0, 0.6) * happens(rng, count, 0.7)
    # Only wide vessels show a streak.
    bright, dim = (kind.middle * step(kind.depth * pitch - 0.05, 0.04) for kind in (arteries, veins))
    blood = (red * arteries.depth + veins.depth) * pitch
    left: Floats = 1 - most * (1 - np.exp(-blood / soon)) * (1 - streak * np.maximum(bright, 0.4 * dim))
    return left


def _background(rng: np.random.Generator, eyes: Eyes, camera: Camera, x: Floats, y: Floats) -> Floats:
    """The retina without vessels [n, H, W]: light, choroid, macula, disc with its cup, lesions."""
    count, size = len(camera.x), (y.shape[1], x.shape[2])
    across, up, radius, _ = (value[:, None, None] for value in camera.field)
    light = between(rng, count, 0.25, 0.6) * np.exp(0.25 * smooth(rng, count, size, max(size) / 2))
    light = light * (1 - between(rng, count, 0, 0.45) * np.hypot(x - across, y - up) ** 2 / radius**2)
    texture = octaves(rng, count, size, (3, 7, 15, 31)) * between(rng, count, 0.01, 0.06)
    # The choroid's own vessels: wide bands without an edge, where pigment is light.
    bands = np.exp(-((smooth(rng, count, size, 14) / 0.35) ** 2)) * between(rng, count, -0.12, 0.12)
    back = light * np.exp(texture + bands * happens(rng, count, 0.4))
    macula = np.hypot(x, y) ** 2 / between(rng, count, 0.5, 1.0) ** 2 / 2
    back = back * (1 - between(rng, count, 0.05, 0.4) * np.exp(-macula))
    from_disc = np.hypot(x - eyes.disc[:, 0, None, None], (y - eyes.disc[:, 1, None, None]) * 0.95).astype(np.float32)
    rim, cup = between(rng, count, 0.8, 1.0), between(rng, count, 0.3, 0.6)
    edge = between(rng, count, 0.08, 0.3)
    disc = step(rim - from_disc, edge) * between(rng, count, 0.2, 0.9)
    disc = disc + step(cup - from_disc, 0.3) * between(rng, count, 0.0, 0.6)
    return floats(back * (1 + disc) * _lesions(rng, count, size, camera))


def _lesions(rng: np.random.Generator, count: int, size: tuple[int, int], camera: Camera) -> Floats:
    """Spots brighter or darker than what lies behind them, of every size, and no vessels; [n, H, W] to multiply by."""
    each = 14
    sick = np.repeat(happens(rng, count, 0.4, axes=0) > 0, each)
    image = np.repeat(np.arange(count), each)[sick]
    radius = np.exp(rng.uniform(np.log(0.03), np.log(0.3), len(image))) / camera.pitch[image]
    place = (rng.random((2, len(image))) * np.array(size)[:, None]).astype(np.float32)
    angle, long = rng.uniform(0, np.pi, len(image)), radius * rng.uniform(0, 0.7, len(image))
    half = ((long * np.sin(angle)).astype(np.float32), (long * np.cos(angle)).astype(np.float32))
    dark = rng.random(len(image)) < 0.5
    radius = np.minimum(radius * np.where(dark, 0.7, 1), 14).astype(np.float32)
    spots = Strokes(image, place[0], place[1], radius, half)
    down, rise = (step(painted(spots.select(kind), count, size).inside, 2.0) for kind in (dark, ~dark))
    ragged = 1 + 0.4 * smooth(rng, count, size, 5)
    darker = 1 - between(rng, count, 0.1, 0.45) * down * ragged
    return floats(darker * (1 + between(rng, count, 0.2, 1.2) * rise * ragged))


def _photographed(rng: np.random.Generator, scene: Floats, field: Floats) -> Floats:
    """The scene through lens and sensor, in [0, 1]: blur, noise of two grains, and a tone curve."""
    count, size = len(scene), scene.shape[1:]
    image = blurred(scene, between(rng, count, 0.4, 1.3))
    fine, coarse = between(rng, count, 0.003, 0.02), between(rng, count, 0, 0.015)
    image = image + fine * rng.standard_normal(scene.shape).astype(np.float32) + coarse * smooth(rng, count, size, 2)
    return floats(np.clip(np.maximum(image, 0) ** between(rng, count, 0.7, 1.3), 0, 1))


def _truth(rng: np.random.Generator, inside: Floats, left: Floats) -> NDArray[np.bool_]:
    """What a person would mark: vessels whose contrast at the scale of a pixel can be seen, a little wider or narrower.

    Along a line of few per cent of contrast the eye sees an edge (Campbell 1968); thinner vessels are there, unmarked.
    """
    count = len(inside)
    contrast = blurred(1 - left, np.full(count, 1.2, np.float32))
    marked: NDArray[np.bool_] = inside > -between(rng, count, 0.1, 0.6)
    return marked & (contrast > between(rng, count, 0.04, 0.09))
