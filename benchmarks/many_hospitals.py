"""What a round of many hospitals costs: whole clients in worker processes, coordinator and RoundLoop in this one.

    python benchmarks/many_hospitals.py [--hospitals 4,16,64,256,1000] [--parameters 10000,100000,1000000,10000000]
        [--rounds 3] [--workers 2] [--scheme tenseal] [--masked] [--similarity K] [--out docs/scaling.json]

Hospitals grow at the smallest of the parameters, parameters at the smallest of the hospitals. Every hospital has keys,
a folder, a ledger and 8 rows of its own; the coordinator keeps its run in a folder too. Seconds are CPU seconds, by
step of the last round: of all hospitals together and of the coordinator's process. Bytes are whole messages. The
memory is the coordinator's process at its highest (VmHWM), from a fresh process a case. One thread a process.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec

from securepfl.coordinator.coordinator import Coordinator
from securepfl.crypto.keys.identity import Identity
from securepfl.crypto.keys.keys import FederationKey
from securepfl.protocol.loop import RoundLoop
from securepfl.runtime.pool import Keys, Pool, stages
from securepfl.settings.federation import Federation

FEATURES = 64
ROWS = 8
FIGURES = ("hub", "hospitals", "down", "up")


@dataclass(frozen=True)
class Asked:
    """One case, as a process of its own measures it."""

    hospitals: int
    parameters: int
    rounds: int
    workers: int
    scheme: str
    masked: bool
    similarity: int


def builder(asked: Asked) -> Callable[[], Any]:
    """What makes an MLP of about so many parameters."""
    from securepfl.tasks.models import build_model  # noqa: PLC0415 (loads torch, as no coordinator does)

    return partial(build_model, "mlp", FEATURES, max(1, round((asked.parameters - 1) / (FEATURES + 2))))


def bound(asked: Asked) -> bytes:
    """The federation, 40 declared rows a hospital, in JSON: made in a process that may load torch."""
    tables = {
        "rounds": asked.rounds,
        "model": {"kind": "own"},
        "encryption": {"scheme": asked.scheme, "masking": "pairwise" if asked.masked else "none"},
        "similarity": {"every": asked.similarity},
        "coupling": {"strength": 0.5 if asked.similarity else 0.0},
    }
    names = [f"h{number:04d}" for number in range(asked.hospitals)]
    return msgspec.json.encode(Federation.from_mapping(tables).bound(names, builder(asked), units=40))


def opened(federation: Any, asked: Asked, home: Path, keyring: Any) -> Any:
    """One hospital's client: 8 rows of its own noise around rows that all have."""
    import torch  # noqa: PLC0415

    from securepfl.client.client import Client  # noqa: PLC0415
    from securepfl.client.run_kind import Simulation  # noqa: PLC0415

    torch.set_num_threads(1)
    name = keyring.identity.name
    common, own = (torch.Generator().manual_seed(seed) for seed in (0, federation.places[name] + 1))
    x = torch.randn(ROWS, FEATURES, generator=common) + 0.3 * torch.randn(ROWS, FEATURES, generator=own)
    rows = torch.utils.data.TensorDataset(x, (torch.arange(ROWS) % 2).float())
    return Client(
        federation, name, builder(asked), rows, keyring, home / name, ledgers=home / "ledgers", device="cpu",
        simulation=Simulation(None),
    )  # fmt: skip


