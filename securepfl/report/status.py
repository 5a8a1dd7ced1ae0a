"""Where a party's run stands: what DIR/status.json holds, and how it reads on a terminal. Never a secret."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from securepfl.report.epsilon import budget_text, epsilon_text

_MOST_ROWS: Final = 40
_MOST_NAMES: Final = 12
_LAST: Final = 5
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """The last thing that went wrong, when, and what mends it (empty where the line says that)."""

    time: str
    line: str
    mend: str = ""


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A reply that the hub did not take. `hospital` is empty where it is nobody's alone."""

    time: str
    hospital: str
    error: str


class NamedFor(msgspec.Struct, frozen=True, kw_only=True):
    """What a hospital did wrong in a round."""

    round: int
    hospital: str
    what: str


class Visitor(msgspec.Struct, frozen=True, kw_only=True):
    """A hospital as the hub sees it: whether it is here, the last round that it has applied, when it was last heard of
    (None: never by this process), and the bytes that came from it and went to it in this process.
    """

    here: bool
    round: int
    heard: str | None
    upload_bytes: int
    download_bytes: int


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What both sides tell. `state` is "running", "finished", "stopped" or "failed", as the process wrote it last; one
    that is gone and wrote "running" was "killed". Times are ISO 8601. `seconds` are by phase, in this process.
    """

    party: str
    state: str
    started: str
    updated: str
    run: str
    federation: str
    rounds: int
    round: int
    seconds: dict[str, float]
    ended: str | None = None
    error: Trouble | None = None
    schema: int = 1


class HubStanding(Standing, frozen=True, kw_only=True, tag_field="role", tag="hub"):
    """The hub's. `round` is the one whose messages are taken now, `closed` the last that is over, `step` what it waits
    for since `since`, until `deadline` (None: no step is open); `needs` is how many contributions a sum needs.
    """

    closed: int
    step: str | None
    since: str
    deadline: str | None
    needs: int
    asked: list[str]
    answered: list[str]
    failed: list[str]
    waits_for: list[str]
    hospitals: dict[str, Visitor]
    refused: list[Refused]
    named: list[NamedFor]
    excluded: dict[str, str]


class HospitalStanding(Standing, frozen=True, kw_only=True, tag_field="role", tag="hospital"):
    """A hospital's own. `heard` is when the hub last told it something; `evidence` are files. `epsilon` is None where
    no epsilon holds.
    """

    heard: str | None
    epsilon: float | None
    epsilon_left: float
    budget: float
    delta: float
    sat_out: list[int]
    upload_bytes: int
    download_bytes: int
    named: dict[str, str]
    evidence: list[str]


AnyStanding = HubStanding | HospitalStanding


def ago(text: str | None, now: datetime) -> str:
    """How long ago a time was.

    >>> ago("2026-01-01T00:00:00+00:00", datetime.fromisoformat("2026-01-01T00:02:03+00:00"))
    '2 min ago'
    """
    return "never" if text is None else f"{lasting((now - datetime.fromisoformat(text)).total_seconds())} ago"


def lasting(seconds: float) -> str:
    """A duration in its largest unit or two.

    >>> [lasting(seconds) for seconds in (3.2, 185, 3600 * 5 + 120, 86400 * 3)]
    ['3 s', '3 min', '5 h 2 min', '3 d']
    """
    seconds = max(0, round(seconds))
    if seconds < 2 * _MINUTE:
        return f"{seconds} s"
    if seconds < 2 * _HOUR:
        return f"{seconds // _MINUTE} min"
    if seconds < 2 * _DAY:
        return f"{seconds // _HOUR} h {seconds % _HOUR // _MINUTE} min"
    return f"{seconds // _DAY} d"


def seconds_left(standing: AnyStanding, now: datetime) -> float | None:
    """Until the deadline of the hub's step; None where there is none."""
    if not isinstance(standing, HubStanding) or standing.deadline is None or standing.state != "running":
        return None
    return max(0.0, (datetime.fromisoformat(standing.deadline) - now).total_seconds())


def print_standing(console: Console, standing: AnyStanding, now: datetime) -> None:
    """Print where it stands. `standing.state` is what is true now."""
    lines = _hub(standing, now) if isinstance(standing, HubStanding) else _hospital(standing, now)
    for line in (*_head(standing, now), *lines):
        console.print(line)
    if isinstance(standing, HubStanding):
        console.print(_visitors(standing, now))
    for line in _tail(standing, now):
        console.print(line)


def _head(its: AnyStanding, now: datetime) -> Iterator[Text]:
    role = "hub" if isinstance(its, HubStanding) else "hospital"
    colour = {"running": "green", "finished": "green", "stopped": "yellow"}.get(its.state, "red")
    name = its.party if its.party == role else f"{role} {its.party}"
    run = f", run {its.run[:8]}" if its.run else ""
    yield Text.assemble(f"{name} of {its.federation!r}{run}: ", (its.state, colour), f" ({ago(its.updated, now)})")
    if its.ended:
        yield Text(f"the run ended early: {its.ended}", "red")
    if its.state in ("killed", "stopped"):
        yield Text("nothing is lost: the same command goes on", "yellow")


def _hub(its: HubStanding, now: datetime) -> Iterator[Text]:
    yield Text(f"{its.closed} of {its.rounds} rounds are over{_step(its, now)}")
    if its.state == "running" and its.step is not None:
        yield Text(f"answered: {len(its.answered)} of {len(its.asked)}; waits for: {_names(_waited(its))}")
        if its.failed:
            yield Text(f"failed at the hospital, its own log says why: {_names(its.failed)}", "yellow")
    elif its.state == "running" and its.closed < its.rounds and not its.ended:
        here = sum(visitor.here for visitor in its.hospitals.values())
        yield Text(f"waits for hospitals: {here} of {len(its.hospitals)} are here, a round needs {its.needs}")


