"""Plug-ins: tasks, models, readers of files and trackers that other distributions bring, by Python's entry points.

| group | the name | what it loads |
|---|---|---|
| securepfl.tasks | `[model] task` | called with what `[data]` declares of labels, gives a `Task` (tasks/task.py) |
| securepfl.models | `[model] kind` | called as build(inputs, hidden=, outputs=), gives a torch module |
| securepfl.readers | a suffix without its point | called as read(path, wanted), gives `Contents` (data/wanted.py) |
| securepfl.trackers | `run --track` | called as open(place, run), gives a `Tracker` (runtime/tracking.py) |

What is built in is looked up first, so a plug-in takes no name of ours. Nothing is loaded before it is asked for.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import Distribution, EntryPoint, PackageNotFoundError, entry_points, version
from typing import Any, Final, Literal

from securepfl.errors import ConfigError, SecurePFLError

Group = Literal["securepfl.tasks", "securepfl.models", "securepfl.readers", "securepfl.trackers"]
_LONGEST: Final = 200


@dataclass(frozen=True)
class PlugIn:
    """One that is installed: what it is called, and which distribution of which version brings it."""

    group: Group
    name: str
    distribution: str
    version: str
    _point: EntryPoint = field(repr=False, compare=False)

    def __str__(self) -> str:
        return f"plug-in {self.name!r} of {self.distribution} {self.version}"

    def load(self) -> Any:
        """What it names. Raises ConfigError, one line, where it can't be imported."""
        try:
            return self._point.load()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - somebody else's code
            raise ConfigError(
                f"{self}: {self._point.value} can't be loaded ({_short(error)}); mend or uninstall it"
            ) from None

    def call(self, *given: Any, **named: Any) -> Any:
        """What it makes of these. Raises ConfigError, one line, where it fails."""
        made = self.load()
        try:
            return made(*given, **named)
        except SecurePFLError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - somebody else's code
            raise ConfigError(f"{self}: failed when called ({_short(error)}); mend or uninstall it") from None


def installed(group: Group) -> tuple[PlugIn, ...]:
    """All of a group, by name; nothing is loaded."""
    return _installed(group, tuple(sys.path))


@lru_cache
def _installed(group: Group, path: tuple[str, ...]) -> tuple[PlugIn, ...]:
    """Looked for once for each path, as a folder of files asks for each."""
    return tuple(sorted(_found(group), key=lambda its: (its.name, its.distribution)))


def plugin_named(group: Group, name: str) -> PlugIn | None:
    """The plug-in of this name; None where there is none. Raises ConfigError where several distributions bring one."""
    found = [its for its in installed(group) if its.name == name]
    if len(found) > 1:
        named = " and ".join(f"{its.distribution} {its.version}" for its in found)
        raise ConfigError(f"{group}: {named} both bring a plug-in {name!r}; uninstall one")
    return found[0] if found else None


def declared(pins: tuple[str, ...]) -> dict[str, str]:
    """`["NAME==VERSION", ...]` as versions by distribution. Raises ValueError for what is none.

    >>> declared(("tiny-models==1.0",))
    {'tiny-models': '1.0'}
    """
    found: dict[str, str] = {}
    for pin in pins:
        name, same, exact = pin.partition("==")
        if not (same and name.strip() == name and exact.strip() == exact and name and exact):
            raise ValueError(f'plugins: {pin!r} is no pin; write "NAME==VERSION"')
        if _plain(name) in map(_plain, found):
            raise ValueError(f"plugins: {name} stands there twice; keep one")
        found[name] = exact
    return found


def check_pinned(group: Group, key: str, name: str, known: tuple[str, ...], pins: tuple[str, ...]) -> None:
    """Refuse a `name` under `key` that is neither `known` nor a plug-in's of the very version in `pins`.

    A party that trains nothing (a hub) need not have it: where the pinned distribution isn't installed, its name is
    taken on trust, and looked for when it is loaded. Raises ValueError.
    """
    if name in known:
        return
    listed = ", ".join(f'"{one}"' for one in known)
    try:
        found = plugin_named(group, name)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    wanted = declared(pins)
    if found is None:
        absent = [one for one in wanted if _installed_version(one) is None]
        if not absent:
            raise ValueError(f'{key} = "{name}": known are {listed}; no plug-in of that name is installed')
        return
    pinned = next((exact for one, exact in wanted.items() if _plain(one) == _plain(found.distribution)), None)
    if pinned is None:
        pin = f'plugins = ["{found.distribution}=={found.version}"]'
        raise ValueError(f'{key} = "{name}" is a plug-in\'s: all hospitals must run the same; add {pin}')
    if pinned != found.version:
        raise ValueError(
            f"plugins: {found.distribution} is {found.version} here and {pinned} in the settings; "
            f"run: pip install '{found.distribution}=={pinned}'"
        )


def _found(group: Group) -> Iterator[PlugIn]:
    seen = set[tuple[str, str]]()
    for point in entry_points(group=group):
        brought = _named(point.dist)
        if brought is not None and (point.name, brought[0]) not in seen:
            seen.add((point.name, brought[0]))
            yield PlugIn(group, point.name, *brought, point)


def _named(distribution: Distribution | None) -> tuple[str, str] | None:
    """Name and version; None where it is half uninstalled, and its files may be anybody's.

    Python gives None for what its metadata lack. `importlib_metadata`, which takes its place once a library has
    imported that, raises an OSError.
    """
    try:
        return (distribution.name, distribution.version) if distribution and distribution.name else None
    except (OSError, KeyError):
        return None


def _installed_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _plain(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return name.replace("_", "-").replace(".", "-").lower()


def _short(error: BaseException) -> str:
    """The kind of an error and its first line."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}{f': {lines[0][:_LONGEST]}' if lines else ''}"
