"""Vascular trees of the retina, grown by published rules, all eyes and all vessels at once.

Millimetres on the retina; the fovea is the origin, x points to the disc, y up. 1 degree of a camera's field is 0.29 mm.

| what | value here | source |
|---|---|---|
| disc: centre 4.5 mm from the fovea and .5 mm above it, 1.8 mm wide | +-.3 mm | Jonas 1988; Quigley 1990 |
| trunks at the disc: venules 110 to 165 um, arterioles .65 to .9 of them | | Hubbard 1999; Wong 2004 (CRAE, CRVE) |
| widths at a fork: r0^c = r1^c + r2^c, c = 2.5 to 3.2 | Murray: 3 | Murray 1926; Riva 1985; Patton 2006 |
| angles at a fork: cos t1 = (r0^4 + r1^4 - r2^4) / (2 r0^2 r1^2) | +-15 degrees | Murray 1926; Zamir 1979 |
| length between forks: about 10 to 20 widths | exponential | Witt 2006 (length to diameter ratio) |
| arcades: a parabola round the fovea, from the disc | 3 to 4.5 mm above it | Foracchia 2004 |
| no vessels within .2 to .35 mm of the fovea; small ones lead there | | Bresnick 1984 |
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

STRIDE = 0.06
"""Millimetres that a vessel grows in one step."""
_THINNEST = 0.008
"""Radius in mm below which a photograph shows nothing."""
_REACH = 9.0
"""Vessels end here, in mm from the fovea."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Vessels:
    """Growing tips, or the strokes that they left, one entry each; mm and radians.

    `trunk` is 0 for a side branch, +1 or -1 for the temporal arcade above or below, 2 for a nasal trunk.
    """

    eye: NDArray[np.int64]
    x: Numbers
    y: Numbers
    heading: Numbers
    radius: Numbers
    vein: NDArray[np.bool_]
    trunk: NDArray[np.int64]
    bend: Numbers

    def __len__(self) -> int:
        return len(self.eye)

    def select(self, index: NDArray[np.bool_]) -> "Vessels":
        """Those at `index`."""
        return Vessels(*(getattr(self, name.name)[index] for name in fields(self)))

    def join(self, *others: "Vessels") -> "Vessels":
        """These and the others."""
        return Vessels(*(np.concatenate([getattr(one, f.name) for one in (self, *others)]) for f in fields(self)))


@dataclass(frozen=True, eq=False)
class Eyes:
    """What differs between eyes: the disc's place (mm), the arcades' height (mm), forks' exponent and length, bends."""

    disc: Numbers
    arcade: Numbers
    exponent: Numbers
    length: Numbers
    bend: Numbers
    avascular: Numbers

    @classmethod
    def drawn(cls, rng: np.random.Generator, count: int) -> "Eyes":
        """`count` eyes at random."""
        disc = np.stack([rng.normal(4.5, 0.2, count), rng.normal(0.5, 0.15, count)], 1)
        return cls(
            disc=disc,
            arcade=rng.uniform(3.0, 4.5, count),
            exponent=rng.uniform(2.5, 3.2, count),
            length=rng.uniform(9, 18, count),
            bend=rng.uniform(0.1, 0.4, count),
            avascular=rng.uniform(0.2, 0.35, count),
        )


def grown(rng: np.random.Generator, eyes: Eyes) -> Vessels:
    """All strokes of all eyes' trees, one for each STRIDE of each vessel."""
    tips, strokes = _trunks(rng, eyes), []
    for _ in range(int(14 / STRIDE)):
        if not len(tips):
            break
        tips = _advanced(rng, tips, eyes)
        strokes.append(tips)
        tips, twigs = _forked(rng, tips, eyes)
        tips = tips.join(twigs)
        tips = tips.select(_alive(tips, eyes))
    return strokes[0].join(*strokes[1:])


def _trunks(rng: np.random.Generator, eyes: Eyes) -> Vessels:
    """Eight trunks an eye at its disc: artery and vein, above and below, towards the fovea and away."""
    count = len(eyes.disc)
    vein, above, temporal = (a.ravel() for a in np.meshgrid([False, True], [-1, 1], [True, False], indexing="ij"))
    eye = np.repeat(np.arange(count), 8)
    vein, above, temporal = (np.tile(a, count) for a in (vein, above, temporal))
    widest = rng.uniform(0.110, 0.165, count)[eye] * np.where(vein, 1, rng.uniform(0.65, 0.9, count)[eye])
    radius = widest / 2 * rng.uniform(0.85, 1.1, len(eye)) * np.where(temporal, 1, rng.uniform(0.6, 0.9, len(eye)))
    heading = above * np.where(temporal, rng.uniform(1.6, 2.2, len(eye)), rng.uniform(0.4, 1.2, len(eye)))
    apart = np.where(vein, 0.12, -0.12) + rng.normal(0, 0.08, len(eye))
    return Vessels(
        eye=eye,
        x=eyes.disc[eye, 0] + apart,
        y=eyes.disc[eye, 1] + 0.15 * above + rng.normal(0, 0.06, len(eye)),
        heading=heading,
        radius=radius,
        vein=vein,
        trunk=np.where(temporal, above, 2),
        bend=np.zeros(len(eye)),
    )


