"""A wheel, built and installed as users do, in an environment without this checkout: files, console script, a run."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import click
import pytest
from small_run import prepare

ROOT = Path(__file__).parents[1]
SOURCES = ("securepfl", "privacy", "crypto")
OTHERS = Path(click.__file__).parents[1]
"""Where the libraries lie that securepfl needs."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, from a copy: a build leaves things where it is made."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        shutil.copytree(ROOT / name, folder / "copy" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, folder / "copy")
    code = "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"
    subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=folder / "copy", check=True, capture_output=True, text=True
    )
    (found,) = folder.glob("securepfl-*.whl")
    return found


@pytest.fixture(scope="module")
def environment(wheel):
    """A clean environment: this wheel, and the libraries that are installed here."""
    place = wheel.parent / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(f"{OTHERS}\n")
    words = ["install", "--quiet", "--no-deps", "--no-index", "--force-reinstall", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(place / "bin" / "python"), *words], check=True)
    return place


def test_the_wheel_holds_every_file_that_is_not_left_behind(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for top in SOURCES:
        home = "securepfl" if top == "securepfl" else f"securepfl/{top}"
        for path in (ROOT / top).rglob("*"):
            left_behind = path.is_dir() or "__pycache__" in path.parts or path.suffix == ".md"
            assert left_behind or f"{home}/{path.relative_to(ROOT / top).as_posix()}" in names, path
    assert not [name for name in names if name.split("/")[0] not in ("securepfl",) and ".dist-info/" not in name]


def test_an_installed_copy_runs_a_federation_by_its_console_script(environment, tmp_path):
    prepare(tmp_path)
    surroundings = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    words = ["run", "federation.toml", "--data", "rows.csv", "--out", "out", "--json", "-q"]
    words += ["--ledgers", str(tmp_path / "ledgers")]
    done = subprocess.run(
        [environment / "bin" / "securepfl", *words],
        cwd=tmp_path,
        env=surroundings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["result"]["federation"]["rounds"] == 2 and (tmp_path / "out/report.html").exists()
    where = "import securepfl, securepfl.privacy.ledger as l; print(securepfl.__file__, l.__file__)"
    found = subprocess.run(
        [environment / "bin" / "python", "-P", "-c", where], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert all(path.startswith(str(environment)) for path in found.stdout.split())
