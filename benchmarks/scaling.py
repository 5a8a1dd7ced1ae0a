"""What a round costs as hospitals and parameters grow: real encrypted rounds of real clients in one process.

    python benchmarks/scaling.py [--hospitals 4,8,16,32,64,128,200] [--parameters 10000,100000,1000000]
        [--write docs/results/scaling.md]

Hospitals grow at 10,000 parameters, parameters at 8 hospitals. Every hospital has 8 rows, a personal intercept coupled
to 3 neighbours, and 10-bit values. Six rounds: the first two set similarity and coupling up; of the others every second
compares hospitals, so the difference is what similarity costs. Coupling travels in all four. Seconds are CPU seconds of
a hospital, by the median over hospitals, then over the two rounds of a kind; bytes are whole messages. One thread.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import click
import numpy as np
import torch
from methods.sdk import NO_PRIVACY, scratch_folder
from methods.table import replaced, size
from rich.console import Console
from rich.table import Table
from torch.utils.data import TensorDataset

from securepfl.client.client import Client
from securepfl.client.run_kind import Simulation
from securepfl.errors import SecurePFLError
from securepfl.protocol.channels import Layouts
from securepfl.runtime.local import SimulatedRun, Traffic, local_parties, noise_key
from securepfl.settings.federation import Federation
from securepfl.tasks.models import build_model

BEGIN = "<!-- scaling: begin (written by benchmarks/scaling.py) -->"
END = "<!-- scaling: end -->"
FEATURES = 64
ROWS = 8
BITS = 10
PARAMETERS = 10_000
"""While hospitals grow."""
HOSPITALS = 8
"""While parameters grow."""
FULL, PLAIN = (4, 6), (3, 5)
"""Rounds with and without similarity; all of them with coupling."""

Rows = list[list[str]]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Round:
    """One round: medians over hospitals of seconds and bytes, the coordinator's seconds, and all hospitals' bytes."""

    contribute: float
    apply: float
    coordinator: float
    upload: float
    download: float
    total: int


@dataclass(frozen=True)
class Case:
    """A federation's size and what its rounds cost with and without similarity. `parameters` are exact."""

    hospitals: int
    parameters: int
    full: Round
    plain: Round
    layout: str


COLUMNS: Mapping[str, str] = {
    "contribute": "s",
    "apply": "s",
    "coordinator": "s",
    "upload": "bytes",
    "download": "bytes",
    "total": "bytes",
}
"""Figures of a round, and their units."""


def hidden_for(parameters: int) -> int:
    """The hidden units of an MLP of about that many parameters. Raises ValueError for too few parameters."""
    if parameters < FEATURES + 3:
        raise ValueError(f"parameters must be at least {FEATURES + 3}, not {parameters}")
    return max(1, round((parameters - 1) / (FEATURES + 2)))


def measured(hospitals: int, parameters: int) -> Case:
    """Six encrypted rounds. Raises ClickException where no neighbourhood was summed: coupling was not measured."""
    build = partial(build_model, "mlp", FEATURES, hidden_for(parameters))
    names = [f"h{number:03d}" for number in range(hospitals)]
    federation = federation_for(names, build)
    with scratch_folder() as home:
        run = started(federation, build, Path(home))
        rounds = {number: one_round(run) for number in range(1, max(FULL) + 1)}
        coupled = all(len(client.neighbours) == federation.coupling.neighbours for client in run.clients.values())
        for client in run.clients.values():
            client.close()
    if not coupled:
        raise click.ClickException(
            f"{hospitals} hospitals: some have fewer than 3 neighbours; coupling was not measured"
        )
    layout, shape = Layouts.of(federation).update, federation.shape
    described = f"{layout.parameters.name}, {layout.fields} values a word, {layout.word_bits} bits a word"
    full, plain = (middle([rounds[number] for number in kind]) for kind in (FULL, PLAIN))
    return Case(hospitals, 0 if shape is None else shape.shared + shape.personal, full, plain, described)


def federation_for(names: Sequence[str], build: Callable[[], torch.nn.Module]) -> Federation:
    """Encrypted, with similarity every second round and coupling; the run is longer than what is measured of it, for
    its last rounds are others.
    """
    tables = {
        "rounds": max(FULL) + 2,
        "model": {"kind": "own", "personal": "intercept"},
        # The graph is visible over the noise, so neighbourhoods are really summed; a round costs the same.
        "privacy": {"epsilon": NO_PRIVACY},
        "encryption": {"bits": BITS},
        "similarity": {"every": 2},
        "coupling": {"strength": 0.5, "neighbours": 3},
    }
    return Federation.from_mapping(tables).bound(names, build, units=40)


