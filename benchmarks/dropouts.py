"""Hospitals that drop out of rounds, against none: heart disease over seeds, at the configuration's epsilon.

    python benchmarks/dropouts.py DATA [--seeds 5] [--rounds 50] [--rate 0.2] [--config FILE]

In every round each hospital is away with the given chance: it is not invited in time, sends and spends nothing, and
takes the answers that it missed when it is back. Rounds go over the RoundLoop, unencrypted, which changes no figure.
"""

import tempfile
import time
from pathlib import Path

import click
import numpy as np
from heart_disease import CONFIG, interval

from securepfl.client.client import Client
from securepfl.client.run_kind import Simulation
from securepfl.protocol.hospital import exchange
from securepfl.protocol.loop import Patience, RoundLoop
from securepfl.runtime.evaluation import outcome_of
from securepfl.runtime.hospital import dataset_of
from securepfl.runtime.local import SimulatedRun, Traffic, local_parties, noise_key
from securepfl.runtime.planning import plan_tables
from securepfl.settings.federation import Federation


def rounds_with_absences(run: SimulatedRun, rate: float, draw: np.random.Generator) -> int:
    """All rounds, with hospitals away by chance in each: how many hospital-rounds were missed."""
    hub, loop, now, missed = run.coordinator, RoundLoop(run.coordinator, Patience(1.0)), 0.0, 0
    while not loop.finished:
        last = hub.closed >= hub.rounds
        there = [name for name in hub.roster if last or draw.random() >= rate]
        missed += len(hub.roster) - len(there)
        closed = hub.closed
        for name in set(hub.roster) - set(there):
            loop.gone(name)
        for name in there:
            loop.here(name, run.clients[name].round)
        for _ in range(6):  # the steps of a round
            loop.tick(now)
            for name in there:
                told = loop.next(name)
                done = exchange(run.clients[name], [message for _, message in told])
                if done.failed is not None:
                    raise done.failed
                loop.took(name, done.at, done.replies, told=told)
            now += 2.0
            if hub.closed > closed and all(run.clients[name].round == hub.closed for name in there):
                break
    return missed


def run_seed(federation: Federation, data: Path, seed: int, rate: float) -> tuple[dict[str, float], int]:
    """The personalised model's metrics after one seeded run, mean over hospitals, and hospital-rounds missed."""
    plan = plan_tables(federation, data, seed, None)
    keyrings, coordinator = local_parties(plan.federation)
    with tempfile.TemporaryDirectory() as folder:
        clients = {
            name: Client(
                plan.federation,
                name,
                plan.build_model,
                dataset_of(plan.hospitals[name].train),
                keyring,
                Path(folder, name),
                device="cpu",
                simulation=Simulation(noise_key(seed)),
            )
            for name, keyring in keyrings.items()
        }
        run = SimulatedRun(coordinator, clients, Traffic(), time.perf_counter())
        try:
            missed = rounds_with_absences(run, rate, np.random.default_rng(seed))
            outcome = outcome_of(plan.federation, run, plan.hospitals, plan.build_model, seed)
        finally:
            for client in clients.values():
                client.close()
    return {name: value for name, value in outcome.mean(())["personalised"].items() if value is not None}, missed


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("--seeds", default=5, show_default=True)
@click.option("--rounds", default=50, show_default=True)
@click.option("--rate", default=0.2, show_default=True)
@click.option("--config", type=click.Path(exists=True, path_type=Path), default=CONFIG)
def main(data: Path, seeds: int, rounds: int, rate: float, config: Path) -> None:
    """Run both arms over the seeds and print the figures."""
    federation = Federation.read(config).changed("encryption", scheme="none")
    federation = federation.replace(rounds=rounds)
    arms: dict[float, list[dict[str, float]]] = {0.0: [], rate: []}
    for seed in range(seeds):
        for arm, found in arms.items():
            metrics, missed = run_seed(federation, data, seed, arm)
            found.append(metrics)
            print(f"seed {seed}, {arm:.0%} away, {missed} hospital-rounds missed: {metrics}", flush=True)
    for metric in ("accuracy", "balanced_accuracy", "auroc"):
        none, some = ([metrics[metric] for metrics in found] for found in arms.values())
        less = interval([a - b for a, b in zip(some, none, strict=True)])
        print(f"{metric}: none away {interval(none)}, {rate:.0%} away {interval(some)}, difference {less}")


if __name__ == "__main__":
    main()
