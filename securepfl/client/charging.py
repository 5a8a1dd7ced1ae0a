"""Which ledger a run is charged to, found by its records in the hospital's registry, and that it is the same again."""

import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import msgspec

from securepfl.client.agreeing import RECORD, Record
from securepfl.client.contents import Contents
from securepfl.client.identities import KnownAs, identities_of
from securepfl.client.records import TrainingSet
from securepfl.client.round import Session
from securepfl.client.run_kind import Simulation, kind_of, ledger_terms
from securepfl.client.state import ClientState
from securepfl.crypto.keys.signing import LedgerSigner
from securepfl.errors import HospitalNote, LedgerError, StorageError
from securepfl.privacy.ledger.fingerprints import Identities
from securepfl.privacy.ledger.ledger import Ledger
from securepfl.settings.federation import Federation
from securepfl.storage.folder import write_bytes
from securepfl.storage.registry import Charged, Kind, Opener, Registry, ledgers_place

POINTER: Final = "ledger.json"
THROWAWAY: Final = "ledgers"
"""Folder of the registry of a seeded run, whose noise protects nobody, inside the run's."""


class Pointer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a run's folder keeps of its ledger: where it lies, in which registry, and its last line when last used.

    It is the file `ledger.json`: its names and meaning may not change under one schema.
    """

    schema: int = 1
    ledger: str
    registry: str
    data_set: str
    head: str

    @classmethod
    def to(cls, charged: Charged) -> "Pointer":
        """To an open ledger."""
        ledger = charged.ledger
        return cls(
            ledger=str(ledger.path.absolute()),
            registry=charged.registry,
            data_set=charged.data_set,
            head=ledger.head,
        )

    def save(self, folder: Path, *, lasting: bool) -> None:
        """On disk when this returns; `lasting`: see write_bytes. Raises StorageError."""
        data = msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"
        write_bytes(folder / POINTER, data, lasting=lasting)

    @classmethod
    def load(cls, folder: Path) -> "Pointer | None":
        """The one in a run's `folder`, None where there is none yet. Raises StorageError where it is damaged."""
        path = folder / POINTER
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"{path}: cannot be read ({error.strerror}); mend its rights") from None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise StorageError(f"{path}: not a file that securepfl wrote whole; restore it from a copy") from None


@dataclass(frozen=True)
class Rows:
    """The records at hand, by what the registry knows them again, the id of their data set where it is declared, what
    the hospital must know, and what else is asked of withdrawn consent (KnownAs.beside).
    """

    identities: Identities
    declared: str | None
    notes: tuple[str, ...] = ()
    beside: Identities = field(default_factory=dict)


