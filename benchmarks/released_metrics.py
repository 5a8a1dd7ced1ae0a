"""How exact released metrics are, by patients held out and epsilon: the table in docs/released_metrics.md.

    python benchmarks/released_metrics.py [--worlds 100] [--write docs/released_metrics.md]

Four hospitals of equal size, a binary outcome of prevalence .3, honest binormal scores of AUROC .8, decided at .3;
delta 1e-5, full batches, 20 steps of training, so that 5 of 25 noisy steps are the metrics'. Each world draws patients
and noise anew. A figure's width is half its interval's; "none" is how often there was no figure.
"""

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from methods.table import replaced
from numpy.typing import NDArray
from scipy.special import expit, logit, ndtr, ndtri

from securepfl import Federation
from securepfl.learning.released.figures import OutcomeFigures, figures_of
from securepfl.settings.evaluation import Evaluation
from securepfl.tasks.models import build_model

NAMES = ("alder", "birch", "cedar", "damson")
AUROC, PREVALENCE = 0.8, 0.3
APART = np.sqrt(2) * ndtri(AUROC)
TRUE = {"auroc": AUROC, "sensitivity": ndtr(APART / 2), "specificity": ndtr(APART / 2), "observed_over_expected": 1.0}
BEGIN = "<!-- released metrics: begin (written by benchmarks/released_metrics.py) -->"
END = "<!-- released metrics: end -->"
SHARED = {"shared_noise": {"colluders": 1, "dropouts": 0}, "encryption": {"masking": "pairwise"}}


def federation_of(epsilon: float, *, shared: bool) -> Federation:
    """The four hospitals, bound to a model."""
    settings = {
        "rounds": 20,
        "model": {"kind": "own", "personal": []},
        "privacy": {"epsilon": epsilon},
        "similarity": {"every": 0},
        "coupling": {"strength": 0.0},
        "release": {"metrics": True},
        "data": {
            "label": "outcome",
            "ranges": {"a": {"centre": 0.0, "spread": 1.0}},
            "prevalence": PREVALENCE,
        },
    }
    build = partial(build_model, "logistic", 1)
    return Federation.from_mapping(settings | (SHARED if shared else {})).bound(NAMES, build, units=1000)


def patients(count: int, draw: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores and outcomes, [count, 1] each."""
    ill = draw.random((count, 1)) < PREVALENCE
    odds = np.where(ill, 1, -1) * APART**2 / 2 + APART * draw.standard_normal((count, 1)) + logit(PREVALENCE)
    return expit(odds), ill


def released(federation: Federation, count: int, draw: np.random.Generator) -> OutcomeFigures:
    """What is released of `count` patients, drawn anew with their noise."""
    evaluation = federation.once(Evaluation.of)
    scores, ill = patients(count, draw)
    cells = evaluation.histogram.of_records(scores, scores >= PREVALENCE, ill).sum(axis=0)
    deviation = evaluation.deviation(federation, NAMES)
    noisy = evaluation.histogram.released(cells) + deviation * draw.standard_normal(evaluation.histogram.size)
    found = figures_of(evaluation.histogram, noisy, deviation=deviation, spread=1.0, names=("outcome",))
    return found.outcomes["outcome"]


def lines(worlds: int) -> Iterator[str]:
    """The table in Markdown, and how often intervals held the truth."""
    yield "| epsilon | noise | held out | noise in a count | AUROC | sensitivity | specificity | observed / expected |"
    yield "|---|---|---|---|---|---|---|---|"
    held: list[bool] = []
    for epsilon in (1.0, 8.0):
        for shared in (False, True):
            federation = federation_of(epsilon, shared=shared)
            deviation = federation.once(Evaluation.of).deviation(federation, NAMES)
            for count in (50, 500, 5000):
                draw = np.random.default_rng([count, int(epsilon), int(shared)])
                found = [released(federation, count, draw) for _ in range(worlds)]
                cells = []
                for name, true in TRUE.items():
                    figures = [figure for each in found if (figure := getattr(each, name)) is not None]
                    held += [figure.low <= true <= figure.high for figure in figures]
                    cells.append(_cell([(figure.high - figure.low) / 2 for figure in figures], worlds))
                whose = "shared" if shared else "each's own"
                yield f"| {epsilon:g} | {whose} | {count:,} | {deviation:.1f} | {' | '.join(cells)} |"
    yield ""
    yield f"Of {len(held):,} intervals, {np.mean(held):.1%} held the truth."


def main() -> None:
    """Print the table, and write it between its marks in a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=100)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    text = "\n".join(lines(options.worlds))
    print(text)
    if options.write is not None:
        page = options.write.read_text()
        options.write.write_text(replaced(page, text, BEGIN, END))


def _cell(halves: list[float], worlds: int) -> str:
    if 2 * len(halves) < worlds:
        return "no figure" if not halves else f"no figure ({len(halves) / worlds:.0%} have one)"
    missing = "" if len(halves) == worlds else f" (none in {1 - len(halves) / worlds:.0%})"
    return f"+- {np.mean(halves):.3f}{missing}".replace("0.", ".", 1)


if __name__ == "__main__":
    main()
