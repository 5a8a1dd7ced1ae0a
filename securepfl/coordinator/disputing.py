"""A round whose answers hospitals refuse: who is asked what, who is found to have broken it, who is answered again.

    answers -> receipts -> [masks opened] -> one contribution after the other judged by all -> answers again -> ...

The coordinator reads nothing here either: hospitals judge, each by itself, and it counts. It carries no key of theirs.

Where hospitals are compared in groups (protocol/groups.py), a sketch is its group's affair: a wrong one spoils the rows
of its group alone, so those of the group refuse them, by most of the group, judge its sketches, and see no others. That
ends no run: a group that refuses its rows and finds nobody guilty goes without them in the round, as a few who refuse
do, and so does one that refuses them after the opening.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from securepfl.coordinator.answering import Answering
from securepfl.coordinator.opening import mask_of, total_of
from securepfl.coordinator.round import OpenRound
from securepfl.crypto.keys.identity import PublicIdentity
from securepfl.errors import LateError, MessageError
from securepfl.protocol.groups import rotates
from securepfl.protocol.messages import (
    Answer,
    Body,
    Contribution,
    Ended,
    Evidence,
    Opened,
    Opening,
    Part,
    Receipt,
    Verdict,
)
from securepfl.protocol.rounds import MOST_ATTEMPTS
from securepfl.protocol.standing import PARTS, check_verdict, digests_of, parts_of

_WORDS: Final[Mapping[Part, str]] = {"update": "update", "personal": "personal part", "sketch": "sketch"}

AWAY: Final = "it was away when a sum failed its check, so that its masks stayed closed"
"""Said of a hospital whose update can't be in the sum, and that may be honest."""

