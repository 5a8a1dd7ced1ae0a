"""Two small runs for all tests of pages, each made once: tables with hostile names, routed rows, and segmentation."""

import csv
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from image_folders import save

from securepfl.outside.unseen import Asked, route_unseen
from securepfl.outside.writing import write_answer
from securepfl.report.pages.writing import write_own_page
from securepfl.runtime.execution import execute
from securepfl.runtime.resuming import Wanted

NAMES = ("<b onclick=alert(1)>&'x", "$x^2$ {{ 7*7 }}", "北京大学", "=SUM(A1)", "Mainz")
"""Of hospitals: as far as names of files may go. `"`, `/` and `:` are refused."""
TABLES = """
name = "<script>alert(1)</script> demo"
rounds = 4
[model]
kind = "logistic"
[privacy]
epsilon = 40.0
budget = 60.0
delta = 1e-3
[encryption]
scheme = "none"
[similarity]
every = 1
[coupling]
strength = 0.5
[release]
experts = true
[data]
label = "outcome"
site = "site"
prevalence = 0.4
[data.ranges]
age = {{ centre = 60, spread = 10 }}
bmi = {{ centre = 27, spread = 4 }}
{sites}
"""
MASKS = """
name = "discs"
rounds = 2
[model]
kind = "unet"
task = "segmentation"
hidden = 2
[training]
steps = 2
learning_rate = 0.04
[privacy]
protection = "none"
unit = "patient"
[encryption]
scheme = "none"
[sites]
east = { units = 3 }
north = { units = 3 }
west = { units = 3 }
[release]
experts = true
[data]
kind = "images"
size = [16, 16]
patient = "pattern:^([a-z]+[0-9]+)_"
split = { method = "hash", test = 0.4, random_state = 2 }
structures = 1
"""


@contextmanager
def quiet(budgets):
    yield lambda event: None


def run(folder: Path, data: Path) -> Path:
    wanted = Wanted(config=folder / "f.toml", data=data, ledgers=folder / "ledgers", device="cpu")
    execute(wanted.plan(), folder / "run", seed=None, device="cpu", display=quiet, asked=None)
    return folder / "run"


def route(experts: Path, data: Path, out: Path) -> Path:
    write_answer(route_unseen(Asked(experts, data)), out, write_own_page)
    return out


def write_rows(path: Path, names, count=60, seed=1) -> Path:
    draw = np.random.default_rng(seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["site", "age", "bmi", "outcome"])
        for place, name in enumerate(names):
            for _ in range(count):
                age, bmi = draw.normal(60, 10), draw.normal(27, 4)
                score = (age - 60) * (-1 if place == 1 else 1) + draw.normal(0, 8)
                writer.writerow([name, f"{age:.1f}", f"{bmi:.1f}", int(score > 3)])
    return path


@pytest.fixture(scope="session")
def tables(tmp_path_factory) -> Path:
    """The folder of a run of five hospitals' rows."""
    folder = tmp_path_factory.mktemp("tables")
    sites = "".join(f'[sites."{name}"]\nunits = 40\n' for name in NAMES)
    (folder / "f.toml").write_text(TABLES.format(sites=sites), encoding="utf-8")
    return run(folder, write_rows(folder / "rows.csv", NAMES))


@pytest.fixture(scope="session")
def routed(tables, tmp_path_factory) -> Path:
    """What its experts answered a sixth hospital."""
    folder = tmp_path_factory.mktemp("routed")
    return route(tables, write_rows(folder / "rows.csv", ["new"], 30, seed=2), folder / "answer")


def write_discs(folder: Path, site: str, seed: int) -> None:
    draw = np.random.default_rng(seed)
    rows, columns = np.mgrid[:16, :16]
    for number in range(8):
        row, column = draw.integers(5, 11, size=2)
        disc = (rows - row) ** 2 + (columns - column) ** 2 <= 16
        image = (60 + 100 * disc + draw.normal(0, 8, disc.shape)).clip(0, 255).astype(np.uint8)
        save(image, folder / site / "images" / f"{site}{number // 2}_{number}.png")
        save(disc.astype(np.uint8) * 255, folder / site / "masks" / f"{site}{number // 2}_{number}.png")


@pytest.fixture(scope="session")
def masks(tmp_path_factory) -> tuple[Path, Path]:
    """A run of three hospitals' images, and what its experts answered a fourth."""
    folder = tmp_path_factory.mktemp("masks")
    (folder / "f.toml").write_text(MASKS)
    for seed, site in enumerate(("east", "north", "west")):
        write_discs(folder / "data", site, seed)
    write_discs(folder, "unseen", 9)
    out = run(folder, folder / "data")
    return out, route(out, folder / "unseen", folder / "answer")