def _advanced(rng: np.random.Generator, tips: Vessels, eyes: Eyes) -> Vessels:
    """Every tip one STRIDE on: its bend is a slow random walk, and a pull turns it to where its kind leads."""
    wish, pull = _wish(tips, eyes)
    turn = (wish - tips.heading + np.pi) % (2 * np.pi) - np.pi
    # Small vessels wind more than large ones; venules of one eye and its arterioles alike.
    wind = eyes.bend[tips.eye] * (0.03 / tips.radius) ** 0.5
    bend = 0.9 * tips.bend + 0.44 * wind * rng.standard_normal(len(tips))
    heading = tips.heading + STRIDE * (1.8 * bend + pull * np.sin(turn))
    return Vessels(
        eye=tips.eye,
        x=tips.x + STRIDE * np.cos(heading),
        y=tips.y + STRIDE * np.sin(heading),
        heading=heading,
        radius=tips.radius,
        vein=tips.vein,
        trunk=tips.trunk,
        bend=bend,
    )


def _wish(tips: Vessels, eyes: Eyes) -> tuple[Numbers, Numbers]:
    """Where each tip would head (radians), and how much it is pulled there (a mm)."""
    dx, dy = tips.x - eyes.disc[tips.eye, 0], tips.y - eyes.disc[tips.eye, 1]
    away = np.arctan2(dy, dx)
    # The arcade: y = height * sqrt(t), t the way from disc to fovea and on; veins a little outside their arteries.
    height = eyes.arcade[tips.eye] * np.where(tips.vein, 1.06, 0.97) * np.sign(tips.trunk)
    along = np.maximum(-dx, 0.25) / eyes.disc[tips.eye, 0]
    level = height * np.minimum(along, 1.0) ** 0.5
    slope = np.where(
        along < 1, height * 0.5 / np.maximum(along, 0.06) ** 0.5 / eyes.disc[tips.eye, 0], -0.15 * np.sign(height)
    )
    arcade = np.arctan2(slope + 1.2 * (level - dy), -1.0)
    inner = (np.hypot(tips.x, tips.y) < 3.5) & (tips.radius < 0.03)
    fovea = np.arctan2(-tips.y, -tips.x)
    wish = np.where(np.abs(tips.trunk) == 1, arcade, np.where(inner, fovea, away))
    pull = np.where(np.abs(tips.trunk) == 1, 2.0, np.where(inner, 0.6, 0.35))
    return wish, pull


def _forked(rng: np.random.Generator, tips: Vessels, eyes: Eyes) -> tuple[Vessels, Vessels]:
    """Tips after this step's forks, and the new side branches: widths and angles by Murray's laws."""
    # Small vessels keep apart, for each serves the tissue around it.
    chance = STRIDE / np.maximum(eyes.length[tips.eye] * 2 * tips.radius, 0.5)
    # A trunk gives off many small side branches between its own forks.
    forks = rng.random(len(tips)) < np.where(tips.trunk != 0, np.maximum(chance, STRIDE / 0.9), chance)
    thinner = np.where(tips.trunk != 0, rng.uniform(0.2, 0.65, len(tips)), rng.uniform(0.45, 1.0, len(tips)))
    c = eyes.exponent[tips.eye]
    first = tips.radius / (1 + thinner**c) ** (1 / c)
    second = first * thinner
    side = np.where(rng.random(len(tips)) < 0.5, -1.0, 1.0)
    noise = rng.normal(0, 0.13, (2, len(tips)))
    turned = [
        side * (_angle(tips.radius, first, second) + noise[0]),
        -side * (_angle(tips.radius, second, first) + noise[1]),
    ]
    main = Vessels(
        eye=tips.eye,
        x=tips.x,
        y=tips.y,
        heading=np.where(forks, tips.heading + turned[0] * np.where(tips.trunk != 0, 0.5, 1), tips.heading),
        radius=np.where(forks, first, tips.radius),
        vein=tips.vein,
        trunk=np.where(tips.radius < 0.02, 0, tips.trunk),
        bend=tips.bend,
    )
    twigs = Vessels(
        eye=tips.eye,
        x=tips.x,
        y=tips.y,
        heading=tips.heading + turned[1],
        radius=second,
        vein=tips.vein,
        trunk=np.zeros_like(tips.trunk),
        bend=-tips.bend,
    )
    return main, twigs.select(forks)


def _angle(whole: Numbers, own: Numbers, other: Numbers) -> Numbers:
    """By how much a branch of radius `own` turns from its parent's heading, so that volume is least (Murray 1926)."""
    return np.arccos(np.clip((whole**4 + own**4 - other**4) / (2 * whole**2 * own**2), -0.2, 1))


def _alive(tips: Vessels, eyes: Eyes) -> NDArray[np.bool_]:
    from_fovea = np.hypot(tips.x, tips.y)
    return np.asarray((tips.radius > _THINNEST) & (from_fovea < _REACH) & (from_fovea > eyes.avascular[tips.eye]))
