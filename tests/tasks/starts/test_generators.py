"""Synthetic images: repeatable, of the declared form, and true to the anatomy that their tables cite."""

import numpy as np
import pytest

from securepfl.tasks.starts import lungs, vessels
from securepfl.tasks.starts.drawn import generator
from securepfl.tasks.starts.strokes import Strokes, painted
from securepfl.tasks.starts.trees import Eyes, _forked, _trunks, grown


@pytest.mark.parametrize("module", [vessels, lungs])
def test_a_seed_draws_the_same_and_another_draws_other_images(module):
    one, again, other = (module.draw(3, seed, 64) for seed in (0, 0, 1))
    assert np.array_equal(one.images, again.images) and np.array_equal(one.labels, again.labels)
    assert not np.array_equal(one.images, other.images)


@pytest.mark.parametrize("module", [vessels, lungs])
def test_images_are_finite_and_the_structure_lies_in_the_field(module):
    drawn = module.draw(6, 2, 96)
    assert drawn.images.shape == (6, 1, 96, 96) and drawn.images.dtype == np.float32
    assert np.isfinite(drawn.images).all() and drawn.images.min() >= 0 and drawn.images.max() <= 1
    assert drawn.labels.shape == (6, 2, 96, 96) and set(np.unique(drawn.labels)) == {0, 1}
    assert not (drawn.labels[:, 0] & ~drawn.labels[:, 1]).any() and drawn.labels[:, 0].any(axis=(1, 2)).sum() >= 5


def test_widths_at_a_fork_follow_murrays_law():
    rng = generator("test")
    eyes = Eyes.drawn(rng, 40)
    tips = _trunks(rng, eyes)
    main, twigs = _forked(rng, tips, eyes)
    forked = np.flatnonzero(main.radius < tips.radius)
    assert len(forked) == len(twigs) > 5
    exponent = eyes.exponent[tips.eye[forked]]
    assert np.allclose(main.radius[forked] ** exponent + twigs.radius**exponent, tips.radius[forked] ** exponent)


def test_venules_are_wider_than_arterioles_and_trunks_leave_the_disc():
    rng = generator("test", 1)
    eyes = Eyes.drawn(rng, 30)
    trunks = _trunks(rng, eyes)
    assert trunks.radius[trunks.vein].mean() > 1.1 * trunks.radius[~trunks.vein].mean()
    away = np.hypot(trunks.x - eyes.disc[trunks.eye, 0], trunks.y - eyes.disc[trunks.eye, 1])
    assert away.max() < 0.9


def test_no_vessel_reaches_the_fovea():
    rng = generator("test", 2)
    eyes = Eyes.drawn(rng, 10)
    vessels_ = grown(rng, eyes)
    assert np.hypot(vessels_.x, vessels_.y).min() > eyes.avascular.min() - 0.07


def test_strokes_cover_what_lies_within_their_radius():
    zero = np.zeros(1, np.float32)
    half = (zero, np.full(1, 5, np.float32))
    stroke = Strokes(np.zeros(1, np.int64), zero + 10, zero + 12, zero + 2, half)
    maps = painted(stroke, 2, (20, 30))
    rows, columns = np.nonzero(maps.inside[0] >= 0)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 12, 5, 19)
    assert maps.depth[0].max() == maps.depth[0, 10, 12] > maps.depth[0, 11, 12] > 0
    assert (maps.inside[1] < 0).all() and maps.depth[1].max() == 0


def test_lungs_are_darker_than_the_middle_between_them():
    drawn = lungs.draw(24, 3, 96)
    lung = drawn.labels[:, 0] > 0
    rest = (drawn.labels[:, 1] > 0) & ~lung
    columns = np.arange(96)
    darker = []
    for image, here, other in zip(drawn.images[:, 0], lung, rest, strict=True):
        rows, across = np.nonzero(here)
        between = other & (np.abs(columns - np.median(across)) < 6)
        between[: rows.min()] = between[rows.max() :] = False
        darker.append(image[here].mean() < image[between].mean())
    assert np.mean(darker) > 0.9
