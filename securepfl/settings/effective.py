"""A federation's whole effective settings as TOML: what the file says and every default, each with where it is from.

Read back, the text is the same federation: the same digest.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import msgspec

from securepfl.settings.auto import chosen
from securepfl.settings.federation import Federation
from securepfl.settings.presets import PRESETS

_WIDTH: Final = 44
"""Where comments begin, unless a value is longer."""
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_NESTED: Final = ("ranges", "categories", "files", "split")
"""Tables under `[data]`, a line for each of their keys."""
_WRITTEN_APART: Final = ("sites", "data")
_HEAD: Final = """\
# The whole federation as it takes effect: every key, and where its value is from where that is not the file.
# Settings digest {digest}
# Two files of one digest are one federation. Budgets are each hospital's own, and not part of it.
"""


def effective_toml(federation: Federation, declared: Mapping[str, Any], options: Mapping[str, str]) -> str:
    """All settings of `federation` as TOML that `Federation.read` reads as the same federation.

    `declared` is the mapping that it was read from; `options` gives the command line's option for a key that one took
    the place of ("privacy.epsilon": "--epsilon"). Numbers that the file leaves to the rule stand as it chooses them.
    Raises ConfigError where it can't choose: a hospital declares no units.

    >>> text = effective_toml(Federation(rounds=3), {"rounds": 3}, {})
    >>> print(*text.splitlines()[4:8], sep="\\n")
    name = "federation"                         # default
    rounds = 3
    minimum = 3                                 # default
    <BLANKLINE>
    """
    ready = chosen(federation).replace(shape=None)
    by_rule = {*federation.auto, *(["model.personal"] if ready.model.personal != federation.model.personal else [])}
    origin = _Origin(federation, by_rule, declared, options)
    plain: dict[str, Any] = msgspec.to_builtins(ready)
    lines = [_HEAD.format(digest=ready.digest.hex())]
    tables = {name: value for name, value in plain.items() if isinstance(value, Mapping)}
    for name in ("name", "rounds", "minimum"):
        lines.append(_line(name, plain[name], origin.of(name)))
    for name, table in tables.items():
        if name not in _WRITTEN_APART:
            lines += _table(name, table, origin)
    off = [name for name in ("lasso", "shared_noise") if plain[name] is None]
    lines += ["", *(f"# [{name}]: off" for name in off)] if off else []
    for name, site in sorted(plain["sites"].items()):
        lines += _table(f"sites.{key_of(name)}", site, origin)
    lines += [] if plain["data"] is None else _data(plain["data"], origin)
    return "\n".join(lines) + "\n"


class _Origin:
    """Where each value is from."""

    def __init__(
        self,
        federation: Federation,
        by_rule: Collection[str],
        declared: Mapping[str, Any],
        options: Mapping[str, str],
    ) -> None:
        self._declared, self._options, self._auto = declared, options, by_rule
        self._preset = federation.preset
        kind = federation.model.kind
        self._by_preset = {} if self._preset is None else PRESETS[self._preset].tables_for(kind)

    def of(self, *path: str) -> str:
        """In a word or two; "" where it is from the file."""
        place = ".".join(path)
        if place in self._options:
            return self._options[place]
        if place in self._auto:
            return "chosen from what is declared"
        if self.declares(*path):
            return ""
        if len(path) == 2 and path[1] in self._by_preset.get(path[0], {}):
            return f"preset {self._preset}"
        return "default"

    def declares(self, *path: str) -> bool:
        """Whether the file has this key."""
        found: Any = self._declared
        for name in path:
            if not isinstance(found, Mapping) or name not in found:
                return False
            found = found[name]
        return True

    def absent(self, entry: Mapping[str, Any], *path: str) -> str:
        """Of an entry in one line, the keys that are not the file's."""
        found: Any = self._declared
        for name in path:
            found = found.get(name, {}) if isinstance(found, Mapping) else {}
        if not isinstance(found, Mapping):  # a list in place of a table
            return ""
        names = [name for name in entry if name not in found]
        return f"default: {', '.join(names)}" if names and found else "default" if names else ""


def _table(name: str, table: Mapping[str, Any], origin: _Origin) -> Iterator[str]:
    """A table of plain values under its heading."""
    yield from ("", f"[{name}]")
    path = name.partition(".")[::2]
    place = (path[0], json.loads(path[1]) if path[1].startswith('"') else path[1]) if path[1] else (path[0],)
    for key, value in table.items():
        yield _line(key, value, origin.of(*place, key))


def _data(data: Mapping[str, Any], origin: _Origin) -> Iterator[str]:
    yield from ("", "[data]")
    for key, value in data.items():
        if key not in _NESTED:
            yield _line(key, value, origin.of("data", key))
    for name in _NESTED:
        entries = data.get(name)
        if not entries:
            continue
        yield from ("", f"[data.{name}]")
        for key, value in entries.items():
            inline = isinstance(value, Mapping)
            told = origin.absent(value, "data", name, key) if inline else origin.of("data", name, key)
            yield _line(key, value, told)


def _line(key: str, value: Any, comment: str) -> str:
    """A key with its value, and a comment where there is something to say."""
    if value is None:
        return f"# {key_of(key)}: not set"
    written = f"{key_of(key)} = {value_of(value)}"
    return f"{written:<{_WIDTH - 1}} # {comment}" if comment else written


def key_of(name: str) -> str:
    """A name as a TOML key.

    >>> key_of("north"), key_of("St. Anna")
    ('north', '"St. Anna"')
    """
    return name if _BARE.fullmatch(name) else text_of(name)


def text_of(text: str) -> str:
    """A text as a TOML string in one line: what TOML shares with JSON, and DEL, which JSON doesn't escape."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def value_of(value: Any) -> str:
    """A value of settings as TOML, tables within as inline ones.

    >>> value_of({"centre": 55, "missing_values": ["?", 0.5], "whole": True})
    '{ centre = 55, missing_values = ["?", 0.5], whole = true }'
    """
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return text_of(value)
        case Mapping():
            inner = ", ".join(f"{key_of(key)} = {value_of(item)}" for key, item in value.items() if item is not None)
            return f"{{ {inner} }}" if inner else "{}"
        case list() | tuple():
            return f"[{', '.join(map(value_of, value))}]"
        case _:
            return repr(value)
