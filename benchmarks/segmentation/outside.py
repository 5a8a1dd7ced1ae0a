"""Outside: each site in turn is a hospital that never took part, with the others' experts, without privacy.

    PYTHONPATH=benchmarks python -m segmentation.outside ../shared/data/chest_lungs --start FILE --seeds 5 --jobs 2
        --out runs/imaging [--choosing] [--again] [--rounds 30 --steps 30 --patch 128 --size N]

Each (site, seed) is two files of OUT/DATA/outside: its models, and what every way makes of the site's images. Those
that are there aren't made again; `--again` routes the finished models anew, after a change of the engine or of recipes.
`--choosing` sees training patients alone, on both sides. `segmentation.pages` writes the tables.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr

from securepfl.data.table import Table
from securepfl.outside.baselines import BASELINES
from securepfl.outside.candidates import SHARED, Panel
from securepfl.outside.recipe import SEGMENTATION
from securepfl.outside.routed import Routed, routed
from securepfl.tasks.starts import read_start
from segmentation.cells import Cell, dices, measured, one_thread, run_all
from segmentation.inside import shared_options
from segmentation.recipes import Compared, Which, contestants, training
from segmentation.remembering import Remembering
from segmentation.sites import Study, read_study
from segmentation.training import FINETUNING, Schedule, State, Trajectories, federated, finetuned, hospitals

TRAJECTORY, TUNED = "trajectory", "finetuned"
ALPHA = 0.1
CEILING, BY_IMAGE = "best expert by labels", "best expert of each image by labels"
CHANGING = ("TENT", "AdaMerging", "parameter average")
"""Baselines that train on the images, or change parameters."""
DETAILED = ("routed", "global, bare", "global", "logit ensemble")
"""Ways whose HD95 is measured, which takes longer than all else of them."""


@dataclass(frozen=True)
class Job:
    """One site left out under one seed."""

    site: str
    seed: int
    data: Path
    config: Path | None
    start: Path | None
    size: int | None
    schedule: Schedule
    choosing: bool
    again: bool
    short: bool
    folder: Path
    device: str

    @property
    def settings(self) -> dict[str, Any]:
        """What files must have been made under to count."""
        start = None if self.start is None else read_start(self.start).digest[:16]
        given = {"schedule": asdict(self.schedule), "size": self.size, "choosing": self.choosing, "start": start}
        return dict(json.loads(json.dumps(given)))

    @property
    def models(self) -> Path:
        """The experts' file."""
        return self.folder / f"{self.site}-s{self.seed}.safetensors"

    @property
    def scores(self) -> Path:
        """What the ways make of the site."""
        return self.folder / f"{self.site}-s{self.seed}.json"

    @property
    def done(self) -> bool:
        """Whether nothing is left to do. Raises UsageError where files were made under other settings."""
        if not self.scores.exists():
            return False
        if json.loads(self.scores.read_text())["settings"] != self.settings:
            raise click.UsageError(f"{self.scores}: was made under other settings; name another --out, or remove it")
        return not self.again


def work(job: Job) -> str:
    """Train, route, write; what to print."""
    began = time.monotonic()
    study = read_study(job.data, job.config, job.start, job.size)
    tables = {site: train for site, (train, _) in study.split(0).items()} if job.choosing else dict(study.tables)
    unseen = tables.pop(job.site)
    job.folder.mkdir(parents=True, exist_ok=True)
    states, seconds = experts(job, study, tables)
    held = study.split(0)[job.site][1].ids
    cell = {
        "site": job.site,
        "seed": job.seed,
        "settings": job.settings,
        "cpu_seconds": seconds,
        "test": [] if held is None else [str(each) for each in held],
        **outcomes(study, states, unseen, prior_of(tables), job.device, _compared(job)),
    }
    part = job.scores.with_suffix(".part")
    part.write_text(json.dumps(cell))
    part.replace(job.scores)
    told = ", ".join(f"{way} {np.nanmean(_numbers(cell['ways'][way]['dice'])):.4f}" for way in (*DETAILED, CEILING))
    return f"{job.site}, seed {job.seed}: {told} ({time.monotonic() - began:.0f} s)"