def started(federation: Federation, build: Callable[[], torch.nn.Module], home: Path) -> SimulatedRun:
    """All parties before the first round."""
    keyrings, coordinator = local_parties(federation)
    clients = {
        name: Client(
            federation,
            name,
            build,
            rows_of(number),
            keyring,
            home / name,
            device="cpu",
            simulation=Simulation(noise_key(0)),
        )
        for number, (name, keyring) in enumerate(keyrings.items())
    }
    return SimulatedRun(coordinator, clients, Traffic.of(clients), time.perf_counter())


def rows_of(number: int) -> TensorDataset:
    """A hospital's rows: the same for all but for noise, so that hospitals find each other similar."""
    common, own = (torch.Generator().manual_seed(seed) for seed in (0, number + 1))
    x = torch.randn(ROWS, FEATURES, generator=common) + 0.3 * torch.randn(ROWS, FEATURES, generator=own)
    return TensorDataset(x, (torch.arange(ROWS) % 2).float())


def one_round(run: SimulatedRun) -> Round:
    """Exchange a round, each party timed by itself."""
    coordinator, up, down = run.coordinator, {}, {}
    contributing, applying = [], []
    invitations, adding = timed(coordinator.invite)
    for name, invitation in invitations.items():
        up[name], taken = timed(partial(run.clients[name].contribute, invitation))
        contributing.append(taken)
        adding += timed(partial(coordinator.receive, up[name]))[1]
    answers, closing = timed(coordinator.close)
    for name, answer in answers.items():
        applying.append(timed(partial(run.clients[name].apply, answer))[1])
        down[name] = len(answer) + len(invitations[name])
    sent = [len(message) for message in up.values()]
    return Round(
        contribute=float(np.median(contributing)),
        apply=float(np.median(applying)),
        coordinator=adding + closing,
        upload=float(np.median(sent)),
        download=float(np.median(list(down.values()))),
        total=sum(sent) + sum(down.values()),
    )


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """What a call gives, and the CPU seconds of this process: others on the machine make wall-clock time longer."""
    before = time.process_time()
    return work(), time.process_time() - before


def middle(rounds: Sequence[Round]) -> Round:
    """The median of each figure."""
    figures = {name: float(np.median([getattr(one, name) for one in rounds])) for name in vars(rounds[0])}
    return Round(**figures | {"total": int(figures["total"])})


