"""Every example in a docstring is true."""

import doctest
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The folders at the top of the repository, and the names under which they are imported (see pyproject.toml).
PACKAGES = {"securepfl": "securepfl", "privacy": "securepfl.privacy", "crypto": "securepfl.crypto"}


def modules() -> Iterator[str]:
    """The import name of every file of the program."""
    for folder, package in PACKAGES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            yield ".".join([package, *(part for part in parts if part != "__init__")])


@pytest.mark.parametrize("name", [name for name in modules() if not name.endswith("__main__")])
def test_the_examples_of_a_module_hold(name):
    module = import_module(name)
    assert module.__name__ == name
    results = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert results.failed == 0, f"{results.failed} of {results.attempted} examples of {name} fail: see the output above"
