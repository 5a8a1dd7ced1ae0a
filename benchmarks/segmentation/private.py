"""Training under patient-level differential privacy at hospital sizes, from a public start: what epsilon costs.

    PYTHONPATH=benchmarks python -m segmentation.private ../shared/data/fundus_vessels --start FILE --seeds 5
        --out runs/imaging [--choosing] [--write docs/imaging_results.md]

The unit is a patient, delta 1e-5, every step sees all of them. What is trained: the head alone, on features of the
frozen body that are computed once; or head and norms along public directions (whitening.py).
Epsilon infinity is the same training with the same clip and no noise, so what is missing there is not the noise's.

Noise shared over hospitals is added here to the sum over all patients, of the size that it has in a run where fewer
than a third of the hospitals might keep their shares out; its integers and masks are left out. Shared noise needs
four hospitals: fewer are counted as twice as many, each dealt in two (simulated).
"""

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import torch
from methods.table import replaced
from torch import Tensor, nn
from torch.utils.data import Dataset

from securepfl.data.images.intensity import scaled
from securepfl.data.images.spec import ImageSpec
from securepfl.data.table import Table
from securepfl.privacy.accounting.calibration import noise_multiplier_for
from securepfl.privacy.training.dpsgd import DPSettings, train_private
from securepfl.randomness import RandomStream
from securepfl.tasks.augmentation import patches
from securepfl.tasks.models import public_stream
from securepfl.tasks.networks import UNet
from securepfl.tasks.prediction import evaluating
from securepfl.tasks.starts.recipes import recipe_named
from securepfl.tasks.starts.start import read_start
from segmentation.cells import Cell, finished, measured, one_thread, read, run_all, write
from segmentation.intervals import estimates, joined
from segmentation.pages import markers
from segmentation.sites import Study, read_study, tensors
from segmentation.training import NORMS
from segmentation.whitening import Whitened, whitening

DELTA: Final = 1e-5
NO_NOISE: Final = 1e-9
LEAST_HOSPITALS: Final = 4
PIXELS: Final = 2000
"""Of an image, for the head."""
PATCHES: Final = 2
"""Of a patient and a step, for the norms."""
SETTLED: Final = 0.5
"""The mean over this last part of the steps is the model: it costs no privacy."""


@dataclass(frozen=True)
class Scope:
    """What is trained, and how: full-batch steps whose rate falls to a fifth.

    `directions`: along so many public ones.
    """

    trained: tuple[str, ...]
    steps: int
    clip: float
    rate: float
    directions: int | None = None


SCOPES: Final[Mapping[str, Scope]] = {
    "head": Scope(("head.*",), steps=25, clip=0.1, rate=1.2),
    "head and norms, public directions": Scope((*NORMS, "head.*"), steps=16, clip=1.0, rate=0.5, directions=60),
}
WAYS: Final = tuple(
    (scope, noise, epsilon)
    for scope, noise, epsilons in (
        ("head", "shared", (1.0, 8.0, math.inf)),
        ("head", "local", (8.0, math.inf)),
        ("head and norms, public directions", "shared", (8.0, math.inf)),
    )
    for epsilon in epsilons
)
START: Final = "public start"


def name_of(scope: str, noise: str, epsilon: float) -> str:
    """As files and pages call it.

    >>> name_of("head", "shared", 8.0)
    'head, shared noise, epsilon 8'
    """
    return f"{scope}, {noise} noise, epsilon {epsilon:g}"


class Pixels(Dataset[tuple[Tensor, Tensor]]):
    """A patient's features at PIXELS random pixels of each image's field, made once: [r, F, K, 1], [r, 2, K, 1]."""

    def __init__(self, model: UNet, table: Table, stream: RandomStream) -> None:
        images, labels = tensors(table)
        self._items = []
        for rows in by_patient(table):
            seen = [self._sampled(model, images[row], labels[row], stream) for row in rows]
            self._items.append((torch.stack([x for x, _ in seen]), torch.stack([y for _, y in seen])))

    @staticmethod
    def _sampled(model: UNet, image: Tensor, label: Tensor, stream: RandomStream) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            features = model.features(image[None])[0].flatten(1)
        inside = label[1].flatten().nonzero()[:, 0]
        chosen = inside[torch.from_numpy(np.floor(stream.uniform(PIXELS) * len(inside)).astype(np.int64))]
        return features[:, chosen, None], label.flatten(1)[:, chosen, None]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._items[index]