def slope(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The p of cost ~ size^p, least squares on logarithms. Raises ValueError for fewer than two sizes."""
    if len(sizes) < 2:
        raise ValueError(f"a slope needs at least two sizes, not {len(sizes)}")
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def costs(cases: Sequence[Case], label: str, sizes: Sequence[int]) -> Rows:
    """A row for each case, "with / without similarity"; then ratios of the largest to the smallest, and slopes over all
    cases and over the last three.
    """
    rows = [[label, *(f"{name}, {unit}" for name, unit in COLUMNS.items())]]
    for count, case in zip(sizes, cases, strict=True):
        rows.append([f"{count:,}", *(_cell(unit, *both(case, name)) for name, unit in COLUMNS.items())])
    summaries: dict[str, Callable[[Sequence[float]], str]] = {
        f"x smallest, at {sizes[-1] / sizes[0]:.3g} x the size": lambda column: f"{column[-1] / column[0]:.3g}",
        "slope, all": lambda column: f"{slope(sizes, column):.2f}",
        "slope, last three": lambda column: f"{slope(sizes[-3:], column[-3:]):.2f}",
    }
    for title, summed in summaries.items():
        columns = [zip(*(both(case, name) for case in cases), strict=True) for name in COLUMNS]
        rows.append([title, *(" / ".join(summed(kind) for kind in column) for column in columns)])
    return rows


def both(case: Case, name: str) -> tuple[float, float]:
    """A figure of the rounds with similarity, and of those without."""
    return getattr(case.full, name), getattr(case.plain, name)


def steps(cases: Sequence[Case]) -> Rows:
    """From each roster to the next: how much all parties' work and bytes grow, and what similarity adds to them."""
    rows = [["hospitals", "x hospitals", "x seconds, all", "x bytes, all", "similarity adds, s", "bytes"]]
    for one, other in pairwise(cases):
        worked, before = seconds(other.full, other.hospitals), seconds(one.full, one.hospitals)
        factors = other.hospitals / one.hospitals, worked / before, other.full.total / one.full.total
        added = worked - seconds(other.plain, other.hospitals)
        rows.append(
            [
                f"{one.hospitals} to {other.hospitals}",
                *(f"{factor:.2f}" for factor in factors),
                f"{added:.3g}",
                size(other.full.total - other.plain.total),
            ]
        )
    return rows


def seconds(round_: Round, hospitals: int) -> float:
    """All parties' seconds of a round."""
    return hospitals * (round_.contribute + round_.apply) + round_.coordinator


def line(sizes: Sequence[float], costs: Sequence[float]) -> tuple[float, float]:
    """(a, b) of cost ~ a + b size, least squares."""
    b, a = np.polyfit(sizes, costs, 1)
    return float(a), float(b)


def preface(cases: Sequence[Case]) -> str:
    """How it was run, and what to make of it."""
    last, counts = cases[-1], [case.hospitals for case in cases]
    extra = [(case.full.total - case.plain.total) / case.hospitals for case in cases]
    work = [(seconds(c.full, c.hospitals) - seconds(c.plain, c.hospitals)) / c.hospitals for c in cases]
    (sent, sent_more), (worked, worked_more) = line(counts, extra), line(counts, work)
    return (
        "`python benchmarks/scaling.py`: encrypted rounds of real clients in one process, one thread, "
        f"{ROWS} rows a hospital, a personal intercept coupled to 3 neighbours, {BITS}-bit values, density 1. CPU "
        "seconds and bytes up and down are a hospital's (median), total is everybody's; whole messages, signatures "
        f"included. Each cell: rounds with / without similarity. At {last.hospitals} hospitals the update travels by "
        f"{last.layout}; every sum passed its tag.\n\n"
        "Similarity is quadratic: each of n hospitals uploads pads for all others and gets a row of n - 1 answers, so "
        f"a round of n hospitals takes n^2 of them. By least squares it adds for each hospital {size(sent)} + "
        f"{sent_more:.0f} B x n, and {1e3 * worked:.0f} + {1e3 * worked_more:.2f} x n ms of its own and the "
        f"coordinator's CPU. At {last.hospitals} hospitals it adds {size(last.hospitals * extra[-1])} and "
        f"{last.hospitals * work[-1]:.3g} s to a round of all. `[similarity] every = k` pays it in one round of k."
    )


def markdown(rows: Rows) -> str:
    """A Markdown table; the first row is its header."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def shown(title: str, rows: Rows) -> Table:
    """The same for a terminal."""
    table = Table(*rows[0], title=title, title_justify="left")
    for row in rows[1:]:
        table.add_row(*row)
    return table


def _cell(unit: str, *values: float) -> str:
    return " / ".join(f"{value:.3g}" if unit == "s" else size(value) for value in values)


def _numbers(_: click.Context, option: click.Parameter, text: str) -> list[int]:
    try:
        numbers = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of whole numbers with commas between", param=option) from None
    if numbers[0] < 4 or len(numbers) < 2:
        raise click.BadParameter("name at least two numbers of 4 or more: a hospital needs 3 neighbours", param=option)
    return numbers


@click.command()
@click.option("--hospitals", default="4,8,16,32,64,128,200", callback=_numbers, show_default=True)
@click.option("--parameters", default="10000,100000,1000000", callback=_numbers, show_default=True)
@click.option("--write", "page", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(hospitals: list[int], parameters: list[int], page: Path | None) -> None:
    """Measure all cases, print the tables, write the page."""
    torch.set_num_threads(1)
    measured(4, PARAMETERS)  # what is imported and compiled on first use costs no case anything
    by_roster = [_told(measured(count, PARAMETERS)) for count in hospitals]
    by_size = [_told(measured(HOSPITALS, count)) for count in parameters]
    sizes = [case.parameters for case in by_size]
    found = {
        f"{by_roster[0].parameters:,} parameters:": costs(by_roster, "hospitals", hospitals),
        "From one roster to the next:": steps(by_roster),
        f"{HOSPITALS} hospitals:": costs(by_size, "parameters", sizes),
    }
    console = Console(width=160)
    for title, rows in found.items():
        console.print(shown(title, rows))
    written = [preface(by_roster), *(f"{title}\n\n{markdown(rows)}" for title, rows in found.items())]
    console.print(written[0], markup=False)
    if page is not None:
        try:
            page.write_text(replaced(page.read_text(), "\n\n".join(written), BEGIN, END))
        except ValueError as error:
            raise click.UsageError(f"{page}: {error}") from None


def _told(case: Case) -> Case:
    click.echo(f"{case.hospitals} hospitals, {case.parameters:,} parameters: {case.full}", err=True)
    return case


if __name__ == "__main__":
    try:
        main()
    except SecurePFLError as error:
        raise SystemExit(f"scaling: {error}") from None