def measured(asked: Asked) -> dict[str, Any]:
    """All rounds of one case: the figures of the last, by step."""
    federation = msgspec.json.decode(apart(asked, "--bind"), type=Federation)
    hub, key = Identity.generate("hub"), FederationKey.generate(encrypted=federation.scheme.encrypted)
    keys = Keys.draw(key, hub.public, federation.roster, masked=federation.masked)
    with tempfile.TemporaryDirectory() as home:
        coordinator = Coordinator(
            federation.without_budgets(), hub, keys.identities, key_commitment=key.commitment, folder=Path(home, "hub")
        )
        began, steps = time.monotonic(), []
        with Pool.started(keys, partial(opened, federation, asked, Path(home)), asked.workers) as pool:
            opening = time.monotonic() - began
            for stage in stages(RoundLoop(coordinator), pool):
                steps.append(asdict(stage) | {"kind": stage.kind.name.lower()})
                click.echo(f"{asked.hospitals} x {asked.parameters}: {steps[-1]}", err=True)
        coordinator.stop()
    if coordinator.closed != asked.rounds or any(step["failed"] for step in steps):
        raise SystemExit(f"{asked}: {coordinator.closed} rounds were closed")
    shape = federation.shape
    return asdict(asked) | {
        "exact": shape.shared + shape.personal,
        "steps": [step for step in steps if step["round"] == asked.rounds],
        "opening": opening,
        "memory": highest(),
    }


def highest() -> int:
    """The most memory that this process ever had, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise SystemExit("this machine does not say how much memory a process had (no VmHWM in /proc/self/status)")


def apart(asked: Asked, how: str) -> bytes:
    """What another process makes of the case: so that its memory is its own."""
    command = [sys.executable, __file__, how, json.dumps(asdict(asked))]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout  # noqa: S603 (itself)


def total(case: dict[str, Any], figure: str) -> float:
    """Over the round's steps."""
    return sum(step[figure] for step in case["steps"])


def case(asked: Asked) -> dict[str, Any]:
    """One measured case."""
    found: dict[str, Any] = json.loads(apart(asked, "--one"))
    return found


def table(cases: list[dict[str, Any]], size: str) -> str:
    """Markdown: a row a case."""
    names = ["hospital, CPU ms", "coordinator, CPU ms a hospital", "all, CPU s", "up, kB", "down, kB", "memory, MB"]
    lines = [f"| {' | '.join([size, *names])} |", "|" + "---|" * (len(names) + 1)]
    for case in cases:
        n = case["hospitals"]
        own, hub = total(case, "hospitals"), total(case, "hub")
        cells = [f"{case['exact' if size == 'parameters' else size]:,}"]
        cells += [f"{1e3 * own / n:.1f}", f"{1e3 * hub / n:.1f}", f"{own + hub:.2f}"]
        cells += [f"{total(case, figure) / n / 1e3:,.1f}" for figure in ("up", "down")]
        cells += [f"{case['memory'] / 1e6:,.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _numbers(_: click.Context, __: click.Parameter, text: str) -> list[int]:
    return sorted({int(part) for part in text.split(",")})


@click.command()
@click.option("--hospitals", default="4,16,64,256,1000", callback=_numbers, show_default=True)
@click.option("--parameters", default="10000,100000,1000000,10000000", callback=_numbers, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--workers", default=2, show_default=True)
@click.option("--scheme", default="tenseal", show_default=True)
@click.option("--masked", is_flag=True)
@click.option("--similarity", default=0, show_default=True, help="Every how many rounds; 0 is never.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--one", hidden=True)
@click.option("--bind", hidden=True)
def main(
    hospitals: list[int],
    parameters: list[int],
    rounds: int,
    workers: int,
    scheme: str,
    masked: bool,
    similarity: int,
    out: Path | None,
    one: str | None,
    bind: str | None,
) -> None:
    """Measure all cases and print the tables."""
    if bind is not None:
        click.echo(bound(Asked(**json.loads(bind))))
        return
    if one is not None:
        click.echo(json.dumps(measured(Asked(**json.loads(one)))))
        return
    rest = (rounds, workers, scheme, masked, similarity)
    by_roster = [case(Asked(count, parameters[0], *rest)) for count in hospitals]
    by_size = [by_roster[0], *(case(Asked(hospitals[0], count, *rest)) for count in parameters[1:])]
    for cases, size in ((by_roster, "hospitals"), (by_size, "parameters")):
        click.echo(table(cases, size) + "\n")
    if out is not None:
        out.write_text(json.dumps({"hospitals": by_roster, "parameters": by_size}, indent=1) + "\n")


if __name__ == "__main__":
    main()
