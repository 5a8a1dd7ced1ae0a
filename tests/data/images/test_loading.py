"""Images by site: what a folder becomes, at whose hospital, and in which order."""

from pathlib import Path

import numpy as np
import pytest
from image_folders import EACH, SHAPE, SITES, box, declare, fill, name_of, noise, save

from securepfl.data.images.spec import ImageSpec
from securepfl.data.loading import left_out, load_site, load_sites, load_unlabelled
from securepfl.data.patients import of_several_sites
from securepfl.data.split import split_table
from securepfl.errors import DataError, HospitalNote


@pytest.fixture
def hospitals(tmp_path: Path) -> Path:
    return fill(tmp_path)


def indexed(folder: Path, called: str = "images/{}.png") -> Path:
    rows = [
        f"{called.format(name_of(site, number))},{site},{site}-{number // 2},{number % 2},{'ab'[number // 2]}"
        for site in reversed(SITES)
        for number in (3, 1, 2, 0)
    ]
    (folder / "index.csv").write_text("\n".join(["file,site,who,ill,part", *rows]) + "\n")
    return folder


def test_a_folder_of_hospitals_gives_a_table_for_each(hospitals: Path):
    tables = load_sites(hospitals, declare(fields="fov", fit="pad"))
    assert list(tables) == ["north", "south"]
    north = tables["north"]
    assert north.features.shape == (4, 1, 48, 48) and north.features.dtype == np.float32
    assert north.labels.shape == (4, 2, 48, 48) and north.labels.dtype == np.uint8
    np.testing.assert_array_equal(north.labels[0].sum(axis=(1, 2)), [40, 40 * 30])
    np.testing.assert_array_equal(north.features[:, :, 40:], 0)
    assert north.patients.tolist() == ["north_0", "north_0", "north_1", "north_1"]
    assert north.ids.tolist() == [name_of("north", number) for number in range(EACH)]
    np.testing.assert_array_equal(north.sizes, [SHAPE] * EACH)
    np.testing.assert_array_equal(north.rows, [1, 2, 3, 4])


def test_one_hospital_and_one_outside_read_their_own_folder_alone(hospitals: Path, monkeypatch: pytest.MonkeyPatch):
    (hospitals / "south" / "images" / "south_0_0.png").write_bytes(b"damaged, and none of north's business")
    own = load_site(hospitals / "north", declare(), "north")
    np.testing.assert_array_equal(own.features, load_site(hospitals, declare(), "north").features)
    assert load_unlabelled(hospitals / "north", declare()).labels is not None
    assert load_unlabelled(hospitals / "north" / "images", declare()).labels is None
    monkeypatch.chdir(hospitals / "north" / "images")
    one = load_unlabelled(Path("north_0_1.png"), declare())
    np.testing.assert_array_equal(one.features, own.features[1:2])
    assert one.labels is not None and one.ids.tolist() == ["north_0_1"]


def test_a_patient_is_on_one_side_of_a_split_and_an_image_has_a_side_of_its_own(hospitals: Path):
    spec = declare(split={"test": 0.5, "random_state": 1})
    train, test = split_table(load_sites(hospitals, spec)["north"], spec.split)
    assert len(train) and len(test) and not set(train.patients) & set(test.patients)
    alone = declare(patient=None, split={"test": 0.5})
    before = split_table(load_sites(hospitals, alone)["north"], alone.split)[1].known["pixels"].tolist()
    for folder in ("images", "masks"):
        (hospitals / "north" / folder / "north_0_0.png").rename(hospitals / "north" / folder / "z.png")
    after = split_table(load_sites(hospitals, alone)["north"], alone.split)[1].known["pixels"].tolist()
    assert set(before) == set(after)


@pytest.mark.parametrize("called", ["images/{}.png", "{}.png", "{}", "./images/{}"])
def test_an_index_of_all_names_images_patients_and_labels(hospitals: Path, called: str):
    spec = declare(patient="who", label="ill")
    table = load_sites(indexed(hospitals, called), spec)["north"]
    assert table.patients.tolist() == ["north-0", "north-0", "north-1", "north-1"]
    assert table.labels.tolist() == [0, 1, 0, 1]
    for path in (hospitals, hospitals / "north"):
        np.testing.assert_array_equal(load_site(path, spec, "north").labels, table.labels)
    outside = load_unlabelled(hospitals / "north", spec)
    assert outside.labels.tolist() == [0, 1, 0, 1] and outside.patients.tolist() == table.patients.tolist()
    assert load_unlabelled(hospitals / "north" / "images" / "north_1_2.png", spec).patients.tolist() == ["north-1"]