Bodies = Mapping[str, Body]
Steps = Iterator[Bodies]


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """Why a hospital was found guilty: what it signed (`digests`, `stands`), which `broken` parts, and the signed
    verdicts of the others about it. Those of another group of the round were shown no sketch.
    """

    digests: dict[str, bytes]
    stands: bytes
    broken: tuple[Part, ...]
    verdicts: dict[str, Verdict]

    def to_bytes(self) -> bytes:
        """MessagePack."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Case":
        """The inverse of `to_bytes`."""
        return msgspec.msgpack.decode(data, type=cls)


@dataclass
class Dispute:
    """What came back about a closed round's answers, and the steps that follow from it, until `steps` has no more.

    `hospitals` are the public identities, `jurors` those whom the round invited: nobody else's word counts.
    `contributed` gives what a hospital in the sum sent, `evaluation` are the keys for products of its sketch.
    `attempts` counts the answers that each hospital got before the last, `refused` are the parts that it refused of
    that one, `stated` those who took it. `guilty`: why a hospital is left out; `away`: who contributed and was not
    there when masks were opened; `judged`: who has judged whom; `named`: what else is to be said of hospitals;
    `ended`: why the run cannot go on, empty while it can. `last` is the last step.
    """

    round_: OpenRound
    hospitals: Mapping[str, PublicIdentity]
    jurors: frozenset[str]
    contributed: Callable[[str], Contribution | None]
    evaluation: Mapping[str, bytes] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    refused: dict[str, tuple[Part, ...]] = field(default_factory=dict)
    stated: set[str] = field(default_factory=set)
    refusers: set[str] = field(default_factory=set)
    withheld: dict[str, frozenset[Part]] = field(default_factory=dict)
    secrets: dict[str, bytes] = field(default_factory=dict)
    guilty: dict[str, Case] = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict)
    ended: str = ""
    unjudged: bool = False
    opened: bool = False
    away: set[str] = field(default_factory=set)
    judged: dict[str, set[str]] = field(default_factory=dict)
    up_to_date: set[str] = field(default_factory=set)
    shown: Evidence | None = None
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    last: Bodies = field(default_factory=dict)
    answering: Answering = field(init=False)

    def __post_init__(self) -> None:
        self.attempts = dict.fromkeys(self.round_.rules.federation.roster, 0)
        self.answering = Answering(self.round_)
        self._steps = self._settled()

    def step(self) -> Bodies:
        """The messages of the next step by receiver: what is received before the one after it decides what that is.
        None are left in the end: there is one opening, and nobody gets more than MOST_ATTEMPTS answers.
        """
        bodies = next(self._steps, None)
        if bodies is None:
            self._steps = self._settled()
            bodies = next(self._steps, {})
        self.last = bodies
        return bodies

    def take_receipt(self, sender: str, attempt: int, receipt: Receipt) -> None:
        """Which parts of its latest answer a hospital refused. Raises MessageError for another answer's, or none."""
        self._check_in_time(sender, attempt)
        if attempt != self.attempts[sender] or not receipt.refused or len(set(receipt.refused)) < len(receipt.refused):
            raise MessageError(f"{sender}: a receipt for another answer than its last, or one that refuses nothing")
        if sender not in self.stated:
            self.refusers.add(sender)
            self.refused[sender] = receipt.refused

    def _check_in_time(self, sender: str, attempt: int, *, judged: bool = False) -> None:
        """Raises LateError for a reply to an answer before its last, or a verdict on who was `judged` already."""
        if attempt < self.attempts[sender] or judged:
            raise LateError(f"{sender}: its reply to what it was asked before came late; not used")

    def take_statement(self, sender: str) -> None:
        """That a hospital took its answer: what it refused before is settled."""
        self.stated.add(sender)
        self.refused.pop(sender, None)

    def excludes(self, name: str) -> bool:
        """Whether a hospital is not to be invited again: guilty, and of more than of having been away."""
        case = self.guilty.get(name)
        return case is not None and not (name in self.away and case.broken == ("update",))

    @property
    def heard(self) -> set[str]:
        """Those who sent a receipt of either kind."""
        return self.stated | self.refusers

    @property
    def heard_now(self) -> frozenset[str]:
        """Those whose replies to the last step were taken."""
        replied = {name for name, body in self.last.items() if not isinstance(body, Answer)}
        if replied:
            return frozenset(name for name in replied if self.has_replied(name, self.last[name]))
        return frozenset(self.stated | self.refused.keys())

    def take_opened(self, sender: str, attempt: int, body: Opened) -> None:
        """The secrets of a hospital's masks; hospitals judge them. The first counts. Raises MessageError."""
        self._check_in_time(sender, attempt)
        if attempt != self.attempts[sender] or sender not in self.answering.survivors:
            raise MessageError(f"{sender}: opened masks that nobody asked for; refused")
        sent = self.contributed(sender)
        if sent is None or sent.masks is None or len(body.secrets) > len(sent.masks.commitments):
            raise MessageError(f"{sender}: opened more masks than it committed to; refused")  # they go out to all
        self.secrets.setdefault(sender, body.secrets)

    def take_verdict(self, sender: str, attempt: int, verdict: Verdict) -> None:
        """One hospital's verdict about the contribution shown now. The first counts. Raises MessageError."""
        shown = None if self.shown is None else self.shown.sender
        self._check_in_time(sender, attempt, judged=verdict.sender in self.judged.keys() - {shown})
        if self.shown is None or attempt != self.attempts[sender] or sender == self.shown.sender:
            raise MessageError(f"{sender}: a verdict that nobody asked for; refused")
        round_ = self.round_
        seen = self._view(sender, self.shown)
        check_verdict(self.hospitals[sender], round_.rules.session, round_.number, seen, verdict)
        self.verdicts.setdefault(sender, verdict)

    def has_replied(self, name: str, asked: Body) -> bool:
        """Whether the reply of hospital `name` to what it was `asked` last is here."""
        return name in (self.verdicts if isinstance(asked, Evidence) else self.secrets)

    def _settled(self) -> Steps:
        while self.refused and not self.ended:
            concerned = self._refused_by_most()
            parts = tuple(concerned)
            if not parts:
                yield from self._complaints()
            elif self.round_.rules.federation.shares_noise:
                yield self._end(f"{self._failed(parts)}, and under shared noise nothing may be opened")
            elif self.opened:
                yield self._end(f"{self._failed(parts)}, although all that is in it was judged before")
            else:
                self.opened = True
                yield from self._opening(concerned)
                if self.guilty:
                    yield from self._after_opening()
                elif parts == ("sketch",) and self._grouped:
                    yield from self._complaints()
                else:
                    yield self._end(f"{self._failed(parts)}, and {self._nobody}")

    @property
    def _nobody(self) -> str:
        """Why nobody was found guilty."""
        if self.unjudged:
            return "too few of them judged the contributions"
        return "the opening found nobody guilty: what the coordinator made of the contributions was wrong"

    @property
    def _grouped(self) -> bool:
        """Whether a row of similarities, and a sketch, concern a part of the roster only."""
        return rotates(self.round_.rules.federation)

    def _refused_by_most(self) -> dict[Part, frozenset[str]]:
        """The parts that are to be opened, with those whose part it is: of all, or of the groups whose rows fail."""
        federation = self.round_.rules.federation
        everybody = frozenset(federation.roster)
        found = {part: everybody for part in PARTS if self._most_refuse(part, everybody)}
        if self._grouped:
            found.pop("sketch", None)
            groups = () if self.opened else self.round_.groups
            failing = frozenset[str]().union(*(group for group in groups if self._most_refuse("sketch", group)))
            if failing:
                found["sketch"] = failing
        return found

    def _most_refuse(self, part: Part, group: frozenset[str]) -> bool:
        """Whether more than half of those of a group who replied refuse a part, and at least as many as form a sum, or
        most of the group if that is fewer: so that two liars open nobody's update.
        """
        federation, jurors = self.round_.rules.federation, self.jurors & group
        refused = {name for name in self.refused if name in jurors}
        replied = len(refused | self.stated & jurors)
        # Where a sum takes more hospitals than most of a group, no group of theirs could ever open a sketch.
        whole = len(group) == len(federation.roster)
        least = federation.minimum if whole else min(federation.minimum, len(group) // 2 + 1)
        return sum(part in self.refused[name] for name in refused) >= max(least, replied // 2 + 1)

    def _failed(self, parts: Collection[Part]) -> str:
        """What failed, and at how many."""
        count = sum(bool(set(parts) & set(refused)) for refused in self.refused.values())
        words = " and ".join(_WORDS[part] for part in parts)
        return f"round {self.round_.number}: the {words} of the answer failed the check of {count} hospitals"

    def _end(self, reason: str) -> Bodies:
        self.ended = f"{reason}; this run has ended, begin a new one"
        self.refused = {}
        return dict.fromkeys(self.attempts, Ended(reason=self.ended))

    def _complaints(self) -> Steps:
        """Few refuse: who refuses what it alone got is answered again without that. Who comes late and has not been
        answered since the opening is shown whom that found guilty, to judge for itself.
        """
        late = sorted(name for name in self.refused if self.guilty and name not in self.up_to_date)
        for sender, case in self.guilty.items() if late else ():
            yield from self._shown_to(late, self._evidence(sender, case.broken))
        self._put_off()
        mended = {name: self._mended(name) if late else frozenset() for name in self.refused}
        yield from self._again({name: frozenset(parts) - mended[name] for name, parts in self.refused.items()})

    def _mended(self, name: str) -> frozenset[Part]:
        """The parts of hospital `name`'s answer in which somebody was found guilty."""
        cases = self.guilty.items()
        return frozenset(part for sender, case in cases for part in case.broken if self._sees(name, sender, part))

    def _sees(self, name: str, sender: str, part: Part) -> bool:
        """Whether what hospital `name` is answered depends on that part of another's contribution."""
        return part != "sketch" or not self._grouped or sender in self.round_.compared_with(name)

    def _opening(self, parts: Mapping[Part, frozenset[str]]) -> Steps:
        """Every contribution to the round is judged, one at a time, by those who refused: of each the `parts` that
        concern its sender.
        """
        if "update" in parts and self.round_.rules.layouts.masking is not None:
            asked = set(self.answering.survivors) & set(self.refused)
            self.away = set(self.answering.survivors) - self.heard
            yield dict.fromkeys(sorted(asked), Opening())
        for sender in self.answering.survivors:
            shown = self._evidence(sender, [part for part, senders in parts.items() if sender in senders])
            if shown.parts:
                yield from self._shown_to(sorted(self.refused), shown)
                self._find(shown)

    def _shown_to(self, names: Iterable[str], shown: Evidence) -> Steps:
        """One contribution is shown to hospitals, but to its sender, and their verdicts taken."""
        views = {name: self._view(name, shown) for name in names if name != shown.sender}
        asked = {name: view for name, view in views.items() if view.parts}
        if asked:
            self.shown, self.verdicts = shown, {}
            yield asked
            self.judged.setdefault(shown.sender, set()).update(self.verdicts)
            self.shown = None

    def _view(self, name: str, shown: Evidence) -> Evidence:
        """What hospital `name` sees of a contribution that is shown: sketches of its group alone."""
        if "sketch" not in shown.parts or self._sees(name, shown.sender, "sketch"):
            return shown
        parts = {part: data for part, data in shown.parts.items() if part != "sketch"}
        return msgspec.structs.replace(shown, parts=parts, evaluation=None)

    def _put_off(self) -> None:
        """Who refused and has not judged all whom it must, as no verdict came, would take no further answer: it is owed
        the one that it refused, and shown them when it refuses that again.
        """
        for name in list(self.refused):
            if any(
                name != sender
                and name not in self.judged.get(sender, ())
                and any(self._sees(name, sender, part) for part in case.broken)
                for sender, case in self.guilty.items()
            ):
                del self.refused[name]

    def _evidence(self, sender: str, parts: Collection[Part]) -> Evidence:
        body, round_ = self.contributed(sender), self.round_
        if body is None:
            raise ValueError(f"{sender} is in the sum of round {round_.number}, and its contribution is gone")
        sent, commitments = parts_of(body), b"" if body.masks is None else body.masks.commitments
        return Evidence(
            sender=sender,
            salt=round_.salt,
            parts={part: data for part, data in sent.items() if part in parts},
            digests=digests_of(sent, commitments),
            stands=body.stands,
            commitments=commitments,
            secrets=self.secrets.get(sender, b""),
            evaluation=self.evaluation.get(sender) if "sketch" in parts else None,
        )

    def _find(self, shown: Evidence) -> None:
        """Guilty is of whom more than half of those who refused, itself excepted, say that it broke the rules."""
        others = (self.refused.keys() & self.jurors) - {shown.sender}
        views = {name: self._view(name, shown).parts for name in others}
        judges = Counter({part: sum(part in view for view in views.values()) for part in PARTS})
        said = {name: verdict for name, verdict in self.verdicts.items() if views.get(name)}
        votes = Counter(part for verdict in said.values() for part in verdict.broken)
        broken = tuple(part for part in PARTS if 2 * votes[part] > judges[part] or self._closed(shown, part))
        self.unjudged |= 2 * len(said) <= sum(map(bool, views.values()))
        if not broken:
            return
        self.guilty[shown.sender] = Case(digests=shown.digests, stands=shown.stands, broken=broken, verdicts=said)
        most = max(broken, key=lambda part: votes[part])
        self.named[shown.sender] = self._why(shown, broken, votes[most], judges[most])

    def _closed(self, shown: Evidence, part: Part) -> bool:
        """Whether a masked update can't be told, as its masks were not opened or are not those committed to."""
        if part != "update" or part not in shown.parts or not shown.commitments:
            return False
        try:
            mask_of(self.round_, shown.sender, shown.commitments, shown.secrets)
        except MessageError:
            return True
        return False

    def _why(self, shown: Evidence, broken: Collection[Part], votes: int, judges: int) -> str:
        """What a guilty hospital did, in a line."""
        if self._closed(shown, "update"):
            if shown.sender in self.away:
                return AWAY
            return "it did not open the masks that it committed to, when the sum failed its check"
        words = " and ".join(_WORDS[part] for part in broken)
        return f"its {words} broke the rules, as {votes} of {judges} hospitals found by opening it"

    def _after_opening(self) -> Steps:
        """All who refused are answered again: without the broken parts, and without what nobody was found to have
        broken.
        """
        broken = {part: frozenset(n for n, case in self.guilty.items() if part in case.broken) for part in PARTS}
        round_, places = self.round_, self.round_.rules.federation.places
        for name in broken["update"] | broken["sketch"]:
            if round_.similarity is not None:
                round_.similarity.leave_out(places[name])
        total = total_of(round_, self.contributed, self.secrets) if broken["update"] else None
        self.answering = Answering(round_, broken, total, self.answering.formed)
        self._put_off()
        yield from self._again({name: frozenset(parts) - self._mended(name) for name, parts in self.refused.items()})

    def _again(self, without: Mapping[str, frozenset[Part]]) -> Steps:
        """Further answers, without some parts; receipts for them are still to come.

        Who refuses the sum that the others took, or what it did not get, is named, and gets nothing more in this round.
        """
        again: dict[str, Answer] = {}
        for name, parts in without.items():
            withheld = self.withheld.get(name, frozenset())
            if "update" in parts:
                self.named.setdefault(name, "refused the sum that the others took")
            elif withheld & set(self.refused[name]) or self.attempts[name] + 1 >= MOST_ATTEMPTS:
                self.named.setdefault(name, "refused again what it was answered without")
            else:
                self.withheld[name] = withheld | parts | self._own(name)
                self.attempts[name] += 1
                again[name] = self.answering.answer(name, self.withheld[name])
        if self.guilty:
            self.up_to_date |= again.keys()
        self.refused = {}
        if again:
            yield again

    def _own(self, name: str) -> frozenset[Part]:
        """What a guilty hospital broke itself: it sees nobody who did, and would take none of these."""
        case = self.guilty.get(name)
        return frozenset() if case is None else frozenset(case.broken) - {"update"}
