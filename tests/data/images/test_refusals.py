"""The one line for each way that a folder of images can be wrong: before a round, and without a file's name."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_folders import box, declare, fill, noise, refusal, save

from securepfl.data.loading import load_sites
from securepfl.errors import ConfigError, DataError


@pytest.fixture
def hospitals(tmp_path: Path) -> Path:
    return fill(tmp_path)


FIRST = "north_0_0.png"
Change = Callable[[Path], Any]


def replaced(kind: str, values: np.ndarray) -> Change:
    return lambda north: save(values, north / kind / FIRST)


def colours(mask: np.ndarray) -> np.ndarray:
    return np.stack([mask, mask // 2, mask], axis=2)


WRONG: dict[str, tuple[Change, str]] = {
    "no mask": (lambda north: (north / "masks" / FIRST).unlink(), "image 1 in order of names has no mask"),
    "no image": (lambda north: (north / "images" / FIRST).unlink(), "is a mask of no image"),
    "no field": (lambda north: (north / "fov" / FIRST).unlink(), "has no field of view"),
    "no folder": (lambda north: (north / "masks").rename(north / "truth"), "has no folder `masks`"),
    "mask's size": (replaced("masks", box(shape=(30, 40))), "has a mask that is 30 x 40 pixels and its image 40 x 30"),
    "field's size": (replaced("fov", box(shape=(30, 40))), "has a field of view that is 30 x 40"),
    "third value": (
        replaced("masks", np.maximum(box(), np.uint8(9)) - np.uint8(9) + noise(3, most=2)),
        "has a mask that has other values than two",
    ),
    "grey mask": (replaced("masks", noise(1)), "other values than two"),
    "colour mask": (replaced("masks", colours(box())), "has a mask that has colours"),
    "empty field": (replaced("fov", box(0)), "has an empty field of view"),
    "JPEG mask": (
        lambda north: save(box(), (north / "masks" / FIRST).rename(north / "masks" / "north_0_0.jpg")),
        "JPEG",
    ),
    "truncated": (lambda north: os.truncate(north / "images" / FIRST, 700), "is truncated, damaged or no PNG file"),
    "empty file": (lambda north: os.truncate(north / "images" / FIRST, 0), "image 1 in order of names is empty"),
    "text": (lambda north: (north / "images" / FIRST).write_text("north"), "is truncated, damaged or no PNG file"),
    "one id": (
        lambda north: save(noise(9), north / "images" / "north_0_0.jpg"),
        "images 1 and 2 in order of names have one name",
    ),
    "one but for case": (lambda north: save(noise(9), north / "images" / "NORTH_0_0.png"), "have one name but"),
    "one image twice": (replaced("images", noise(1)), "images 1 and 2 in order of names have the same pixels"),
    "other file": (lambda north: (north / "images" / "scan.bmp").write_text("x"), "no reader takes 1 file(s)"),
    "backslash": (lambda north: save(noise(9), north / "images" / "a\\b.png"), "backslash"),
    "broken link": (lambda north: (north / "images" / "a.png").symlink_to("nowhere.png"), "link to nothing"),
    "linked folder": (lambda north: (north / "images" / "more").symlink_to(north / "fov"), "link to a folder"),
    "no structure": (
        lambda north: [save(box(0), file) for file in (north / "masks").iterdir()],
        "no mask shows a structure",
    ),
    "no patient": (
        lambda north: [(north / kind / FIRST).rename(north / kind / "x.png") for kind in ("images", "masks", "fov")],
        "image 4 in order of names has no patient by its file's name",
    ),
    "two spellings": (
        lambda north: [
            (north / kind / FIRST).rename(north / kind / "north_00_0.png") for kind in ("images", "masks", "fov")
        ],
        "images 1 and 2 in order of names have patients whose ids differ only in",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_with_a_hospital_is_said_in_a_line(hospitals: Path, wrong: str):
    change, said = WRONG[wrong]
    change(hospitals / "north")
    message = refusal(hospitals, declare(fields="fov"))
    assert said in message and "north" in message


def test_every_hospital_is_told_at_once_and_images_of_one_fault_together(hospitals: Path):
    for number, file in enumerate(sorted((hospitals / "north" / "images").iterdir())):
        if number != 1:
            file.write_bytes(b"?")
    os.truncate(hospitals / "south" / "images" / "south_1_2.png", 100)
    message = refusal(hospitals, declare())
    assert (
        "each of images 1, 3, 4 in order of names is truncated" in message
        and "image 3 in order of names is trunc" in message
    )


def test_a_link_out_of_a_hospitals_folder_is_refused(hospitals: Path):
    file = hospitals / "north" / "images" / FIRST
    file.unlink()
    file.symlink_to(hospitals / "south" / "images" / "south_0_0.png")
    assert "is a link out of its hospital's folder" in refusal(hospitals, declare())


def test_one_image_at_two_hospitals_is_refused(hospitals: Path):
    save(noise(2), hospitals / "south" / "images" / "south_1_3.png")
    assert "sites north and south have an image in common (image 3 of north, image 4 of south" in refusal(
        hospitals, declare()
    )


def test_an_image_larger_than_declared_is_refused_under_pad(hospitals: Path):
    assert "is larger than [data] size = [39, 60]" in refusal(hospitals, declare(size=[39, 60], fit="pad"))


def test_colours_that_a_grey_image_lacks_are_refused(hospitals: Path):
    assert "each of images 1, 2, 3 and 1 more in order of names is grey, and" in refusal(
        hospitals, declare(colour="green")
    )


def test_folders_that_are_no_hospital_are_refused(hospitals: Path):
    (hospitals / "south").rename(hospitals / "North")
    assert "look alike" in refusal(hospitals, declare())
    (hospitals / "North").rename(hospitals / "south")
    (hospitals / "notes").mkdir()
    assert "folder `notes` has no folder `images`" in refusal(hospitals, declare())
    with pytest.raises(DataError, match="is one hospital's folder"):
        load_sites(hospitals / "north", declare())
    with pytest.raises(DataError, match="is no folder"):
        load_sites(hospitals / "nowhere", declare())


ROWS = [f"{name},north,p" for name in ("north_0_0", "north_0_1", "north_1_2", "north_1_3")]
BAD_ROWS = {
    "a row too many": ([*ROWS, "north_7_7,north,p"], "column `file`, row 5: names no image of the hospital"),
    "a row twice": ([*ROWS, "images/north_0_0.png,north,p"], "row 5: names an image that another row names"),
    "a row too few": (ROWS[1:], "image 1 in order of names has no row in"),
    "no patient": ([*ROWS[1:], "north_0_0,north,"], "column `who`, row 4: no patient"),
    "another site": ([*ROWS, "a,east,p"], "row 5: site `east` has no folder"),
    "patients alike": ([*ROWS[1:], "north_0_0,north,P"], "differs from row"),
    "no such site": ([], "has no row of site `north`"),
}


@pytest.mark.parametrize("bad", BAD_ROWS)
def test_an_index_that_does_not_fit_is_refused(hospitals: Path, bad: str):
    rows, said = BAD_ROWS[bad]
    south = [f"south_{number // 2}_{number},south,q" for number in range(4)]
    (hospitals / "index.csv").write_text("\n".join(["file,site,who", *rows, *south]) + "\n")
    assert said in refusal(hospitals, declare(patient="who"))


def test_a_missing_index_or_column_is_refused(hospitals: Path):
    assert "index.csv" in refusal(hospitals, declare(patient="who"))
    (hospitals / "index.csv").write_text("file,site,whom\nnorth_0_0,north,p\n")
    assert "has no column `who`" in refusal(hospitals, declare(patient="who"))


DECLARED_WRONG = {
    "size": ({"size": [0, 4]}, "size"),
    "fields": ({"fields": "../north"}, "fields"),
    "one folder twice": ({"fields": "masks"}, "give each a folder of its own"),
    "masks and label": ({"masks": "masks", "label": "ill"}, "masks: has its place where masks are learned"),
    "classes": ({"classes": ["a", "b"]}, "classes: has its place beside label"),
    "window": ({"window": 9}, "window: has its place"),
    "even window": ({"intensity": "local", "window": 8}, "odd"),
    "no range": ({"intensity": "range"}, "needs range"),
    "falling range": ({"intensity": "range", "range": [5, 5]}, "rising"),
    "pattern": ({"patient": "pattern:("}, "mend the regular expression"),
    "groups": ({"patient": "pattern:(a)(b)"}, "the pattern has 2 groups"),
    "tag": ({"patient": "dicom:patient id"}, "keyword"),
    "colour": ({"colour": "blue"}, "known are grey, green and rgb"),
    "structures": ({"structures": 0}, "structures = 0"),
    "prevalence": ({"prevalence": {"a": 0.5}}, "prevalence"),
    "unknown": ({"ranges": {}}, "unknown key `ranges`"),
    "kind": ({"kind": "videos"}, "kind is `videos`"),
    "split": ({"split": {"method": "stratified"}}, "stratified"),
}


@pytest.mark.parametrize("wrong", DECLARED_WRONG)
def test_a_declaration_that_does_not_fit_is_refused(wrong: str):
    entries, said = DECLARED_WRONG[wrong]
    with pytest.raises(ConfigError, match=r"\[data\]|unknown") as caught:
        declare(**entries)
    assert said in str(caught.value)