def test_a_hospitals_own_index_comes_first(hospitals: Path):
    rows = [f"{name_of('north', number)},p{number}" for number in range(EACH)]
    (indexed(hospitals) / "north" / "index.csv").write_text("\n".join(["file,who", *rows]))
    tables = load_sites(hospitals, declare(patient="who"))
    assert tables["north"].patients.tolist() == ["p0", "p1", "p2", "p3"]
    assert tables["south"].patients.tolist()[0] == "south-0"


def test_a_column_of_the_index_may_say_what_tests(hospitals: Path):
    split = {"method": "column", "column": "part", "test_values": "a"}
    table = load_sites(indexed(hospitals), declare(split=split))["north"]
    assert table.held_out.tolist() == [True, True, False, False]


def test_images_in_folders_of_patients_and_beside_their_index(tmp_path: Path):
    for site in SITES:
        for number in range(3):
            save(noise(number + 9 * len(site) + ord(site[0])), tmp_path / site / f"case {number}" / "a.png")
        (tmp_path / site / "index.csv").write_text(
            "file,ill\n" + "".join(f"case {n}/a.png,{n % 2}\n" for n in range(3))
        )
    spec = declare(images=".", label="ill", patient="file")
    table = load_sites(tmp_path, spec)["south"]
    assert table.ids.tolist() == ["case 0/a", "case 1/a", "case 2/a"] and table.labels.tolist() == [0, 1, 0]
    assert of_several_sites(load_sites(tmp_path, spec)) is None
    assert load_unlabelled(tmp_path / "south", spec).patients.tolist() == table.ids.tolist()


def test_a_folder_that_takes_no_part_is_named_and_not_read(hospitals: Path):
    (hospitals / "north" / "images" / "north_0_0.png").write_bytes(b"")
    (hospitals / "pages").mkdir()
    spec = declare(without=["north", "pages"])
    assert list(load_sites(hospitals, spec)) == ["south"]
    assert left_out(hospitals, spec) == [f"{hospitals.name}: not read, by [data] without: north, pages"]
    with pytest.raises(DataError, match="takes no part"):
        load_site(hospitals, spec, "north")


def test_resized_images_keep_their_proportions(hospitals: Path):
    table = load_sites(hospitals, declare(size=[80, 80]))["north"]
    field = table.labels[0, 1]
    assert field[:80, :60].all() and field.sum() == 80 * 60
    assert table.labels[0, 0].sum() == 4 * 40


def test_only_what_the_field_shows_counts(hospitals: Path):
    view = np.zeros(SHAPE, np.uint8)
    view[:, :7] = 255
    save(view, hospitals / "north" / "fov" / "north_0_0.png")
    table = load_sites(hospitals, declare(fields="fov", fit="pad"))["north"]
    assert table.labels[0, 0].sum() == 20 and table.labels[0, 1].sum() == 40 * 7
    assert not table.features[0, 0, :, 7:].any() and table.features[0, 0, :40, :7].any()


def test_masks_without_structure_and_constant_images_are_noted(hospitals: Path):
    save(box(0), hospitals / "north" / "masks" / "north_0_0.png")
    for number in (1, 2):
        save(np.full(SHAPE, 7, np.uint8), hospitals / "north" / "images" / f"{name_of('north', number)}.png")
    with pytest.warns(HospitalNote) as noted:
        table = load_sites(hospitals, declare(intensity="local", window=9))["north"]
    said = [str(note.message) for note in noted]
    assert said[0].startswith("north: 2 of 4 images are constant") and said[1].startswith("north: 1 of 4 masks show no")
    assert not table.features[1].any() and not table.labels[0, 0].any()


def test_an_image_is_known_again_whatever_its_name_and_file(hospitals: Path):
    before = load_sites(hospitals, declare())["north"].known["pixels"].tolist()
    file = hospitals / "north" / "images" / "north_0_0.png"
    file.unlink()
    (hospitals / "north" / "masks" / "north_0_0.png").rename(hospitals / "north" / "masks" / "north_9_9.png")
    save(np.stack([noise(0)] * 3, axis=2), hospitals / "north" / "images" / "north_9_9.tif")
    after = load_sites(hospitals, declare(size=[20, 20], colour="grey"))["north"].known["pixels"].tolist()
    assert before[0] == after[3] and set(before) == set(after)


def test_a_declaration_reads_back_as_equal():
    spec = declare(
        label="ill", classes=["a", "b"], intensity="range", range=[0, 255], split={"method": "stratified"}, patient=None
    )
    assert ImageSpec.from_mapping(spec.to_mapping()) == spec


def test_a_folder_of_hospitals_is_not_one_unseen_hospital(hospitals: Path):
    with pytest.raises(DataError, match=r"holds 2 folder\(s\) of hospitals; name one hospital's folder"):
        load_unlabelled(hospitals, declare())
