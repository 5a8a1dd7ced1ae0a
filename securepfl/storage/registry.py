"""A hospital's registry: all its ledgers, and by which records each is found again. It never lies inside a run.

PLACE/SITE holds `registry.json` (which data sets there are, and each ledger's last known line), `key` (32 bytes, this
hospital's alone), and for each data set its ledger `ID.jsonl` and `ID.rows`, the keyed fingerprints of its records;
`ID.withdrawn` those of patients who withdrew their consent (withdrawn.py).
What a simulation spends stands in ledgers of its own, `ID.simulated.jsonl`.
"""

import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from securepfl.errors import ConfigError, LedgerError, StorageError
from securepfl.privacy.ledger.claims import Claim, Seen, decide
from securepfl.privacy.ledger.file import read_unheld
from securepfl.privacy.ledger.fingerprints import (
    HINTS,
    Fingerprints,
    Identities,
    decode_fingerprints,
    encode_fingerprints,
)
from securepfl.privacy.ledger.ledger import Ledger
from securepfl.privacy.ledger.lines import Session, decode_line, split_lines
from securepfl.storage.folder import storage_error, write_bytes
from securepfl.storage.withdrawn import Entry, WithdrawnFile, commitments_in, found_among, refusal

SCHEMA: Final = 1
LISTING: Final = "registry.json"
KEY: Final = "key"
PLACE_VARIABLE: Final = "SECUREPFL_LEDGERS"
_WAIT_SECONDS: Final = 60.0
_MOST: Final = 0.5
"""Where another site knows more than this share of the records, it is taken for the same hospital."""

Kind = Literal["real", "simulated", "seeded"]
Opener = Callable[[Path, str, frozenset[bytes]], Ledger]
"""Opens the ledger at a path, about the data set of that name in its lines, whose lines this hospital's keys signed."""
KindOpener = Callable[[Kind, Path, str, frozenset[bytes]], Ledger]
"""The same, of a ledger of that kind."""
_LASTING: Final[tuple[Kind, ...]] = ("real", "simulated")


def ledgers_place() -> Path:
    """Where hospitals' registries lie unless somebody says otherwise: $SECUREPFL_LEDGERS, else
    $XDG_STATE_HOME/securepfl/ledgers, else ~/.local/state/securepfl/ledgers.

    Raises ConfigError where the first is relative: from another folder it would name another registry. The second is
    ignored then, as its specification says.
    """
    if given := os.environ.get(PLACE_VARIABLE):
        place = Path(given).expanduser()
        if not place.is_absolute():
            raise ConfigError(
                f"${PLACE_VARIABLE} is {given!r}: give a full path; a relative one is another place in each folder"
            )
        return place
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (state if state.is_absolute() else Path.home() / ".local" / "state") / "securepfl" / "ledgers"


class DataSet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One data set of a registry and its ledger.

    name: what the ledger's lines call it, which is its id unless it was taken over. origin, head: SHA-256 of the
    ledger's first and last known line, `lines` how many there were. marks: fingerprints in its file, 0 where its
    records are not known. twins: by kind of identity, the share of records that another one equals. `registry.json`
    holds these: under one SCHEMA no field may change.
    """

    id: str
    name: str
    kind: Kind
    origin: str = ""
    head: str = ""
    lines: int = 0
    marks: int = 0
    twins: dict[str, float] = {}

    @property
    def stem(self) -> str:
        """What its files are called, without the suffix."""
        return self.id if self.kind == "real" else f"{self.id}.{self.kind}"


class Listing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """registry.json. `registry` names it, `key` is a hash of its key, by which another is noticed; `signers` are the
    public keys (hexadecimal) that signed its ledgers: a hospital has one for each of its identities.
    """

    schema: int
    site: str
    registry: str
    key: str
    signers: tuple[str, ...] = ()
    data_sets: tuple[DataSet, ...] = ()

    @property
    def keys(self) -> frozenset[bytes]:
        """The public keys that signed ledgers here."""
        return frozenset(map(bytes.fromhex, self.signers))

    def with_data_set(self, one: DataSet, keys: frozenset[bytes] = frozenset()) -> "Listing":
        """With `one` in place of an earlier entry of its id and kind, or added, and with `keys` as signers."""
        others = [other for other in self.data_sets if (other.id, other.kind) != (one.id, one.kind)]
        signers = tuple(sorted(key.hex() for key in self.keys | keys))
        return msgspec.structs.replace(self, data_sets=(*others, one), signers=signers)


@dataclass(frozen=True)
class Charged:
    """An open ledger, the data set that it belongs to, the registry's name, and what the hospital must know of it."""

    ledger: Ledger
    data_set: str
    registry: str
    notes: tuple[str, ...]


