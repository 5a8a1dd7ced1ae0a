"""Which rows of a table train and which test."""

import contextlib
import hashlib
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from securepfl.data.declared_split import Split
from securepfl.data.table import Table
from securepfl.errors import DataError

NOT_COMPLETE = 'no row is complete; mend the file, or set missing = "indicator" in [data]'
"""Why a table is empty: "drop-rows" left none."""


def split_table(table: Table, split: Split) -> tuple[Table, Table]:
    """(train, test) as declared; `test` may be empty. Raises DataError where no row trains.

    A hash reads one patient or row only: with ranks or exact shares, one row's change would move others
    between train and test. "stratified" falls back to a plain shuffle where a class has at most two rows, as
    FLamby's published split does.
    """
    test = _test_of(table, split)
    if not len(table):
        raise DataError(f"{table.site}: {NOT_COMPLETE}")
    if test.all():
        raise DataError(f"{table.site}: all of its {len(table)} row(s) test and none trains; change [data.split]")
    return table.select(~test), table.select(test)


def _test_of(table: Table, split: Split) -> NDArray[np.bool_]:
    if split.method == "column":
        if table.held_out is None:
            raise ValueError(f"site {table.site!r}: a split by column needs rows that were read with it")
        return table.held_out
    return _hash_test(table, split) if split.method == "hash" else _stratified_test(table, split)


def _hash_test(table: Table, split: Split) -> NDArray[np.bool_]:
    salt = f"securepfl split {split.random_state}\0".encode()
    digests = [hashlib.sha256(salt + identity).digest() for identity in _identities(table)]
    leading = np.frombuffer(b"".join(digest[:8] for digest in digests), dtype=">u8")
    test: NDArray[np.bool_] = leading.astype(np.float64) < split.test * 2.0**64
    return test


def _identities(table: Table) -> list[bytes]:
    """What decides a row's side: its patient, or else its own values, so that the order of rows is free."""
    if table.patients is not None:
        return [str(patient).encode() for patient in table.patients]
    if "pixels" in table.known:
        return list(table.known["pixels"])
    values = (table.features + np.float32(0.0)).astype("<f4")
    labels = np.zeros(len(table), np.int64) if table.labels is None else table.labels
    return [row.tobytes() + _label_bytes(label) for row, label in zip(values, labels, strict=True)]


def _label_bytes(label: Any) -> bytes:
    """One byte for 0, 1 and each class up to 255."""
    if label.ndim:
        return bytes(label.tolist())
    if label.dtype.kind == "f":
        return struct.pack("<d", float(label) + 0.0)
    return int(label).to_bytes(1 if label < 256 else 8, "little")


def _stratified_test(table: Table, split: Split) -> NDArray[np.bool_]:
    if table.labels is None:
        raise ValueError(f"site {table.site!r}: a stratified split needs labels")
    counts = np.bincount(table.labels, minlength=2)
    fewest = counts.min() if len(counts) == 2 else counts[counts > 0].min()
    stratify = table.labels if fewest > 2 else None
    options = {"test_size": split.test, "random_state": split.random_state, "stratify": stratify}
    test = np.zeros(len(table), dtype=np.bool_)
    # Too few rows: nothing is held out.
    with contextlib.suppress(ValueError):
        test[train_test_split(np.arange(len(table)), **options)[1]] = True
    return test
