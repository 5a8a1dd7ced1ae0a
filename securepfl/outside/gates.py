"""Test-time training of a routed model's gates on an unseen hospital's unlabelled rows.

The loss is entropy plus consistency, and of masks shape (Jiang et al., arXiv 2204.08467); there are no labels, no batch
statistics and no dropout, so a prediction afterwards depends on its own row only.
"""

from dataclasses import dataclass
from math import isfinite, log
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from securepfl.errors import ConfigError
from securepfl.outside.routing import RoutedModel
from securepfl.outside.views import require_views, seen, seen_back
from securepfl.randomness import RandomStream
from securepfl.tasks.models import public_stream
from securepfl.tasks.prediction import evaluating, placed_like
from securepfl.tasks.task import Task

_REACH: Final = 10
_IMAGE: Final = 4


@dataclass(frozen=True)
class AdaptSettings:
    """How gates are fitted: Adam, `passes` over the rows in batches of `batch`.

    `entropy`, `consistency` and `shape` (of masks alone) weigh the losses; `noise` is the standard deviation of the
    second look, in units of the scaled inputs, and of images `view` is its view (outside/views.py). Row order and
    noise come from `seed`, publicly: they protect nothing. Raises ValueError for a value out of range, ConfigError for
    an unknown view.
    """

    passes: int = 10
    batch: int = 16
    learning_rate: float = 1e-3
    entropy: float = 10.0
    consistency: float = 0.1
    noise: float = 0.1
    seed: int = 0
    shape: float = 0.0
    view: str = "same"

    def __post_init__(self) -> None:
        require_views((self.view,))
        for name in ("passes", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("learning_rate", "entropy", "consistency", "noise", "shape"):
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


def ragged(outputs: Tensor) -> Tensor:
    """The paper's shape loss: how far a mask's probabilities range within 10 pixels, the mean over pixels; in [0, 1].

    Of logits [n, 1, H, W]: the maximum within a window of 21 less the minimum. Outlines count, flat ground does not.

    >>> ragged(torch.full((1, 1, 30, 30), 2.0)).item()
    0.0
    """
    chances = outputs.sigmoid()
    return (_highest(chances) + _highest(-chances)).mean()


def _highest(maps: Tensor) -> Tensor:
    return functional.max_pool2d(maps, kernel_size=2 * _REACH + 1, stride=1, padding=_REACH)


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
    return _chosen(routed(rows), task)


def _chosen(outputs: Tensor, task: Task) -> Tensor:
    choices = task.choices(outputs)
    if choices is None:
        raise ConfigError(f"predictions of the task {task.name} have no entropy to lower: use the experts' average")
    return choices


def _loss(routed: RoutedModel, rows: Tensor, settings: AdaptSettings, stream: RandomStream, task: Task) -> Tensor:
    drawn = torch.from_numpy(stream.gaussian(rows.numel())).reshape(rows.shape).to(rows)
    outputs, second = routed(rows), routed(_turned(rows + settings.noise * drawn, settings.view))
    if second.ndim == _IMAGE:
        second = seen_back(second, settings.view)
    choices = _chosen(outputs, task)
    loss = settings.entropy * normalised_entropy(choices).mean()
    loss = loss + settings.consistency * consistency(choices, _chosen(second, task))
    return loss + settings.shape * ragged(outputs) if settings.shape and outputs.ndim == _IMAGE else loss


def _turned(rows: Tensor, view: str) -> Tensor:
    """Rows in that view; those of a table have none."""
    return seen(rows, view) if rows.ndim == _IMAGE and view != "same" else rows


def _mean_entropy(routed: RoutedModel, rows: Tensor, batch: int, task: Task) -> float:
    with evaluating(routed), torch.no_grad():
        entropies = [normalised_entropy(_choices(routed, part, task)) for part in torch.split(rows, batch)]
    return float(torch.cat(entropies).double().mean())
