"""Synthetic chest X-rays with their lung fields, made of proportions and physics alone.

A chest is a few shapes in centimetres (x from the middle to the image's right, which is the patient's left, y down
from the lungs' tops). What X-rays meet on their way is added up, as water, and shown as film or detector would. No
patient's image was used, nor looked at for any number below.

| what | value here | source |
|---|---|---|
| inner width of the chest 23 to 32 cm; lungs 14 to 27 cm high (lying patients: low) | | Suskind 1974; Crapo 1981 |
| heart .40 to .64 of that width, a third of it to the right | normal: .5 | Danzer 1919 |
| right half of the diaphragm 0 to 2.5 cm above the left, domes 2 to 5 cm high | | Lennon 1986 |
| middle of the chest (vascular pedicle) 4.5 to 8 cm wide, windpipe 1.5 to 2.2 cm | | Milne 1984; Breatnach 1984 |
| ten ribs a side, 1 to 1.6 cm wide, behind falling outwards, in front inwards | | Gayzik 2008 |
| density of lung .2 to .35, of bone about 2, body 17 to 28 cm deep | water: 1 | ICRP 89 |
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

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

SIDE: Final = 128
"""Pixels of an image's longest side."""
_RIBS: Final = 10


@dataclass(frozen=True, eq=False)
class Chest:
    """Measures of each chest, float32 [n, 1, 1], cm; `left` and `right` are the patient's."""

    width: Floats
    height: Floats
    lower: Floats
    apex: Floats
    pedicle: Floats
    heart: Floats
    heart_left: Floats
    dome: Floats
    steep: Floats
    wall: Floats
    depth: Floats

    @classmethod
    def drawn(cls, rng: np.random.Generator, count: int) -> "Chest":
        """`count` chests at random; the right lung's height is `height`, the left one's longer by `lower`."""
        width = between(rng, count, 23, 32)
        heart = width * between(rng, count, 0.40, 0.64)
        return cls(
            width=width,
            height=between(rng, count, 14, 27),
            lower=between(rng, count, -0.5, 2.5),
            apex=width * between(rng, count, 0.14, 0.21),
            pedicle=between(rng, count, 4.5, 8) / 2,
            heart=heart,
            heart_left=between(rng, count, 0.60, 0.74),
            dome=between(rng, count, 2, 5),
            steep=between(rng, count, 1.7, 2.8),
            wall=between(rng, count, 1.5, 6),
            depth=between(rng, count, 17, 28),
        )


@dataclass(frozen=True, eq=False)
class Lung:
    """One lung of each chest: how far inside it each place is (cm, negative outside), and what bounds it, [n, H, W]."""

    inside: Floats
    across: Floats
    down: Floats
    bottom: Floats


def draw(count: int, seed: int, side: int = SIDE) -> Drawn:
    """`count` X-rays [count, 1, side, side] and truths [count, 2, side, side]; a seed draws the same again."""
    rng = generator("chest-lungs", seed, side)
    chest = Chest.drawn(rng, count)
    x, y, pitch, field = _places(rng, chest, count, side)
    lungs = [_lung(rng, chest, x, y, left) for left in (False, True)]
    inside = np.maximum(lungs[0].inside, lungs[1].inside)
    met = _soft(rng, chest, x, y, lungs) + _bones(rng, chest, x, y)
    image = _shown(rng, met + _marks(rng, x, y, pitch), inside, pitch)
    return Drawn((image * field)[:, None], np.stack([(inside > 0) & (field > 0), field > 0], 1).astype(np.uint8))


