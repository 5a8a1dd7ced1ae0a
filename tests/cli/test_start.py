"""`securepfl start`: the file it writes, and what it refuses before it draws an image."""

from dataclasses import replace

import pytest
from click.testing import CliRunner

from securepfl.cli.main import cli
from securepfl.cli.start import _NAMES
from securepfl.errors import ModelError, StorageError
from securepfl.tasks.starts import read_start, recipes


def start(*arguments):
    return CliRunner().invoke(cli, ["start", *map(str, arguments)])


@pytest.fixture
def short(monkeypatch):
    """The same recipes, with few images and three steps."""
    lesson = {"steps": 3, "batch": 1, "size": 32}
    tiny = {
        name: replace(recipe, pools=((3, 48),), lesson=replace(recipe.lesson, **lesson))
        for name, recipe in recipes.RECIPES.items()
    }
    monkeypatch.setattr(recipes, "RECIPES", tiny)


@pytest.mark.parametrize("name", _NAMES)
def test_the_file_is_a_start_and_the_same_twice(name, short, tmp_path):
    digests = set()
    for file in ("a.safetensors", "b.safetensors"):
        done = start(name, "--out", tmp_path / file, "--hidden", 2)
        assert done.exit_code == 0, done.output
        found = read_start(tmp_path / file)
        assert found.digest in done.output and "No patient is in it" in done.output
        digests.add(found.digest)
    assert len(digests) == 1
    assert [image["intensity"] for image in found.images["intensities"]] in (["local"] * 3, ["image"])


def test_the_names_are_those_of_the_recipes():
    assert set(_NAMES) == set(recipes.RECIPES)


def test_a_file_that_is_there_is_not_replaced(tmp_path):
    path = tmp_path / "s"
    path.write_bytes(b"mine")
    assert isinstance(start("chest-lungs", "--out", path).exception, StorageError)
    assert path.read_bytes() == b"mine"


def test_a_missing_folder_is_told_at_once(tmp_path):
    refused = start("chest-lungs", "--out", tmp_path / "none" / "s").exception
    assert isinstance(refused, StorageError) and "its folder is missing" in str(refused)


def test_a_folder_that_is_no_bundle_writes_nothing(tmp_path):
    refused = start("chest-lungs", "--out", tmp_path / "s", "--bundle", tmp_path).exception
    assert isinstance(refused, ModelError) and list(tmp_path.iterdir()) == []


def test_another_name_is_a_usage_error(tmp_path):
    done = start("brains", "--out", tmp_path / "s")
    assert done.exit_code == 2