class Patches(Dataset[tuple[Tensor, Tensor]]):
    """New patches of a patient each time it is looked at: [r, C, h, w], [r, 2, h, w]."""

    def __init__(self, table: Table, size: int, stream: RandomStream) -> None:
        self._images, self._labels = tensors(table)
        self._patients, self._size, self._stream = by_patient(table), size, stream

    def __len__(self) -> int:
        return len(self._patients)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rows = self._patients[index]
        return patches(self._images[rows], self._labels[rows], PATCHES, self._size, self._stream)


def by_patient(table: Table) -> list[list[int]]:
    """Rows of each patient, in the order in which they come."""
    patients = table.patients if table.patients is not None else np.arange(len(table))
    found: dict[Any, list[int]] = {}
    for row, patient in enumerate(patients.tolist()):
        found.setdefault(patient, []).append(row)
    return list(found.values())


class Together(Dataset[tuple[Tensor, Tensor]]):
    """All hospitals' patients."""

    def __init__(self, parts: Sequence[Dataset[tuple[Tensor, Tensor]]]) -> None:
        self._parts = [(part, index) for part in parts for index in range(len(part))]  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        part, own = self._parts[index]
        return part[own]


@dataclass(frozen=True)
class Job:
    """One training under one seed of the noise."""

    scope: str
    noise: str
    epsilon: float
    seed: int
    data: Path
    config: Path | None
    start: Path
    size: int | None
    patch: int
    choosing: bool
    folder: Path

    @property
    def as_trained(self) -> Scope:
        """The scope with the steps and rate for this epsilon."""
        return at(self.epsilon, SCOPES[self.scope])

    @property
    def settings(self) -> dict[str, Any]:
        """What a file must have been made under to count."""
        given = {"scope": asdict(self.as_trained), "size": self.size, "patch": self.patch}
        return dict(json.loads(json.dumps({**given, "choosing": self.choosing, "start": self.start.name})))

    @property
    def of_pixels(self) -> tuple[str, "Job"]:
        """What a head's features depend on."""
        return self.scope, replace(self, noise="shared", epsilon=math.inf, seed=0)

    @property
    def way(self) -> str:
        """Its name."""
        return name_of(self.scope, self.noise, self.epsilon)


def at(epsilon: float, scope: Scope) -> Scope:
    """The scope is for epsilon 8 and above; below, where there is more noise, steps are fewer and shorter.

    >>> shorter = at(1.0, SCOPES["head"])
    >>> shorter.steps, round(shorter.rate, 2)
    (6, 0.42)
    """
    less = min(1.0, epsilon / 8.0)
    return replace(scope, steps=max(1, round(scope.steps * less ** (2 / 3))), rate=scope.rate * math.sqrt(less))


def noise_of(scope: Scope, epsilon: float, hospitals: int, noise: str) -> float:
    """The noise on a sum over its clip, sigma, which patients' epsilon asks for; of shared noise with what the
    hospitals add that may not count.
    """
    if math.isinf(epsilon):
        return NO_NOISE
    own = noise_multiplier_for(epsilon, DELTA, 1.0, scope.steps)
    if noise == "local":
        return own
    dealt = hospitals if hospitals >= LEAST_HOSPITALS else 2 * hospitals
    return own * math.sqrt(dealt / (dealt - math.ceil(dealt / 3) + 1))


def trained(
    model: nn.Module, data: Dataset[tuple[Tensor, Tensor]], study: Study, scope: Scope, sigma: float, seed: int
) -> Mapping[str, Tensor]:
    """The mean of the last steps' trained tensors, by name."""
    noise, sampling = (public_stream("private study", what, seed, len(data)) for what in ("noise", "draws"))  # type: ignore[arg-type]
    last: list[dict[str, Tensor]] = []
    for step in range(scope.steps):
        settings = DPSettings(
            noise_multiplier=sigma,
            clip=scope.clip,
            sample_rate=1.0,
            steps=1,
            # A step is in parts of the clip.
            learning_rate=scope.rate / scope.clip * (1 - 0.8 * step / scope.steps),
            physical_batch=16,
        )
        train_private(
            model,
            data,
            study.task.loss,
            settings,
            noise=noise,
            sampling=sampling,
            device="cpu",
            units=len(data),  # type: ignore[arg-type]
            unit="patient",
        )
        if step >= SETTLED * scope.steps:
            last.append({name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad})
    return {name: torch.stack([each[name] for each in last]).mean(dim=0) for name in last[0]}