def experts(job: Job, study: Study, tables: Mapping[str, Table]) -> tuple[dict[str, State], int]:
    """States by name, "shared", "SITE.trajectory" and "SITE.finetuned", from the file where it is; and CPU seconds."""
    if not job.models.exists():
        spent = time.process_time()
        members = hospitals(study.model(), tables, study.task, job.seed, job.device)
        names = [member.name for member in members]
        trajectories = Trajectories(members[0].model, names, {TRAJECTORY: ALPHA})
        for trained in federated(members, job.schedule):
            trajectories.move(dict(zip(names, trained, strict=True)))
        states = {SHARED: members[0].state()}
        states |= {f"{name}.{TRAJECTORY}": state for name, state in trajectories.states()[TRAJECTORY].items()}
        tuned = finetuned(members, job.schedule, min(FINETUNING, job.schedule.budget))
        states |= {f"{name}.{TUNED}": state for name, state in zip(names, tuned, strict=True)}
        flat = {f"{who}/{name}": value.cpu() for who, state in states.items() for name, value in state.items()}
        meta = {"settings": json.dumps(job.settings), "seconds": str(round(time.process_time() - spent))}
        part = job.models.with_suffix(".part")
        save_file(flat, part, meta)
        part.replace(job.models)
    return _read(job.models, job.settings)


def read(folder: Path) -> list[Cell]:
    """What the ways made of each (site, seed), by site and seed; empty where nothing is finished."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return sorted(found, key=lambda cell: (cell["site"], cell["seed"]))


def _read(path: Path, settings: Mapping[str, Any]) -> tuple[dict[str, State], int]:
    from safetensors import safe_open  # noqa: PLC0415

    with safe_open(path, "pt") as file:
        meta = file.metadata()
    if json.loads(meta["settings"]) != settings:
        raise click.UsageError(f"{path}: was made under other settings; name another --out, or remove it")
    states: dict[str, State] = {}
    for name, value in load_file(path).items():
        who, _, own = name.partition("/")
        states.setdefault(who, {})[own] = value
    return states, int(meta["seconds"])


def prior_of(tables: Mapping[str, Table]) -> float:
    """The structure's mean share of the field at the hospitals that took part, each counting alike."""
    labels = [table.labels for table in tables.values() if table.labels is not None]
    return float(np.mean([each[:, 0].sum() / each[:, 1].sum() for each in labels]))


def outcomes(
    study: Study, states: Mapping[str, State], unseen: Table, prior: float, device: str, compared: Compared
) -> Cell:
    """What each way makes of the unseen hospital's images, and what its experts could have made."""
    models = {name: _model(study, state, device) for name, state in states.items()}
    ways: dict[str, Cell] = {}
    for way, contestant in contestants(compared).items():
        panel = _panel(study, models, contestant.experts)
        found = routed(
            _plain(panel) if contestant.recipe.granularity == "layer" else panel, unseen, contestant.recipe, prior
        )
        told = {"gates": _gates(found), "guarded": float(found.guarded.mean()), "why": found.why}
        ways[way] = {**_scored(study, found.logits, unseen, way), **told}
    for way, baseline in BASELINES.items():
        if compared == "choices" and way in CHANGING:
            continue
        panel = _panel(study, models, "finetuned")
        logits = baseline(_plain(panel) if way in CHANGING else panel, unseen, training(), prior)
        ways[way] = _scored(study, logits, unseen, way)
    image, headroom = _headroom(study, models, unseen, prior)
    known = {name: ways["global"][name] for name in ("ids", "patients")}
    ways[BY_IMAGE] = {**known, "dice": image}
    return {"prior": prior, "ways": ways, "headroom": headroom, "recipe": SEGMENTATION.to_mapping()}


