"""An image in an array of the declared size and back, and what its values become."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_folders import SHAPE, declare, noise

from securepfl.data.images.intensity import coloured, scaled
from securepfl.data.images.picture import UnfitError
from securepfl.data.images.placing import Placement

SIDES = st.integers(1, 90)


@given(own=st.tuples(SIDES, SIDES), size=st.tuples(SIDES, SIDES))
@settings(max_examples=50)
def test_a_resized_image_touches_two_ends_and_comes_back_in_its_own_size(own: tuple, size: tuple):
    place = Placement.of(own, size, "resize")
    assert place.inner[0] == size[0] or place.inner[1] == size[1]
    assert place.whole.sum() == place.inner[0] * place.inner[1]
    np.testing.assert_array_equal(place.into(np.ones(own)), place.whole)
    back = place.back(place.whole)
    assert back.shape == own and np.allclose(back, 1)


@given(own=st.tuples(SIDES, SIDES))
def test_padding_is_undone_exactly(own: tuple):
    place = Placement.of(own, (90, 90), "pad")
    image = noise(1, own).astype(float)
    np.testing.assert_array_equal(place.back(place.into(image)), image)
    np.testing.assert_array_equal(place.into(image, 7)[place.whole == 0], 7)


def test_a_smooth_image_survives_the_way_there_and_back():
    rows, columns = np.mgrid[:200, :150]
    image = np.sin(rows / 40) + np.cos(columns / 30)
    place = Placement.of(image.shape, (100, 100), "resize")
    assert np.abs(place.back(place.into(image)) - image).max() < 0.04


def test_a_mask_comes_back_where_it_was():
    mask = np.zeros((200, 150))
    mask[40:120, 30:90] = 1
    place = Placement.of(mask.shape, (64, 64), "resize")
    back = place.back(place.into(mask)) >= 0.5
    overlap = 2 * (back & (mask > 0)).sum() / (back.sum() + mask.sum())
    assert overlap > 0.96


def test_an_image_too_large_to_pad_and_an_array_of_another_size_are_refused():
    with pytest.raises(UnfitError, match=r"is larger than \[data\] size"):
        Placement.of((10, 11), (10, 10), "pad")
    with pytest.raises(ValueError, match="must have shape"):
        Placement.of((10, 10), (20, 20), "pad").back(np.zeros((10, 10)))


FIELD = np.zeros(SHAPE, np.uint8)
FIELD[4:36, 3:28] = 1
IMAGE = noise(4).astype(float)[:, :, None]


@pytest.mark.parametrize("declared", [{"intensity": "image"}, {"intensity": "local", "window": 9}])
def test_brightness_contrast_and_what_lies_outside_the_field_change_nothing(declared: dict):
    spec = declare(**declared)
    before = scaled(IMAGE, FIELD, spec)
    other = np.where(FIELD[:, :, None] == 1, 3 * IMAGE + 40, 9999.0)
    np.testing.assert_allclose(scaled(other, FIELD, spec), before, atol=1e-5)
    assert not before[0][FIELD == 0].any()
    inside = before[0][FIELD == 1]
    assert abs(float(inside.std()) - 1) < 0.05 and np.abs(before).max() <= 4


def test_a_slow_change_of_light_is_taken_out_by_the_local_mean_alone():
    rows = np.mgrid[: SHAPE[0], : SHAPE[1]][0][:, :, None]
    lit = IMAGE + 40.0 * rows
    local, whole = declare(intensity="local", window=9), declare(intensity="image")
    inner = np.s_[:, 10:30, 10:20]
    correlations = [
        np.corrcoef(scaled(lit, FIELD, s)[inner].ravel(), IMAGE[10:30, 10:20].ravel())[0, 1] for s in (local, whole)
    ]
    assert correlations[0] > 0.85
    assert correlations[1] < 0.5


def test_a_declared_range_is_cut():
    spec = declare(intensity="range", range=[100, 200])
    values = np.array([[0.0, 100, 150, 200, 900]])[:, :, None]
    np.testing.assert_array_equal(scaled(values, np.ones((1, 5), np.uint8), spec)[0], [[-1, -1, 0, 1, 1]])


@pytest.mark.parametrize("level", [0.0, 7.0, 1e9, -3e-7])
@pytest.mark.parametrize("declared", [{"intensity": "image"}, {"intensity": "local", "window": 9}])
def test_a_constant_image_becomes_0(declared: dict, level: float):
    assert not scaled(np.full((*SHAPE, 1), level), FIELD, declare(**declared)).any()


def test_colours_become_what_is_declared():
    colours = noise(5, (*SHAPE, 3)).astype(float)
    assert coloured(colours, declare(colour="rgb")) is colours
    np.testing.assert_array_equal(coloured(colours, declare(colour="green"))[:, :, 0], colours[:, :, 1])
    white = np.full((2, 2, 3), 200.0)
    np.testing.assert_allclose(coloured(white, declare())[:, :, 0], 200)
    with pytest.raises(UnfitError, match="is grey"):
        coloured(IMAGE, declare(colour="rgb"))
