"""Test-time training of a routed model's gates on an unseen hospital's unlabelled rows.

The loss is entropy plus consistency (Jiang et al., arXiv 2204.08467); there are no labels, no batch
statistics and no dropout, so a prediction afterwards depends on its own row only.
"""

from dataclasses import dataclass
from math import isfinite, log

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from securepfl.errors import ConfigError
from securepfl.outside.routing import RoutedModel
from securepfl.randomness import RandomStream
from securepfl.tasks.models import public_stream
from securepfl.tasks.prediction import evaluating, placed_like
from securepfl.tasks.task import Task


@dataclass(frozen=True)
class AdaptSettings:
    """How gates are fitted: Adam, `passes` over the rows in batches of `batch`.

    `entropy` and `consistency` weigh the two losses; `noise` is the standard deviation of the second view, in
    units of the scaled inputs. Row order and noise come from `seed`, publicly: they protect nothing.
    Raises ValueError for a value out of range.
    """

    passes: int = 10
    batch: int = 16
    learning_rate: float = 1e-3
    entropy: float = 10.0
    consistency: float = 0.1
    noise: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("passes", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("learning_rate", "entropy", "consistency", "noise"):
            value = getattr(self, name)
            if not isfinite(value) or value < 0.0:
                raise ValueError(f"{name} must be a finite number of at least 0, not {value}")


@dataclass(frozen=True)
class AdaptReport:
    """What adaptation did: rows and steps, and the mean normalised entropy in [0, 1] before and after."""

    rows: int
    steps: int
    entropy_before: float
    entropy_after: float


def normalised_entropy(choices: Tensor) -> Tensor:
    """Entropy of each row's prediction over its maximum, the mean over its choices: [B] in [0, 1]; equal logits give 1.

    `choices` are logits [B, choices, classes], as Task.choices gives them.

    >>> normalised_entropy(torch.zeros(1, 1, 3)).tolist()
    [1.0]
    """
    logs = choices.log_softmax(dim=2)
    entropy = -(logs.exp() * logs).sum(dim=2)
    return (entropy / log(choices.shape[2])).clamp(0.0, 1.0).mean(dim=1)


def consistency(choices: Tensor, view: Tensor) -> Tensor:
    """Mean squared difference between the probabilities of two views of the same rows: a scalar >= 0.

    Both are logits [B, choices, classes].
    """
    return (choices.softmax(dim=2) - view.softmax(dim=2)).square().mean()


def adapt(
    routed: RoutedModel, features: NDArray[np.floating] | Tensor, settings: AdaptSettings, task: Task
) -> AdaptReport:
    """Fit the gates of `routed`, in place, to unlabelled `features` [n, ...]; the experts stay as they are.

    Raises ConfigError for a task whose predictions choose nothing, and so have no entropy; ValueError where there is no
    row or a value is not finite.
    """
    rows = placed_like(routed, features)
    if len(rows) == 0 or not torch.isfinite(rows).all():
        raise ValueError(f"features must hold at least one row and be finite, not {len(rows)} rows")
    stream = public_stream("adapt", settings.seed)
    optimiser = torch.optim.Adam(routed.gate_parameters(), lr=settings.learning_rate)
    before = _mean_entropy(routed, rows, settings.batch, task)
    steps = 0
    with evaluating(routed), torch.enable_grad():
        for _ in range(settings.passes):
            order = torch.from_numpy(stream.permutation(len(rows))).to(rows.device)
            for chosen in torch.split(order, settings.batch):
                loss = _loss(routed, rows[chosen], settings, stream, task)
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                optimiser.step()
                steps += 1
    return AdaptReport(len(rows), steps, before, _mean_entropy(routed, rows, settings.batch, task))


def _choices(routed: RoutedModel, rows: Tensor, task: Task) -> Tensor:
    choices = task.choices(routed(rows))
    if choices is None:
        raise ConfigError(f"predictions of the task {task.name} have no entropy to lower: use the experts' average")
    return choices


def _loss(routed: RoutedModel, rows: Tensor, settings: AdaptSettings, stream: RandomStream, task: Task) -> Tensor:
    drawn = torch.from_numpy(stream.gaussian(rows.numel())).reshape(rows.shape).to(rows)
    choices = _choices(routed, rows, task)
    instability = consistency(choices, _choices(routed, rows + settings.noise * drawn, task))
    return settings.entropy * normalised_entropy(choices).mean() + settings.consistency * instability


def _mean_entropy(routed: RoutedModel, rows: Tensor, batch: int, task: Task) -> float:
    with evaluating(routed), torch.no_grad():
        entropies = [normalised_entropy(_choices(routed, part, task)) for part in torch.split(rows, batch)]
    return float(torch.cat(entropies).double().mean())
