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
from securepfl.errors import MessageError
from securepfl.protocol.rounds import Hub, Messages, Refusal, Steps, receive, steps

Work = list[tuple[Kind, bytes]]
"""Messages to one hospital, in the order in which it takes them."""


_CATCHING_UP: Final = (Kind.ANSWER,)
_MARK: Final = 512
"""Bytes by which messages are told apart: header and what is random in every sealing."""
_TRIES: Final = 2
"""Ways to catch up that a hospital is offered: its answers, and the shared state."""


@dataclass(frozen=True)
class Patience:
    """How long a step of a round waits for hospitals, in seconds of the coordinator's own clock.

    Raises ValueError for what is no positive number.
    """

    seconds: float = 3600.0

    def __post_init__(self) -> None:
        if not self.seconds >= 0 or math.isnan(self.seconds):
            raise ValueError(f"seconds must be 0 or more, not {self.seconds}")


class LoopHub(Hub, Protocol):
    """What the loop needs of a coordinator, beside what a round does."""

    @property
    def roster(self) -> tuple[str, ...]:
        """All hospitals, by name."""

    @property
    def rounds(self) -> int:
        """How many rounds the run has."""

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

    @property
    def ended(self) -> str:
        """Why the run cannot go on; empty while it can."""

    def latest(self, name: str) -> int:
        """The last round that a hospital stated to have applied; 0 before any."""

    def catch_up(self, name: str, at: int, *, anew: bool) -> Work:
        """What brings a hospital that has applied `at` rounds to the last one that is over: its answers; or, where
        those are gone or `anew`, the shared state. Empty where that cannot be had, or not yet.
        """


