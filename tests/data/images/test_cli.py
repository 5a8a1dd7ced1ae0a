"""`securepfl run` on images: what is wrong with one is said before a round, and what is legal is a note."""

import os
from pathlib import Path

import pytest
from image_folders import box, fill, save

from securepfl.cli.main import main
from securepfl.runtime.planning import configured, plan_tables

SETTINGS = """\
rounds = 1
minimum = 2

[model]
kind = "unet"
task = "segmentation"

[sites]
north = { units = 4 }
south = { units = 4 }

[data]
kind = "images"
size = [48, 48]
patient = "pattern:^([a-z]+_[0-9]+)_"
"""


def test_a_damaged_image_ends_a_run_before_its_first_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    os.truncate(fill(tmp_path / "data") / "north" / "images" / "north_0_1.png", 700)
    (tmp_path / "federation.toml").write_text(SETTINGS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["securepfl", "run", "federation.toml", "--data", "data", "--out", "run"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capfd.readouterr().err.strip()
    assert ended.value.code == 2
    assert said.endswith("image 2 in order of names is truncated, damaged or no PNG file; replace it")
    assert "north_0_1" not in said and "\n" not in said and not (tmp_path / "run").exists()


def test_a_mask_without_structure_is_a_note_of_the_run(tmp_path: Path):
    save(box(0), fill(tmp_path / "data") / "north" / "masks" / "north_0_1.png")
    (tmp_path / "federation.toml").write_text(SETTINGS)
    plan = plan_tables(configured(tmp_path / "federation.toml"), tmp_path / "data", 1, None)
    assert "north: 1 of 4 masks show no structure, and count as images without one" in plan.notes
    assert {*plan.data_sets["north"].by} == {"pixels", "file", "patient"}
