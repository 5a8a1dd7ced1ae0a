"""From TOML's tables to checked dataclasses and back, in our words where a value is wrong."""

import dataclasses
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

import msgspec
import numpy as np

from securepfl.errors import ConfigError
from securepfl.spelling import composed, near

_T = TypeVar("_T")


def table(entry: object, place: str, where: str) -> Mapping[str, Any]:
    """`entry` as a table. Raises ConfigError naming file and place."""
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{where}: {place} must be a table, written [{place}] or {{ ... }}")
    return entry


def convert(value: object, kind: Any, place: str, where: str) -> Any:
    """`value` as `kind`. Raises ConfigError naming file and place."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        problem, (*words, last) = str(error).split(" - at")[0], _words(kind) or ("",)
        known = f"known are {', '.join(words)} and {last}" if words else f'write "{last}", or leave the key out'
        known = known if last and "enum" in problem else "mend the value"
        raise ConfigError(f"{where}: {place}: {problem}; {known}") from None


def _words(kind: Any) -> tuple[str, ...]:
    """The words that a choice knows."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    return next((words for part in get_args(kind) if (words := _words(part))), ())


@cache
def _hints(kind: type) -> dict[str, Any]:
    """The types of a dataclass's fields: worked out once, since every column of a table is built."""
    return get_type_hints(kind)


def build(kind: type[_T], entry: object, place: str, where: str, ready: frozenset[str] = frozenset()) -> _T:
    """A dataclass from a TOML table; keys in `ready` hold converted values. Raises ConfigError."""
    mapping = table(entry, place, where)
    hints = _hints(cast("Any", kind))
    for key in mapping:
        if key not in hints:
            slip = near(key, hints)
            known = f"known are {', '.join(hints)}" if slip is None else f"remove it or mend its spelling (`{slip}`?)"
            raise ConfigError(f"{where}: unknown key `{key}` in [{place}]; {known}")
    for declared in dataclasses.fields(kind):  # type: ignore[arg-type]
        bare = declared.default is dataclasses.MISSING and declared.default_factory is dataclasses.MISSING
        if bare and declared.name not in mapping:
            raise ConfigError(f"{where}: [{place}] lacks `{declared.name}`; declare it")
    values = {
        key: value if key in ready else convert(value, hints[key], f"[{place}] {key}", where)
        for key, value in mapping.items()
    }
    try:
        return kind(**values)
    except ValueError as error:
        raise ConfigError(f"{where}: [{place}] {error}") from None


def plain(value: Any) -> Any:
    """`value` with numpy's texts, numbers and arrays as Python's own, keys too: a pipeline's names are often numpy's.

    >>> plain({np.str_("north"): np.arange(2), "units": np.int64(5)})
    {'north': [0, 1], 'units': 5}
    """
    if isinstance(value, Mapping):
        return {plain(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def spelled(value: Any) -> Any:
    """`value` with every text, keys too, in the spelling that cells and columns' names are read in."""
    if isinstance(value, Mapping):
        return {spelled(key): spelled(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [spelled(entry) for entry in value]
    return composed(value) if isinstance(value, str) else value


def listed(value: Any) -> Any:
    """`value` with every tuple as a list, as JSON and TOML know it."""
    if isinstance(value, dict):
        return {key: listed(entry) for key, entry in value.items()}
    return [listed(entry) for entry in value] if isinstance(value, list | tuple) else value
