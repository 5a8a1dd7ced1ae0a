"""What each part of the demo is for: the same simulated hospitals with everything, without coupling, with one model.

    python benchmarks/demo_parts.py [--seeds 10] [--encrypted] [--jobs 2]

Another seed draws other patients and other noise. Balanced accuracy and AUROC are means of the nine hospitals; those
of the hospital that took no part are on its 150 rows. Gains are within seeds, with a 95 % interval over them.
"""

import statistics
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import t

from securepfl.client.client import Client
from securepfl.data.demo import HOSPITALS, outside_hospital
from securepfl.outside.gates import AdaptSettings, adapt
from securepfl.outside.routing import RoutedModel
from securepfl.runtime.evaluation import outcome_of
from securepfl.runtime.hospital import dataset_of, labels_of
from securepfl.runtime.local import simulate
from securepfl.runtime.planning import configured, plan_demo
from securepfl.settings.federation import Federation
from securepfl.tasks.binary import BINARY
from securepfl.tasks.prediction import predict
from securepfl.tasks.task import Metrics

METRICS = ("balanced_accuracy", "auroc")
Scores = dict[str, tuple[float, ...]]


def variants(encrypted: bool) -> dict[str, Federation]:
    """The demo's settings, and two with a part taken out."""
    whole = configured(None, plaintext=not encrypted)
    uncoupled = whole.changed("coupling", strength=0.0)
    one = uncoupled.changed("model", personal=()).changed("similarity", every=0).changed("release", experts=False)
    return {"personal and coupled": whole, "personal, uncoupled": uncoupled, "one model for all": one}


def measure(name: str, federation: Federation, seed: int) -> tuple[Scores, list[str]]:
    """Mean scores of a variant's models by name, and what the graph looked like."""
    plan = plan_demo(federation, seed, None)
    training = {site: dataset_of(hospital.train) for site, hospital in plan.hospitals.items()}
    with (
        tempfile.TemporaryDirectory() as folder,
        simulate(plan.federation, training, plan.build_model, Path(folder), seed=seed, device="cpu") as run,
    ):
        outcome = outcome_of(plan.federation, run, plan.hospitals, plan.build_model, seed)
        mean = outcome.mean()
        found = {name: _both(mean["personalised"])}
        if name != "personal and coupled":
            return found, []
        found |= {"its shared part alone": _both(mean["shared"]), "local, same epsilon": _both(mean["local"])}
        experts = [client.personal_model() for client in run.clients.values()]
        shared = next(iter(run.clients.values())).shared_model()
        if shared is None:
            raise RuntimeError("the last round formed no sum")
        return found | _outside(plan.federation, seed, shared, experts), _graph(run.clients)


def _both(metrics: Metrics) -> tuple[float, ...]:
    return tuple(value for metric in METRICS if (value := metrics[metric]) is not None)


def _outside(federation: Federation, seed: int, shared: torch.nn.Module, experts: list[torch.nn.Module]) -> Scores:
    table, point = outside_hospital(seed), federation.operating_point_of()
    routed = RoutedModel([shared, *experts])
    adapt(routed, torch.from_numpy(table.features), AdaptSettings(), BINARY)
    scores = {}
    for name, model in (("shared", shared), ("routed", routed)):
        said = predict(model, table.features, BINARY)
        scores[f"outside: {name}"] = _both(BINARY.evaluate(said, labels_of(table), point))
    return scores


def _graph(clients: Mapping[str, Client]) -> list[str]:
    """Of each hospital: whether its neighbours at the end are of its own family, of others too, or nobody."""
    found = []
    for site, client in clients.items():
        families = {HOSPITALS[other] for other in client.neighbours}
        kind = "nobody" if not families else "own family" if families == {HOSPITALS[site]} else "others"
        found.append(f"{'the unusual one' if HOSPITALS[site] == 'unusual' else 'of a family'}: {kind}")
    return found


def gain(ours: list[float], theirs: list[float]) -> str:
    """Mean difference within seeds, and half its 95 % interval (Student's t)."""
    gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
    half = t.ppf(0.975, len(gaps) - 1) * statistics.stdev(gaps) / len(gaps) ** 0.5
    return f"{statistics.mean(gaps):+.3f} +- {half:.3f}"


def one_seed(encrypted: bool, seed: int) -> tuple[Scores, list[str]]:
    """All variants."""
    scores: Scores = {}
    graph: list[str] = []
    for name, federation in variants(encrypted).items():
        found, seen = measure(name, federation, seed)
        scores |= found
        graph += seen
    return scores, graph


@click.command()
@click.option("--seeds", default=10, show_default=True)
@click.option("--encrypted", is_flag=True, help="With tenseal: the same sums, more time.")
@click.option("--jobs", default=2, show_default=True)
def main(seeds: int, encrypted: bool, jobs: int) -> None:
    """Run the variants and print the tables."""
    scores: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    graphs: dict[str, int] = defaultdict(int)
    with ProcessPoolExecutor(jobs) as pool:
        for seed, (found, graph) in enumerate(pool.map(partial(one_seed, encrypted), range(seeds))):
            for model, values in found.items():
                scores[model].append(values)
            for kind in graph:
                graphs[kind] += 1
            print(seed, {model: [round(value, 3) for value in values] for model, values in found.items()}, flush=True)
    console = Console(width=110)
    table = Table("mean of hospitals and seeds", "balanced accuracy", "AUROC")
    for model, each in scores.items():
        table.add_row(model, *(f"{statistics.mean(column):.3f}" for column in zip(*each, strict=True)))
    console.print(table)
    gains = Table("gain within seeds", "balanced accuracy", "AUROC")
    ours = "personal and coupled"
    pairs = [(ours, other) for other in scores if other != ours and not other.startswith("outside")]
    for one, other in (*pairs, ("outside: routed", "outside: shared")):
        columns = zip(zip(*scores[one], strict=True), zip(*scores[other], strict=True), strict=True)
        gains.add_row(f"{one} - {other}", *(gain(list(a), list(b)) for a, b in columns))
    console.print(gains)
    console.print("neighbours at the end, hospitals x seeds:", dict(sorted(graphs.items())))


if __name__ == "__main__":
    main()
