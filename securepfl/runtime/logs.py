"""What operators read: JSON lines in a run's folder, and short lines on a terminal. Never a secret: a value is a
number, a flag or a line of text; of bytes there is only how many.
"""

import json
import os
import threading
import traceback
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final, TextIO

import structlog
from structlog.typing import FilteringBoundLogger

from securepfl.errors import SecurePFLError, first_line

LOG: Final = "log.jsonl"
MOST_BYTES: Final = 16 * 2**20
"""Of one file; then it becomes the older one, log.jsonl.1, in the place of the one before."""
_LONGEST: Final = 500
_HEAD: Final = ("time", "level", "event", "party", "round", "hospital", "kind", "bytes", "seconds", "error")
_UNITS: Final = {"bytes": "B", "seconds": "s"}

Log = FilteringBoundLogger


def open_log(folder: Path, party: str, console: TextIO | None = None, *, most_bytes: int = MOST_BYTES) -> Log:
    """A log of `party` in `folder`/log.jsonl, and in short on `console`. Nothing global is set up.

    A line that can't be written, to a full disk say, is lost and counted in the next one: no run ends for its log.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     log = open_log(Path(folder), "north")
    ...     log.info("contributed", round=3, bytes=1200, seconds=0.25, secret=b"key")
    ...     read = json.loads(Path(folder, LOG).read_text())
    >>> read["event"], read["party"], read["round"], read["secret"]
    ('contributed', 'north', 3, '3 bytes')
    """
    sink = _Sink(_Bounded(folder / LOG, most_bytes), console)
    logger: Log = structlog.wrap_logger(
        sink,
        processors=[_stamped, _plain, _rendered],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        context_class=dict,
    ).bind(party=party)
    return logger


def failed(log: Log, event: str, error: BaseException, **fields: Any) -> None:
    """Log an error: one that its reader can mend as one line, a defect of ours with its traceback, which shows lines
    of code and no values.
    """
    if isinstance(error, SecurePFLError | OSError):
        log.error(event, error=first_line(error), **fields)
    else:
        told = "".join(traceback.format_exception(error))
        log.error(event, error=f"{type(error).__name__}: {first_line(error)}", traceback=told, **fields)


def _stamped(_: Any, level: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"time": now, "level": level, **entry}


def _plain(_: Any, __: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Known fields first; values of few kinds."""
    known = {name: entry[name] for name in _HEAD if entry.get(name) is not None}
    others = {name: value for name, value in entry.items() if name not in _HEAD and value is not None}
    return {name: _value(value, whole=name == "traceback") for name, value in (known | others).items()}


def _value(value: Any, *, whole: bool = False) -> Any:
    match value:
        case bool() | int():
            plain: Any = value
        case float():
            plain = round(value, 6) if abs(value) < float("inf") else None
        case bytes() | bytearray() | memoryview():
            plain = f"{len(value)} bytes"
        case str():
            plain = value if whole else one_line(value)
        case list() | tuple():
            plain = [_value(its) for its in value]
        case set() | frozenset():
            plain = sorted(map(str, value))
        case _:
            plain = type(value).__name__
    return plain


def one_line(text: str) -> str:
    """Text as a log or a terminal may show it: what is no printable character as "?", and no more than a few lines."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text[: _LONGEST + 1])
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."


def _rendered(_: Any, __: str, entry: MutableMapping[str, Any]) -> tuple[tuple[str, str], dict[str, Any]]:
    return (json.dumps(entry, ensure_ascii=True, allow_nan=False), _short(entry)), {}


def _short(entry: Mapping[str, Any]) -> str:
    """One line for people: 12:03:11 round 3 north: contributed (kind CONTRIBUTION, 1,200 B, 0.25 s)."""
    clock = datetime.fromisoformat(entry["time"]).astimezone().strftime("%H:%M:%S")
    where = [f"round {entry['round']}"] if "round" in entry else []
    where += [entry["hospital"]] if "hospital" in entry else []
    said = ": ".join([" ".join(where), entry["event"]]) if where else entry["event"]
    left = {n: v for n, v in entry.items() if n not in ("time", "level", "event", "party", "round", "hospital")}
    error = left.pop("error", None)
    left.pop("traceback", None)
    details = ", ".join(_detail(name, value) for name, value in left.items())
    mark = "" if entry["level"] == "info" else f"{entry['level']}: "
    return f"{clock} {mark}{said}{f' ({details})' if details else ''}{f': {error}' if error else ''}"


def _detail(name: str, value: Any) -> str:
    if isinstance(value, list):
        value = " ".join(map(str, value)) or "nobody"
    if isinstance(value, float):
        form = ",.2f" if name == "seconds" else ",.3g" if abs(value) < 1000 else ",.0f"
        value = f"{value:{form}}"
    if isinstance(value, int) and not isinstance(value, bool):
        value = f"{value:,}"
    return f"{value} {_UNITS[name]}" if name in _UNITS else f"{name.replace('_', ' ')} {value}"


class _Sink:
    """Writes rendered entries. structlog calls the method named as the level."""

    def __init__(self, file: "_Bounded", console: TextIO | None) -> None:
        self._file, self._console, self._turn = file, console, threading.Lock()

    def msg(self, line: str, short: str) -> None:
        """One entry: `line` to the file, `short` to the console."""
        with self._turn:
            self._file.write(line)
            if self._console is not None:
                encoding = self._console.encoding or "utf-8"
                shown = short.encode(encoding, "backslashreplace").decode(encoding)
                with suppress(OSError, ValueError):  # a terminal that went away
                    self._console.write(f"{shown}\n")
                    self._console.flush()

    debug = info = warning = error = critical = msg


class _Bounded:
    """A file of lines for its owner's eyes, in two pieces of at most `most` bytes each."""

    def __init__(self, path: Path, most: int) -> None:
        self._path, self._most, self._lost = path, most, 0
        self._file: IO[bytes] | None = None

    def write(self, line: str) -> None:
        data = line.encode() + b"\n"
        try:
            file = self._open(len(data))
            if self._lost:
                note = {"level": "warning", "event": "log lines lost", "lost": self._lost}
                file.write(json.dumps(note).encode() + b"\n")
            file.write(data)
            file.flush()
            self._lost = 0
        except (OSError, ValueError):
            self._lost += 1
            self._close()

    def _open(self, more: int) -> IO[bytes]:
        if self._file is not None and self._file.tell() + more > self._most:
            self._close()
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
            self._file = os.fdopen(os.open(self._path, flags, 0o600), "ab")
        return self._file

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                file.close()
