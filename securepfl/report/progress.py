"""While a run goes (stderr): on a terminal a display that is redrawn, with the time that is left; into a file or a pipe
nothing but notes, or a line each round where that is asked for.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from securepfl.report.epsilon import budget_text, epsilon_text
from securepfl.report.outcome import Observer, RoundEvent

_HEADINGS: Final = ("hospital", "", "epsilon spent", "budget", "bytes up", "bytes down")
_BAR: Final = 40
_MINUTE, _HOUR = 60, 3600


class TimeLeft:
    """Estimates what is left from the rounds so far; of a run that goes on, those of this process alone.

    >>> clock = iter([0.0, 10.0, 20.0])
    >>> left = TimeLeft(lambda: next(clock))
    >>> left.after(0, 6), left.after(1, 6), left.after(2, 6)
    ('', 'about 50 s left', 'about 40 s left')
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._start: tuple[int, float] | None = None

    def after(self, done: int, of: int) -> str:
        """What to say when `done` of `of` steps are over; nothing before one was."""
        now = self._clock()
        first, began = self._start = self._start or (done, now)
        if done == first or done >= of:
            return ""
        return f"about {duration_text((now - began) / (done - first) * (of - done))} left"


def duration_text(seconds: float) -> str:
    """A duration as people say it.

    >>> [duration_text(its) for its in (0.2, 59.7, 150, 7300)]
    ['1 s', '1 min', '2 min 30 s', '2 h 1 min']
    """
    whole = max(1, round(seconds))
    for unit, name, below, lower in ((_HOUR, "h", _MINUTE, "min"), (_MINUTE, "min", 1, "s")):
        if whole >= unit:
            rest = whole % unit // below
            return f"{whole // unit} {name} {rest} {lower}" if rest else f"{whole // unit} {name}"
    return f"{whole} s"


@contextmanager
def silent(budgets: Mapping[str, float | None]) -> Iterator[Observer]:
    """Yield an observer that shows nothing."""
    yield lambda event: None


@contextmanager
def live_display(console: Console, budgets: Mapping[str, float | None], *, verbose: bool = False) -> Iterator[Observer]:
    """Yield an observer that shows on `console` the round, hospitals, epsilon spent, bytes and the time left.

    What is no terminal gets the notes, and with `verbose` a line each round; a terminal gets those lines above the
    display.
    """
    left = TimeLeft()
    if not console.is_terminal:
        yield lambda event: _tell(console, event, left, verbose)
        return
    with Live(Text("hospitals take the model ..."), console=console, auto_refresh=False) as live:
        yield lambda event: _show(live, event, budgets, left, verbose)


def _tell(console: Console, event: RoundEvent, left: TimeLeft, verbose: bool) -> None:
    remains = left.after(event.round, event.rounds)
    for note in event.notes:
        console.print(Text(f"note: {note}"), soft_wrap=not console.is_terminal)
    if verbose and event.round:
        console.print(Text(_line(event, remains)), soft_wrap=not console.is_terminal)


def _show(live: Live, event: RoundEvent, budgets: Mapping[str, float | None], left: TimeLeft, verbose: bool) -> None:
    remains = left.after(event.round, event.rounds)
    _tell(live.console, event, TimeLeft(), verbose)
    live.update(_frame(event, budgets, remains), refresh=True)


def _line(event: RoundEvent, remains: str) -> str:
    """A round in one line, for a log."""
    failed = f", failed: {', '.join(event.failed)}" if event.failed else ""
    sent = sum(event.upload_bytes.values()) + sum(event.download_bytes.values())
    spent = max(event.epsilon.values(), default=0.0)
    tail = f", {remains}" if remains else ""
    return (
        f"round {event.round}/{event.rounds}: {len(event.trained)} of {len(event.epsilon)} hospitals trained{failed}, "
        f"epsilon at most {epsilon_text(spent)}, {sent:,} bytes so far{tail}"
    )


def _frame(event: RoundEvent, budgets: Mapping[str, float | None], remains: str) -> Group:
    table = Table(box=None, pad_edge=False)
    for heading in _HEADINGS:
        table.add_column(heading, justify="left" if heading in ("hospital", "") else "right")
    for name, budget in budgets.items():
        did = "failed" if name in event.failed else "trained" if name in event.trained else "sat out"
        state = did if event.round else ""
        table.add_row(
            name,
            Text(state, style="green" if state == "trained" else "yellow"),
            epsilon_text(event.epsilon[name]),
            budget_text(budget),
            f"{event.upload_bytes[name]:,}",
            f"{event.download_bytes[name]:,}",
        )
    head = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=event.rounds, completed=event.round, width=_BAR)
    head.add_row(f"round {event.round}/{event.rounds}", bar, remains)
    return Group(head, table)