def _places(rng: np.random.Generator, chest: Chest, count: int, side: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Each pixel's place in its chest (cm), cm a pixel, and the image's own part of the square."""
    rows, columns = grid((side, side))
    aspect = between(rng, count, 0.78, 1.28)
    high, wide = side * np.minimum(1, aspect), side * np.minimum(1, 1 / aspect)
    field = ((rows < high) & (columns < wide)).astype(np.float32)
    seen = np.maximum(
        chest.width * between(rng, count, 1.08, 1.4) / wide, chest.height * between(rng, count, 1.1, 1.4) / high
    )
    angle = (rng.normal(0, 4, count) * np.pi / 180).astype(np.float32).reshape(-1, 1, 1)
    x, y = (columns - wide / 2) * seen, (rows - high / 2) * seen
    x, y = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
    spare = np.maximum(high * seen - chest.height, 0)
    x = x + rng.normal(0, 1.2, count).astype(np.float32).reshape(-1, 1, 1)
    y = y + chest.height / 2 + spare * between(rng, count, -0.2, 0.25) + chest.dome / 2
    bend = between(rng, count, 0.2, 0.9)
    x = x + bend * smooth(rng, count, (side, side), side / 4)
    y = y + bend * smooth(rng, count, (side, side), side / 4)
    return x.astype(np.float32), y.astype(np.float32), seen.astype(np.float32), field


def _lung(rng: np.random.Generator, chest: Chest, x: Floats, y: Floats, left: bool) -> Lung:
    """How far inside one lung: between chest wall and middle, below its top, above its dome."""
    count = len(x)
    out = x if left else -x
    height = chest.height + (chest.lower if left else 0)
    t = np.clip(y / height, 0, 1.3)
    half = chest.width / 2 * between(rng, count, 0.94, 1.03)
    rise = (1 - (1 - np.minimum(t, 1)) ** chest.steep) ** between(rng, count, 0.45, 0.6)
    lateral = chest.apex + (half - chest.apex) * rise
    near = (1 - (1 - np.minimum(t / 0.35, 1)) ** 2) ** 0.5
    middle = chest.apex - (chest.apex - chest.pedicle) * near
    share = chest.heart_left if left else 1 - chest.heart_left
    reach = np.clip(chest.heart * share, 0, 0.7 * half) - chest.pedicle
    reach = np.maximum(reach, 0)
    begins, round_ = between(rng, count, 0.35, 0.55), between(rng, count, 0.10, 0.2)
    swell = 1 / (1 + np.exp(-(t - begins - 0.15) / round_ * 1.8))
    back = 1 - between(rng, count, 0, 0.5) * np.clip((t - 0.88) / 0.25, 0, 1) ** 2
    knob = between(rng, count, 0, 1.6) * np.exp(-(((t - 0.27) / 0.07) ** 2)) if left else 0.0
    middle = middle + reach * swell * back + knob
    top = chest.apex + (half - chest.apex) * between(rng, count, 0.15, 0.5)
    # The dome falls to the chest wall, all of its height, and a little to the middle.
    away = np.where(out > top, (out - top) / (half - top), 0.6 * (top - out) / (top - chest.pedicle))
    bottom = height - chest.dome * 0.5 + chest.dome * between(rng, count, 0.9, 1.3) * away**2
    inside = np.minimum(np.minimum(out - middle, lateral - out), np.minimum(y, bottom - y))
    across = np.clip((out - middle) / np.maximum(lateral - middle, 1), 0, 1)
    return Lung(inside.astype(np.float32), across, t, bottom)


def _soft(rng: np.random.Generator, chest: Chest, x: Floats, y: Floats, lungs: list[Lung]) -> Floats:
    """Centimetres of water that soft tissue and lungs put in the way, [n, H, W]."""
    count, size = len(x), x.shape[1:]
    shoulders = between(rng, count, 3, 9) * np.exp(
        -np.maximum(y + between(rng, count, 0, 4), 0) / between(rng, count, 3, 9)
    )
    body = chest.width / 2 + chest.wall + shoulders
    neck = np.where(y < -between(rng, count, 2, 6), between(rng, count, 5, 9) + 2.5 * np.maximum(0, y + 12), body)
    edge = np.minimum(body, np.maximum(neck, 4))
    thick = chest.depth * np.sqrt(np.clip(1 - (np.abs(x) / edge) ** 3.5, 0, 1))
    light = 1 - between(rng, count, 0.2, 0.35)
    for lung in lungs:
        fill = 1 - np.exp(-np.maximum(lung.inside, 0) / between(rng, count, 0.5, 1.4))
        thick = thick - light * chest.depth * between(rng, count, 0.5, 0.72) * fill * np.exp(
            0.15 * smooth(rng, count, size, 20)
        )
        thick = thick + _in_lung(rng, lung, count, size)
    # Lung lies behind the heart and behind the domes too, so both are lighter than their neighbours.
    inside = np.maximum(lungs[0].inside, lungs[1].inside)
    behind = np.exp(-np.maximum(-inside, 0) / between(rng, count, 0.6, 2.5)) * (inside < 0)
    thick = thick - behind * between(rng, count, 0, 3)
    windpipe = step(between(rng, count, 0.75, 1.1) - np.abs(x - between(rng, count, -0.6, 0.6)), 0.5)
    thick = thick - 1.8 * windpipe * step(0.33 * chest.height - y, 2.0) * between(rng, count, 0.3, 1.2)
    stomach = _blob(x, y, between(rng, count, 3, 8), chest.height + chest.lower + between(rng, count, 1, 4), 2.5, 1.5)
    thick = thick - stomach * between(rng, count, 0, 7) * (inside < 0) * happens(rng, count, 0.6)
    breasts = sum(
        _blob(x, y, s * between(rng, count, 6, 10), chest.height * between(rng, count, 0.65, 0.95), 5, 4)
        for s in (-1, 1)
    )
    return floats(thick + breasts * between(rng, count, 0, 3) * happens(rng, count, 0.5))


def _in_lung(rng: np.random.Generator, lung: Lung, count: int, size: tuple[int, int]) -> Floats:
    """What a lung holds besides air: vessels from the hilum outwards, and in some patients infiltrates or fluid."""
    inside = step(lung.inside, 0.8)
    hilum = np.exp(-((lung.across / 0.28) ** 2) - ((lung.down - 0.45) / 0.2) ** 2) * between(rng, count, 0.5, 3.5)
    fine = np.abs(octaves(rng, count, size, (2.5, 5, 9))) * (1 - 0.7 * lung.across) * between(rng, count, 0.1, 0.9)
    ill = happens(rng, count, 0.4)
    cloud = np.maximum(smooth(rng, count, size, size[0] / 7) - between(rng, count, 0.2, 1.2), 0) * between(
        rng, count, 1, 5
    )
    fluid = step(lung.down - between(rng, count, 0.7, 1.0), 0.2) * happens(rng, count, 0.12) * between(rng, count, 2, 7)
    held: Floats = inside * (hilum + fine + ill * cloud + fluid)
    return held


def _bones(rng: np.random.Generator, chest: Chest, x: Floats, y: Floats) -> Floats:
    """Centimetres of water that bones add: ribs behind and in front, clavicles, shoulder blades, spine."""
    count = len(x)
    bones = between(rng, count, 1.2, 3.2) * step(between(rng, count, 1.6, 2.3) - np.abs(x), 0.8)
    gaps = 0.5 + 0.5 * np.cos(2 * np.pi * y / between(rng, count, 2.2, 3.0))
    bones = bones * (1 - between(rng, count, 0, 0.35) * gaps**4)
    u = np.abs(x) / (chest.width / 2)
    within = step(1.04 - u, 0.05)
    apart = chest.height / between(rng, count, 7.5, 10)
    wide, firm = between(rng, count, 0.5, 0.8), between(rng, count, 0.3, 1.6)
    fall, front = between(rng, count, 3, 8), between(rng, count, 4, 9)
    first = between(rng, count, -1.5, 1.5)
    bow = np.minimum(u, 1.1)
    for rib in range(_RIBS):
        starts = first + rib * apart
        behind = y - starts - fall * (bow**2.5) * (0.6 + 0.06 * rib) + 0.8 * np.sin(np.pi * bow)
        ahead = y - starts - fall * (0.6 + 0.06 * rib) - front * np.maximum(1 - bow, 0) ** 0.8
        bones = bones + firm * _tube(behind, wide) * within
        bones = bones + 0.7 * firm * _tube(ahead, wide) * within * step(u - 0.35, 0.15)
    slope, level = between(rng, count, -0.45, 0.3), between(rng, count, 0.5, 4.5)
    collar = y - level - slope * (np.abs(x) - 2) + 0.05 * (np.abs(x) - 6) ** 2 * between(rng, count, -1, 1)
    bones = bones + between(rng, count, 0.8, 2.2) * _tube(collar, 0.65) * step(np.abs(x) - 1.5, 0.6)
    blade = step(np.abs(x) - chest.width * between(rng, count, 0.36, 0.5) + 0.25 * y, 0.4) * step(
        chest.height * 0.6 - y, 2.0
    )
    return floats(bones + between(rng, count, 0, 1.6) * blade)


def _marks(rng: np.random.Generator, x: Floats, y: Floats, pitch: Floats) -> Floats:
    """What is not the patient's: lines and leads across half of the chests, and a bright letter or plate."""
    count, wires = len(x), np.zeros_like(x)
    for _ in range(3):
        angle = between(rng, count, 0, np.pi)
        along = x * np.cos(angle) + (y - 8) * np.sin(angle)
        off = -x * np.sin(angle) + (y - 8) * np.cos(angle) - between(rng, count, -8, 8)
        off = (
            off
            + between(rng, count, 0, 3) * np.sin(along / between(rng, count, 3, 9))
            + 0.03 * along**2 * between(rng, count, -1, 1)
        )
        ends = step(along - between(rng, count, -20, 0), 0.5)
        wires = wires + happens(rng, count, 0.35) * ends * _tube(off, np.maximum(0.15, 0.6 * pitch)) * between(
            rng, count, 0.5, 4
        )
    plate = _box(x - between(rng, count, -16, 16), y - between(rng, count, -4, 6), between(rng, count, 0.6, 2.5))
    disc = _blob(x, y, between(rng, count, -10, 10), between(rng, count, 0, 20), 0.9, 0.9) > 0.5
    wires = wires + plate * happens(rng, count, 0.35) * between(rng, count, 3, 15)
    return floats(wires + disc * happens(rng, count, 0.3) * between(rng, count, 1, 6))


def _shown(rng: np.random.Generator, met: Floats, inside: Floats, pitch: Floats) -> Floats:
    """The water met, as a display shows it in [0, 1]: scatter, a tone curve, local contrast, blur, noise, borders."""
    count, size = len(met), met.shape[1:]
    scatter = between(rng, count, 0, 0.4)
    met = (1 - scatter) * met + scatter * blurred(met, np.full(count, size[0] / 16, np.float32))
    met = met * np.exp(0.08 * smooth(rng, count, size, size[0] / 2))
    # A radiographer windows what matters: from the lungs' own values to those of the middle.
    low = np.array([np.quantile(one[here > 0], 0.1) for one, here in zip(met, inside, strict=True)], np.float32)
    high = np.array([np.quantile(one, 0.85) for one in met], np.float32)
    low, high = low.reshape(-1, 1, 1), high.reshape(-1, 1, 1)
    level = (met - low) / np.maximum(high - low, 1) * 2 - 1
    image = 1 / (1 + np.exp(-between(rng, count, 1.0, 2.6) * (level + between(rng, count, -0.6, 0.6))))
    sharp = between(rng, count, 0, 0.8) * happens(rng, count, 0.5)
    image = image + sharp * (image - blurred(image, np.full(count, size[0] / 20, np.float32)))
    image = blurred(image, between(rng, count, 0.3, 1.0)) + between(rng, count, 0.004, 0.04) * rng.standard_normal(
        met.shape
    )
    image = np.clip(image, 0, 1) ** between(rng, count, 0.6, 1.6)
    rows, columns = grid((size[0], size[1]))
    border = between(rng, count, 0, 0.07) * size[0] * happens(rng, count, 0.3)
    shut = np.minimum(np.minimum(rows, columns), np.minimum(size[0] - rows, size[1] - columns)) < border
    return floats(np.where(shut, between(rng, count, 0, 0.15), image))


def _tube(off: Floats, radius: Floats | float) -> Floats:
    """A hollow bone or line seen from the side, `off` cm from its axis: brightest near its edges."""
    near = np.clip(1 - (np.abs(off) / radius) ** 4, 0, 1)
    return floats(near * (0.65 + 0.35 * np.minimum(np.abs(off) / radius, 1) ** 2))


def _blob(x: Floats, y: Floats, across: Floats, down: Floats, wide: float, high: float) -> Floats:
    return floats(np.exp(-(((x - across) / wide) ** 2) - ((y - down) / high) ** 2))


def _box(dx: Floats, dy: Floats, half: Floats) -> Floats:
    return floats((np.abs(dx) < half) & (np.abs(dy) < 0.7 * half))
