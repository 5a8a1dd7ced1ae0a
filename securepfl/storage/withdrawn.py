"""What a registry keeps of patients who withdrew their consent, so that their records train no more.

ID.withdrawn lies beside a data set's ledger and, like ID.rows, never leaves the hospital. For each withdrawal it holds
the fingerprints of its records and the salt, of which the ledger's line holds a commitment: so that the file is whole
shows against the ledger, and whom a line is about can be shown to whoever may know.
"""

import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from securepfl.errors import LedgerError, StorageError
from securepfl.privacy.ledger.claims import Seen
from securepfl.privacy.ledger.fingerprints import HINTS, Fingerprints
from securepfl.privacy.ledger.lines import commitment_of
from securepfl.storage.folder import write_bytes

SCHEMA: Final = 1
_BYTES: Final = 16


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One withdrawal: `salt` (32 bytes) and `marks`, its records' fingerprints, sorted, 16 bytes each. Persists."""

    salt: bytes
    marks: bytes

    @classmethod
    def of(cls, prints: Fingerprints) -> Self:
        """Of the records of `prints`, under a fresh salt."""
        return cls(salt=secrets.token_bytes(32), marks=prints.together.astype(f"S{_BYTES}").tobytes())

    @property
    def commitment(self) -> str:
        """What the ledger's line says of it."""
        return commitment_of(self.salt, self.marks)

    def __repr__(self) -> str:
        return f"Entry({len(self.marks) // _BYTES} marks)"


class _Stored(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    schema: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class WithdrawnFile:
    """The file at `path`; it need not be there.

    >>> WithdrawnFile(Path("no-such", "north.withdrawn")).entries()
    ()
    """

    path: Path

    def entries(self) -> tuple[Entry, ...]:
        """All entries, none where there is no file. Raises LedgerError for a damaged one, StorageError."""
        try:
            stored = msgspec.json.decode(self.path.read_bytes(), type=_Stored)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise StorageError(f"{self.path}: cannot be read ({error.strerror}); mend its rights") from None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise LedgerError(f"{self.path}: is damaged; restore the registry's folder from its latest copy") from None
        if stored.schema != SCHEMA:
            raise LedgerError(f"{self.path}: schema {stored.schema}, but this securepfl reads {SCHEMA}; upgrade it")
        return stored.entries

    def add(self, entry: Entry) -> None:
        """On disk when this returns, before the ledger has its line. Raises as `entries`, StorageError."""
        stored = _Stored(schema=SCHEMA, entries=(*self.entries(), entry))
        write_bytes(self.path, msgspec.json.encode(stored) + b"\n")

    def marks(self) -> NDArray[np.bytes_]:
        """Of all entries, also of one whose line a crash prevented."""
        return np.frombuffer(b"".join(entry.marks for entry in self.entries()), dtype=f"S{_BYTES}")

    def check_whole(self, ledger: Path, commitments: Collection[str]) -> None:
        """Raises LedgerError where it lacks one of the `commitments` of the `ledger`'s lines."""
        if not set(commitments) <= {entry.commitment for entry in self.entries()}:
            raise LedgerError(
                f"{self.path}: lacks a withdrawal of consent that stands in {ledger}, so who withdrew is not known; "
                "restore the registry's folder from its latest copy"
            )


def found_among(prints: Fingerprints, marks: NDArray[np.bytes_], twins: dict[str, float], *, by_id: bool) -> int:
    """How many of the records, or of the patients, of `prints` withdrew: 0 where no more are known than chance has it.

    twins: as in Seen. by_id: whether ids of patients decide, which they do within one data set alone.

    >>> ann, all_ = (Fingerprints.of(bytes(32), {"features": held}) for held in ([b"ann"], [b"ann", b"bo"]))
    >>> found_among(all_, ann.kinds["features"], {}, by_id=True)
    1
    """
    known = prints.found_in(marks)
    shares = {kind: count / len(prints.kinds[kind]) for kind, count in known.items() if kind not in HINTS}
    same = Seen("", shares, twins).same
    known |= {"spelling": (known["spelling"] + 1) // 2} if "spelling" in known else {}  # two words a patient
    return max((count for kind, count in known.items() if (by_id if kind in HINTS else same)), default=0)


def refusal(site: str, count: int, path: Path) -> LedgerError:
    """For records of whom `count` withdrew, as the ledger at `path` says."""
    return LedgerError(
        f"{site}: {count} of these records or patients withdrew their consent ({path}); leave them out of the data, "
        "and change nothing else: declared units and the spend stay as they are"
    )


def commitments_in(lines: Iterable[bytes]) -> list[str]:
    """Of the withdrawals among a ledger's lines, without any check of the lines.

    >>> commitments_in([b'{"kind":"session"}'])
    []
    """
    held = (msgspec.json.decode(line) for line in lines if b'"kind":"withdrawal"' in line)
    return [str(line["commitment"]) for line in held]