class Registry:
    """The registry of the hospital `site` at `place`: `Registry(place, site)` touches no file.

    | guaranteed | unless |
    |---|---|
    | records that a ledger knows are charged to it, under whatever name, path or order, and in part | see claims.py |
    | an older copy in the place of a ledger, of the fingerprints or of the key is refused | all of it is older |
    | a ledger that is listed and missing, or there and not listed, is refused | |
    | no ledger of real runs begins for records most of which another site's here knows | both begin at one moment |
    | a call that raises leaves what was on disk, or the same and records that count as known | |
    | several processes may use it at once | they ignore flock |

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as place:
    ...     Registry(Path(place), "north").find({"features": [b"ann", b"bo"]}, None, "real")
    Claim(id='north', new=True, notes=())
    """

    def __init__(self, place: Path, site: str) -> None:
        self.folder, self.site = place.absolute() / site, site

    def data_sets(self) -> tuple[DataSet, ...]:
        """All data sets, by name; none where there is no registry yet. Raises LedgerError, StorageError."""
        if not self._exists():
            return ()
        with self._locked():
            return tuple(sorted(self._listing().data_sets, key=lambda one: (one.id, one.kind)))

    def name(self) -> str | None:
        """The registry's own name, None where there is none yet. Raises LedgerError, StorageError."""
        if not self._exists():
            return None
        with self._locked():
            return self._listing().registry

    def signers(self) -> frozenset[bytes]:
        """The public keys that signed ledgers here. Raises LedgerError, StorageError."""
        if not self._exists():
            return frozenset()
        with self._locked():
            return self._listing().keys

    def ledger_at(self, id_: str, kind: Kind) -> tuple[Path, str]:
        """Where the ledger of a data set lies, or will lie, and what its lines call the data set."""
        found = next((one for one in self.data_sets() if (one.id, one.kind) == (id_, kind)), None)
        one = found or DataSet(id=id_, name=id_, kind=kind)
        return self._path(one), one.name

    def check_heads(self, id_: str, kind: Kind, heads: Collection[str], where: Path) -> None:
        """Raises LedgerError where the ledger of a data set lacks one of the lines of these hashes, which stand in the
        file `where`: an older copy lies in its place.
        """
        path, _ = self.ledger_at(id_, kind)
        _check_holds(path, heads, f"that {where} knows of")

    def find(self, identities: Identities, declared: str | None, kind: Kind, beside: Identities | None = None) -> Claim:
        """Which ledger `open` would charge. Writes nothing. Raises as `open`."""
        _check_id(self.site, declared)
        if not self._exists():
            return decide(self.site, declared, ())
        with self._locked():
            listing = self._listing()
            prints = Fingerprints.of(self._key(listing), identities)
            claim = self._claim(listing, prints, declared, kind)
            self._check_consent(listing, prints, beside, claim.id)
            return claim

    def open(
        self,
        identities: Identities,
        declared: str | None,
        kind: Kind,
        opener: Opener,
        beside: Identities | None = None,
    ) -> Charged:
        """The open ledger of the records with these `identities`, which count as known from then on.

        declared: the data set's id, None where nobody named it. kind: ledgers of real runs and of simulations are kept
        apart. beside: of what does not train, but holds no patient who withdrew consent either. Raises
        LedgerError where no one ledger can be charged (claims.py) or a file is older than what the
        registry knows, missing or damaged, or some of these records' patients withdrew their consent; ConfigError for
        an id that cannot be a file's name; StorageError; and what `opener` raises.
        """
        _check_id(self.site, declared)
        with self._locked(create=True):
            listing = self._listing(create=True)
            prints = Fingerprints.of(self._key(listing), identities)
            claim = self._claim(listing, prints, declared, kind)
            self._check_consent(listing, prints, beside, claim.id)
            elsewhere = self._notes_of_other_sites(identities) if claim.new and kind == "real" else ()
            held = _entry(listing, claim.id, kind) or _new_entry(listing, claim.id, kind)
            self._check_head(held)
            ledger = opener(self._path(held), held.name, listing.keys)
            try:
                known = np.union1d(self._marks(held), prints.together)
                write_bytes(self._path(held, ".rows"), encode_fingerprints(known))
                self._write(listing.with_data_set(_after(held, ledger, prints, len(known)), ledger.public_keys))
            except BaseException:
                ledger.close()
                raise
        return Charged(ledger, claim.id, listing.registry, claim.notes + elsewhere)

    def check_consent(self, identities: Identities, declared: str | None, beside: Identities | None = None) -> None:
        """Raises LedgerError where some of the records are of patients who withdrew, by a ledger here.

        For a run that is charged elsewhere. Patients' ids count in the data set of the id `declared`, and in those that
        know the records.
        """
        if not self._exists():
            return
        with self._locked():
            listing = self._listing()
            prints = Fingerprints.of(self._key(listing), identities)
            same = [one.id for one in listing.data_sets if one.id == declared or self._seen(one, prints).same]
            self._check_consent(listing, prints, beside, *same)

    def withdraw(
        self, identities: Identities, declared: str | None, units: int, opener: KindOpener
    ) -> tuple[Path, ...]:
        """Write into each ledger that knows some of the records with these `identities` that their `units` withdrew
        their consent: the ledgers. From then on `find` and `open` refuse any of these records.

        Ledgers that have it already are left as they are. Raises LedgerError where no ledger knows the records, or none
        could be told; StorageError; and what `opener` raises.
        """
        _check_id(self.site, declared)
        if not self._exists():
            raise LedgerError(f"{self.folder}: {self.site} has no ledger here; name its place with --ledgers")
        with self._locked():
            listing = self._listing()
            prints = Fingerprints.of(self._key(listing), identities)
            held = self._counting(listing, prints, declared)
            for one in held:
                listing = self._withdrawn(listing, one, prints, units, opener)
        return tuple(map(self._path, held))

    def check_protected(self, identities: Identities, kind: Kind) -> None:
        """Raises LedgerError where another ledger than those of `kind` here, at this place, says that these records
        trained without protection: this hospital's simulations, and what knows most of them under another name.
        """
        if not self.folder.parent.is_dir():
            return
        for registry in (self, *self._other_sites()):
            own = registry.site == self.site
            try:
                seen = registry._unprotected(identities, but=kind if own else None)
            except (LedgerError, StorageError):
                if own:
                    raise
                continue  # theirs to mend
            for path, share in seen:
                if own or share > _MOST:
                    raise LedgerError(
                        f"{self.site}: {share:.0%} of these records trained without protection in a simulation "
                        f'([privacy] protection = "none"; {path}), so no epsilon bounds what is known of them; leave '
                        "these records out"
                    )

    def _unprotected(self, identities: Identities, but: Kind | None) -> list[tuple[Path, float]]:
        """Ledgers, but for those of one kind, by which some of the records trained unprotected, and how many did."""
        if not self._exists():
            return []
        listing = self._listing()
        held = [one for one in listing.data_sets if one.kind != but and _is_unprotected(self._path(one))]
        if not held:
            return []
        prints = Fingerprints.of(self._key(listing), identities)
        seen = [(self._path(one), self._seen(one, prints)) for one in held]
        return [(path, its.share) for path, its in seen if its.same]

    def remember(self, data_set: str, kind: Kind, ledger: Ledger, *, lasting: bool = True) -> None:
        """Note the ledger's last line: an older copy in its place is refused from now on. Where that is not `lasting`,
        a power cut may leave the note of an earlier line (see write_bytes). Raises StorageError.
        """
        with self._locked():
            listing = self._listing()
            held = _entry(listing, data_set, kind)
            if held is None:
                raise LedgerError(f"{self.folder / LISTING}: lists no data set {data_set} any more; {_RESTORE}")
            noted = listing.with_data_set(msgspec.structs.replace(held, head=ledger.head, lines=ledger.lines))
            self._write(noted, lasting=lasting)

    def take_in(self, old: Path, declared: str | None, kind: Kind) -> str | None:
        """Take over a ledger that an earlier version kept at `old`: its data set's id, under which its records must now
        be opened once; None where there is nothing to take over, or it was before.

        The file is copied and stays as it was. Raises LedgerError where it went on after it was taken over, or
        `declared` has a ledger already; StorageError.
        """
        data = read_unheld(old)
        lines = split_lines(data)[0]
        if not lines:
            return None
        session = _last_session(old, lines)
        if _kind_of(session) != kind or session.site != self.site:
            return None
        _check_id(self.site, declared)
        with self._locked(create=True):
            listing = self._listing(create=True)
            hashes = _hashes(lines)
            taken = next((one for one in listing.data_sets if one.origin == hashes[0]), None)
            if taken is not None:
                self._check_not_gone_on(old, hashes, taken)
                return None if self._rows_known(taken) else taken.id
            made = self._entry_for(listing, old, declared or session.data_set, declared is not None, kind)
            made = msgspec.structs.replace(
                made, name=session.data_set, origin=hashes[0], head=hashes[-1], lines=len(lines)
            )
            write_bytes(self._path(made), data)
            self._write(listing.with_data_set(made, _keys_of(lines)))
            return made.id

    # Below: steps within the lock.

    def _counting(self, listing: Listing, prints: Fingerprints, declared: str | None) -> list[DataSet]:
        """The data sets whose ledgers count any of the records: all that know one by more than chance, and that of the
        declared id, where it knows one by chance or by a patient's id. Raises LedgerError where there is none, or
        where that cannot be told.
        """
        lasting = [(one, self._seen(one, prints)) for one in listing.data_sets if one.kind in _LASTING]
        unknown = next((one for one, its in lasting if not its.rows_known), None)
        if unknown is not None:
            raise LedgerError(
                f"{self._path(unknown, '.rows')}: is missing, so which records {unknown.id}'s ledger counts is not "
                "known; restore it from a copy, or open its own records once under its id, and withdraw then"
            )
        held = [one for one, its in lasting if its.same or (one.id == declared and its.known)]
        if not held and declared is None:  # in data of few values the one that a run would be charged to
            by_chance = [one for one, its in lasting if its.alike]
            claims = {self._claim(listing, prints, None, one.kind).id for one in by_chance}
            held = [one for one in by_chance if one.id in claims]
        named = sorted({one.id for one, its in lasting if its.known})
        if not held and named:
            raise LedgerError(
                f"{self.folder}: no ledger knows these records by what they hold, but patients of these ids stand in "
                f"data set {', '.join(named)}; if they are the same people, declare its [data] id and withdraw again"
            )
        if not held:
            raise LedgerError(
                f"{self.folder}: no ledger knows any of these records, so none of them ever trained; leave them "
                "out of the data, and there is nothing else to do"
            )
        return held

    def _withdrawn(
        self, listing: Listing, one: DataSet, prints: Fingerprints, units: int, opener: KindOpener
    ) -> Listing:
        """The listing once the ledger of `one` has the withdrawal; the file of fingerprints has it first."""
        path, file, entry = self._path(one), WithdrawnFile(self._path(one, ".withdrawn")), Entry.of(prints)
        self._check_head(one)
        written = commitments_in(split_lines(_read(path))[0])
        file.check_whole(path, written)
        told = b"".join(its.marks for its in file.entries() if its.commitment in written)
        before = {told[at : at + 16] for at in range(0, len(told), 16)}
        if set(prints.together.tolist()) <= before:
            return listing
        ledger = opener(one.kind, path, one.name, listing.keys)
        try:
            file.add(entry)
            ledger.withdraw(_new_units(prints, before, units), entry.commitment)
            noted = msgspec.structs.replace(one, head=ledger.head, lines=ledger.lines)
            listing = listing.with_data_set(noted, ledger.public_keys)
            self._write(listing)
        finally:
            ledger.close()
        return listing

    def _check_consent(self, listing: Listing, prints: Fingerprints, beside: Identities | None, *ids: str) -> None:
        """Raises LedgerError where some of the records, or of those `beside` them, are of patients who withdrew, by any
        ledger here; patients' ids count within the data sets `ids`, as every study numbers from 1.
        """
        asked = (prints, Fingerprints.of(self._key(listing), beside or {}))
        for one in listing.data_sets:
            path, file = self._path(one), WithdrawnFile(self._path(one, ".withdrawn"))
            file.check_whole(path, commitments_in(split_lines(_read(path))[0]))
            marks, by_id = file.marks(), one.id in ids
            records = sum(found_among(each, marks, _fewer(one, each), by_id=False) for each in asked)
            patients = max(found_among(each, marks, _fewer(one, each), by_id=by_id) for each in asked)
            if count := max(records, patients):  # who trains is among those `beside` too, by name
                raise refusal(self.site, count, path)

    def _claim(self, listing: Listing, prints: Fingerprints, declared: str | None, kind: Kind) -> Claim:
        return decide(self.site, declared, self._all_seen(listing, prints, kind))

    def _all_seen(self, listing: Listing, prints: Fingerprints, kind: Kind) -> list[Seen]:
        return [self._seen(one, prints) for one in listing.data_sets if one.kind == kind]

    def _notes_of_other_sites(self, identities: Identities) -> tuple[str, ...]:
        """Of those whose registry lies beside this one and knows some of the records, above chance. Raises LedgerError
        where it knows most of them: then this is that hospital under another name, and what it spent adds up.

        Read without their locks, which could be held by who waits for ours: files are replaced whole.
        """
        notes = []
        for other in self._other_sites():
            try:
                listing = other._listing()
                prints = Fingerprints.of(other._key(listing), identities)
                same = [one for one in other._all_seen(listing, prints, "real") if one.same]
            except (LedgerError, StorageError):
                continue  # theirs to mend
            for one in same:
                told = f"{one.share:.0%} of these records are known to {other.site}'s ledger of data set {one.id}"
                if one.share > _MOST:
                    raise LedgerError(
                        f"{self.site}: {told}, and a new one would forget what they have spent; take part as "
                        f"{other.site}, or leave these records out"
                    )
                notes.append(f"{told}: for each of them, what both sites spend adds up; keep each patient at one site")
        return tuple(notes)

    def _other_sites(self) -> list["Registry"]:
        place = self.folder.parent
        try:
            names = sorted(path.name for path in place.iterdir() if (path / LISTING).is_file())
        except OSError as error:
            raise StorageError(f"{place}: cannot be read ({error.strerror}); mend its rights") from None
        return [Registry(place, name) for name in names if name != self.site]

    def _seen(self, one: DataSet, prints: Fingerprints) -> Seen:
        known = prints.found_in(self._marks(one))
        shares = {kind: count / len(prints.kinds[kind]) for kind, count in known.items()}
        return Seen(one.id, shares, _fewer(one, prints), rows_known=self._rows_known(one))

    def _rows_known(self, one: DataSet) -> bool:
        """Whether its records were ever seen, and what they are known by is there."""
        return self._path(one, ".rows").exists()

    def _marks(self, one: DataSet) -> NDArray[np.bytes_]:
        """The fingerprints of a data set; none where its file is missing, see claims.py for what follows from that."""
        path = self._path(one, ".rows")
        try:
            marks = decode_fingerprints(path.read_bytes())
        except FileNotFoundError:
            return np.array([], "S16")
        except OSError as error:
            raise StorageError(f"{path}: cannot be read ({error.strerror}); mend its rights") from None
        except ValueError as error:
            raise LedgerError(f"{path}: {error}; {_RESTORE}") from None
        if len(marks) < one.marks:
            raise LedgerError(f"{path}: knows {len(marks)} fingerprints where {one.marks} were; {_RESTORE}")
        return marks

    def _check_head(self, one: DataSet) -> None:
        """Raises LedgerError where the ledger lacks the last line that the registry knows of."""
        if one.lines:
            _check_holds(self._path(one), [one.head], f"{one.lines}, with which it ended when it was last used")

    def _check_not_gone_on(self, old: Path, hashes: list[str], taken: DataSet) -> None:
        ours = _hashes(split_lines(_read(self._path(taken)))[0])
        if hashes[-1] not in ours:
            raise LedgerError(
                f"{old}: went on after it was taken over as {self._path(taken)}, so each lacks what the other tells; "
                "do not use the earlier securepfl beside this one, and move the older of the two files away"
            )

    def _entry_for(self, listing: Listing, old: Path, wanted: str, declared: bool, kind: Kind) -> DataSet:
        """A new entry, of the id `wanted` or, where that is taken and nobody declared it, numbered."""
        taken = {one.id for one in listing.data_sets if one.kind == kind}
        if wanted in taken and declared:
            raise LedgerError(
                f"{old}: would be the ledger of data set {wanted}, which has one, {self.folder / wanted}; if "
                "both count the same records, leave these out, else declare another [data] id"
            )
        id_, number = wanted, 1
        while id_ in taken:
            number += 1
            id_ = f"{wanted}-{number}"
        _check_id(self.site, id_)
        return _new_entry(listing, id_, kind)

    def _path(self, one: DataSet, suffix: str = ".jsonl") -> Path:
        return self.folder / f"{one.stem}{suffix}"

    def _exists(self) -> bool:
        """A kill while the first one was made leaves a key, or half of one, and nothing that it protects."""
        try:
            return self.folder.is_dir() and ((self.folder / LISTING).exists() or bool(self._others()))
        except OSError as error:
            raise StorageError(f"{self.folder}: cannot be read ({error.strerror}); mend its rights") from None

    def _listing(self, *, create: bool = False) -> Listing:
        """registry.json, checked against the files beside it; where there is no file at all, a new one (`create`)."""
        path = self.folder / LISTING
        try:
            listing = msgspec.json.decode(path.read_bytes(), type=Listing)
        except FileNotFoundError:
            if create and not self._others():
                return self._new()
            raise LedgerError(f"{path}: is missing, but ledgers lie beside it; {_RESTORE}") from None
        except OSError as error:
            raise StorageError(f"{path}: cannot be read ({error.strerror}); mend its rights") from None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise LedgerError(f"{path}: is damaged; {_RESTORE}") from None
        if listing.schema != SCHEMA:
            raise LedgerError(f"{path}: schema {listing.schema}, but this securepfl reads {SCHEMA}; upgrade it")
        if listing.site != self.site:
            raise LedgerError(f"{path}: is {listing.site}'s, not {self.site}'s; give each hospital its own folder")
        self._check_listed(listing)
        return self._with_key(listing) if create else listing

    def _with_key(self, listing: Listing) -> Listing:
        """With a new key where somebody took the key away and all that was made with it."""
        made = [*self.folder.glob("*.rows"), *self.folder.glob("*.withdrawn")]
        if (self.folder / KEY).exists() or made:
            return listing
        forgotten = tuple(msgspec.structs.replace(one, marks=0, twins={}) for one in listing.data_sets)
        key = self._new_key()
        listing = msgspec.structs.replace(listing, key=_hash_of_key(key), data_sets=forgotten)
        self._write(listing)
        return listing

    def _others(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if path.suffix in (".jsonl", ".rows")]

    def _check_listed(self, listing: Listing) -> None:
        """Raises LedgerError for a ledger that spent and is not listed: an older registry.json stands there."""
        stems = {one.stem for one in listing.data_sets}
        for path in self.folder.glob("*.jsonl"):
            if path.stem not in stems and (b'"reservation"' in _read(path) or _is_unprotected(path)):
                raise LedgerError(
                    f"{self.folder / LISTING}: does not list {path.name}, so it is older than that ledger; {_RESTORE}"
                )

    def _new(self) -> Listing:
        key = self._new_key()
        listing = Listing(schema=SCHEMA, site=self.site, registry=secrets.token_hex(8), key=_hash_of_key(key))
        self._write(listing)
        return listing

    def _new_key(self) -> bytes:
        key = secrets.token_bytes(32)
        write_bytes(self.folder / KEY, key)
        return key

    def _key(self, listing: Listing) -> bytes:
        path = self.folder / KEY
        try:
            key = path.read_bytes()
        except FileNotFoundError:
            if not [*self.folder.glob("*.rows"), *self.folder.glob("*.withdrawn")]:  # nothing was made with it
                return secrets.token_bytes(32)
            key = b""
        except OSError as error:
            raise StorageError(f"{path}: cannot be read ({error.strerror}); mend its rights") from None
        if len(key) != 32 or _hash_of_key(key) != listing.key:
            without = (
                "; if there is none, remove it and all .rows files: each data set must then be opened under its own id"
            )
            raise LedgerError(
                f"{path}: is missing or another than this registry's, and without it no record is known; {_RESTORE}"
                + ("; who withdrew consent is known by it alone" if any(self.folder.glob("*.withdrawn")) else without)
            )
        return key

    def _write(self, listing: Listing, *, lasting: bool = True) -> None:
        data = msgspec.json.format(msgspec.json.encode(listing), indent=2) + b"\n"
        write_bytes(self.folder / LISTING, data, lasting=lasting)

    @contextmanager
    def _locked(self, *, create: bool = False) -> Iterator[None]:
        """One process at a time, for as long as a claim takes: milliseconds, or seconds for a million records."""
        try:
            if create:
                self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise storage_error(self.folder, error) from None
        try:
            _lock(descriptor, self.folder)
            yield
        finally:
            os.close(descriptor)