@dataclass
class RoundLoop:
    """A run, seen from the coordinator's engine: no threads, no sockets, no sleep. One caller at a time.

    `hub` is the coordinator. `at` is the last round that each hospital said to have applied; None where it is not
    here: it was never heard of, or is `gone`. `refused` are replies that were not taken, `late` names whose came after
    their round was over: an engine reads and empties both.

    - A step of a round waits for those who are here, and for those who took part until they went, until all have
      replied or `patience.seconds` are over. Nobody is asked again for what the coordinator has.
    - A round is not closed without the contributions that a sum needs while somebody could still send one.
    - Who missed answers is told them first, with what is asked now in the same exchange. Who cannot take them gets the
      shared state instead, and who cannot take that either is left alone.
    - A hospital that failed, and so replied nothing, is asked again once it was `gone`.

    Raises MessageError from `tick` where the coordinator cannot go on.
    """

    hub: LoopHub
    patience: Patience = field(default_factory=Patience)
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

    def __post_init__(self) -> None:
        self.at = dict.fromkeys(self.hub.roster)

    @property
    def finished(self) -> bool:
        """Whether all rounds are over and settled, and everybody who is here has applied the last one."""
        behind = any(at is not None and at < self.hub.closed and self._can_catch_up(n) for n, at in self.at.items())
        return self._over and self._round is None and not behind

    @property
    def waiting(self) -> tuple[str, ...]:
        """Whose reply the step at hand still waits for."""
        return tuple(name for name in self.asked if self._awaited(name))

    def here(self, name: str, at: int) -> None:
        """Hospital `name` is here, and has applied `at` rounds."""
        self.at[name] = at

    def gone(self, name: str) -> None:
        """Hospital `name` is not here any more, or starts anew. What it was told may not have come."""
        self.at[name] = None
        self.silent.discard(name)
        self._fell_short.pop(name, None)

    def next(self, name: str) -> Work:
        """What hospital `name` is to be told now; nothing where that is nothing, or where it has not said yet how many
        rounds it has applied. Asked again, the same again: hospitals take each message once.
        """
        at = self.at[name]
        if at is None:
            return []
        message = self.asked.get(name) if self._open(name) else None
        work: Work = []
        if at < self.hub.closed and self._can_catch_up(name) and not (message is None and self._refused_last(name, at)):
            work = self.hub.catch_up(name, at, anew=self._fell_short.get(name, 0) > 0)
        if message is not None and self.kind is not None:
            self._given[name] = message[:_MARK]
            if not self._holds(name, work) and self._fits(at, work):
                work.append((self.kind, message))
        return work

    def took(self, name: str, at: int, replies: Iterable[bytes], *, told: Work) -> None:
        """What hospital `name` replied to what it was `told`, and how many rounds it has applied now. No reply to what
        the step asks it means that it failed: the step does not wait for it.
        """
        before, self.at[name] = self.at[name], at
        for reply in replies:
            if reply:
                self._take(name, reply)
        if at == before and any(kind in _CATCHING_UP for kind, _ in told):
            self._fell_short[name] = self._fell_short.get(name, 0) + 1
        if self._open(name) and self._holds(name, told):
            self.silent.add(name)

    def tick(self, now: float) -> bool:
        """Go on as far as can be at the time `now`, in seconds of a clock that never goes back: whether anything moved.
        Raises MessageError.
        """
        moved = False
        while self._ready(now):
            self._step(now)
            moved = True
        return moved

    def _take(self, name: str, reply: bytes) -> None:
        try:
            header = Header.from_bytes(reply)
        except MessageError as reason:
            self.hub.refuse(name, reason)
            self.refused.append(Refusal(name, reason))
            return
        if header.round < self.hub.number:
            self.late.append((name, header.kind))
        elif refusal := receive(self.hub, name, reply):
            self.refused.append(refusal)
        else:
            self.replied |= self.hub.heard & self.asked.keys()

    def _holds(self, name: str, work: Work) -> bool:
        """Whether what the step asks a hospital is among these messages."""
        given = self._given.get(name)
        return given is not None and any(message[:_MARK] == given for _, message in work)

    @property
    def _over(self) -> bool:
        return bool(self.hub.ended) or self.hub.closed >= self.hub.rounds

    def _open(self, name: str) -> bool:
        """Whether the step asks a hospital that has neither replied nor failed."""
        return name in self.asked and name not in self.replied and name not in self.silent

    def _can_catch_up(self, name: str) -> bool:
        return self._fell_short.get(name, 0) < _TRIES

    def _refused_last(self, name: str, at: int) -> bool:
        """Whether a hospital is short of the last answer alone, which it has replied to: that is being settled."""
        return self._round is not None and at == self.hub.closed - 1 and self.hub.number == self.hub.closed

    def _fits(self, at: int, work: Work) -> bool:
        """Whether a hospital that has applied `at` rounds, and is told `work` first, can take the step's message."""
        return at == self.hub.number - 1 or (bool(work) and at < self.hub.number)

    def _awaited(self, name: str) -> bool:
        """Whether the step waits for a hospital: it is here and able, or it took part until now."""
        if not self._open(name):
            return False
        at = self.at[name]
        if at is None:
            first = self.kind == Kind.INVITATION
            return self.hub.latest(name) >= self.hub.number - 1 if first else name in self.hub.contributed
        return at == self.hub.number - 1 or (at < self.hub.number and self._can_catch_up(name))

    def _ready(self, now: float) -> bool:
        if self._round is None:
            return not self._over and sum(at is not None for at in self.at.values()) >= self.hub.least
        if self.kind == Kind.INVITATION and len(self.hub.contributed) < self.hub.least:
            return now >= self.ends and not any(map(self._open, self.asked))
        return now >= self.ends or not any(map(self._awaited, self.asked))

    def _step(self, now: float) -> None:
        if self._round is None:
            self._round = steps(self.hub)
        try:
            self.asked = next(self._round)
        except StopIteration as over:
            self.refused += over.value
            self._round, self.asked = None, {}
        self.kind, self._given = _kind_of(self.asked), {}
        self.replied, self.silent = set(self.hub.heard & self.asked.keys()), set()
        self.ends = now + self.patience.seconds


def _kind_of(asked: Mapping[str, bytes]) -> Kind | None:
    """What a step asks; None where it asks nobody."""
    if isinstance(asked, Messages):
        return asked.kind if asked else None
    message = next(iter(asked.values()), None)
    return None if message is None else Header.from_bytes(message).kind
