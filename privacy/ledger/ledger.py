"""A data set's budget ledger: written ahead, hash-chained, signed, composed over all runs on the data.

Before the first noisy step a reservation is on disk; afterwards a settlement says what was released in fact.
Whatever a crash leaves unsettled counts in full. `privacy` knows no encryption, so the ledger is handed the
signer; what the lines hold is in lines.py.
"""

import hashlib
import math
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

import msgspec

from securepfl.errors import BudgetError, LedgerError
from securepfl.privacy.accounting.accounting import Composition
from securepfl.privacy.accounting.events import AnyRelease, Unit
from securepfl.privacy.accounting.versions import ACCOUNTANT, versions
from securepfl.privacy.ledger.file import GrowingFile, read_unheld
from securepfl.privacy.ledger.history import History, replay
from securepfl.privacy.ledger.lines import (
    AnyLine,
    Audit,
    Budget,
    DeclaredSession,
    ExpertRelease,
    Facts,
    Reduction,
    Reservation,
    Session,
    Settlement,
    Torn,
    Unprotected,
    Withdrawal,
    decode_line,
    encode_line,
    reservation_id,
    signed_message,
    split_lines,
)
from securepfl.privacy.ledger.terms import Terms

__all__ = ["Budget", "Facts", "Ledger", "Signer", "Terms"]

_CLOCK_CORRECTION = timedelta(seconds=60)


class Signer(Protocol):
    """Signs lines, and verifies those of earlier sessions, whose keys may differ."""

    @property
    def algorithm(self) -> str:
        """Name that the session line states, e.g. "Ed25519"."""

    @property
    def public_key(self) -> bytes:
        """The key that verifies what `sign` returns."""

    def sign(self, message: bytes) -> bytes:
        """A signature over `message`."""

    def verify(self, algorithm: str, public_key: bytes, message: bytes, signature: bytes) -> None:
        """Raises ValueError where the signature does not hold, is malformed, or the key is not one to trust."""


