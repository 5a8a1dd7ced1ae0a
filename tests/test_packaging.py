"""What an installed copy holds: an editable install, as the tests have, shows folders that a wheel would lack."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS = {folder: name for name, folder in SETUPTOOLS["package-dir"].items()}


def import_name(path):
    """Of a folder with code."""
    top, *below = path.relative_to(ROOT).parts
    return ".".join([FOLDERS[top], *below])


CODE = sorted({file.parent for top in FOLDERS for file in (ROOT / top).rglob("*.py")})


@pytest.mark.parametrize("name", [*map(import_name, CODE)])
def test_every_folder_with_code_is_installed(name):
    assert name in SETUPTOOLS["packages"], f'add "{name}" to packages in pyproject.toml'


def test_every_package_is_a_folder_with_code():
    assert set(SETUPTOOLS["packages"]) <= set(map(import_name, CODE))
