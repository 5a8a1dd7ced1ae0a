"""Rounds among hospitals that come, go and take their time: what each is to be told now, and when to go on.

loop = RoundLoop(coordinator, patience)
loop.next("north") -> [(kind, bytes), ...]      # to be carried to it
loop.took("north", at, replies)                 # what came back
loop.tick(time.monotonic())                     # whenever something came, and from time to time
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from securepfl.crypto.messages.envelope import Header, Kind
from securepfl.errors import LateError, MessageError
from securepfl.protocol.rounds import Hub, Messages, Refusal, Steps, receive, steps

Work = list[tuple[Kind, bytes]]
"""Messages to one hospital, in the order in which it takes them."""


_CATCHING_UP: Final = (Kind.ANSWER, Kind.REJOIN)
_MARK: Final = 512
"""Bytes by which messages are told apart: header and what is random in every sealing."""
_TRIES: Final = 3
"""Ways to catch up that a hospital is offered in a round: its answers, the shared state, and that from another one."""
_DOUBTS: Final = _TRIES - 1
"""Hospitals' snapshots that one hospital's word puts aside in a round, however often it goes and comes back."""
_SPARED: Final = 6
"""A hospital that lets step after step run out of time is not waited for in up to 2 to the power of this rounds."""


@dataclass(frozen=True)
class Patience:
    """How long a step of a round waits for hospitals, in seconds of the coordinator's own clock; and how long, at most,
    for one that is `gone` and not back: enough to start a machine again.

    Raises ValueError for what is no number of 0 or more.
    """

    seconds: float = 3600.0
    away: float = 600.0

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")


class LoopHub(Hub, Protocol):
    """What the loop needs of a coordinator, beside what a round does."""

    @property
    def roster(self) -> tuple[str, ...]:
        """All hospitals, by name."""

    @property
    def invited(self) -> tuple[str, ...]:
        """Those whom nothing excludes."""

    @property
    def number(self) -> int:
        """The round whose messages are taken now; 0 before the first."""

    @property
    def heard(self) -> frozenset[str]:
        """Whose replies to the step at hand were taken."""

    @property
    def contributed(self) -> frozenset[str]:
        """Whose contributions are in the sum of the round whose messages are taken now."""

    @property
    def least(self) -> int:
        """How many contributions a sum needs."""

    def latest(self, name: str) -> int:
        """The last round that a hospital stated to have applied; 0 before any."""

    def can_catch_up(self, name: str, at: int, *, anew: bool) -> bool:
        """Whether `catch_up` has something. Costs little."""

    def may_ask_snapshot(self, name: str) -> bool:
        """Whether `ask_snapshot` has something. Costs little."""

    def catch_up(self, name: str, at: int, *, anew: bool) -> Work:
        """What brings a hospital that has applied `at` rounds to the last one that is over: its answers; or, where
        those are gone or `anew`, the shared state. Empty where that cannot be had, or not yet.
        """

    @property
    def wants_snapshot(self) -> bool:
        """Whether the shared state of the last round that is over is not there."""

    def ask_snapshot(self, name: str) -> Work:
        """What asks a hospital that holds that state for it; nothing where it is there, or nothing is asked of it."""

    def doubt_snapshot(self) -> str:
        """A hospital could not take the shared state: another one is to be asked for it. Who had given it; empty where
        there is none.
        """


@dataclass
class RoundLoop:
    """A run, seen from the coordinator's engine: no threads, no sockets, no sleep. One caller at a time.

    `hub` is the coordinator. `at` is the last round that each hospital said to have applied; None where it is not
    here: it was never heard of, or is `gone`. `refused` are replies that were not taken, `late` names whose came after
    their step was over: an engine reads and empties both. `ahead`: who has applied rounds that this coordinator has not
    closed, a line each.

    - A step of a round waits for those who are here, and for those who took part until they went, until all have
      replied or `patience.seconds` are over. Nobody is asked again for what the coordinator has.
    - Who is here, and lets the time of a step run out, is told on, and not waited for in this round and the next; the
      second time in two more, and so on, doubling, until a round goes by in which it was waited for in vain no more.
    - Who is gone is waited for `patience.away` seconds from then on. The first round waits until its deadline for those
      who never came: nobody knows whether they are on their way.
    - A round is not closed without the contributions that a sum needs while somebody could still send one.
    - Who missed answers is told them first, with what is asked now in the same exchange. Who cannot take them, or for
      whom they are gone, gets the shared state instead, for which one of those who hold it is asked, and another
      where `patience.seconds` went by. Who cannot take that from two others either is left alone until the next round,
      and its word puts aside no more of them.
    - A hospital that failed, and so replied nothing, is asked again once it was `gone`, or in the next step.
    - Who has applied the last answer of the run, and has not stated so, is told it again, once a stay: its receipt got
      lost, in a kill say.
    - Who is `ahead` is told nothing: the coordinator's folder is an old copy. Its word alone stops nobody else's round.
    - After round `until`, where that is given, no further one begins: for an engine that carries one round at a time.

    Raises MessageError from `tick` where the coordinator cannot go on, and from `here` for a name of no hospital.
    """

    hub: LoopHub
    patience: Patience = field(default_factory=Patience)
    until: int | None = None
    at: dict[str, int | None] = field(init=False)
    refused: list[Refusal] = field(default_factory=list)
    late: list[tuple[str, Kind]] = field(default_factory=list)
    asked: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    kind: Kind | None = None
    replied: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)
    ends: float = math.inf
    _given: dict[str, bytes] = field(default_factory=dict)
    _round: Steps | None = None
    _fell_short: dict[str, int] = field(default_factory=dict)
    _furthest: dict[str, int] = field(default_factory=dict)
    _gave_none: set[str] = field(default_factory=set)
    _reminded: set[str] = field(default_factory=set)
    _doubts: dict[str, int] = field(default_factory=dict)
    _giving: tuple[str | None, float] = (None, math.inf)
    _stalls: dict[str, tuple[int, int]] = field(default_factory=dict)
    _away: dict[str, float] = field(default_factory=dict)
    _now: float = -math.inf

    def __post_init__(self) -> None:
        self.at = dict.fromkeys(self.hub.roster)

    @property
    def finished(self) -> bool:
        """Whether all rounds are over and settled, and everybody who is here has applied the last one and stated it."""
        over = self.hub.over and self._round is None and self.hub.settled
        return over and not any(self._helped(name) or self._owes(name) for name in self.at)

    @property
    def between(self) -> bool:
        """Whether no round is under way: none has begun, or the last one is settled."""
        return self._round is None

    @property
    def waiting(self) -> tuple[str, ...]:
        """Whose reply the step at hand still waits for."""
        return tuple(name for name in self.asked if self._awaited(name))

    @property
    def ahead(self) -> Mapping[str, str]:
        """Who has applied rounds that the coordinator has not closed, and what its operator does."""
        closed = self.hub.closed
        return {
            name: f"{name} has applied {at} rounds, and this folder has closed {closed}: an old copy, or {name} "
            "is another run's; stop, and start again from the newest folder, or begin a new run; it was asked nothing"
            for name, at in self.at.items()
            if at is not None and at > closed
        }

    def here(self, name: str, at: int) -> None:
        """Hospital `name` is here, and has applied `at` rounds. Raises MessageError where there is no such hospital."""
        if name not in self.at:
            raise MessageError(f"{name!r} is no hospital of this federation; nothing was told to it")
        self.at[name] = at
        self._away.pop(name, None)
        self._furthest[name] = max(at, self._furthest.get(name, 0))

    def gone(self, name: str) -> None:
        """Hospital `name` is not here any more, or starts anew. What it was told may not have come."""
        self.at[name] = None
        self._away.setdefault(name, math.inf)
        self.silent.discard(name)
        self._reminded.discard(name)
        for known in (self._fell_short, self._furthest):
            known.pop(name, None)

    def has_work(self, name: str) -> bool:
        """Whether `next` has something for hospital `name`. Makes no message."""
        at = self.at[name]
        if at is None or at > self.hub.closed:
            return False
        behind, asked = self._told_answers(name, at), self._open(name) and self.kind is not None
        return behind or (asked and self._fits(at, behind)) or self._asked_snapshot(name) or self._owes(name)

    def next(self, name: str) -> Work:
        """What hospital `name` is to be told now; nothing where that is nothing, or where it has not said yet how many
        rounds it has applied. Asked again, the same again: hospitals take each message once.
        """
        at = self.at[name]
        if at is None or at > self.hub.closed:
            return []
        work: Work = []
        if self._told_answers(name, at):
            work = self.hub.catch_up(name, at, anew=self._fell_short.get(name, 0) > 0)
        if self._open(name) and self.kind is not None:
            message = self.asked[name]
            self._given[name] = message[:_MARK]
            if not self._holds(name, work) and self._fits(at, bool(work)):
                work.append((self.kind, message))
        if self._asked_snapshot(name):
            work += self.hub.ask_snapshot(name)
        if self._owes(name):
            work.append((Kind.ANSWER, self.hub.owed()[name]))
        return work

    def took(self, name: str, at: int, replies: Iterable[bytes], *, told: Work) -> None:
        """What hospital `name` replied to what it was `told`, and how many rounds it has applied now. No reply to what
        the step asks it means that it failed: the step does not wait for it. Of more replies than it was told messages
        the rest is not read.
        """
        kinds, late = {kind for kind, _ in told}, len(self.late)
        for _, reply in zip(told, filter(None, replies), strict=False):
            self._take(name, reply)
        self._note_progress(name, at, kinds)
        if Kind.SNAPSHOT_WANTED in kinds and self.hub.wants_snapshot:
            self._gave_none.add(name)
        if self._open(name) and self._holds(name, told) and len(self.late) == late:
            self.silent.add(name)  # not for a late reply: that was to an earlier step, told before the hub was killed
        if Kind.ANSWER in kinds and self._owes(name):
            self._reminded.add(name)

    def tick(self, now: float) -> bool:
        """Go on as far as can be at the time `now`, in seconds of a clock that never goes back: whether anything moved.
        Raises MessageError.
        """
        moved, self._now = False, now
        self._away = {name: min(since, now) for name, since in self._away.items()}
        self._mind_giver(now)
        while self._ready(now):
            self._step(now)
            moved = True
        return moved

    def _take(self, name: str, reply: bytes) -> None:
        refusal = receive(self.hub, name, reply)
        if refusal is None:
            self.replied |= self.hub.heard & self.asked.keys()
        elif isinstance(refusal.reason, LateError):
            self.late.append((name, Header.from_bytes(reply).kind))
        else:
            self.refused.append(refusal)

    def _holds(self, name: str, work: Work) -> bool:
        """Whether what the step asks a hospital is among these messages."""
        given = self._given.get(name)
        return given is not None and any(message[:_MARK] == given for _, message in work)

    def _note_progress(self, name: str, at: int, kinds: set[Kind]) -> None:
        """Who was told how to catch up has fallen short unless it has applied more than ever before."""
        if any(kind in _CATCHING_UP for kind in kinds) and at <= self._furthest.get(name, -1) and at < self.hub.closed:
            self._fell_short[name] = self._fell_short.get(name, 0) + 1
            if Kind.REJOIN in kinds and self._doubts.get(name, 0) < _DOUBTS:
                self._doubts[name] = self._doubts.get(name, 0) + 1
                self._gave_none.add(self.hub.doubt_snapshot())
        self.here(name, at)

    def _open(self, name: str) -> bool:
        """Whether the step asks a hospital that has neither replied nor failed."""
        return name in self.asked and name not in self.replied and name not in self.silent

    def _behind(self, name: str) -> bool:
        """Whether a hospital is here, misses answers, and has not been offered every way to catch up. Who refused the
        last answer is not, until that is settled.
        """
        at, short = self.at[name], self._fell_short.get(name, 0)
        if at is None or at >= self.hub.closed or short >= _TRIES:
            return False
        return not (short and self._is_last(at))

    def _can_catch_up(self, name: str, at: int) -> bool:
        """Whether it is behind, and what it needs is at hand."""
        return self._behind(name) and self.hub.can_catch_up(name, at, anew=self._fell_short.get(name, 0) > 0)

    def _helped(self, name: str) -> bool:
        """Whether it is behind, and what it needs is at hand or can be had."""
        at = self.at[name]
        return at is not None and (self._can_catch_up(name, at) or (self._behind(name) and self._giver() is not None))

    def _told_answers(self, name: str, at: int) -> bool:
        """Whether it is told now what it missed. Who is short of the last answer alone is told that by its step."""
        return self._can_catch_up(name, at) and (self._open(name) or not self._is_last(at))

    def _asked_snapshot(self, name: str) -> bool:
        return name == self._giver() and self.hub.may_ask_snapshot(name)

    def _owes(self, name: str) -> bool:
        """Whether it has applied the last answer of the run without having stated it, and was not reminded yet."""
        closed = self.hub.closed
        if self._round is not None or self.at[name] != closed or self.hub.latest(name) >= closed:
            return False
        return self.hub.over and name not in self._reminded and name in self.hub.owed()

    def _giver(self) -> str | None:
        """Who is to give the shared state: the first who holds it, where somebody needs it and it is not at hand."""
        if not self.hub.wants_snapshot:
            return None
        least = self.hub.closed - self._is_last(self.hub.closed - 1)  # who lacks the last answer alone is told that
        behind = (name for name, at in self.at.items() if at is not None and at < least)
        needed = any(self._behind(name) and not self._can_catch_up(name, self.at[name] or 0) for name in behind)
        holders = (name for name, at in self.at.items() if at == self.hub.closed and name not in self._gave_none)
        return next(holders, None) if needed else None

    def _mind_giver(self, now: float) -> None:
        """Who is asked for the shared state, and gives none for as long as a step may take, is asked no more."""
        giver, since = self._giver(), self._giving[1]
        if giver is None or giver != self._giving[0]:
            self._giving = giver, now
        elif now >= since + self.patience.seconds:
            self._gave_none.add(giver)

    def _note_stalls(self) -> None:
        """The time of a step is over: who was here and waited for in vain."""
        for name in self.waiting:
            if self.at[name] is not None:
                times = self._stalls.get(name, (0, 0))[0]
                self._stalls[name] = times + 1, self.hub.number + 2 ** min(times, _SPARED)

    def _is_last(self, at: int) -> bool:
        """Whether who has applied `at` rounds is short of the last answer alone, and hospitals are settling that."""
        return self._round is not None and at == self.hub.closed - 1 and self.hub.number == self.hub.closed

    def _fits(self, at: int, helped: bool) -> bool:
        """Whether a hospital that has applied `at` rounds, and is `helped` to catch up first, can take the step's
        message. Who has applied an answer, and whose receipt got lost, is told it again.
        """
        number = self.hub.number
        return at == number - 1 or (at == number and self.kind == Kind.ANSWER) or (helped and at < number)

    def _awaited(self, name: str) -> bool:
        """Whether the step waits for a hospital: it is here and able, or it took part until now."""
        if not self._open(name) or self.hub.number <= self._stalls.get(name, (0, -1))[1]:
            return False
        at = self.at[name]
        if at is None:
            if self._now - self._away.get(name, math.inf) >= self.patience.away:
                return False
            first = self.kind == Kind.INVITATION
            return self.hub.latest(name) >= self.hub.number - 1 if first else name in self.hub.contributed
        return self._fits(at, False) or (at < self.hub.number and self._can_catch_up(name, at))

    def _ready(self, now: float) -> bool:
        if self._round is None and self.until is not None and self.hub.closed >= self.until:
            return False
        if self._round is None:
            return not self.hub.settled if self.hub.over else self._able >= self.hub.least
        if self.kind == Kind.INVITATION and len(self.hub.contributed) < self.hub.least:
            # Whoever failed may come back until the time is over; whoever declined won't.
            return not any(map(self._open, self.asked)) and (now >= self.ends or not self.silent)
        return now >= self.ends or not any(map(self._awaited, self.asked))

    @property
    def _able(self) -> int:
        """How many are here that could contribute to the next round."""
        there = ((name, self.at[name]) for name in self.hub.invited)
        return sum(at is not None and (at == self.hub.closed or self._can_catch_up(n, at)) for n, at in there)

    def _step(self, now: float) -> None:
        if self._round is None:
            self._round = steps(self.hub)
            for known in (self._fell_short, self._gave_none, self._doubts):
                known.clear()
        elif now >= self.ends:
            self._note_stalls()
        try:
            self.asked = next(self._round)
        except StopIteration as over:
            self.refused += over.value
            self._stalls = {name: its for name, its in self._stalls.items() if its[1] >= self.hub.number}
            self._round, self.asked = None, {}
        except BaseException:
            self._round, self.asked = None, {}
            raise
        self.kind, self._given = _kind_of(self.asked), {}
        self.replied, self.silent = set(self.hub.heard & self.asked.keys()), set()
        self.ends = now + self.patience.seconds


def _kind_of(asked: Mapping[str, bytes]) -> Kind | None:
    """What a step asks; None where it asks nobody."""
    if isinstance(asked, Messages):
        return asked.kind if asked else None
    message = next(iter(asked.values()), None)
    return None if message is None else Header.from_bytes(message).kind
