"""The demo with and without encryption, side by side from the same seeds: identical sums, seconds, bytes.

    python benchmarks/price_of_encryption.py [--seeds 10]

Seconds are ratios within each pair of runs, the pair in alternating order; the medians are printed.
"""

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from securepfl.report.outcome import MODELS, Outcome
from securepfl.runtime.evaluation import outcome_of
from securepfl.runtime.hospital import dataset_of
from securepfl.runtime.local import simulate
from securepfl.runtime.planning import configured, plan_demo
from securepfl.storage.folder import read_arrays


@dataclass(frozen=True)
class Measured:
    """One run: what it tells, and every hospital's final state as bytes."""

    outcome: Outcome
    states: dict[str, bytes]


def measure(seed: int, plaintext: bool) -> Measured:
    """One seeded run of the demo."""
    plan = plan_demo(configured(None, plaintext=plaintext), seed, None)
    training = {name: dataset_of(hospital.train) for name, hospital in plan.hospitals.items()}
    with (
        tempfile.TemporaryDirectory() as folder,
        simulate(plan.federation, training, plan.build_model, Path(folder), seed=seed, device="cpu") as run,
    ):
        outcome = outcome_of(plan.federation, run, plan.hospitals, plan.build_model, seed)
        states = {}
        for name in run.clients:
            arrays, _ = read_arrays(Path(folder) / name / "state.safetensors")
            states[name] = b"".join(arrays[key].tobytes() for key in sorted(arrays))
        return Measured(outcome, states)


def comparison(pairs: list[tuple[Measured, Measured]]) -> Table:
    """Rows: seconds by step and bytes, encrypted and plaintext medians, and the median ratio of pairs."""
    table = Table("median of runs", "encrypted", "plaintext", "ratio within pairs")
    for step in pairs[0][0].outcome.seconds:
        _row(table, f"seconds: {step}", [(a.outcome.seconds[step], b.outcome.seconds[step]) for a, b in pairs], ".2f")
    for part in pairs[0][0].outcome.communication.parts:
        found = [(a.outcome.communication.parts[part], b.outcome.communication.parts[part]) for a, b in pairs]
        if any(map(sum, found)):  # no masks, nothing to show
            _row(table, f"bytes, both ways: {part}", found, ",.0f")
    return table


def _row(table: Table, name: str, found: list[tuple[float, float]], form: str) -> None:
    encrypted, plain = (statistics.median(column) for column in zip(*found, strict=True))
    ratio = statistics.median(a / b for a, b in found if b)
    table.add_row(name, f"{encrypted:{form}}", f"{plain:{form}}", f"{ratio:.2f}")


@click.command()
@click.option("--seeds", default=10, show_default=True)
def main(seeds: int) -> None:
    """Run the pairs and print the tables."""
    measure(0, plaintext=True)  # warms up imports and caches, not counted
    pairs = []
    for seed in range(seeds):
        order = (False, True) if seed % 2 else (True, False)
        found = {plaintext: measure(seed, plaintext) for plaintext in order}
        pairs.append((found[False], found[True]))
    console = Console(width=110)
    identical = sum(encrypted.states == plain.states for encrypted, plain in pairs)
    console.print(f"final states of all hospitals identical bit for bit: {identical} of {seeds} pairs")
    console.print(comparison(pairs))
    metrics = Table("mean of hospitals and seeds", "accuracy", "balanced accuracy", "AUROC")
    for model in MODELS:
        means = [encrypted.outcome.mean()[model] for encrypted, _ in pairs]
        columns = ([value for mean in means if (value := mean[name]) is not None] for name in means[0])
        metrics.add_row(model, *(f"{statistics.mean(values):.3f}" for values in columns))
    console.print(metrics)


if __name__ == "__main__":
    main()