class Ledger:
    """An open ledger, the file's only writer until it is closed. Use Ledger.open, best in a `with`.

    | guaranteed | unless |
    |---|---|
    | a reservation is on disk before `reserve` returns: nothing is released that is not written | fsync lies |
    | what was spent never exceeds the budget of its session | |
    | an unsettled reservation counts in full, whatever crashed | |
    | a call that raises leaves file and memory as they were | |
    | a round and attempt is reserved once in its run | an older copy takes the file's place (see heads) |
    | two processes never write at once | they ignore flock |
    | earlier lines are verified when it is opened: form, chain, order, signatures | spends and times: verify_ledger |

    >>> from tempfile import TemporaryDirectory
    >>> from securepfl.crypto.keys.identity import Identity
    >>> from securepfl.crypto.keys.signing import LedgerSigner
    >>> from securepfl.privacy.accounting.events import Release
    >>> terms = Terms("north", "biopsies", Budget(4.0, 1e-5), simulation=True, seeded=False)
    >>> step = Release(noise_multiplier=5.0, sample_rate=1.0, steps=1)
    >>> with TemporaryDirectory() as folder:
    ...     signer = LedgerSigner(Identity.generate("north"), trusting=True)
    ...     with Ledger.open(Path(folder, "north.jsonl"), terms, signer) as ledger:
    ...         reserved = ledger.reserve(step, federation="ab" * 32, round=1, attempt=0)
    ...         # here the hospital trains
    ...         ledger.settle(reserved, step)
    ...         round(ledger.spent(), 3)
    0.726
    """

    def __init__(self, path: Path, file: GrowingFile, signer: Signer, history: History) -> None:
        self._path, self._file, self._signer, self._history = path, file, signer, history

    @classmethod
    def open(cls, path: Path, terms: Terms, signer: Signer, *, run: str | None = None) -> Self:
        """Creates the ledger at `path` or continues it, and appends this session's line.

        run: name of the run; a resumed run gives its old one, so that it cannot reserve a round twice; None is a new
        run. A last line torn by a crash is dropped, and a line says so.

        Raises LedgerError where the file is damaged, in use, or about another site, data set or kind of run,
        BudgetError where the budget is looser than the last session's and nobody decided on it, and StorageError
        where it cannot be read or written. The budget may already be spent.
        """
        file, data = GrowingFile.open(path)
        try:
            lines, torn = split_lines(data)
            history, budget = _taken_up(path, lines, terms, signer)
            whole = sum(len(line) + 1 for line in lines)
            file.cut(whole)
            if len(data) < whole:  # whole but for its newline, see split_lines
                file.append(b"\n")
            ledger = cls(path, file, signer, history)
            ledger._append(
                DeclaredSession(
                    **ledger._common_fields(history.composition.adaptive_epsilon(budget.epsilon, budget.delta)),
                    site=terms.site,
                    simulation=terms.simulation,
                    seeded=terms.seeded,
                    run=run or secrets.token_hex(8),
                    data_set=terms.data_set,
                    budget=budget,
                    algorithm=signer.algorithm,
                    public_key=signer.public_key.hex(),
                    recovered=Torn(len(torn), hashlib.sha256(torn).hexdigest()) if torn else None,
                    facts=terms.facts,
                    adjacency="zero-out",
                    accountant=ACCOUNTANT,
                    versions=versions(),
                )
            )
        except BaseException:
            file.close()
            raise
        return ledger

    @classmethod
    def check(cls, path: Path, terms: Terms, signer: Signer, release: AnyRelease) -> None:
        """Raises what `open`, then reserving `release` as round 0, would raise for what the file holds, and writes
        nothing: no line, no new file.

        For what must be known before anything else is tried. Another process may spend in between, and a folder may not
        be writable, so both check again.
        """
        lines, _ = split_lines(read_unheld(path))
        history, budget = _taken_up(path, lines, terms, signer)
        _check_protected(path, terms.site, history)
        spent = _composed(path, history, release).adaptive_epsilon(budget.epsilon, budget.delta)
        _check_spent(path, terms.site, budget, spent, 0)

    @property
    def head(self) -> str:
        """SHA-256 of the last line, in hex: who holds it notices when later lines are cut off or replaced."""
        return self._history.head

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @property
    def lines(self) -> int:
        """How many lines it has."""
        return self._history.lines

    @property
    def public_keys(self) -> frozenset[bytes]:
        """The keys that its sessions' lines are signed with, this one's too."""
        return frozenset(bytes.fromhex(session.public_key) for session in self._history.sessions)

    @property
    def origin(self) -> str:
        """SHA-256 of its first line, in hex: what tells this ledger from others, however long it grows."""
        return self._history.origin

    @property
    def run(self) -> str:
        """Name of this run: hand it to Ledger.open to resume."""
        return self._session.run

    @property
    def budget(self) -> Budget:
        """What this session may spend up to: an older ledger's own epsilon, unless somebody decided otherwise."""
        return self._session.budget

    @property
    def knows_run(self) -> bool:
        """Whether this run has reserved anything here, or trained without protection, in this session or before."""
        reserved = {line.run for line in self._history.reserved.values()}
        return self.run in reserved | {line.run for line in self._history.unprotected}

    @property
    def unit(self) -> Unit | None:
        """What the releases here bound, a record or a patient; None before the first."""
        return self._history.composition.unit

    def releases(self) -> tuple[AnyRelease, ...]:
        """All that counts: settled reservations as settled, unsettled ones in full."""
        return tuple(self._history.releases())

    def spent(self) -> float:
        """Epsilon of all releases composed, zero-out, at this session's delta (Composition.adaptive_epsilon); infinite
        where the records trained unprotected.
        """
        return self._history.spent()

    @property
    def is_unprotected(self) -> bool:
        """Whether the records trained without protection, in this run or an earlier one: then no budget holds."""
        return bool(self._history.unprotected)

    def spent_replace_one(self) -> float:
        """The same under replace-one adjacency."""
        return self._history.spent(adjacency="replace-one")

    def would_exceed(self, release: AnyRelease) -> bool:
        """Whether reserving `release` would be over budget. Inf, where delta is too small to account, exceeds.

        Raises LedgerError for another unit than this ledger's.
        """
        return self.spent_with(release) > self.budget.epsilon

    def spent_with(self, release: AnyRelease) -> float:
        """Epsilon of all releases and of `release` composed, zero-out, at this session's delta; nothing is written.

        Raises LedgerError for another unit than this ledger's.
        """
        return self._history.spent(_composed(self._path, self._history, release))

    def least_budget_for(self, release: AnyRelease) -> float:
        """A budget, rounded up to a thousandth, that just holds all that counts and `release`; inf where none does.

        Raises LedgerError for another unit than this ledger's.
        """
        if self.is_unprotected:
            return math.inf
        both, found = _composed(self._path, self._history, release), 0.0
        needed = both.epsilon(self.budget.delta)
        # How a mixture is composed follows from its budget.
        while found < needed < math.inf:
            found = math.ceil(1000 * needed) / 1000
            needed = both.adaptive_epsilon(found, self.budget.delta)
        return found if math.isfinite(needed) else math.inf

    def serves_other_run(self, federation: str) -> bool:
        """Whether another run than this one has reserved anything here under `federation` (see reserve)."""
        return any(r.run != self.run and r.federation == federation for r in self._history.reserved.values())

    def has_reserved(self, *, federation: str, round: int, attempt: int) -> bool:  # noqa: A002
        """Whether this run has reserved this round and attempt before, settled or not."""
        return reservation_id(self._session.run, federation, round, attempt) in self._history.reserved

    def unsettled(self, *, federation: str, round: int, attempt: int) -> str | None:  # noqa: A002
        """The id of this run's reservation of this round and attempt while it is not settled, else None."""
        id_ = reservation_id(self._session.run, federation, round, attempt)
        return id_ if id_ in self._history.reserved and id_ not in self._history.settled else None

    def reserve(self, release: AnyRelease, *, federation: str, round: int, attempt: int) -> str:  # noqa: A002
        """Writes that `release` is about to happen; the reservation's id. Call it before training.

        federation: what the round's messages are bound to, in hex. Rounds count from 1; 0 is a release outside any
        round, which is a selection. Raises BudgetError where the budget would be
        exceeded; the file is then as it was. Raises LedgerError where this run has reserved this round and attempt
        before: send the stored message again, never fresh noise; and where it counts by another unit than the
        releases before. Raises StorageError where it cannot be written.
        """
        if release.steps < 1:
            raise ValueError(f"steps must be at least 1 to reserve, not {release.steps!r}")
        run, budget = self.run, self.budget
        id_ = reservation_id(run, federation, round, attempt)
        if id_ in self._history.reserved:
            raise LedgerError(
                f"{self._path}: round {round}, attempt {attempt} is already reserved in run {run}: "
                "send the stored message again, or start a new attempt"
            )
        _check_protected(self._path, self._session.site, self._history)
        spent = self.spent_with(release)
        _check_spent(self._path, self._session.site, budget, spent, round)
        self._append(
            Reservation(
                **self._session_fields(spent),
                id=id_,
                run=run,
                federation=federation,
                round=round,
                attempt=attempt,
                release=release,
            )
        )
        return id_

    def unprotect(self, *, federation: str, round: int) -> None:  # noqa: A002
        """Writes that the records are about to train without protection: once a run, before its first step. From then
        on `spent` is infinite, and nothing can be reserved.

        Raises ValueError in a ledger of real runs, StorageError where it cannot be written.
        """
        if any(line.run == self.run for line in self._history.unprotected):
            return
        fields = self._session_fields(self._history.noisy())
        self._append(Unprotected(**fields, run=self.run, federation=federation, round=round))

    def settle(self, id: str, actual: AnyRelease) -> None:  # noqa: A002
        """Writes that reservation `id` released `actual`: all that was reserved.

        Raises ValueError where there is no such open reservation or `actual` is not what it reserved, StorageError
        where it cannot be written.
        """
        self._settle(Settlement(**self._session_fields(0.0), id=id, actual=actual))

    def reduce(self, id: str, actual: AnyRelease, *, reason: str) -> None:  # noqa: A002
        """Writes that reservation `id` released no more than `actual`; from then on it counts as that.

        Only where the hospital knows that the rest never happened: no run does this by itself, and a round that was
        killed or failed stays counted in full. `reason` stands in the ledger, and whoever verifies it is told. Raises
        as `settle`, and ValueError where `actual` is more than was reserved in any field.
        """
        self._settle(Reduction(**self._session_fields(0.0), id=id, actual=actual, reason=reason))

    def withdraw(self, units: int, commitment: str) -> None:
        """Writes that so many units withdrew their consent: see `Withdrawal`. The spend stays what it was.

        Raises ValueError for fewer than one, or a commitment that is none, StorageError where it cannot be written.
        """
        self._append(Withdrawal(**self._session_fields(self._history.noisy()), units=units, commitment=commitment))

    @property
    def withdrawals(self) -> tuple[str, ...]:
        """The commitments of all withdrawals of consent, in order."""
        return tuple(one.commitment for one in self._history.withdrawn)

    def _settle(self, line: Settlement) -> None:
        self._history.check(line)
        spent = self._history.noisy(self._history.composition_after(line))
        self._append(msgspec.structs.replace(line, epsilon=spent))

    def record(self, kind: Literal["expert-release", "audit"], details: Mapping[str, Any]) -> None:
        """Writes that something happened which costs nothing beyond the lines above: a model left the hospital, or
        an attack on models that never left it was tried.

        details: JSON values; an expert's get the name of the run. Raises ValueError for another kind, ValueError or
        TypeError for other values, StorageError where it cannot be written.
        """
        kinds: dict[str, type[ExpertRelease | Audit]] = {"expert-release": ExpertRelease, "audit": Audit}
        if kind not in kinds:
            raise ValueError(f"kind must be one of {tuple(kinds)}, not {kind!r}")
        run = {"run": self.run} if kind == "expert-release" else {}
        self._append(kinds[kind](**self._session_fields(self._history.noisy()), details=dict(details) | run))

    @property
    def _session(self) -> Session:
        return self._history.began

    def _common_fields(self, spent: float) -> dict[str, Any]:
        """Of any next line. The signature is put in by _append."""
        return {
            "schema": 1,
            "index": self._history.lines,
            "previous": self._history.head,
            "time": _time_after(self._path, self._history.time),
            "epsilon": spent,
            "signature": "",
        }

    def _session_fields(self, spent: float) -> dict[str, Any]:
        """Of a next line of this session once which `spent` is spent."""
        session = self._session
        flags = {"site": session.site, "simulation": session.simulation, "seeded": session.seeded}
        return self._common_fields(spent) | flags

    def _append(self, line: AnyLine) -> None:
        """Signs, checks and writes `line`. What could not be read back is never written."""
        signature = self._signer.sign(signed_message(line)).hex()
        data = encode_line(msgspec.structs.replace(line, signature=signature))
        written = decode_line(data)
        self._history.check(written)
        self._file.append(data + b"\n")
        self._history.add(written, data)

    def close(self) -> None:
        """Lets others open the ledger. This one cannot be written any more."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _time_after(path: Path, last: str) -> str:
    """The time now, or that of the `last` line where the clock was set back a little since: times never fall."""
    now = datetime.now(UTC)
    if last and now < (before := datetime.fromisoformat(last)):
        if before - now > _CLOCK_CORRECTION:
            raise LedgerError(
                f"{path}: its last line is of {last}, and this machine's clock says {now:%Y-%m-%dT%H:%M:%SZ}; "
                "set the clock, or wait until it has passed that time"
            )
        return last
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


def _taken_up(path: Path, lines: list[bytes], terms: Terms, signer: Signer) -> tuple[History, Budget]:
    """What the ledger's `lines` hold, and the budget from here on. Raises as Ledger.open."""
    history = History()
    for _ in replay(str(path), lines, signer.verify, history):
        pass
    try:
        return history, terms.taken_up(path, history.session)
    except BudgetError:
        _check_protected(path, terms.site, history)  # nobody who trained without protection declared a budget
        raise


