"""A text file as columns: decoded, cut into blocks of whole records, and only the columns asked for kept.

CSV is read with none of the usual libraries: pandas' and pyarrow's errors quote cells, which are private, and they and
the standard library read on where the format is broken. Memory holds one block and what is asked for.
"""

import codecs
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from securepfl.data.cells import Cells
from securepfl.data.dialect import Dialect, dialect_of, excel_separator
from securepfl.data.known import digests_of
from securepfl.data.marks import decimal_of
from securepfl.data.records import FormatError, Records, last_end
from securepfl.data.wanted import Contents, Wanted
from securepfl.errors import DataError

_BLOCK = 4 << 20
_LONGEST = 64 << 20
"""Bytes of one record: a quote that is never closed must not fill the memory."""

_NO_TEXT = {
    b"PK\x03\x04": "an Excel workbook or a ZIP archive",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook or another Office file",
    b"\x1f\x8b": "a gzip file",
    b"BZh9": "a bzip2 file",
    b"\xfd7zXZ\0": "an xz file",
    b"\x28\xb5\x2f\xfd": "a Zstandard file",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"Rar!": "a RAR archive",
    b"PAR1": "a Parquet file",
    b"ARROW1": "a Feather or Arrow file",
    b"SQLite format 3": "an SQLite database",
    b"%PDF-": "a PDF",
}
"""What else people hand in, by its first bytes."""


def read_csv(path: Path, wanted: Wanted) -> Contents:
    """The columns asked for, of a text file in UTF-8 (or UTF-16 with its mark). Raises DataError and OSError."""
    with path.open("rb") as file:
        blocks = _blocks(path, file)
        first = next(blocks, b"")
        if not first.strip():
            return Contents((), {}, 0)
        line, separator, skipped = _first_record(path, first, wanted)
        dialect = dialect_of(path, line, wanted, separator)
        start = skipped + (len(line) if dialect.header else 0)
        return _contents(path, first, blocks, start, dialect, wanted)


def _contents(
    path: Path, first: bytes, blocks: Iterator[bytes], start: int, dialect: Dialect, wanted: Wanted
) -> Contents:
    """The cells asked for, block by block; `start` bytes of the first block are header."""
    asked = {name: index for index, name in enumerate(dialect.names) if wanted.reads(name)}
    found: dict[str, list[pa.Array]] = {name: [] for name in asked}
    known: list[NDArray[Any]] = []
    rows, lines, mark = 0, first[:start].count(b"\n"), ""
    for block in chain([first[start:]], blocks):
        records = _cut(path, block, dialect, lines)
        for name, index in asked.items():
            found[name].append(records.column(index))
        mark = mark or _decimal(found, wanted)
        if wanted.known:
            cells = {name: Cells.of(records.column(i), mark) for i, name in enumerate(dialect.names)}
            known.append(digests_of(cells))
        rows, lines = rows + len(records), lines + block.count(b"\n")
    columns = {name: pa.chunked_array(parts, pa.string()).combine_chunks() for name, parts in found.items()}
    cells = {name: Cells.of(texts, mark) for name, texts in columns.items()}
    return Contents(dialect.names, cells, rows, np.concatenate(known) if known else None)


def _decimal(found: dict[str, list[pa.Array]], wanted: Wanted) -> str:
    """The decimal mark: as declared, else as the first block's numbers show it."""
    shown = [parts[0] for name, parts in found.items() if name in wanted.numbers]
    return decimal_of(shown) if wanted.numbers else wanted.decimal


def _cut(path: Path, block: bytes, dialect: Dialect, lines: int) -> Records:
    try:
        return Records.of(block, dialect.separator, len(dialect.names))
    except FormatError as error:
        raise DataError(f"{path}: line {lines + error.line + 1} {error.problem}") from None


def _first_record(path: Path, block: bytes, wanted: Wanted) -> tuple[bytes, str | None, int]:
    """The first record, the separator where it is known, and how many bytes stand before the record."""
    skipped = len(block) - len(block.lstrip(b"\r\n"))
    line = _record_at(block, skipped)
    named = excel_separator(line)
    if named is None:
        return line, wanted.separator, skipped
    if wanted.separator not in (None, named):
        raise DataError(f"{path}: its line `sep={named}` contradicts [data] separator; mend one")
    skipped += len(line)
    return _record_at(block, skipped), named, skipped


def _record_at(block: bytes, start: int) -> bytes:
    """The record that begins at `start`: up to the first line feed outside quotes."""
    stop = start
    while True:
        stop = block.find(b"\n", stop) + 1
        if stop == 0:
            return block[start:]
        if block.count(b'"', start, stop) % 2 == 0:
            return block[start:stop]


def _blocks(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """The file in UTF-8, without its byte order mark, in blocks that end where a record does."""
    rest = b""
    for piece in _decoded(path, file):
        rest += piece
        end = last_end(rest)
        if end:
            yield rest[:end]
            rest = rest[end:]
        if len(rest) > _LONGEST:
            size = _LONGEST >> 20
            raise DataError(f"{path}: has a record of more than {size} MiB; look for a quote that is not closed")
    if rest:
        yield rest


def _decoded(path: Path, file: BinaryIO) -> Iterator[bytes]:
    piece = file.read(_BLOCK)
    for start, kind in _NO_TEXT.items():
        if piece.startswith(start):
            raise DataError(f"{path}: is {kind}, whatever its name; save it as CSV in UTF-8, or as .parquet")
    wide = piece.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    decoder = codecs.getincrementaldecoder("utf-16" if wide else "utf-8-sig")()
    try:
        while piece:
            yield decoder.decode(piece).encode()
            piece = file.read(_BLOCK)
        yield decoder.decode(b"", final=True).encode()
    except UnicodeError:
        raise DataError(f"{path}: is not text in UTF-8; save it as CSV in UTF-8, or as .parquet") from None
