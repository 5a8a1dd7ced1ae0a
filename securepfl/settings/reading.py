"""From a TOML file to settings: read, converted, and every error in our words with the file and the key."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from securepfl.errors import ConfigError
from securepfl.settings.presets import PRESETS, expanded
from securepfl.spelling import near

_S = TypeVar("_S", bound=msgspec.Struct)


MOST_BYTES = 2**24
"""Of a settings file: a longer one is something else, and is not read into memory."""

_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff")
_HINTS = (
    (re.compile("[\u2018-\u201f]"), "curly quotes are no quotes to TOML; write straight ones"),
    (re.compile(r"=\s*(True|False|TRUE|FALSE|Yes|No|yes|no)\b"), "yes and no are written true and false"),
    (re.compile(r"=\s*(None|null|nil)\b"), "TOML has no empty value; leave the key out"),
    (re.compile(r"=\s*-?\d+,\d"), "a decimal comma is none to TOML; write a point"),
    (re.compile("[\xa0\u2000-\u200f\u202f\u2060\ufeff]"), "it holds a blank or mark that is not seen; type it anew"),
    (
        re.compile(r"""^\s*(\[[^="'#,\]]*|(?=[^="'#,[{]*=)[^="'#,]*)(\w[ \t]+\w|[^A-Za-z0-9_.\s="'#,[\]{}-])"""),
        'a name with a blank, or with letters beyond a to z, stands in quotes: "St. Anna" = ..., [sites."St. Anna"]',
    ),
)
"""What people often write that TOML is not, and what to write instead."""


def read_toml(path: Path) -> dict[str, Any]:
    """The mapping in a TOML file: UTF-8, with or without a byte order mark, lines ending as on any system.

    Raises ConfigError naming the file, what is wrong, the line where there is one, and the mend.
    """
    text = _text_of(path)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML ({error}); {_hint(text, str(error))}") from None
    except (RecursionError, ValueError):
        raise ConfigError(f"{path}: brackets nested too deep, or a number of too many digits; mend it") from None


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name an existing TOML file") from None
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{path}: longer than {MOST_BYTES >> 20} MiB, so no settings file; name the TOML file")
    if data.startswith(_WIDE_MARKS) or b"\0" in data:
        raise ConfigError(f"{path}: not UTF-8 but UTF-16, or no text at all; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: line {line} is not UTF-8 (Latin-1, perhaps); save it as UTF-8") from None


def _hint(text: str, problem: str) -> str:
    """How to mend the line that `problem` names."""
    found = re.search(r"at line (\d+)", problem)
    line = text.split("\n")[int(found[1]) - 1] if found else ""
    return next((hint for pattern, hint in _HINTS if pattern.search(line)), "mend that line")


def with_preset(mapping: Mapping[str, Any], kind: type[_S], where: str) -> _S:
    """`mapping` and what its preset adds to it, as settings of `kind`.

    Raises ConfigError naming `where` and the key; and the preset, where it is about a table that the preset sets, or
    nothing would be wrong without it.
    """
    whole = expanded(mapping, where)
    try:
        return structured(whole, kind, where)
    except ConfigError as error:
        own = {key: value for key, value in mapping.items() if key != "preset"}
        tables = PRESETS[mapping["preset"]].tables if "preset" in mapping else {}
        about = any(f"[{name}]" in str(error) for name in tables)
        if "preset" not in mapping or (str(error) == _problem(own, kind, where) and not about):
            raise
        raise ConfigError(f'{where}: preset = "{mapping["preset"]}": {str(error).removeprefix(f"{where}: ")}') from None


def _problem(mapping: Mapping[str, Any], kind: type[_S], where: str) -> str:
    try:
        structured(mapping, kind, where)
    except ConfigError as error:
        return str(error)
    return ""


def structured(mapping: Mapping[str, Any], kind: type[_S], where: str) -> _S:
    """`mapping` as settings of `kind`. Raises ConfigError naming `where` and the key."""
    for place, words in _GONE.items():
        table, _, key = place.partition(".")
        if key in _table(mapping, table):
            raise ConfigError(f"{where}: [{table}] {key}: {words}")
    _check_whole_numbers(mapping, where)
    try:
        return msgspec.convert(mapping, type=kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {_readable(str(error), kind)}") from None


def _check_whole_numbers(value: Any, where: str, place: str = "") -> None:
    """Raise ConfigError for a whole number that canonical JSON, over which the digest is, can't hold exactly."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_whole_numbers(inner, where, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_whole_numbers(inner, where, place)
    elif isinstance(value, int) and abs(value) >= 2**53:
        raise ConfigError(f"{where}: {place} = {value:.3e}: too large; whole numbers stay below 2^53")


def _table(mapping: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = mapping.get(name)
    return table if isinstance(table, Mapping) else {}


_GONE = {
    "model.seed": "removed: all starting weights are drawn from one fixed seed; delete it",
    "training.physical_batch": "moved: it changes no result, so it is no shared setting; delete it, and pass "
    "physical_batch to Client or simulate where memory is short",
    "privacy.noise": "moved: a [shared_noise] table turns shared noise on; delete this key",
    "privacy.normaliser": "removed: it is the sum of all [sites.NAME] units; delete it",
    "shared_noise.normaliser": "removed: it is the sum of all [sites.NAME] units; delete it",
    "privacy.colluders": "moved; write it under [shared_noise]",
    "privacy.dropouts": "moved; write it under [shared_noise]",
    "sparsity.exploration": "removed: it is always 0.25; delete it",
    "encryption.mask_degree": "removed: it follows from the number of hospitals; delete it",
    "similarity.of": "removed: the network lasso compares personal parameters, all else accumulated updates; delete it",
    "similarity.dimensions": "removed: a sketch always has 4096; delete it",
    "similarity.gate": "removed: it is always 3; delete it",
    "coupling.kind": "removed: a [lasso] table turns the network lasso on, [coupling] strength the pull to neighbours; "
    "delete this key",
    "coupling.penalty": "moved; write it under [lasso]",
    "coupling.scale": "moved; write it under [lasso]",
    "coupling.weight_bits": "removed: they are always 12; delete it",
    "coupling.momentum": "removed: it amplified noise, and was refused wherever privacy was; delete it",
    "coupling.graph": "removed: the graph is always the nearest with a cosine above 0, which measured best; delete it",
    "coupling.threshold": "removed with [coupling] graph; delete it",
    "coupling.hold": "removed: a graph is always kept for 5 rounds; delete it",
    "trajectory.layers": 'removed: alpha may be a table of patterns, alpha = { "head.*" = 0.5 }; delete it',
}
"""Keys that files of earlier versions may hold, and what to do about each."""


def _choices(kind: Any, key: str) -> str:
    """The words that settings of `kind` know at `key`, as `[model] task` has some."""
    for name in key.split("."):
        hints = [get_type_hints(part) for part in (kind, *get_args(kind)) if hasattr(part, "__struct_fields__")]
        kind = hints[0].get(name) if hints else None
    *words, last = _words(kind) or ["those in docs/configuration.md"]
    known = f"{', '.join(words)} and {last}" if words else last
    return f"{known}; patterns stand in a list" if key in ("model.personal", "model.trained") else known


def _fields(kind: Any, key: str) -> list[str]:
    """The names that settings of `kind` know in the table at `key`; an entry of a mapping is `...` there."""
    kinds = [kind]
    for name in re.findall(r"\[\.{3}\]|[^.\[\]]+", key):
        inside = [get_type_hints(part).get(name) for part in kinds if hasattr(part, "__struct_fields__")]
        entries = [get_args(part)[-1] for part in kinds if name.startswith("[") and get_args(part)]
        kinds = [each for part in (*inside, *entries) for each in (part, *get_args(part))]
    return [field for part in kinds for field in getattr(part, "__struct_fields__", ())]


def _words(hint: Any) -> list[str]:
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [word for part in get_args(hint) for word in _words(part)]


def _readable(message: str, kind: Any) -> str:
    """msgspec's words in ours: the key's place first, as it stands in the TOML."""
    text, _, place = message.partition(" - at `$")
    key = place.rstrip("`").lstrip(".")
    if text.startswith("Object contains unknown field"):
        field = text.split("`")[1]
        slip = near(field, _fields(kind, key))
        mend = "remove it or mend its spelling" + ("" if slip is None else f" (`{slip}`?)")
        table = f"[{key.replace('[...]', '.NAME')}]" if key else "the top level"
        return f"unknown key `{field}` in {table}; {mend}"
    if text.startswith("Object missing required field"):
        field = text.split("`")[1]
        return f"[{key}] {field}: must be declared; add {field} = ..."
    if text.startswith("Invalid enum value"):
        text += f"; known are {_choices(kind, key)}"
    if text.startswith("Expected"):
        text += "; mend its type (numbers stand without quotes)"
    return f"[{key}] {text}" if key else text