def _compared(job: Job) -> Compared:
    """Who chooses needs no baseline that trains; and what takes longest is measured under one seed."""
    if job.choosing:
        return "choices"
    return "all" if job.seed == 0 and not job.short else "short"


def _scored(study: Study, logits: torch.Tensor, unseen: Table, way: str) -> Cell:
    return measured(study.task, study.task.predict(logits), unseen, hd95=way in DETAILED)


def _gates(found: Routed) -> dict[str, float]:
    means = found.gates.mean(axis=0)
    return {str(candidate): round(float(gate), 4) for candidate, gate in zip(found.candidates, means, strict=True)}


def _headroom(
    study: Study, models: Mapping[str, Remembering], unseen: Table, prior: float
) -> tuple[list[float | None], Cell]:
    """Each image's Dice under its best expert by labels, with equal views and threshold; and how far scores know it."""
    panel, alone = _panel(study, models, "finetuned"), replace(SEGMENTATION, zooms=(1.0,))
    own = {
        name: study.task.predict(routed(Panel({SHARED: model}, study.task), unseen, alone, prior).logits)
        for name, model in panel.models.items()
    }
    each = np.stack([dices(study.task, answer, unseen) for answer in own.values()])
    best = int(np.nanmean(each, axis=1).argmax())
    scored = routed(panel, unseen, SEGMENTATION).scores[:, : len(own)]
    gains, truly = (scored - scored[:, :1])[:, 1:], (each - each[:1])[1:].T
    known = np.isfinite(truly) & np.isfinite(gains)
    rank = float(spearmanr(gains[known], truly[known]).statistic) if known.sum() > 2 else float("nan")
    return _listed(each.max(axis=0)), {
        "experts": {name: float(np.nanmean(values)) for name, values in zip(own, each, strict=True)},
        "over global, site": float(np.nanmean(each[best] - each[0])),
        "over global, image": float(np.nanmean(each.max(axis=0) - each[0])),
        "rank correlation": rank,
    }


def _panel(study: Study, models: Mapping[str, Remembering], which: Which) -> Panel:
    """The shared model first, then the chosen experts."""
    endings = {"shared": (), "trajectory": (TRAJECTORY,), "finetuned": (TUNED,), "both": (TRAJECTORY, TUNED)}[which]
    chosen = {name: model for name, model in models.items() if name.rpartition(".")[2] in endings}
    return Panel({SHARED: models[SHARED], **chosen}, study.task)


def _plain(panel: Panel) -> Panel:
    """For ways that train on the images or average parameters, for which models that remember answers won't do."""
    return Panel({name: getattr(each, "model", each) for name, each in panel.models.items()}, panel.task)


def _model(study: Study, state: State, device: str) -> Remembering:
    model = study.model().to(device)
    model.load_state_dict(state)
    return Remembering(model.eval())


def _numbers(values: list[float | None]) -> np.ndarray[Any, Any]:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _listed(values: np.ndarray[Any, Any]) -> list[float | None]:
    return [None if not np.isfinite(value) else round(float(value), 6) for value in values]


@click.command()
@shared_options
@click.option("--choosing", is_flag=True, help="See training patients alone.")
@click.option("--again", is_flag=True, help="Route finished models anew.")
@click.option("--short", is_flag=True, help="Without many views and zooms, other models and trained gates.")
@click.option("--only", multiple=True, help="Sites to leave out.")
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
    again: bool,
    short: bool,
    only: tuple[str, ...],
) -> None:
    """Leave each site out under every seed."""
    one_thread()
    schedule = Schedule(rounds, steps, batch, patch, rate, turn)
    folder = out / data.name / ("outside-choosing" if choosing else "outside")
    sites = only or tuple(read_study(data, config, start, size).tables)
    wanted = [
        Job(site, seed, data, config, start, size, schedule, choosing, again, short, folder, device)
        for seed in range(first, first + seeds)
        for site in sites
    ]
    run_all(work, [job for job in wanted if not job.done], jobs)


if __name__ == "__main__":
    main()
