"""Inside: hospitals that take part, each way at the same gradient budget, without privacy.

    PYTHONPATH=benchmarks python -m segmentation.inside ../shared/data/fundus_vessels --start FILE --seeds 5 --jobs 2
        --out runs/imaging [--choosing] [--rounds 30 --steps 30 --patch 128 --size N] [--only RUN]

Each finished (way, seed) is a file of OUT/DATA/inside and isn't run again. `--choosing` tests on a part of the training
patients, for choices; test patients are then seen by nobody. `segmentation.pages` writes the tables.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import click
import torch

from securepfl.data.table import Table
from securepfl.tasks.prediction import evaluating
from securepfl.tasks.starts import read_start
from segmentation.cells import finished, measured, one_thread, run_all, write
from segmentation.sites import Study, read_study
from segmentation.training import (
    FINETUNING,
    NORMS,
    OUTPUT,
    Hospital,
    Schedule,
    State,
    Trajectories,
    ditto,
    federated,
    finetuned,
    hospitals,
    local,
    trajectory_alphas,
)

Ways = Mapping[str, Mapping[str, State]]
"""By way, by hospital: the model that it uses."""


def _start(members: list[Hospital], schedule: Schedule) -> Ways:
    return {"start": _current(members)}


def _local(members: list[Hospital], schedule: Schedule) -> Ways:
    local(members, schedule)
    return {"local": _current(members)}


def _fedavg(members: list[Hospital], schedule: Schedule) -> Ways:
    names = [member.name for member in members]
    model = members[0].model
    trajectories = Trajectories(model, names, trajectory_alphas(model))
    for trained in federated(members, schedule):
        trajectories.move(dict(zip(names, trained, strict=True)))
    return {"FedAvg": _current(members), **trajectories.states()}


def _fedbn(members: list[Hospital], schedule: Schedule) -> Ways:
    for _ in federated(members, schedule, NORMS):
        pass
    return {"FedBN": _current(members)}


def _fedper(members: list[Hospital], schedule: Schedule) -> Ways:
    for _ in federated(members, schedule, OUTPUT):
        pass
    return {"FedPer": _current(members)}


def _ditto(members: list[Hospital], schedule: Schedule) -> Ways:
    return {"Ditto": {member.name: state for member, state in zip(members, ditto(members, schedule), strict=True)}}


def _finetuned(members: list[Hospital], schedule: Schedule) -> Ways:
    tuning = min(FINETUNING, schedule.budget // 2)
    for _ in federated(members, schedule.lasting(schedule.budget - tuning)):
        pass
    finetuned(members, schedule, tuning)
    return {"FedAvg, fine-tuned": _current(members)}


def _current(members: list[Hospital]) -> dict[str, State]:
    return {member.name: member.state() for member in members}


RUNS: Final[Mapping[str, tuple[Callable[[list[Hospital], Schedule], Ways], tuple[str, ...]]]] = {
    "start": (_start, ("start",)),
    "fedavg": (
        _fedavg,
        ("FedAvg", "trajectory, alpha 0.1", "trajectory, alpha 0.5", "trajectory, alpha 0.8", "trajectory, by layer"),
    ),
    "local": (_local, ("local",)),
    "fedbn": (_fedbn, ("FedBN",)),
    "fedper": (_fedper, ("FedPer",)),
    "ditto": (_ditto, ("Ditto",)),
    "finetuned": (_finetuned, ("FedAvg, fine-tuned",)),
}
"""Trainings by name, and the ways that come of each."""


@dataclass(frozen=True)
class Job:
    """One training: what to read, how, and where its ways' files go."""

    run: str
    seed: int
    data: Path
    config: Path | None
    start: Path | None
    size: int | None
    schedule: Schedule
    choosing: bool
    folder: Path
    device: str

    @property
    def settings(self) -> dict[str, Any]:
        """What a file must have been made under to count."""
        start = None if self.start is None else read_start(self.start).digest[:16]
        return {"schedule": asdict(self.schedule), "size": self.size, "choosing": self.choosing, "start": start}

    @property
    def done(self) -> bool:
        """Whether all files are there."""
        return all(finished(self.folder, way, self.seed, self.settings) for way in RUNS[self.run][1])


