"""Text in the CSV format (RFC 4180), cut into records and fields, and refused where it breaks the format.

A lenient reader swallows rows: after a quote that is never closed, the rest of a file is one cell. Here a quote stands
only around a whole field, doubled inside it; records end in a line feed, with or without a carriage return; every
record has the same number of fields. Blank lines are no records. A quoted field may hold line feeds, but not so that
each of its lines could be a record of its own: two quotes that were forgotten look just so.

All is done on bytes of UTF-8 and a whole block at a time: the marks looked for are ASCII, which never is part of
another letter.
"""

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

QUOTE, LF, CR = 34, 10, 13


class FormatError(ValueError):
    """The text breaks the format: in which line of the block, counted from 0, and how."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line, self.problem = line, problem


@dataclass(frozen=True, eq=False)
class Records:
    """Where the fields of one block lie: `starts` and `stops` [records, fields] count its bytes."""

    data: NDArray[np.uint8] = field(repr=False)
    starts: NDArray[np.int64] = field(repr=False)
    stops: NDArray[np.int64] = field(repr=False)

    @classmethod
    def of(cls, block: bytes, separator: str, width: int | None = None) -> Self:
        """Cut `block`, which ends where a record does, into fields.

        `width`: how many fields a record must have; None: as many as the first. Raises FormatError.
        """
        data = np.frombuffer(block if block.endswith(b"\n") else block + b"\n", np.uint8)
        inside = quoted(data)
        _check_marks(data, inside, ord(separator))
        breaks = ((data == ord(separator)) | (data == LF)) & ~inside
        cuts = np.flatnonzero(breaks)
        starts, stops = _trimmed(data, cuts)
        ends = np.flatnonzero(data[cuts] == LF)
        widths = np.diff(ends, prepend=-1)
        blank = (widths == 1) & (starts[ends] == stops[ends])
        if width is None:
            width = int(widths[~blank][0]) if not blank.all() else 0
        wrong = ~blank & (widths != width)
        if wrong.any():
            first = int(wrong.argmax())
            problem = f"has {widths[first]} fields, the first line {width}; mend it, or quote what holds a separator"
            raise FormatError(_line_of(data, int(starts[ends[first] - widths[first] + 1])), problem)
        _check_lines(data, inside, ord(separator), width)
        kept = np.repeat(~blank, widths)
        shape = (-1, width) if width else (0, 0)
        return cls(data, starts[kept].reshape(shape), stops[kept].reshape(shape))

    def __len__(self) -> int:
        return len(self.starts)

    def column(self, index: int) -> Any:
        """The texts of one column, [records], as an arrow array."""
        starts, stops = self.starts[:, index], self.stops[:, index]
        wrapped = (self.data[starts] == QUOTE) & (stops > starts)
        starts, stops = starts + wrapped, stops - wrapped
        texts = _gathered(self.data, starts, stops)
        if not wrapped.any():
            return texts
        return pc.if_else(pa.array(wrapped), pc.replace_substring(texts, '""', '"'), texts)

    def fields(self, record: int) -> list[str]:
        """The texts of one record."""
        one = Records(self.data, self.starts[record : record + 1], self.stops[record : record + 1])
        return [one.column(index)[0].as_py() for index in range(one.starts.shape[1])]


def quoted(data: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which bytes lie from an opening quote up to before the closing one, [bytes]."""
    marks = data == QUOTE
    return np.logical_xor.accumulate(marks) if marks.any() else marks


def last_end(block: bytes) -> int:
    """Up to where `block`, which begins where a record does, holds whole records: a count of bytes."""
    data = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero((data == LF) & ~quoted(data))
    return int(ends[-1]) + 1 if len(ends) else 0


def _trimmed(data: NDArray[np.uint8], cuts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts and stops of fields, without the carriage return before a line feed."""
    starts = np.concatenate([[0], cuts[:-1] + 1])
    returned = (data[cuts] == LF) & (cuts > starts) & (data[cuts - 1] == CR)
    return starts, cuts - returned


def _check_marks(data: NDArray[np.uint8], inside: NDArray[np.bool_], separator: int) -> None:
    """Raise FormatError for the first mark that stands where the format has none."""
    faults = [_first(np.flatnonzero(data == 0), "holds a NUL byte; save it as CSV in UTF-8")]
    returns = np.flatnonzero((data == CR) & ~inside)
    problem = "has a carriage return without a line feed; end lines with line feeds"
    faults.append(_first(returns[data[np.minimum(returns + 1, len(data) - 1)] != LF], problem))
    faults += _quote_faults(data, separator)
    found = [fault for fault in faults if fault is not None]
    if found:
        place, problem = min(found)
        raise FormatError(_line_of(data, place), problem)


def _quote_faults(data: NDArray[np.uint8], separator: int) -> list[tuple[int, str] | None]:
    """An odd quote opens: it stands first in a field, or behind a closing one, as its double. An even one closes."""
    places = np.flatnonzero(data == QUOTE)
    opening, closing = places[::2], places[1::2]
    before, behind = data[np.maximum(opening - 1, 0)], data[np.minimum(closing + 1, len(data) - 1)]
    doubled = np.zeros(len(opening), dtype=np.bool_)
    doubled[1:] = opening[1:] == closing[: len(opening) - 1] + 1
    begins = (opening == 0) | doubled | (before == separator) | (before == LF)
    again = np.zeros(len(closing), dtype=np.bool_)
    again[: len(opening) - 1] = doubled[1:][: len(closing)]
    ends = again | (behind == separator) | (behind == LF) | (behind == CR)
    open_at_end = opening[-1:] if len(places) % 2 else opening[:0]
    return [
        _first(opening[~begins], "has a quote inside a field; write the whole field in quotes, and the quote twice"),
        _first(opening[: len(closing)][~ends], "opens a quote, and text follows where it closes; close it"),
        _first(open_at_end, "opens a quote that is never closed; close it"),
    ]


def _check_lines(data: NDArray[np.uint8], inside: NDArray[np.bool_], separator: int, width: int) -> None:
    """Raise FormatError for a record over several lines each of which could be a record."""
    ends = np.flatnonzero(data == LF)
    inner = inside[ends]
    if width < 2 or not inner.any():
        return
    alike = np.diff(np.searchsorted(np.flatnonzero(data == separator), ends), prepend=0) == width - 1
    first = np.concatenate([[True], ~inner[:-1]])
    record = np.cumsum(first) - 1
    lines = np.bincount(record)
    merged = (lines > 1) & (np.bincount(record, weights=alike).astype(np.int64) == lines)
    if merged.any():
        place, later = int(np.flatnonzero(first)[merged.argmax()]), int(lines[merged.argmax()]) - 1
        problem = f"opens a quote that closes {later} line(s) later, and each line looks like a row of its own"
        raise FormatError(place, f"{problem}; close it in its line, or take the line breaks out of the field")


def _first(places: NDArray[np.int64], problem: str) -> tuple[int, str] | None:
    return (int(places[0]), problem) if len(places) else None


def _line_of(data: NDArray[np.uint8], place: int) -> int:
    return int(np.count_nonzero(data[:place] == LF))


def _gathered(data: NDArray[np.uint8], starts: NDArray[np.int64], stops: NDArray[np.int64]) -> Any:
    """The bytes from each start to its stop, as an arrow array of texts."""
    lengths = stops - starts
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    index = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data[index])]
    return pa.Array.from_buffers(pa.string(), len(starts), buffers)