_RESTORE: Final = "restore the registry's folder from its latest copy"


def _check_holds(path: Path, heads: Collection[str], which: str) -> None:
    lines = split_lines(_read(path))[0]
    if not set(heads) <= set(_hashes(lines)):
        found = f"has {len(lines)} lines, and lacks the line" if lines else "is missing or empty, and had a line"
        raise LedgerError(
            f"{path}: {found} {which}: an older copy stands there, and what was spent since would be forgotten; "
            "restore the latest one"
        )


def _lock(descriptor: int, folder: Path) -> None:
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StorageError(f"{folder}: in use by another process for a minute; stop it and try again") from None
            time.sleep(0.01)
        except OSError as error:
            raise storage_error(folder, error) from None
        else:
            return


def _fewer(one: DataSet, prints: Fingerprints) -> dict[str, float]:
    """By kind, the smaller share of records with a twin, of the data set's and of those at hand: records that stand
    twice in a file hide nobody.
    """
    return {kind: min(share, one.twins.get(kind, share)) for kind, share in prints.twins.items()}


def _new_units(prints: Fingerprints, before: Collection[bytes], units: int) -> int:
    """How many of `units` no earlier withdrawal was of: by patients' ids where they are what is counted, else by what
    records hold.
    """
    counting = [kind for kind, marks in prints.kinds.items() if len(marks) == units]
    chosen = [kind for kind in counting if kind in HINTS] or counting
    new = [sum(mark not in before for mark in prints.kinds[kind].tolist()) for kind in chosen]
    return max([1, *new]) if new else units


