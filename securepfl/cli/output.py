"""What the commands print, and streams on which printing cannot fail: no command is lost to a full disk, a reader that
went away, or an encoding without the character.
"""

import codecs
import errno
import io
import json
import math
import os
import select
import shutil
import sys
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TextIO

import click

from securepfl.errors import HospitalNote

_ERRORS: Final = "securepfl.escaped"
"""Name of the error handler that `escaped_by` is registered under."""
_JOINERS: Final = "\u200c\u200d"
"""Of the invisible characters, those that Persian, Indic scripts and emoji need."""
_STRICT: Final = ("strict", "surrogateescape")
_SCHEMA: Final = 1
"""Of what --json prints: {"schema", "command", "error", "result"}."""
NARROWEST: Final = 20
"""Columns below which nothing is made to fit."""
_DIGITS: Final = 6


@dataclass
class Voice:
    """How a command speaks: -v, -q, --json; which one it is, and whether its one object of JSON is printed."""

    verbose: bool = False
    quiet: bool = False
    json: bool = False
    command: str = ""
    given: bool = False


def voice_of(context: click.Context | None = None) -> Voice:
    """The voice of the command that runs; outside of one, a new one that says what there is to say."""
    found = click.get_current_context(silent=True) if context is None else context
    if found is None:
        return Voice()
    root = found.find_root()
    if not isinstance(root.obj, Voice):
        root.obj = Voice()
    return root.obj


def say(text: str, *, err: bool = False) -> None:
    """Print `text` on stdout, or on stderr, with what the stream or a terminal cannot show as escapes.

    A terminal's lines are broken between words; what goes to a file or a pipe stays whole.
    """
    stream = sys.stderr if err else sys.stdout
    stream.write(_in_lines(stream, _shown_on(stream, text)) + "\n")
    stream.flush()


def tell(text: str) -> None:
    """Say on stderr what is good to know; nothing under --quiet."""
    if not voice_of().quiet:
        say(text, err=True)


def stderr_or_none() -> TextIO | None:
    """Where lines of a log may be shown; nowhere under --quiet."""
    return None if voice_of().quiet else sys.stderr


def columns_wanted() -> int | None:
    """How wide output is to be that goes to no terminal: as COLUMNS says; None where it says nothing of use."""
    given = os.environ.get("COLUMNS", "")
    return max(int(given), NARROWEST) if given.isdecimal() and len(given) < _DIGITS and int(given) else None


def _in_lines(stream: TextIO, text: str) -> str:
    if not stream.isatty():
        return text
    width = max(shutil.get_terminal_size().columns, NARROWEST)
    return "\n".join(folded(line, width) for line in text.split("\n"))


def folded(line: str, width: int, indent: str = "  ") -> str:
    """A line in pieces of whole words, `width` columns each; a word that is longer, a path say, is the terminal's. All
    but the first begin with `indent`.

    >>> print(folded("note: the file /srv/hospital/north/run is there", 20))
    note: the file
      /srv/hospital/north/run
      is there
    """
    if _columns(line) <= width:
        return line
    words = line.lstrip(" ").split(" ")
    pieces = [line[: len(line) - len(line.lstrip(" "))] + words[0]]
    for word in words[1:]:
        longer = f"{pieces[-1]} {word}"
        if _columns(longer) <= width or not word:
            pieces[-1] = longer
        else:
            pieces.append(f"{indent}{word}")
    return "\n".join(pieces)


def _columns(text: str) -> int:
    """Columns that a terminal needs: two for wide letters, none for marks above others."""
    return sum(0 if unicodedata.combining(its) else 1 + (unicodedata.east_asian_width(its) in "WF") for its in text)


def shown(text: str) -> str:
    """A question as stderr can show it."""
    return _shown_on(sys.stderr, text)


def _shown_on(stream: TextIO, text: str) -> str:
    return readable(text, stream.encoding or "utf-8")


