"""JSON that somebody else may have written: bounded, its numbers ones that can be drawn, its texts ones that can be
shown.
"""

import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from securepfl.errors import ConfigError
from securepfl.spelling import written_out

_MOST_BYTES: Final = 256 << 20
_LARGEST: Final = 1e30
"""Of numbers: more than any count, byte, second or slope of a run, and less than what upsets a drawing."""
_LONGEST: Final = 1_000_000
"""Letters of a text: a note may name a thousand hospitals."""
_MOST_LEVELS: Final = 12
_JOINERS: Final = "\u200c\u200d"
"""Of the invisible characters, those that Persian, Indic scripts and emoji need."""


def read_plain(path: Path, mend: str) -> Mapping[str, Any]:
    """The object in a file. Raises ConfigError, one line that ends with `mend`, for what can't be read, is no JSON
    object, or holds what no file of securepfl's does.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); mend its rights, or {mend}") from None
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"{path}: over {_MOST_BYTES >> 20} MiB, no file of securepfl's; {mend}")
    try:
        held = _checked(msgspec.json.decode(data), _MOST_LEVELS)
    except (ValueError, msgspec.MsgspecError, RecursionError):
        raise ConfigError(f"{path}: not JSON, or damaged; {mend}") from None
    if not isinstance(held, dict):
        raise ConfigError(f"{path}: not what securepfl writes; {mend}")
    return held


def lines_of(path: Path) -> Iterator[Any]:
    """What stands in each line of a file of JSON lines; lines that are none, or hold what no such file does, and all
    behind 256 MiB are left out. Nothing where there is no such file.
    """
    if not path.is_file():
        return
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES)
    except OSError:
        return
    for line in data.splitlines():
        try:
            yield _checked(msgspec.json.decode(line), _MOST_LEVELS)
        except (ValueError, msgspec.MsgspecError, RecursionError):
            continue


def _checked(value: Any, levels: int) -> Any:
    """The same with texts as they may be shown. Raises ValueError for what is too large, too long or too deep."""
    if isinstance(value, str):
        if len(value) > _LONGEST:
            raise ValueError("a text is too long")
        return visible(value)
    if isinstance(value, int | float):
        if abs(value) > _LARGEST:
            raise ValueError("a number is too large")
        return value
    if value is None:
        return None
    if not levels:
        raise ValueError("nested too deep")
    if isinstance(value, list):
        return [_checked(each, levels - 1) for each in value]
    return {_checked(name, levels): _checked(each, levels - 1) for name, each in value.items()}


def visible(text: str) -> str:
    r"""A text whose characters all stand where they are read: those that are not seen, or that turn the direction of
    what stands around them, are spelt out.

    >>> print(visible("north\u202e: paid"), visible("北京"))
    north\u202e: paid 北京
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(written_out(mark) if _steers(mark) else mark for mark in text)


def _steers(mark: str) -> bool:
    return unicodedata.category(mark) in ("Cc", "Cf", "Cs", "Zl", "Zp") and mark not in "\n" + _JOINERS
