"""Images by site: what a folder becomes, and the one-line error for each way that it can be wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from securepfl.data.declared import spec_of
from securepfl.data.images.spec import ImageSpec
from securepfl.data.loading import load_site, load_sites, load_unlabelled
from securepfl.data.split import split_table
from securepfl.errors import DataError

SHAPE = (40, 30)


def declare(**entries: Any) -> ImageSpec:
    spec = spec_of({"kind": "images", "size": [48, 48], "patient": "pattern:_(\\d+)", **entries})
    assert isinstance(spec, ImageSpec)
    return spec


def save(values: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape or SHAPE, dtype=np.uint8)


def box(value: int = 255) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[10:20, 5:9] = value
    return mask


@pytest.fixture
def hospitals(tmp_path: Path) -> Path:
    """Two hospitals with two images a patient."""
    for place, site in enumerate(("north", "south")):
        for number in range(4):
            name = f"{site}_{number // 2}_{number}.png"
            save(noise(10 * place + number), tmp_path / site / "images" / name)
            save(box(), tmp_path / site / "masks" / name)
            save(box(0) + 1, tmp_path / site / "fov" / name)
    return tmp_path


def test_a_folder_of_hospitals_gives_a_table_for_each(hospitals: Path):
    tables = load_sites(hospitals, declare(fields="fov", fit="pad"))
    assert list(tables) == ["north", "south"]
    north = tables["north"]
    assert north.features.shape == (4, 1, 48, 48) and north.features.dtype == np.float32
    assert north.labels.shape == (4, 2, 48, 48) and north.labels.dtype == np.uint8
    np.testing.assert_array_equal(north.labels[0].sum(axis=(1, 2)), [40, 40 * 30])
    np.testing.assert_array_equal(north.features[:, :, 40:], 0)
    assert north.patients.tolist() == ["0", "0", "1", "1"]
    assert north.ids.tolist() == [f"north_{number // 2}_{number}" for number in range(4)]
    np.testing.assert_array_equal(north.sizes, [SHAPE] * 4)


def test_one_hospital_and_one_outside_read_their_own_folder_alone(hospitals: Path):
    spec = declare()
    own = load_site(hospitals / "north", spec, "north")
    np.testing.assert_array_equal(own.features, load_site(hospitals, spec, "north").features)
    assert load_unlabelled(hospitals / "north", spec).labels is not None
    assert load_unlabelled(hospitals / "north" / "images", spec).labels is None
    one = load_unlabelled(hospitals / "north" / "images" / "north_0_1.png", spec)
    np.testing.assert_array_equal(one.features, own.features[1:2])
    assert one.labels is not None and one.ids.tolist() == ["north_0_1"]


def test_no_patient_is_on_both_sides_of_a_split(hospitals: Path):
    table = load_sites(hospitals, declare(patient="pattern:^(\\w+_\\d+)_"))["north"]
    train, test = split_table(table, declare(split={"test": 0.5, "random_state": 1}).split)
    assert not set(train.patients.tolist()) & set(test.patients.tolist())


def test_an_index_of_all_names_images_patients_and_labels(hospitals: Path):
    rows = [
        f"images/{site}_{n // 2}_{n}.png,{site},{site}-{n // 2},{n % 2}"
        for site in ("south", "north")
        for n in (3, 1, 2, 0)
    ]
    (hospitals / "index.csv").write_text("\n".join(["file,site,who,ill", *rows]) + "\n")
    spec = declare(patient="who", label="ill")
    table = load_sites(hospitals, spec)["north"]
    assert table.patients.tolist() == ["north-0", "north-0", "north-1", "north-1"]
    assert table.labels.tolist() == [0, 1, 0, 1]
    assert load_unlabelled(hospitals / "north", spec).labels.tolist() == [0, 1, 0, 1]


def test_a_mask_without_image_and_an_image_without_mask_are_refused(hospitals: Path):
    (hospitals / "north" / "masks" / "north_0_1.png").rename(hospitals / "north" / "masks" / "other.png")
    with pytest.raises(DataError, match="image 2 in order of names has no mask") as caught:
        load_sites(hospitals, declare())
    assert "north_0_1" not in str(caught.value)