def _entry(listing: Listing, id_: str, kind: Kind) -> DataSet | None:
    return next((one for one in listing.data_sets if (one.id, one.kind) == (id_, kind)), None)


def _new_entry(listing: Listing, id_: str, kind: Kind) -> DataSet:
    """Raises ConfigError for an id whose files another data set has where a disk knows no capitals."""
    made = DataSet(id=id_, name=id_, kind=kind)
    like = next((one.id for one in listing.data_sets if one.stem.casefold() == made.stem.casefold()), None)
    if like is not None:
        raise ConfigError(f"{listing.site}: data set id {id_!r} reads like {like!r}; write one id one way, or another")
    return made


def _after(held: DataSet, ledger: Ledger, prints: Fingerprints, marks: int) -> DataSet:
    """The entry once `ledger` is open and the records of `prints` are known."""
    twins = {kind: min(share, held.twins.get(kind, share)) for kind, share in prints.twins.items()}
    return msgspec.structs.replace(
        held, origin=ledger.origin, head=ledger.head, lines=ledger.lines, marks=marks, twins={**held.twins, **twins}
    )


def _check_id(site: str, id_: str | None) -> None:
    """Raises ConfigError for an id that cannot be a file's name."""
    if id_ is None:
        return
    plain = 0 < len(id_) <= 100 and id_.isprintable() and id_ == id_.strip() and not set(id_) & set('/\\:"')
    if not plain or id_.startswith(".") or id_.endswith((".simulated", ".seeded")):
        raise ConfigError(
            f"{site}: the data set's id {id_!r} cannot be a file's name; give [data] id, or data_set=, of up to 100 "
            "letters, digits, blanks and hyphens"
        )