def _waited(its: HubStanding) -> Iterator[str]:
    """Whom it waits for, and which of them are not here."""
    for name in its.waits_for:
        visitor = its.hospitals[name]
        never = visitor.heard is None and not visitor.round
        yield name if visitor.here else f"{name} ({'never seen' if never else 'away'})"


def _step(its: HubStanding, now: datetime) -> str:
    if its.step is None or its.state != "running":
        return ""
    left = seconds_left(its, now)
    until = "" if left is None else f", {lasting(left)} left" if left > 0 else ", its deadline has passed"
    return f"; round {its.round} takes {its.step} since {ago(its.since, now).removesuffix(' ago')}{until}"


def _visitors(its: HubStanding, now: datetime) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading, side in (("hospital", "left"), ("", "left"), ("applied", "right"), ("heard of", "right")):
        table.add_column(heading, justify="right" if side == "right" else "left")
    for heading in ("bytes from", "bytes to"):
        table.add_column(heading, justify="right")
    waited = [name for name in its.hospitals if name in its.waits_for]
    names = [*waited, *(name for name in its.hospitals if name not in its.waits_for)]
    for name in names[:_MOST_ROWS]:
        visitor = its.hospitals[name]
        table.add_row(
            name,
            _mark(its, name, visitor),
            str(visitor.round),
            ago(visitor.heard, now),
            f"{visitor.upload_bytes:,}",
            f"{visitor.download_bytes:,}",
        )
    if len(names) > _MOST_ROWS:
        table.caption = f"and {len(names) - _MOST_ROWS} more: --json has all"
        table.caption_justify = "left"
    return table


def _mark(its: HubStanding, name: str, visitor: Visitor) -> Text:
    running = its.state == "running"
    for there, word, colour in (
        (name in its.excluded, "excluded", "red"),
        (running and name in its.failed, "failed", "red"),
        (running and name in its.waits_for, "waited for", "yellow"),
        (running and name in its.answered, "answered", "green"),
        (running and not visitor.here, "away", "yellow"),
    ):
        if there:
            return Text(word, colour)
    return Text("")


def _hospital(its: HospitalStanding, now: datetime) -> Iterator[Text]:
    heard = "" if its.heard is None else f"; the hub told it something {ago(its.heard, now)}"
    yield Text(f"has applied {its.round} of {its.rounds} rounds{heard}")
    spent = epsilon_text(its.epsilon)
    yield Text(f"epsilon: {spent} spent, {its.epsilon_left:.3f} left of {its.budget:g} (delta {its.delta:g})")
    yield Text(f"bytes: {its.upload_bytes:,} to the hub, {its.download_bytes:,} from it, since it was started")
    if its.sat_out:
        yield Text(f"sat out {len(its.sat_out)} round(s): {_names(map(str, its.sat_out))}", "yellow")


def _tail(its: AnyStanding, now: datetime) -> Iterator[Text]:
    if its.seconds:
        yield Text("seconds: " + ", ".join(f"{name} {value:,.1f}" for name, value in its.seconds.items()))
    yield from _accused(its, now)
    if its.error is not None:
        yield Text(f"last error, {ago(its.error.time, now)}: {its.error.line}", "red")
        if its.error.mend:
            yield Text(f"what to do: {its.error.mend}", "red")


def _accused(its: AnyStanding, now: datetime) -> Iterator[Text]:
    if isinstance(its, HubStanding):
        said = [one.what for one in its.named]
        unsaid = [one for one in its.refused if not any(one.error in what for what in said)]
        yield from (Text(f"refused, {ago(one.time, now)}: {one.hospital}: {one.error}") for one in unsaid[-_LAST:])
        yield from (Text(f"named in round {one.round}: {one.hospital}: {one.what}") for one in its.named[-_LAST:])
        yield from (Text(f"excluded: {name}: {why}", "red") for name, why in its.excluded.items())
    else:
        yield from (Text(f"the hub says of {name}: {what}") for name, what in its.named.items())
        if its.evidence:
            yield Text(f"signed contradictions of others: {_names(its.evidence)}", "red")


def _names(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _MOST_NAMES} more" if len(listed) > _MOST_NAMES else ""
    return ", ".join(listed[:_MOST_NAMES]) + more if listed else "nobody"


def print_unfinished(console: Console, state: str, number: int, command: str) -> None:
    """Print where `securepfl run` stands before its last round is over: `number` is the round that it is in."""
    styled = (state, "green" if state == "running" else "yellow")
    where = f" in round {number}" if number else " before its first round"
    console.print(Text.assemble("a simulation, all parties in one process: ", styled, where))
    if state == "stopped":
        console.print(Text(f"go on with: {command}"), soft_wrap=True)


def print_simulated(console: Console, rounds: int, sites: Mapping[str, Mapping[str, float]]) -> None:
    """Print where a folder of `securepfl run` stands: it is there, so its rounds are over."""
    console.print(Text.assemble("a simulation, all parties in one process: ", ("finished", "green")))
    console.print(Text(f"{rounds} rounds; result.json and report.html have what came of them"))
    table = Table(box=None, pad_edge=False)
    for heading in ("hospital", "epsilon spent", "budget"):
        table.add_column(heading, justify="left" if heading == "hospital" else "right")
    for name, privacy in sites.items():
        table.add_row(name, epsilon_text(privacy["epsilon"]), budget_text(privacy["budget"]))
    console.print(table)