@dataclass(frozen=True)
class Books:
    """A hospital's registry as one run or suggestion uses it; a run has a `folder`."""

    registry: Registry
    kind: Kind
    folder: Path | None = None

    @classmethod
    def of(
        cls,
        place: Path | None,
        name: str,
        simulation: Simulation | None,
        folder: Path | None = None,
        *,
        protects: bool = True,
    ) -> "Books":
        """At `place`, None for the default: the hospital's own, and for a seeded run one inside its folder.

        Without protection a seed changes nothing of what is told of anybody, and experts leave all the same: such a run
        stands in the hospital's own ledger of simulations, seeded or not.
        """
        kind = kind_of(simulation)
        if kind == "seeded" and not protects:
            kind = "simulated"
        default = folder / THROWAWAY if kind == "seeded" and folder is not None else ledgers_place()
        return cls(Registry(place or default, name), kind, folder)

    def rows_of(
        self,
        records: TrainingSet,
        contents: Contents,
        data_set: str | KnownAs | None,
        federation: Federation,
        tested: TrainingSet | None = None,
    ) -> Rows:
        """The training records, and those that released metrics are about (`tested`), with the id of their data set:
        `data_set`, else `[data] id`, else that of a ledger which an earlier version kept beside the data, the registry
        or the run's state: it is taken over here.

        Raises ConfigError where nothing tells the data set, LedgerError, StorageError.
        """
        spec = federation.data_spec
        known_as = KnownAs.of(data_set, None if spec is None else spec.id)
        identities = identities_of(records, contents, known_as, self.registry.site, tested)
        declared = known_as.id
        earlier = [*known_as.earlier, self.registry.folder.parent / f"{self.registry.site}.jsonl"]
        if self.folder is not None:
            earlier.append(self.folder / "ledger.jsonl")
        notes = []
        for old in earlier:
            taken = self.registry.take_in(old, declared, self.kind)
            if taken is not None:
                path, _ = self.registry.ledger_at(taken, self.kind)
                notes.append(f"the ledger {old}, kept by an earlier version, goes on as {path}; the old file stays")
                declared = taken
        return Rows(identities, declared, tuple(notes), known_as.beside)

    def ledger_of(self, rows: Rows) -> tuple[Path, str]:
        """The ledger that `charged` would open, and what its lines call the data set. Raises as Registry.find."""
        found = self.registry.find(rows.identities, rows.declared, self.kind, rows.beside)
        return self.registry.ledger_at(found.id, self.kind)

    def charged(self, rows: Rows, opener: Opener, *, protects: bool = True) -> Charged:
        """The ledger of these records, opened by `opener`; the hospital is warned of what it should know. Raises as
        Registry.open, and LedgerError where a private run is charged for records that trained without protection, in
        simulations of this hospital or under another name. A ledger's own lines say that of itself.
        """
        if protects and self.kind != "seeded":
            self.registry.check_protected(rows.identities, self.kind)
        charged = self.registry.open(rows.identities, rows.declared, self.kind, opener, rows.beside)
        charged = replace(charged, notes=rows.notes + charged.notes)
        for note in charged.notes:
            warnings.warn(f"{self.registry.site}: {note}", HospitalNote, stacklevel=4)
        return charged

    def opened(self, session: Session, rows: Rows, state: ClientState, units: int) -> Charged:
        """The ledger of these records for a run; one that doesn't know what this state's run spent is the wrong one.
        Raises LedgerError, StorageError and what Registry.open raises.
        """
        if self.kind == "seeded":  # its own registry is new, and a rehearsal trains on patients all the same
            Registry(ledgers_place(), session.name).check_consent(rows.identities, rows.declared, rows.beside)
        trained = bool(state.trajectory) or (state.pending is not None and state.pending.trained)
        found = self.registry.find(rows.identities, rows.declared, self.kind, rows.beside)
        self._check_same(session, found.id)

        def opener(path: Path, data_set: str, earlier: frozenset[bytes]) -> Ledger:
            signer = LedgerSigner(session.keyring.identity, self.kind != "real", earlier)
            terms = ledger_terms(session.federation, session.name, data_set, self.kind, units)
            ledger = Ledger.open(path, terms, signer, run=state.run)
            if trained and not ledger.knows_run:
                ledger.close()
                raise LedgerError(f"{path}: does not hold what this run spent; name the ledgers= that it began with")
            return ledger

        charged = self.charged(rows, opener, protects=session.federation.privacy.protects)
        self.remember(charged)
        return charged

    def remember(self, charged: Charged, *, lasting: bool = True) -> None:
        """Note the ledger's last line in the registry and in the run's folder: an older copy shows from now on. Notes
        that are not `lasting` may be the earlier ones after a power cut: they name an earlier line of the same ledger.
        """
        self.registry.remember(charged.data_set, self.kind, charged.ledger, lasting=lasting)
        if self.folder is not None:
            Pointer.to(charged).save(self.folder, lasting=lasting)

    def _check_same(self, session: Session, data_set: str) -> None:
        """Raises LedgerError where the run began with another ledger than `data_set`'s, or that one is older now."""
        if self.folder is None:
            return
        pointer = Pointer.load(self.folder)
        if pointer is not None:
            self._check_pointer(pointer, data_set)
            self.registry.check_heads(data_set, self.kind, [pointer.head], self.folder / POINTER)
        stated = Record.load(self.folder / RECORD, session.digest).heads.get(session.name, [])
        if stated:
            self.registry.check_heads(data_set, self.kind, stated, self.folder / RECORD)

    def _check_pointer(self, pointer: Pointer, data_set: str) -> None:
        name = self.registry.name()
        if name != pointer.registry:
            raise LedgerError(
                f"{self.folder}: this run's ledger is {pointer.ledger}, and {self.registry.folder} is "
                f"{'another registry' if name else 'no registry'}; restore that one from its latest copy, or name the "
                "ledgers= that the run began with"
            )
        if data_set != pointer.data_set:
            raise LedgerError(
                f"{self.folder}: this run is charged to data set {pointer.data_set}, and these records are of data set "
                f"{data_set}; hand in the records that the run began with, or begin a new run in another folder"
            )
