"""Shared noise against each hospital's own, at the same epsilon: accuracy, AUROC, and the noise on the mean step.

    python benchmarks/shared_noise.py DATA [--seeds 10] [--rounds 10] [--config FILE]

The heart-disease rows of all four hospitals are dealt out evenly, by seed, to 4, 8 and 16 simulated hospitals, which
train one logistic model (nothing personal); it is tested on all test rows together. Shared noise is masked;
nothing is encrypted: sums are the same with it. The noise is measured on rounds whose gradients are zero.
"""

import tempfile
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table as RichTable
from scipy import stats
from torch import Tensor
from torch.utils.data import TensorDataset

from securepfl.client.client import Client
from securepfl.client.records import Loss
from securepfl.client.run_kind import Simulation
from securepfl.data.tables import Table, load_sites, split_table
from securepfl.errors import SecurePFLError
from securepfl.runtime.local import SimulatedRun, Traffic, exchange, local_parties, noise_key
from securepfl.settings.federation import Federation
from securepfl.tasks.binary import BINARY, bce
from securepfl.tasks.models import build_model
from securepfl.tasks.prediction import predict

CONFIG = Path(__file__).resolve().parents[1] / "examples" / "heart_disease" / "federation.toml"
HOSPITALS = (4, 8, 16)
EPSILONS = (0.25, 0.5, 1.0)


def federation_for(base: Federation, hospitals: int, epsilon: float, noise: str, rounds: int, units: int) -> Federation:
    """The benchmark's federation: one logistic model, every hospital equal."""
    spec = base.data_spec
    if spec is None:
        raise click.UsageError("the configuration declares no [data]")
    masking = "pairwise" if noise == "shared" else "none"
    settings = {
        "rounds": rounds,
        "model": {"kind": "logistic", "personal": []},
        "privacy": {"epsilon": epsilon, "delta": base.privacy.delta},
        "encryption": {"scheme": "none", "masking": masking, "bits": 16, "limit": 2.0},
    }
    if noise == "shared":
        settings["shared_noise"] = {}
    names = [f"h{number:02d}" for number in range(hospitals)]
    return Federation.from_mapping(settings).bound(
        names, partial(build_model, "logistic", len(spec.feature_names)), units=units // len(names)
    )


def shared_model_of(
    federation: Federation, parts: dict[str, TensorDataset], features: int, seed: int, loss: Loss
) -> tuple[torch.nn.Module, NDArray[np.float64]]:
    """The last shared model, and each round's step of the shared parameters [rounds, d]."""
    build = partial(build_model, "logistic", features)
    keyrings, coordinator = local_parties(federation)
    with tempfile.TemporaryDirectory() as folder:
        clients = {
            name: Client(
                federation,
                name,
                build,
                parts[name],
                keyring,
                Path(folder) / name,
                loss=loss,
                device="cpu",
                simulation=Simulation(noise_key(seed)),
            )
            for name, keyring in keyrings.items()
        }
        first = next(iter(clients.values()))
        run = SimulatedRun(coordinator, clients, Traffic.of(clients), 0.0)
        steps = []
        for _ in range(federation.rounds):
            before = _vector(first)
            exchange(run)
            steps.append(before - _vector(first))
        model = first.shared_model()
        for client in clients.values():
            client.close()
    if model is None:
        raise click.ClickException("the last round formed no sum")
    return model, np.array(steps)


def _vector(client: Client) -> NDArray[np.float64]:
    parameters = [p.detach().flatten() for p in client.personal_model().parameters()]
    if client.round:
        model = client.shared_model()
        parameters = [p.detach().flatten() for p in model.parameters()] if model is not None else parameters
    return torch.cat(parameters).numpy().astype(np.float64)


def nothing(output: Tensor, _: Tensor) -> Tensor:
    """A loss without a gradient, to see the noise alone."""
    return output * 0


def dealt(train: Table, hospitals: int, seed: int) -> dict[str, TensorDataset]:
    """All rows, shuffled by `seed` and cut into equal parts."""
    order = np.random.default_rng(seed).permutation(len(train))
    labels = train.labels
    if labels is None:
        raise click.ClickException("rows are not labelled")
    x, y = torch.from_numpy(train.features[order]), torch.from_numpy(labels[order]).float()
    cuts = np.array_split(np.arange(len(order)), hospitals)
    return {f"h{number:02d}": TensorDataset(x[cut], y[cut]) for number, cut in enumerate(cuts)}


def pooled(tables: list[Table]) -> Table:
    """Several sites' rows as one table."""
    return Table(
        site="all",
        features=np.concatenate([table.features for table in tables]),
        labels=np.concatenate([table.labels for table in tables if table.labels is not None]),
        patients=None,
        rows=np.arange(sum(map(len, tables))),
    )


def interval(values: list[float]) -> str:
    """Mean and half-width of the 95 % interval of the mean."""
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)) if values[1:] else 0.0
    return f"{np.mean(values):.3f} +- {half:.3f}"


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("--seeds", default=10, show_default=True)
@click.option("--rounds", default=10, show_default=True)
@click.option("--config", type=click.Path(exists=True, path_type=Path), default=CONFIG)
def main(data: Path, seeds: int, rounds: int, config: Path) -> None:
    """Run all cells and print the table."""
    torch.set_num_threads(1)
    base = Federation.read(config)
    spec = base.data_spec
    if spec is None:
        raise click.UsageError("the configuration declares no [data]")
    split = [split_table(table, spec.split) for table in load_sites(data, spec).values()]
    train, test = pooled([part for part, _ in split]), pooled([part for _, part in split])
    features = train.features.shape[1]
    table = RichTable("hospitals", "epsilon", "noise", "accuracy", "AUROC", "noise on the mean", "ratio", "sqrt(n - c)")
    for hospitals in HOSPITALS:
        for epsilon in EPSILONS:
            deviations = {}
            for noise in ("local", "shared"):
                federation = federation_for(base, hospitals, epsilon, noise, rounds, len(train))
                found = []
                for seed in range(seeds):
                    parts = dealt(train, hospitals, seed)
                    model, _ = shared_model_of(federation, parts, features, seed, bce)
                    found.append(BINARY.evaluate(predict(model, test.features, BINARY), test.labels))
                _, steps = shared_model_of(federation, dealt(train, hospitals, 0), features, 0, nothing)
                deviations[noise] = float(steps.std())
                ratio = "" if noise == "local" else f"{deviations['local'] / deviations['shared']:.2f}"
                shared = federation.shared_noise
                expected = "" if shared is None else f"{np.sqrt(hospitals - shared.colluders):.2f}"
                accuracy, auroc = ([float(m[name]) for m in found] for name in ("accuracy", "auroc"))
                cells = (f"{deviations[noise]:.4f}", ratio, expected)
                table.add_row(str(hospitals), f"{epsilon:g}", noise, interval(accuracy), interval(auroc), *cells)
    console = Console(width=120)
    console.print(
        f"{len(train)} training rows, {len(test)} test rows, delta {base.privacy.delta:g}, {rounds} rounds, "
        f"{seeds} seeds, 1 colluder, no dropout; mean and 95 % interval over seeds"
    )
    console.print(table)


if __name__ == "__main__":
    try:
        main()
    except SecurePFLError as error:
        raise SystemExit(f"shared_noise: {error}") from None
