"""The examples' declarations, and the public images that they are for, where these lie beside the checkout."""

from pathlib import Path

import numpy as np
import pytest

from securepfl.data.images.spec import ImageSpec
from securepfl.data.loading import load_sites
from securepfl.settings.federation import Federation

REPOSITORY = Path(__file__).resolve().parents[3]
PUBLIC = REPOSITORY.parent / "shared" / "data"


def declared(name: str) -> ImageSpec:
    spec = Federation.read(REPOSITORY / "examples" / name / "federation.toml").data_spec
    assert isinstance(spec, ImageSpec)
    return spec


# Marked long: written without the images at hand, and not run on them yet.
def images_of(name: str) -> Path:
    if not (PUBLIC / name).is_dir():
        pytest.skip(f"no images at {PUBLIC / name}")
    return PUBLIC / name


def test_both_declare_masks_and_a_field_of_view():
    vessels, lungs = declared("fundus_vessels"), declared("chest_lungs")
    assert vessels.segments and lungs.segments and vessels.fields == lungs.fields == "fov"
    assert vessels.patient_pattern is not None
    eyes = {
        name: vessels.patient_pattern.search(name)[1] for name in ("Image_01L", "Image_01R", "im0077", "21_training")
    }
    assert list(eyes.values()) == ["Image_01", "Image_01", "im0077", "21_training"]


@pytest.mark.long
def test_the_vessels_of_three_hospitals_are_read_as_declared():
    tables = load_sites(images_of("fundus_vessels"), declared("fundus_vessels"))
    assert list(tables) == ["chasedb1", "drive", "stare"]
    assert sum(map(len, tables.values())) == 88
    for table in tables.values():
        assert table.labels is not None and np.abs(table.features).max() <= 4
        share = table.labels[:, 0].sum() / table.labels[:, 1].sum()
        assert 0.03 < share < 0.25
    assert len(set(tables["chasedb1"].patients)) == len(tables["chasedb1"]) / 2


@pytest.mark.long
def test_the_lungs_of_four_hospitals_are_read_as_declared():
    tables = load_sites(images_of("chest_lungs"), declared("chest_lungs"))
    assert sorted(tables) == ["europe_other", "hannover", "spain", "uk"]
    assert sum(map(len, tables.values())) == 147
    assert len({name for table in tables.values() for name in table.patients}) == 83