def work(job: Job) -> str:
    """Train, test, write; what to print."""
    began, spent = time.monotonic(), time.process_time()
    study = read_study(job.data, job.config, job.start, job.size)
    parts = study.split(job.seed, choosing=job.choosing)
    trained = {site: train for site, (train, _) in parts.items()}
    members = hospitals(study.model(), trained, study.task, job.seed, job.device)
    ways = RUNS[job.run][0](members, job.schedule)
    training = time.process_time() - spent
    told = []
    for way, states in ways.items():
        sites = {site: scores(study, states[site], test, job.device) for site, (_, test) in parts.items() if len(test)}
        cell = {"way": way, "seed": job.seed, "settings": job.settings, "sites": sites, "cpu_seconds": round(training)}
        write(job.folder, cell)
        told.append(f"{way} " + "/".join(f"{_mean(found['dice']):.3f}" for found in sites.values()))
    return f"seed {job.seed}: {'; '.join(told)} ({time.monotonic() - began:.0f} s)"


def scores(study: Study, state: State, test: Table, device: str) -> dict[str, Any]:
    """Of each test image under a hospital's model."""
    model = study.model().to(device)
    model.load_state_dict(state)
    with evaluating(model), torch.no_grad():
        outputs = [model(torch.from_numpy(test.features[at : at + 1]).to(device)).cpu() for at in range(len(test))]
    return measured(study.task, study.task.predict(torch.cat(outputs)), test)


def _mean(values: list[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / max(1, len(known))


def shared_options(command: Callable[..., None]) -> Callable[..., None]:
    """What both studies take."""
    schedule = Schedule()
    options = (
        click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path)),
        click.option("--config", type=click.Path(exists=True, path_type=Path), help="Declaration of the images."),
        click.option("--start", type=click.Path(exists=True, path_type=Path), help="File of `securepfl start`."),
        click.option("--seeds", default=5, show_default=True),
        click.option("--first", default=0, show_default=True, help="The first seed."),
        click.option("--jobs", default=1, show_default=True, help="Processes of one thread each."),
        click.option("--out", type=click.Path(path_type=Path), default=Path("runs/imaging"), show_default=True),
        click.option("--rounds", default=schedule.rounds, show_default=True),
        click.option("--steps", default=schedule.steps, show_default=True),
        click.option("--batch", default=schedule.batch, show_default=True),
        click.option("--patch", default=schedule.patch, show_default=True),
        click.option("--rate", default=schedule.rate, show_default=True),
        click.option("--turn", default=schedule.turn, show_default=True, help="Degrees; 15 where images stand."),
        click.option("--size", type=int, help="Longest side, in place of the declared one."),
        click.option("--device", default="cpu", show_default=True),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@shared_options
@click.option("--choosing", is_flag=True, help="Test on training patients alone.")
@click.option("--only", multiple=True, type=click.Choice(list(RUNS)))
def main(
    data: Path,
    config: Path | None,
    start: Path | None,
    seeds: int,
    first: int,
    jobs: int,
    out: Path,
    rounds: int,
    steps: int,
    batch: int,
    patch: int,
    rate: float,
    turn: float,
    size: int | None,
    device: str,
    choosing: bool,
    only: tuple[str, ...],
) -> None:
    """Train and test every way under every seed."""
    one_thread()
    schedule = Schedule(rounds, steps, batch, patch, rate, turn)
    folder = out / data.name / ("inside-choosing" if choosing else "inside")
    runs = [run for run in RUNS if run in (only or RUNS) and (run != "start" or start is not None)]
    wanted = [
        Job(run, seed, data, config, start, size, schedule, choosing, folder, device)
        for seed in range(first, first + seeds)
        for run in runs
    ]
    run_all(work, [job for job in wanted if not job.done], jobs)


if __name__ == "__main__":
    main()
