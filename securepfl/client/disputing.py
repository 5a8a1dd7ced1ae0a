"""A hospital's side of a disputed round: what it opens, whom it judges, and which further answer it takes.

    refused answer -> [open own masks] -> judge every other contribution -> the round is answered again

A hospital takes a further answer only where its own verdicts, or what the answer leaves out, mend what it refused. So
a coordinator that altered a sum gets nothing by an opening, and no hospital is left out of a sum on its word alone.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from securepfl.client.judging import Judge
from securepfl.client.masks import Masks
from securepfl.client.round import Round
from securepfl.client.state import Pending
from securepfl.errors import MessageError
from securepfl.protocol.messages import Answer, Evidence, Opened, Part, Verdict
from securepfl.protocol.rounds import MOST_ATTEMPTS
from securepfl.protocol.standing import check_evidence, sign_verdict
from securepfl.settings.federation import Federation

_LINE: Final = 300
"""Characters kept of what the coordinator says."""


@dataclass(frozen=True)
class Disputing:
    """What a hospital needs in a dispute."""

    federation: Federation
    masks: Masks
    judge: Judge

    def open_masks(self, round_: Round, pending: Pending | None) -> Opened:
        """The secrets of its masks. Raises MessageError where nothing may be opened: under shared noise, where this
        hospital has not refused the sum, or masked nothing.
        """
        name = round_.session.name
        if self.federation.shares_noise:
            raise MessageError(f"{name}: asked to open its masks under shared noise, where nothing is; refused")
        if pending is None or "update" not in pending.refused:
            raise MessageError(
                f"{name}: asked to open its masks in round {round_.number}, whose sum it did not refuse; refused"
            )
        return Opened(secrets=self.masks.opened(round_, pending))

    def judge_one(self, round_: Round, pending: Pending | None, body: Evidence) -> tuple[Verdict, Pending]:
        """The verdict on one hospital's contribution, and what is kept of it.

        Raises MessageError where this hospital refused nothing, under shared noise, about who is not in the sum that it
        refused or this hospital itself, and for parts that the sender did not sign.
        """
        session, sender = round_.session, body.sender
        if self.federation.shares_noise or pending is None or not pending.refused:
            raise MessageError(f"{session.name}: shown a contribution to a round that it did not refuse; refused")
        if sender not in pending.survivors or sender == session.name or not set(body.parts) <= self._parts:
            raise MessageError(f"{session.name}: shown a contribution that it has nothing to do with; refused")
        if "sketch" in body.parts and not self.judge.comparison.meets(round_, sender):
            raise MessageError(f"{session.name}: shown a sketch of {sender}, which is not in its group; refused")
        if body.salt.hex() not in ("", pending.salt) and pending.salt:
            raise MessageError(f"{session.name}: shown a contribution under another salt; refused")
        check_evidence(session.keyring.hospitals[sender], session.digest, round_.number, body)
        broken = self.judge.broken(round_, body, pending)
        verdict = sign_verdict(session.keyring.identity, session.digest, round_.number, body, broken)
        earlier = pending.judged.get(sender, ())
        judged = pending.judged | {sender: tuple(sorted({*earlier, *broken}))}
        return verdict, msgspec.structs.replace(pending, judged=judged)

    @property
    def _parts(self) -> set[str]:
        return {*self.judge.channels, "sketch"}


def expected_attempts(pending: Pending | None) -> tuple[int, ...]:
    """Of which attempts an answer may be: of the one under way, and where that was refused, of the next."""
    if pending is None:
        return (0,)
    return (pending.attempt, pending.attempt + 1) if pending.refused else (pending.attempt,)


def found(judged: dict[str, tuple[Part, ...]], part: Part) -> frozenset[str]:
    """Those whose part broke the rules."""
    return frozenset(name for name, broken in judged.items() if part in broken)


def why_stop(body: Answer, number: int, attempt: int, name: str, pending: Pending | None) -> str:
    """Why a further answer shows that the coordinator itself is wrong: it holds again what this hospital refused,
    though nobody was found to have broken it. Empty where it does not.
    """
    if pending is None or not pending.refused or attempt == pending.attempt:
        return ""
    for what in _unmended(body, name, pending):
        return (
            f"the {what} of round {number} failed its check, and nobody's contribution was found to break the rules: "
            "what the coordinator made of them is wrong; this run has ended here, settle it with its operator"
        )
    return ""


def check_further(body: Answer, attempt: int, name: str, pending: Pending | None) -> None:
    """Refuse a further answer that is not over those whom this hospital found to be right. Raises MessageError.

    | what it refused | what the next answer must be |
    |---|---|
    | the sum | over all but those whose update this hospital found broken, or itself |
    | a neighbourhood's sum or the average | without one, or without those whose part it found broken |
    | its row of similarities | empty, or without those whose sketch it found broken |
    """
    if pending is None or not pending.refused or attempt == pending.attempt:
        return
    if attempt >= MOST_ATTEMPTS:
        raise MessageError(f"{name}: answered {attempt} times and none held; refused")
    left = set(pending.survivors) - found(pending.judged, "update")
    shown: dict[Part, set[str]] = {"sketch": set(body.products), "personal": set(body.neighbours)}
    wrong = [part for part, names in shown.items() if names & found(pending.judged, part)]
    without_it = left - {name} if "update" in pending.refused else left
    if set(body.survivors) not in (left, without_it) or wrong:
        raise MessageError(f"{name}: answered again over other hospitals than it found to be right; refused")


def _unmended(body: Answer, name: str, pending: Pending) -> Iterator[str]:
    """What was refused and is there again, though nobody was found to have broken it."""
    omitted = name in pending.survivors and name not in body.survivors
    present: dict[Part, tuple[str, bool]] = {
        "update": ("sum", body.aggregate is not None and not omitted),
        "personal": ("sum of personal parts", body.neighbourhood is not None or body.consensus is not None),
        "sketch": ("row of similarities", bool(body.products)),
    }
    for part in pending.refused:
        word, there = present[part]
        if there and not found(pending.judged, part):
            yield word


def averaged(body: Answer, pending: Pending) -> frozenset[str]:
    """Those whose personal components are in the average over all."""
    return frozenset(body.survivors) - found(pending.judged, "personal")


def in_short(named: Mapping[str, str], roster: Collection[str]) -> dict[str, str]:
    """What the coordinator says of hospitals, as it may be kept: a short line each."""
    return {name: printable(line) for name, line in named.items() if name in roster}


def printable(line: str) -> str:
    """The coordinator's words as they may be kept and printed."""
    return "".join(c if c.isprintable() else "?" for c in line[:_LINE])
