"""Folders of images through `run`, `route` and their files, as a user calls them: masks with and without privacy, a
frozen start's head, and classes.
"""

import json
import sys

import numpy as np
import pytest
from image_folders import save
from PIL import Image
from segmentation.simulated import write_sites

from securepfl.cli.main import main
from securepfl.tasks.networks import build_network
from securepfl.tasks.starts.recipes import VESSELS, as_start

SIDE, EACH = 24, 16
SITES = ("east", "north", "west")
SETTINGS = """
rounds = {rounds}
[model]
kind = "{kind}"
hidden = 2
{model}
[training]
steps = {steps}
{training}
[privacy]
{privacy}
unit = "patient"
[encryption]
scheme = "none"
[sites]
"east" = {{ units = 5 }}
"north" = {{ units = 5 }}
"west" = {{ units = 5 }}
[data]
kind = "images"
size = [24, 24]
patient = "pattern:^([a-z]+[0-9]+)_"
split = {{ method = "hash", test = 0.4, random_state = 2 }}
{data}
"""


def picture(seed):
    """A bright disc on noise, its mask, and whether it is large."""
    generator = np.random.default_rng(seed)
    large = bool(seed % 2)
    radius, (row, column) = (8, 5)[not large], generator.integers(9, 15, size=2)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    disc = (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
    return (60 + 100 * disc + generator.normal(0, 8, disc.shape)).clip(0, 255).astype(np.uint8), disc, large


@pytest.fixture
def folder(tmp_path):
    """Three hospitals' images of four patients each, with masks and an index of labels."""
    for place, site in enumerate(SITES):
        rows = ["file,size"]
        for number in range(EACH):
            name = f"{site}{number // 2}_{number}.png"
            image, disc, large = picture(100 * place + number)
            save(image, tmp_path / "data" / site / "images" / name)
            save(disc.astype(np.uint8) * 255, tmp_path / "data" / site / "masks" / name)
            rows.append(f"{name},{'large' if large else 'small'}")
        (tmp_path / "data" / site / "index.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Runs a federation of these settings; gives result.json, the page and what was printed."""

    def ran(**settings):
        given = {"rounds": 2, "steps": 2, "kind": "unet", "model": "", "training": "", "privacy": "", "data": ""}
        (folder / "f.toml").write_text(SETTINGS.format(**given | settings))
        out = folder / "out"
        arguments = ["run", str(folder / "f.toml"), "--data", str(folder / "data"), "--out", str(out)]
        monkeypatch.setattr(sys, "argv", ["securepfl", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        assert left.value.code == 0, printed.err
        return json.loads((out / "result.json").read_text()), (out / "report.html").read_text(), printed.out

    return ran


def test_masks_are_learned_without_privacy_and_told(run):
    result, page, printed = run(
        steps=12,
        model='task = "segmentation"',
        training="learning_rate = 0.04",
        privacy='protection = "none"',
        data="structures = 1\nholes = false\nthreshold = 0.4",
    )
    assert result["task"] == "segmentation" and result["metrics"]["shown"] == ["dice"]
    for site in result["sites"].values():
        assert site["metrics"]["majority"] == {"dice": 0.0, "hd95": None} and site["operating_point"] == [0.4]
        assert site["privacy"]["epsilon"] is None
        assert set(site["metrics"]) == {"personalised", "shared", "local", "majority"}
    assert result["pooled"]["personalised"]["dice"] > 0.7 and result["pooled"]["shared"]["hd95"] < 5
    low, high = result["intervals"]["pooled"]["personalised"]["dice"]
    assert low <= result["pooled"]["personalised"]["dice"] <= high
    (majority,) = (finding for finding in result["verdict"] if finding["about"] == "majority")
    assert majority["line"].startswith("Better than the empty mask on") and majority["holds"] is True
    for text in (page, " ".join(printed.split())):
        assert "Dice" in text and "HD95, pixels" in text and "empty mask" in text and "majority" not in text
        assert "every image counts alike" in text


def test_masks_are_learned_under_privacy_of_patients(run):
    result, _, _ = run(model='task = "segmentation"', privacy="epsilon = 50.0")
    for site in result["sites"].values():
        assert 0 < site["privacy"]["epsilon"] <= 50 and site["units"]["unusable"] == 0
        assert 0 <= site["metrics"]["personalised"]["dice"] <= 1
    assert result["metrics"]["majority"] == "empty mask"


FROZEN = """rounds = 2
[training]
steps = 4
[privacy]
unit = "patient"
epsilon = 50.0
[encryption]
scheme = "none"
[trajectory]
of = "local"
[release]
experts = true
[model]
hidden = 2
start = "start.safetensors"
trained = "head"
"""


def test_a_starts_head_is_trained_under_privacy_and_its_experts_are_routed(tmp_path, monkeypatch, capsys):
    """On simulated vessels, of which a site takes no part."""
    write_sites("vessels", tmp_path / "data", patients=3, side=48)
    start = as_start(VESSELS, build_network("unet", 1, 2), VESSELS.card, {"seed": 0})
    (tmp_path / "start.safetensors").write_bytes(start.to_bytes())
    declared = (tmp_path / "data" / "federation.toml").read_text()
    declared = declared.replace('[privacy]\nprotection = "none"\n', "").replace("far = { units = 3 }\n", "")
    declared = declared.replace("[model]\n", FROZEN).replace("[data]\n", '[data]\nwithout = ["far"]\n')
    (tmp_path / "f.toml").write_text(declared)

    def called(*arguments):
        monkeypatch.setattr(sys, "argv", ["securepfl", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == 0, capsys.readouterr().err

    called("run", tmp_path / "f.toml", "--data", tmp_path / "data", "--out", tmp_path / "out")
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["federation"]["model"]["trained"] == "head"
    assert result["metrics"]["majority"] == "public start"
    (majority,) = (finding for finding in result["verdict"] if finding["about"] == "majority")
    assert "the public start on 3 test patients: Dice" in majority["line"]
    assert all(site["metrics"]["majority"]["dice"] > 0.1 for site in result["sites"].values())  # no empty mask
    assert all(0 < site["privacy"]["epsilon"] <= 50 for site in result["sites"].values())
    called("route", tmp_path / "out", "--data", tmp_path / "data" / "far", "--out", tmp_path / "routed")
    masks = sorted((tmp_path / "routed" / "masks").iterdir())
    assert len(masks) == 4 and {Image.open(mask).size for mask in masks} == {(48, 48)}


def test_classes_of_images_are_learned(run):
    result, page, _ = run(
        steps=40,
        kind="cnn",
        training="learning_rate = 0.01",
        privacy='protection = "none"',
        data='label = "size"\npositive = "large"\nnegative = "small"',
    )
    assert result["task"] == "binary" and result["pooled"]["personalised"]["auroc"] > 0.8
    assert "balanced accuracy" in page