def _hash_of_key(key: bytes) -> str:
    return hashlib.blake2b(b"securepfl registry", key=key, digest_size=16).hexdigest()


def _hashes(lines: list[bytes]) -> list[str]:
    return [hashlib.sha256(line).hexdigest() for line in lines]


def _read(path: Path) -> bytes:
    """The bytes at `path`, none where there is no file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror}); mend its rights") from None


def _is_unprotected(path: Path) -> bool:
    """Whether the ledger there says that its records trained without protection."""
    return b'"kind":"unprotected"' in _read(path)


def _keys_of(lines: list[bytes]) -> frozenset[bytes]:
    found = map(decode_line, lines)
    return frozenset(bytes.fromhex(line.public_key) for line in found if isinstance(line, Session))


def _last_session(path: Path, lines: list[bytes]) -> Session:
    found = None
    for number, data in enumerate(lines, start=1):
        try:
            line = decode_line(data)
        except ValueError as error:
            raise LedgerError(f"{path}: line {number} {error}; restore the ledger from a copy, never edit it") from None
        found = line if isinstance(line, Session) else found
    if found is None:
        raise LedgerError(f"{path}: begins with no session, as every ledger does; restore it from a copy")
    return found


def _kind_of(session: Session) -> Kind:
    if session.seeded:
        return "seeded"
    return "simulated" if session.simulation else "real"
