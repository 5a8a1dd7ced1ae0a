"""What a hub's operator sees: log lines of what changed, bytes and seconds, and the status."""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from securepfl.coordinator.coordinator import Coordinator
from securepfl.crypto.messages.envelope import Header, Kind
from securepfl.errors import MessageError, first_line
from securepfl.protocol.loop import RoundLoop, Work
from securepfl.report.status import HubStanding, NamedFor, Refused, Trouble, Visitor
from securepfl.runtime.logs import Log, one_line
from securepfl.runtime.status import now_text

_KEPT: Final = 20
"""Refused replies in the status, the last ones; the log has all."""
STEPS: Final = {
    Kind.INVITATION: "contributions",
    Kind.SURVIVORS: "signatures",
    Kind.UNMASK: "shares",
    Kind.ANSWER: "receipts",
    Kind.OPENING: "openings",
    Kind.EVIDENCE: "verdicts",
    Kind.ENDED: "end",
}
"""What a step waits for, by what it sends."""


def step_name(kind: Kind) -> str:
    """What a step that sends messages of this kind waits for.

    >>> step_name(Kind.ANSWER)
    'receipts'
    """
    return STEPS.get(kind, f"replies to {kind.name.lower()}")


@dataclass
class HubRecord:
    """Of one process: `upload` and `download` are bytes from and to each hospital, `seconds` how long each kind of
    step took in all, `error` the last thing that went wrong.
    """

    hub: Coordinator
    loop: RoundLoop
    log: Log
    now: float
    started: str = field(default_factory=now_text)
    upload: dict[str, int] = field(default_factory=dict)
    download: dict[str, int] = field(default_factory=dict)
    heard: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    refused: deque[Refused] = field(default_factory=lambda: deque(maxlen=_KEPT))
    error: Trouble | None = None
    _step: tuple[int, Kind | None, float] = (0, None, math.inf)
    _since: tuple[float, str] = (0.0, "")
    _closed: int = 0
    _named: int = 0
    _fresh: bool = False

    def __post_init__(self) -> None:
        self.upload |= dict.fromkeys(self.hub.roster, 0)
        self.download |= dict.fromkeys(self.hub.roster, 0)
        self._since, self._closed, self._named = (self.now, self.started), self.hub.closed, len(self.hub.named)

    def here(self, name: str, at: int) -> None:
        """Hospital `name` says that it has applied `at` rounds."""
        if self.loop.at[name] is None:
            self.log.info("here", hospital=name, round=at)
        self.heard[name] = now_text()

    def gone(self, name: str) -> None:
        """Hospital `name` went."""
        if self.loop.at[name] is not None:
            self.log.info("gone", hospital=name)

    def told(self, name: str, work: Work) -> None:
        """Messages go to hospital `name`."""
        self.download[name] += sum(len(message) for _, message in work)

    def came(self, name: str, replies: Iterable[bytes]) -> None:
        """Replies of hospital `name`, none of them looked into yet."""
        self.heard[name] = now_text()
        for reply in replies:
            self.upload[name] += len(reply)
            try:
                header = Header.from_bytes(reply)
            except MessageError:
                continue  # the loop refuses it
            self.log.info("came", hospital=name, round=header.round, kind=header.kind.name, bytes=len(reply))

    def failed(self, name: str) -> None:
        """Hospital `name` replied nothing to what the step asks: it failed there."""
        what = "did not do what it was asked: its own log says why"
        self.log.warning(what, hospital=name, round=self.hub.number)
        self._wrong(f"round {self.hub.number}: {name} {what}", "nothing here; the round goes on without it")

    def stopped(self, error: BaseException) -> None:
        """The hub itself cannot go on."""
        self._wrong(first_line(error), "mend it and start the same command again; nothing is lost")

    def changed(self, now: float) -> bool:
        """Log what is new since the last time; whether an operator should see it at once."""
        news = self._fresh or bool(self.loop.refused or len(self.hub.named) > self._named)
        self._fresh = False
        self._refusals()
        for (number, name), what in list(self.hub.named.items())[self._named :]:
            self.log.warning("named", round=number, hospital=name, error=what)
        self._named = len(self.hub.named)
        step = (self.hub.number, self.loop.kind if self.loop.asked else None, self.loop.ends)
        if step == self._step:
            return news
        self._spent(now)
        self._step = step
        if self.hub.closed > self._closed:
            counted = sorted(self.hub.contributed)
            self.log.info("round over", round=self.hub.closed, in_sum=len(counted), rounds=self.hub.rounds)
            self._closed = self.hub.closed
        if step[1] is not None:
            asked, left = len(self.loop.asked), None if math.isinf(step[2]) else max(0.0, step[2] - now)
            never = [n for n in self.loop.waiting if n not in self.heard and not self.hub.latest(n)] or None
            what = f"asks for {step_name(step[1])}"
            self.log.info(what, round=step[0], asked=asked, deadline_seconds=left, never_seen=never)
        return True

    def _spent(self, now: float) -> None:
        before = self._step[1]
        if before is not None:
            spent = self.seconds.get(step_name(before), 0.0)
            self.seconds[step_name(before)] = spent + now - self._since[0]
        self._since = (now, now_text())

    def _refusals(self) -> None:
        for refusal in self.loop.refused:
            name, reason = refusal.hospital or "", first_line(refusal.reason)
            self.log.warning("refused", round=self.hub.number, hospital=name or None, error=reason)
            self.refused.append(Refused(time=now_text(), hospital=name, error=one_line(reason)))
            self._wrong(
                f"round {self.hub.number}: refused what {name or 'hospitals'} sent: {reason}", "ask its operator"
            )
        for name, kind in self.loop.late:
            self.log.info("came too late, its round is over", hospital=name, kind=kind.name)
        self.loop.refused.clear()
        self.loop.late.clear()

    def _wrong(self, line: str, mend: str) -> None:
        self._fresh = True
        self.error = Trouble(time=now_text(), line=one_line(line), mend=mend)

    def status(self, state: str, now: float) -> HubStanding:
        """Where it stands, without a secret."""
        hub, loop, (number, kind, ends) = self.hub, self.loop, self._step
        open_, endless = kind is not None, kind is None or math.isinf(ends)
        return HubStanding(
            party=hub.identity.name,
            state=state,
            started=self.started,
            updated=now_text(),
            run=hub.rules.run.hex(),
            federation=one_line(hub.federation.name),
            rounds=hub.rounds,
            round=number,
            closed=hub.closed,
            step=None if kind is None else step_name(kind),
            since=self._since[1],
            deadline=None if endless else _later(ends - now),
            needs=hub.least,
            asked=sorted(loop.asked),
            answered=sorted(loop.replied),
            failed=sorted(loop.silent - loop.replied),
            waits_for=list(loop.waiting) if open_ else [],
            hospitals={name: self._hospital(name, loop.at[name]) for name in hub.roster},
            seconds={name: round(value, 3) for name, value in self._seconds(now).items()},
            refused=list(self.refused),
            named=[NamedFor(round=at, hospital=who, what=one_line(what)) for (at, who), what in hub.named.items()],
            excluded={name: one_line(why) for name, why in hub.excluded.items()},
            ended=one_line(hub.ended) or None,
            error=self.error,
        )

    def _hospital(self, name: str, at: int | None) -> Visitor:
        return Visitor(
            here=at is not None,
            round=self.hub.latest(name) if at is None else at,
            heard=self.heard.get(name),
            upload_bytes=self.upload[name],
            download_bytes=self.download[name],
        )

    def _seconds(self, now: float) -> Mapping[str, float]:
        """Of the steps so far, the one at hand included, and of the hub's own work."""
        spent, kind = dict(self.seconds), self._step[1]
        if kind is not None:
            spent[step_name(kind)] = spent.get(step_name(kind), 0.0) + now - self._since[0]
        return spent | {"own work": self.hub.seconds}


def _later(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="seconds")
