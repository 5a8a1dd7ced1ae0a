"""What a ledger says once all that it claims is recomputed: for the auditor, and for whoever asks what is left."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from securepfl.errors import LedgerError
from securepfl.privacy.accounting.accounting import Composition
from securepfl.privacy.accounting.events import AnyRelease, Unit
from securepfl.privacy.ledger.file import read
from securepfl.privacy.ledger.history import History, Verifier, Withdrawn, replay
from securepfl.privacy.ledger.lines import (
    AnyLine,
    Budget,
    DeclaredSession,
    Facts,
    Reservation,
    Session,
    Torn,
    damaged,
    split_lines,
)

__all__ = ["LedgerSummary", "RoundSpend", "SessionStart", "against_heads", "verify_ledger"]


@dataclass(frozen=True)
class RoundSpend:
    """What one round's reservation counts for. epsilon: all that was spent once its last line, at `time`, counted.

    >>> from securepfl.privacy.accounting.events import Release
    >>> step = Release(noise_multiplier=5.0, sample_rate=1.0, steps=1)
    >>> RoundSpend("one", "ab" * 32, 3, 0, False, step, "2026-01-31T09:00:00Z", 1.3).settled  # it counts in full
    False
    """

    run: str
    federation: str
    round: int
    attempt: int
    settled: bool
    release: AnyRelease
    time: str
    epsilon: float


@dataclass(frozen=True)
class SessionStart:
    """When a process opened the ledger, for which run, and what the budget was from then on.

    recovered: the unfinished line that it found and dropped, or None. facts: what its releases rest on; None where it
    was written before sessions said so, or outside any run.
    """

    run: str
    time: str
    budget: Budget
    recovered: Torn | None
    facts: Facts | None


@dataclass(frozen=True)
class LedgerSummary:
    """What a verified ledger says. Spends compose all lines at the last session's delta.

    unit: what epsilon protects; None before the first release. rounds: in the order of their reservations. seen: lines
    up to the last head that others saw: those after it could be cut off unseen. 0 without heads.
    unprotected: when the records trained without protection first; None where they never did, and else the epsilons are
    infinite. settled_below: rounds settled for less than they reserved, on the hospital's word. epsilon_reserved: were
    all counted in full. mixed: as Composition.is_mixed. hashes: of each line, in order. withdrawals: of consent, and
    what each touches. Only verify_ledger makes one:
    there is its example.
    """

    site: str
    data_set: str
    simulation: bool
    seeded: bool
    budget: Budget
    lines: int
    head: str
    public_keys: tuple[bytes, ...]
    releases: tuple[AnyRelease, ...]
    unsettled: int
    epsilon: float
    epsilon_replace_one: float
    unit: Unit | None
    rounds: tuple[RoundSpend, ...]
    sessions: tuple[SessionStart, ...]
    settled_below: int
    epsilon_reserved: float
    mixed: bool
    hashes: tuple[str, ...]
    unprotected: str | None = None
    seen: int = 0
    withdrawals: tuple[Withdrawn, ...] = ()

    @property
    def holds(self) -> tuple[float, float]:
        """The (epsilon, delta) to rely on: what was spent; of a mixture the largest budget, at twice its delta, as one
        that was lowered bounds nothing that was released before.
        """
        if not self.mixed:
            return self.epsilon, self.budget.delta
        budgets = [session.budget for session in self.sessions]
        return max(one.epsilon for one in budgets), 2 * max(one.delta for one in budgets)


def verify_ledger(path: Path, verify: Verifier, heads: Collection[str] = ()) -> LedgerSummary:
    """Recomputes all that the ledger at `path` claims: form, order, times, hash chain, signatures, spends, budgets.

    verify: also decides which public keys to trust; one that accepts any valid signature leaves comparing
    the summary's keys to the caller. heads: hashes of its last line that others saw, the coordinator or hospitals, in
    hex: lines cut off at the end or replaced show only against them.

    | refused | found only with |
    |---|---|
    | any byte changed, a line removed, moved, doubled, added or not whole | |
    | a spend that is not what the lines before come to, or over its budget | |
    | a time before the one above it | |
    | a signature that does not hold; of another key | a `verify` that knows the hospital's key |
    | lines cut off at the end, or a whole other ledger under the same key | `heads` |
    | less released than was settled for | nothing: it is the hospital's word (settled_below counts them) |

    It raises, and returns no verdict. Raises LedgerError naming the file and the line or head, StorageError where it
    cannot be read, TypeError where `verify` returns anything.

    >>> from tempfile import TemporaryDirectory
    >>> from securepfl.crypto.keys.identity import Identity
    >>> from securepfl.crypto.keys.signing import LedgerSigner
    >>> from securepfl.privacy.ledger.ledger import Ledger
    >>> from securepfl.privacy.ledger.terms import Terms
    >>> terms = Terms("north", "biopsies", Budget(4.0, 1e-5), simulation=True, seeded=False)
    >>> with TemporaryDirectory() as folder:
    ...     path, signer = Path(folder, "north.jsonl"), LedgerSigner(Identity.generate("north"), trusting=False)
    ...     Ledger.open(path, terms, signer).close()
    ...     found = verify_ledger(path, signer.verify)
    ...     changed = path.write_bytes(path.read_bytes().replace(b"biopsies", b"biopsier"))
    ...     try:
    ...         verify_ledger(path, signer.verify)
    ...     except LedgerError as error:
    ...         print(str(error).replace(folder, ""))
    /north.jsonl: line 1 has no valid signature; restore the ledger from a copy, never edit it
    >>> (found.site, found.lines, found.epsilon)
    ('north', 1, 0.0)
    """
    data = read(path)
    if not data:
        raise LedgerError(f"{path}: is empty, and no ledger begins so; restore it from a copy")
    lines, torn = split_lines(data)
    if torn or not data.endswith(b"\n"):
        number = max(1, len(lines) + bool(torn))
        raise LedgerError(f"{path}: line {number} is missing or unfinished; the hospital's next run mends that")
    history, hashes, time = History(), [], ""
    for line in replay(str(path), lines, verify, history):
        if line.time < time:
            raise damaged(str(path), line.index + 1, f"is of {line.time}, before the line above it ({time})")
        _check_spend(path, line, history)
        hashes.append(history.head)
        time = line.time
    return against_heads(path, _summary(history, hashes), heads)


def against_heads(path: Path, verified: LedgerSummary, heads: Collection[str]) -> LedgerSummary:
    """The summary of the ledger at `path`, with the last line that others saw. Raises as verify_ledger.

    Heads may be in any order, of any earlier line: `seen` is the number of the last.

    >>> from tempfile import TemporaryDirectory
    >>> from securepfl.crypto.keys.identity import Identity
    >>> from securepfl.crypto.keys.signing import LedgerSigner
    >>> from securepfl.privacy.ledger.ledger import Ledger
    >>> from securepfl.privacy.ledger.terms import Terms
    >>> terms = Terms("north", "biopsies", Budget(4.0, 1e-5), simulation=True, seeded=False)
    >>> with TemporaryDirectory() as folder:
    ...     path, signer = Path(folder, "north.jsonl"), LedgerSigner(Identity.generate("north"), trusting=False)
    ...     Ledger.open(path, terms, signer).close()
    ...     summary = verify_ledger(path, signer.verify)
    >>> against_heads(Path("north.jsonl"), summary, [summary.head]).seen
    1
    >>> against_heads(Path("north.jsonl"), summary, ["0" * 64])
    Traceback (most recent call last):
    securepfl.errors.LedgerError: north.jsonl: was cut off or replaced since others saw head 000...
    """
    lines = {line_hash: number for number, line_hash in enumerate(verified.hashes, start=1)}
    for head in heads:
        if head not in lines:
            raise LedgerError(
                f"{path}: was cut off or replaced since others saw head {head}, which is no line's hash; "
                "restore the ledger from a copy"
            )
    return replace(verified, seen=max((lines[head] for head in heads), default=0))


def _check_spend(path: Path, line: AnyLine, history: History) -> None:
    """`history` ends with `line`."""
    session = history.began
    spent, tolerance = history.noisy(), history.composition.tolerance
    # Another version of the accountant may differ in the last digits, not in what the budget means.
    if not math.isclose(spent, line.epsilon, rel_tol=tolerance, abs_tol=1e-9):
        raise damaged(str(path), line.index + 1, f"states epsilon {line.epsilon!r} where {spent!r} was spent")
    if isinstance(line, Reservation) and spent > session.budget.epsilon * (1 + tolerance):
        raise damaged(str(path), line.index + 1, f"reserves more than its budget of {session.budget.epsilon!r}")


def _summary(history: History, hashes: Sequence[str]) -> LedgerSummary:
    """Of a history with at least one session, and its lines' hashes. Raises ValueError where there is none."""
    last = history.began
    return LedgerSummary(
        site=last.site,
        data_set=last.data_set,
        simulation=last.simulation,
        seeded=any(session.seeded for session in history.sessions),
        budget=last.budget,
        lines=history.lines,
        head=history.head,
        public_keys=tuple(dict.fromkeys(bytes.fromhex(session.public_key) for session in history.sessions)),
        releases=tuple(history.releases()),
        unsettled=len(history.reserved) - len(history.settled),
        epsilon=history.spent(),
        epsilon_replace_one=history.spent(adjacency="replace-one"),
        unit=history.composition.unit,
        rounds=tuple(_round(history, reservation) for reservation in history.reserved.values()),
        sessions=tuple(_start(session) for session in history.sessions),
        settled_below=sum(actual != history.reserved[id_].release for id_, actual in history.settled.items()),
        epsilon_reserved=history.spent(Composition.of(r.release for r in history.reserved.values())),
        mixed=history.composition.is_mixed,
        hashes=tuple(hashes),
        unprotected=history.unprotected[0].time if history.unprotected else None,
        withdrawals=tuple(history.withdrawn),
    )


def _start(session: Session) -> SessionStart:
    facts = session.facts if isinstance(session, DeclaredSession) else None
    return SessionStart(session.run, session.time, session.budget, session.recovered, facts)


def _round(history: History, reservation: Reservation) -> RoundSpend:
    epsilon, time = history.spent_after[reservation.id]
    return RoundSpend(
        run=reservation.run,
        federation=reservation.federation,
        round=reservation.round,
        attempt=reservation.attempt,
        settled=reservation.id in history.settled,
        release=history.settled.get(reservation.id, reservation.release),
        time=time,
        epsilon=epsilon,
    )