def say_data(text: str) -> None:
    """Print what another program reads, a table say, as it stands: in UTF-8, whatever the terminal's encoding."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()


def give(value: Any, show: Callable[[], None]) -> None:
    """What a command found: under --json `value`, as the result in the one object that is printed; else `show` it."""
    if voice_of().json:
        _give_json(voice_of(), value, None)
    else:
        show()


def give_lines(lines: Iterable[str]) -> None:
    """What a command has to say to people, line by line."""
    told = list(lines)
    give({"lines": told}, lambda: say("\n".join(told)))


def give_nothing(error: str | None = None, voice: Voice | None = None) -> None:
    """The end of a command: under --json there is one object, whatever happened. `error`: why there is no result."""
    heard = voice or voice_of()
    if heard.json and not heard.given:
        _give_json(heard, None, error)


def _give_json(voice: Voice, value: Any, error: str | None) -> None:
    voice.given = True
    told = {"schema": _SCHEMA, "command": voice.command, "error": error, "result": _finite(value)}
    say(json.dumps(told, indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def readable(text: str, encoding: str) -> str:
    r"""`text` as a stream in `encoding` can show it: the rest as escapes that TOML and JSON read too.

    Characters that would steer a terminal, or turn the direction of the text around them, are escaped as well.

    >>> readable("Köln: 北京", "latin-1")
    'Köln: \\u5317\\u4eac'
    >>> readable("north\x1b[2J", "utf-8")
    'north\\u001b[2J'
    """
    shown = "".join(_escape(char) if _steers(char) else char for char in text)
    return shown.encode(encoding, _ERRORS).decode(encoding)


def _steers(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") and char not in "\n\t" + _JOINERS


def _escape(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"


def escaped_by(error: UnicodeError) -> tuple[str, int]:
    """A codec's error handler: the characters that an encoding lacks, as escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_escape, error.object[error.start : error.end])), error.end


codecs.register_error(_ERRORS, escaped_by)


class Outlet(io.FileIO):
    """A descriptor to print on. After the first `failure`, which it keeps, it takes everything and writes nothing."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        """The bytes written, or all where nothing can be written any more; waits where the reader is slow."""
        while self.failure is None:
            try:
                written = super().write(data)
                if written is not None:
                    return written
                select.select([], [self], [])
            except OSError as error:
                self.failure = error
        return memoryview(data).nbytes


@contextmanager
def guarded() -> Iterator[Callable[[], OSError | None]]:
    """Put streams that cannot fail in place of stdout and stderr; yields what tells why stdout lost something, if it
    did. A reader that went away is no loss. Streams that something else has put there stay.
    """
    _open_missing()
    before = sys.stdout, sys.stderr
    out, sys.stdout = _guarded(sys.stdout, sys.__stdout__, 1)
    _, sys.stderr = _guarded(sys.stderr, sys.__stderr__, 2)

    def lost() -> OSError | None:
        sys.stdout.flush()
        failure = None if out is None else out.failure
        return None if failure is None or failure.errno == errno.EPIPE else failure

    try:
        yield lost
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


@contextmanager
def notes_in_lines() -> Iterator[None]:
    """What a hospital is warned of is printed as a line on stderr, other warnings as ever."""
    before = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **named: Any) -> None:
        if issubclass(category, HospitalNote):
            tell(f"note: {message}")
        else:
            before(message, category, *place, **named)

    with warnings.catch_warnings():
        warnings.simplefilter("always", HospitalNote)
        warnings.showwarning = show
        yield


def _open_missing() -> None:
    """Whoever closed stdin, stdout or stderr beforehand: else the next file that is opened, a ledger say, would stand
    there, and a library that prints would write into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free: this one


def _guarded(stream: TextIO | None, original: TextIO | None, descriptor: int) -> tuple[Outlet | None, TextIO]:
    if stream is not None and stream is not original:
        return None, stream
    outlet = Outlet(descriptor, "w", closefd=False)
    encoding = "utf-8" if stream is None else stream.encoding
    errors = stream.errors if stream is not None and stream.errors not in _STRICT else None
    return outlet, io.TextIOWrapper(io.BufferedWriter(outlet), encoding, errors or _ERRORS, line_buffering=True)
