"""Every example in a docstring is true, and what others use has one."""

import ast
import doctest
import inspect
from collections.abc import Iterable, Iterator
from functools import cached_property
from importlib import import_module
from itertools import chain
from pathlib import Path
from types import FunctionType

import pytest

import securepfl

ROOT = Path(__file__).parents[1]
# The folders at the top of the repository, and the names under which they are imported (see pyproject.toml).
PACKAGES = {"securepfl": "securepfl", "privacy": "securepfl.privacy", "crypto": "securepfl.crypto"}
# Made by verify_ledger alone, whose example shows one.
SHOWN_ELSEWHERE = {"LedgerSummary"}


def files() -> Iterator[tuple[Path, str]]:
    """Each file of the program, with its import name."""
    for folder, package in PACKAGES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            yield path, ".".join([package, *(part for part in parts if part != "__init__")])


def used_by_others(package: str) -> list[tuple[str, str]]:
    """(module, name) of what lies under `package` and is imported from another folder than its own."""
    used = set()
    for path, importer in files():
        text = path.read_text()
        for node in ast.walk(ast.parse(text)) if f"from {package}." in text else ():
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(f"{package}."):
                folder = node.module.rpartition(".")[0]
                if not importer.startswith(folder):
                    used |= {(node.module, alias.name) for alias in node.names}
    return sorted(used)


def examples_of_cached(public: type) -> Iterator[doctest.DocTest]:
    """The examples of a class's cached properties: doctest looks at functions and plain properties alone."""
    module = import_module(public.__module__)
    for key, value in vars(public).items():
        if isinstance(value, cached_property):
            yield from doctest.DocTestFinder().find(value.func, f"{public.__name__}.{key}", module=module)


def has_example(public: object) -> bool:
    """Whether the docstring of a function or class, or of one of its methods, holds an example."""
    found = doctest.DocTestFinder().find(public, "public", module=import_module(public.__module__))
    return any(test.examples for test in found)


@pytest.mark.parametrize("name", [name for _, name in files() if not name.endswith("__main__")])
def test_the_examples_of_a_module_hold(name):
    module = import_module(name)
    assert module.__name__ == name
    results = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert results.failed == 0, f"{results.failed} of {results.attempted} examples of {name} fail: see the output above"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    classes = [value for value in vars(module).values() if getattr(value, "__module__", "") == name]
    for test in chain(*map(examples_of_cached, filter(inspect.isclass, classes))):
        assert runner.run(test).failed == 0, f"an example of {test.name} fails: see the output above"


@pytest.mark.parametrize("name", sorted(securepfl.__all__))
def test_a_public_name_has_an_example(name):
    assert has_example(getattr(securepfl, name))


@pytest.mark.parametrize("name", sorted(n for n in securepfl.__all__ if inspect.isclass(getattr(securepfl, n))))
def test_every_method_of_a_public_class_says_what_it_does(name):
    """Its own words: a docstring that it inherits is of another class."""
    own = vars(getattr(securepfl, name))
    methods = {key: getattr(value, "__func__", value) for key, value in own.items() if not key.startswith("_")}
    callables = (property, cached_property, FunctionType)
    silent = [key for key, value in methods.items() if isinstance(value, callables) and not value.__doc__]
    assert silent == []


def attributes_in_examples(names: Iterable[str]) -> set[str]:
    """The name of every attribute that the examples of these public names, and of their methods, read or call."""
    used = set()
    for name in names:
        public = getattr(securepfl, name)
        found = doctest.DocTestFinder().find(public, name, module=import_module(public.__module__))
        for test in chain(found, examples_of_cached(public) if inspect.isclass(public) else ()):
            nodes = (node for example in test.examples for node in ast.walk(ast.parse(example.source)))
            used |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return used


def test_every_method_of_a_public_class_is_used_in_an_example():
    shown, methods = attributes_in_examples(securepfl.__all__), (property, cached_property, classmethod, staticmethod)
    unused = []
    for name in filter(lambda name: inspect.isclass(getattr(securepfl, name)), securepfl.__all__):
        public = {key: value for key, value in vars(getattr(securepfl, name)).items() if not key.startswith("_")}
        used = {key for key, value in public.items() if isinstance(value, (*methods, FunctionType))}
        unused += [f"{name}.{key}" for key in sorted(used - shown)]
    assert unused == [], "show each in an example, in its own docstring or in its class's"


@pytest.mark.parametrize(("module", "name"), used_by_others("securepfl.privacy"))
def test_what_other_packages_use_of_privacy_has_an_example(module, name):
    used = getattr(import_module(module), name)
    is_callable = inspect.isclass(used) or inspect.isfunction(inspect.unwrap(used))
    assert not is_callable or name in SHOWN_ELSEWHERE or has_example(used)
