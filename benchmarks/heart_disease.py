"""Heart disease over many seeds: FLamby's four hospitals and split, at the configuration's epsilon.

    python benchmarks/heart_disease.py DATA [--seeds 20] [--config FILE] [--plaintext]

Prints mean and 95 % interval (t, over seeds) of accuracy and AUROC, for each model, with and without
Switzerland, whose test set has a single negative patient.
"""

import tempfile
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from securepfl.report.outcome import MODELS, Outcome
from securepfl.runtime.evaluation import outcome_of
from securepfl.runtime.hospital import dataset_of
from securepfl.runtime.local import simulate
from securepfl.runtime.planning import plan_tables
from securepfl.settings.federation import Federation
from securepfl.tasks.binary import BINARY

CONFIG = Path(__file__).resolve().parents[1] / "examples" / "heart_disease" / "federation.toml"


def run_seed(federation: Federation, data: Path, seed: int) -> Outcome:
    """One seeded simulation on `data`."""
    plan = plan_tables(federation, data, seed, None)
    training = {name: dataset_of(hospital.train) for name, hospital in plan.hospitals.items()}
    with (
        tempfile.TemporaryDirectory() as folder,
        simulate(plan.federation, training, plan.build_model, Path(folder), seed=seed, device="cpu") as run,
    ):
        return outcome_of(plan.federation, run, plan.hospitals, plan.build_model, seed)


def interval(values: list[float]) -> str:
    """Mean and half-width of the 95 % interval of the mean."""
    half = (
        stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    )
    return f"{np.mean(values):.3f} +- {half:.3f}"


def table_of(outcomes: list[Outcome], without: tuple[str, ...]) -> Table:
    """Rows: models; columns: metrics, averaged over hospitals, then over seeds."""
    title = f"mean of hospitals{', without ' + ', '.join(without) if without else ''}; {len(outcomes)} seeds"
    table = Table("model", "accuracy", "balanced accuracy", "AUROC", title=title, title_justify="left")
    for model in MODELS:
        means = [outcome.mean(without)[model] for outcome in outcomes]
        names = [metric.name for metric in BINARY.metrics if not metric.detail]
        table.add_row(
            model,
            *(interval([value for m in means if (value := m[name]) is not None]) for name in names),
        )
    return table


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("--seeds", default=20, show_default=True)
@click.option("--config", type=click.Path(exists=True, path_type=Path), default=CONFIG)
@click.option("--plaintext", is_flag=True, help="Without encryption: the same figures, faster.")
def main(data: Path, seeds: int, config: Path, plaintext: bool) -> None:
    """Run the seeds and print the tables."""
    federation = Federation.read(config)
    if plaintext:
        federation = federation.changed("encryption", scheme="none")
    outcomes = [run_seed(federation, data, seed) for seed in range(seeds)]
    console = Console(width=110)
    spent = max(site.epsilon for outcome in outcomes for site in outcome.sites.values())
    console.print(f"epsilon {spent:.3f} at delta {federation.privacy.delta:g}, zero-out, per record, for each seed")
    console.print(table_of(outcomes, ()))
    console.print(table_of(outcomes, ("switzerland",)))


if __name__ == "__main__":
    main()