def _composed(path: Path, history: History, release: AnyRelease) -> Composition:
    """What counts once `release` is added. Raises LedgerError for another unit than the ledger's."""
    unit = history.composition.unit
    if unit not in (None, release.unit):
        raise LedgerError(
            f"{path}: counts by {unit}, and this run counts by {release.unit}: what a patient loses "
            f'cannot be told from records, nor the reverse; go on with [privacy] unit = "{unit}" on these rows'
        )
    return history.composition.with_release(release)


def _check_protected(path: Path, site: str, history: History) -> None:
    """Raises BudgetError where the records trained unprotected."""
    if history.unprotected:
        first = history.unprotected[0]
        raise BudgetError(
            f"{site}: these records trained without protection on {first.time} (run {first.run}, {path}): no epsilon "
            'bounds what is known of them any more; take other records, or protection = "none" again, in a simulation'
        )


def _check_spent(path: Path, site: str, budget: Budget, spent: float, round_: int) -> None:
    """Raises BudgetError where `spent`, with the release of `round_` (0: a selection), is over `budget`."""
    if spent > budget.epsilon:
        what = f"round {round_}" if round_ else "a selection"
        raise BudgetError(
            f"{site}: {what} would bring the spend to epsilon {spent:.4g} at delta {budget.delta:g}, over the budget "
            f"of {budget.epsilon:.4g} ({path}); raise the budget or stop here"
        )
