"""A reader's folder, as the tutorial leaves it: the other pages' commands are tried there."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import DOCS, blocks_of
from reader import Reader


@pytest.fixture(scope="session")
def after_the_tutorial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which the whole tutorial has run, each block in its order."""
    folder = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("COLUMNS", "100")
        patch.setenv("SECUREPFL_LEDGERS", str(folder / "registry"))
        reader = Reader(folder)
        for block in blocks_of(DOCS / "tutorial.md"):
            reader.tries(block)
    yield folder
