"""`securepfl data ranges` for images: a skeleton that reads back, and nothing of any patient."""

import tomllib
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from image_folders import fill, noise, save

from securepfl.cli.main import cli
from securepfl.data.images.spec import ImageSpec


def printed(path: Path, site: str, *options: str) -> str:
    done = CliRunner().invoke(cli, ["data", "ranges", str(path), "--site", site, *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_folder_gives_a_declaration_that_reads_its_images(tmp_path: Path):
    text = printed(fill(tmp_path), "north")
    told = tomllib.loads(text)
    spec = ImageSpec.from_mapping(told["data"])
    assert (spec.images, spec.masks, spec.fields, spec.size) == ("images", "masks", "fov", (40, 30))
    assert told["sites"] == {"north": {}}
    assert printed(tmp_path / "north", "north") == text


def test_neither_names_of_files_nor_counts_nor_values_are_shown(tmp_path: Path):
    fill(tmp_path)
    (tmp_path / "north" / "Jane Doe").mkdir()
    (tmp_path / "north" / "index.csv").write_text("north_0_0.png,Jane,61\nnorth_0_1.png,John,58\n")
    text = printed(tmp_path, "north")
    for private in ("Jane", "John", "north_0", "61", str(noise(0)[0, 0])):
        assert private not in text
    assert "# index.csv: its first line may be a patient's" in text


def test_names_of_an_indexs_columns_are_shown(tmp_path: Path):
    fill(tmp_path)
    rows = "".join(f"north_{n // 2}_{n},{50 + n},{n % 2},north\n" for n in range(4))
    (tmp_path / "index.csv").write_text("file,age,ill,hospital\n" + rows)
    text = printed(tmp_path, "north", "--header")
    assert "# columns of index.csv: file, age, ill, hospital" in text
    assert '# file = "file"           # the column of index.csv that names images' in text


def test_kinds_and_colours_are_those_of_most_images(tmp_path: Path):
    for number in range(3):
        save(noise(number, (20, 20 + (number == 2), 3)), tmp_path / "east" / f"{number}.png")
    save(np.zeros((9, 9), np.uint8), tmp_path / "east" / "x.jpg")
    text = printed(tmp_path, "east")
    assert "# Images of hospital east: JPEG and PNG, in colours" in text and 'images = "."' in text
    assert "# size = [..., ...]" in text


def test_a_folder_of_tables_stays_one(tmp_path: Path):
    save(noise(1), tmp_path / "logo.png")
    (tmp_path / "north.csv").write_text("age,weight,ill\n61,70,1\n58,80,0\n")
    assert "# Columns of north.csv" in printed(tmp_path, "north")


def test_another_site_than_any_folders_is_told_so(tmp_path: Path):
    done = CliRunner().invoke(cli, ["data", "ranges", str(fill(tmp_path)), "--site", "nort"])
    assert str(done.exception).endswith(
        "no files are named after site nort, and no folder; check --site, or name the file or folder itself"
    )