def models(job: Job, study: Study, tables: Mapping[str, Table]) -> dict[str, nn.Module]:
    """Each hospital's model under the way: one for all with shared noise."""
    scope = job.as_trained
    sigma = noise_of(scope, job.epsilon, len(tables), job.noise)
    groups = [list(tables)] if job.noise == "shared" else [[site] for site in tables]
    found = {}
    for group in groups:
        model = _model(job, study, scope)
        looks = _patches(job, tables) if isinstance(model, Whitened) else _pixels(*job.of_pixels)
        data = Together([looks[site] for site in group])
        model.load_state_dict(trained(model, data, study, scope, sigma, job.seed), strict=False)
        found |= dict.fromkeys(group, model.eval())
    return found


def _patches(job: Job, tables: Mapping[str, Table]) -> dict[str, Dataset[tuple[Tensor, Tensor]]]:
    streams = {site: public_stream("private study", "looks", site, job.seed) for site in tables}
    return {site: Patches(table, job.patch, streams[site]) for site, table in tables.items()}


@lru_cache(maxsize=1)
def _features(job: Job) -> dict[str, list[Tensor]]:
    """Each test image's [1, F, H, W] from the start's body, computed once in a process: some GiB, which spare a head
    most of its test.
    """
    study = read_study(job.data, job.config, job.start, job.size)
    model, parts = study.model().eval(), study.split(0, choosing=job.choosing)
    with torch.no_grad():
        return {site: [model.features(image) for image in _one_by_one(test)] for site, (_, test) in parts.items()}


@lru_cache(maxsize=4)
def _pixels(scope: str, job: Job) -> dict[str, Dataset[tuple[Tensor, Tensor]]]:
    """The same for all noise and seeds: computed once in a process."""
    study = read_study(job.data, job.config, job.start, job.size)
    model = _model(job, study, SCOPES[scope])
    if isinstance(model, Whitened):
        raise TypeError("only a head is trained on pixels")
    parts = study.split(0, choosing=job.choosing)
    return {
        site: Pixels(model, train, public_stream("private study", "looks", site)) for site, (train, _) in parts.items()
    }


def _model(job: Job, study: Study, scope: Scope) -> UNet | Whitened:
    """The start, with what is trained free and the rest frozen."""
    model = study.model().eval()
    if scope.directions:
        return Whitened(model, scope.trained, public_directions(job, study, scope))
    model.body.requires_grad_(False)
    return model


def public_directions(job: Job, study: Study, scope: Scope) -> Tensor:
    """The whitening, from images that the start's generator draws, scaled as the patients' are; kept in a file."""
    path = job.folder / f"directions-{job.start.stem}-{job.patch}-{scope.directions}.pt"
    if path.exists():
        found: Tensor = torch.load(path, weights_only=True)
        return found
    images = public_images(job, study.spec)
    stream = public_stream("private study", "directions")
    made = whitening(study.model(), scope.trained, images, scope.directions or 1, stream)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(made, path)
    return made


def public_images(job: Job, spec: ImageSpec, count: int = 32) -> Tensor:
    """`count` images [n, 1, side, side] of nobody, of the kind that the start was made on."""
    recipe = recipe_named(read_start(job.start).name)
    drawn = recipe.draw(count, 8_000_000, job.patch)
    pairs = zip(drawn.images, drawn.labels, strict=True)
    return torch.from_numpy(
        np.stack([scaled(image[0, :, :, None].astype(np.float64), labels[1], spec) for image, labels in pairs])
    )


def work(job: Job) -> str:
    """Train, test, write; what to print."""
    began, spent = time.monotonic(), time.process_time()
    study = read_study(job.data, job.config, job.start, job.size)
    parts = study.split(0, choosing=job.choosing)
    made = models(job, study, {site: train for site, (train, _) in parts.items()})
    seconds = round(time.process_time() - spent)
    return _tested(job, job.way, study, parts, made, seconds) + f" ({time.monotonic() - began:.0f} s)"


def _tested(
    job: Job,
    way: str,
    study: Study,
    parts: Mapping[str, tuple[Table, Table]],
    made: Mapping[str, nn.Module],
    seconds: int,
) -> str:
    seen = _features(job.of_pixels[1]) if all(map(_frozen, made.values())) else {}
    sites = {site: scores(study, made[site], test, seen.get(site)) for site, (_, test) in parts.items()}
    patients = {site: len(by_patient(train)) for site, (train, _) in parts.items()}
    cell: Cell = {"way": way, "seed": job.seed, "settings": job.settings, "sites": sites, "patients": patients}
    write(job.folder, {**cell, "cpu_seconds": seconds})
    means = "/".join(f"{np.nanmean(np.array(found['dice'], float)):.3f}" for found in sites.values())
    return f"seed {job.seed}: {way} {means}"


def _frozen(model: nn.Module) -> bool:
    return isinstance(model, UNet) and not any(p.requires_grad for p in model.body.parameters())


def _one_by_one(test: Table) -> Iterator[Tensor]:
    return (torch.from_numpy(test.features[at : at + 1]) for at in range(len(test)))


def scores(study: Study, model: nn.Module, test: Table, features: Sequence[Tensor] | None = None) -> Cell:
    """Of each test image; `features`: of all, where a frozen body's are known."""
    with evaluating(model), torch.no_grad():
        outputs = [model(seen) for seen in features or _one_by_one(test)]
    return measured(study.task, study.task.predict(torch.cat(outputs)), test, hd95=False)


def section(found: Mapping[str, Sequence[Cell]], note: str = "") -> str:
    """The table: Dice by site, the mean, and what it is over the start."""
    ways = [START, *(way for each in WAYS if (way := name_of(*each)) in found)]
    dice = {way: joined(found[way], "dice") for way in ways}
    sites = list(dict.fromkeys(dice[START].sites.tolist()))
    patients = sum(found[START][0]["patients"].values())
    lines = [
        f"Dice on test patients, mean and 95 % interval (bootstrap over patients and {max(map(len, found.values()))} "
        f"seeds of the noise); {patients} training patients at {len(sites)} sites, unit a patient, delta {DELTA:g}.",
        "",
        "| way | " + " | ".join(sites) + " | mean of sites | mean less start | CPU s |",
        "|" + " --- |" * (len(sites) + 4),
    ]
    for way in ways:
        mine, less = estimates(dice[way]), ""
        if way != START:
            base = replace(dice[START], **_like(dice[START], dice[way]))
            less = estimates(dice[way].minus(base))["mean"].signed
        own = [f"{mine[site].mean:.4f}" for site in sites]
        seconds = np.mean([cell["cpu_seconds"] for cell in found[way]])
        lines.append(f"| {way} | " + " | ".join([*own, str(mine["mean"]), less, f"{seconds:.0f}"]) + " |")
    return "\n\n".join(filter(None, [note, "\n".join(lines)]))


def _like(start: Any, other: Any) -> dict[str, Any]:
    """The start's images once for each seed of `other`: it is the same under all."""
    times = len(other.values) // len(start.values)
    repeated = {name: np.tile(getattr(start, name), times) for name in ("values", "sites", "patients")}
    return {**repeated, "seeds": other.seeds}


def _jobs(seeds: int, common: Mapping[str, Any]) -> Iterator[Job]:
    for scope, noise, epsilon in WAYS:
        # Without noise seeds differ by patches and pixels alone.
        for seed in range(1 if math.isinf(epsilon) else seeds):
            yield Job(scope, noise, epsilon, seed, **common)


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--start", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--config", type=click.Path(exists=True, path_type=Path))
@click.option("--seeds", default=5, show_default=True, help="Of the noise.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/imaging"), show_default=True)
@click.option("--size", type=int, help="Longest side, in place of the declared one.")
@click.option("--patch", default=96, show_default=True)
@click.option("--choosing", is_flag=True, help="Test on training patients alone.")
@click.option("--only", default="", help="Ways whose names hold this.")
@click.option("--jobs", default=1, show_default=True)
@click.option(
    "--write", "page", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Page to write into."
)
@click.option("--note", default="", help="A line above the table.")
def main(
    data: Path,
    start: Path,
    config: Path | None,
    seeds: int,
    out: Path,
    size: int | None,
    patch: int,
    choosing: bool,
    only: str,
    jobs: int,
    page: Path | None,
    note: str,
) -> None:
    """Train and test every way under every seed; print the table, or write it into the page."""
    one_thread()
    folder = out / data.name / ("private-choosing" if choosing else "private")
    given = {"data": data, "config": config, "start": start, "size": size, "patch": patch}
    common = {**given, "choosing": choosing, "folder": folder}
    wanted = [job for job in _jobs(seeds, common) if only in job.way]
    first = replace(wanted[0], scope="head", epsilon=math.inf, seed=0)
    if not finished(folder, START, 0, first.settings):
        study = read_study(data, config, start, size)
        parts = study.split(0, choosing=choosing)
        start_alone = study.model().requires_grad_(False)
        made = dict.fromkeys(parts, start_alone)
        click.echo(_tested(first, START, study, parts, made, 0))
    run_all(work, [job for job in wanted if not finished(folder, job.way, job.seed, job.settings)], jobs)
    table = section(read(folder), note)
    if page is None:
        click.echo(table)
    else:
        page.write_text(replaced(page.read_text(), table, *markers(data.name, "private")))


if __name__ == "__main__":
    main()
