"""Scores of an answer without its label: the higher, the more it is to be believed.

None of them should prefer an expert for being sure: entropy does, and stands here to be compared with. Answers come as
looks [L, n, ...], the views (and nudges, see candidates.py) of n samples; scores are [n], in double precision.
"""

from collections.abc import Callable, Mapping
from itertools import combinations
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from securepfl.errors import ConfigError
from securepfl.outside.gates import normalised_entropy
from securepfl.tasks.agreement import expected_dice, hard_dice
from securepfl.tasks.task import Task

_SURE: Final = 6.0
"""A margin of so many of its changes is as firm as can be told."""


def score(criterion: str, looks: Tensor, views: int, task: Task, fields: Tensor | None) -> Tensor:
    """`criterion` of `looks` [L, n, ...], of which the first `views` are views; of masks in `fields` bool [n, H, W].

    Raises ConfigError where the task's predictions choose nothing.
    """
    if fields is not None:
        return _OF_MASKS[criterion](looks.reshape(len(looks), *fields.shape), views, fields)
    return _OF_CLASSES[criterion](torch.stack([choices_of(task, each) for each in looks]), views)


def choices_of(task: Task, outputs: Tensor) -> Tensor:
    """Logits [n, choices, classes] in double precision. Raises ConfigError for a task that chooses nothing."""
    choices = task.choices(outputs.double())
    if choices is None:
        raise ConfigError(f"predictions of the task {task.name} choose nothing, so that no criterion can score them")
    return choices


def expected_recall(chances: Tensor) -> Tensor:
    """The balanced accuracy that probabilities [n, classes] expect of their own decisions, if they are right.

    The mean over classes of sum(p of those decided for it) / sum(p of all): 1 / classes where one class is decided for
    everybody, however surely; the classes' counterpart of expected Dice.

    >>> expected_recall(torch.tensor([[0.9, 0.1], [0.9, 0.1]])).item()
    0.5
    >>> expected_recall(torch.tensor([[1.0, 0.0], [0.0, 1.0]])).item()
    1.0
    """
    exact = chances.double()
    decided = torch.zeros_like(exact).scatter_(1, exact.argmax(dim=1, keepdim=True), 1.0)
    return ((exact * decided).sum(dim=0) / exact.sum(dim=0).clamp(min=1e-12)).mean()


def _agreement_of_masks(maps: Tensor, views: int, fields: Tensor) -> Tensor:
    """Mean Dice of two views' masks; 0 where both are empty, since finding nothing twice is no evidence."""
    pairs = [hard_dice(one, other, fields) for one, other in combinations(maps[:views].sigmoid(), 2)]
    return torch.stack(pairs).mean(dim=0)


def _expected_dice_of_masks(maps: Tensor, views: int, fields: Tensor) -> Tensor:
    return expected_dice(maps[:views].mean(dim=0).sigmoid(), fields)


def _consistency_of_masks(maps: Tensor, views: int, fields: Tensor) -> Tensor:
    chances = maps.sigmoid()
    return 1.0 - _mean((chances - chances.mean(dim=0)).abs().mean(dim=0), fields)


def _entropy_of_masks(maps: Tensor, views: int, fields: Tensor) -> Tensor:
    logits = maps[:views].mean(dim=0).double()
    unsure = normalised_entropy(torch.stack([torch.zeros_like(logits), logits], dim=-1).reshape(-1, 1, 2))
    return 1.0 - _mean(unsure.reshape(fields.shape), fields)


def _mean(values: Tensor, fields: Tensor) -> Tensor:
    """Of each image over its field, [n]; 0 where that is empty."""
    inside = (values * fields).sum(dim=(1, 2), dtype=torch.float64)
    return inside / fields.sum(dim=(1, 2)).clamp(min=1)


def _agreement(choices: Tensor, views: int) -> Tensor:
    """One minus the mean distance in total variation between two views' probabilities."""
    chances = choices[:views].softmax(dim=-1)
    apart = [(one - other).abs().sum(dim=-1).mean(dim=1) / 2 for one, other in combinations(chances, 2)]
    return 1.0 - torch.stack(apart).mean(dim=0)


def _consistency(choices: Tensor, views: int) -> Tensor:
    """How firm a decision is: Phi(margin / its change from look to look), which a larger scale leaves as it is."""
    first = choices[:views].mean(dim=0)
    best = first.topk(2, dim=-1).indices.expand(len(choices), -1, -1, -1)
    margins = choices.gather(-1, best).diff(dim=-1).squeeze(-1).neg()
    spread = margins.std(dim=0) if len(margins) > 1 else torch.zeros_like(margins[0])
    firm = margins.mean(dim=0) / spread.clamp(min=1e-30)
    sure: Tensor = torch.special.ndtr(firm.clamp(-_SURE, _SURE))
    return sure.mean(dim=1)


def _margin(choices: Tensor, views: int) -> Tensor:
    """The site's, for each row; logits come in scaled to one sharpness (calibration.py)."""
    chances = choices[:views].mean(dim=0).softmax(dim=-1)
    return torch.stack([expected_recall(each) for each in chances.unbind(dim=1)]).mean().expand(len(chances))


def _entropy(choices: Tensor, views: int) -> Tensor:
    return 1.0 - normalised_entropy(choices[:views].mean(dim=0))


_OF_MASKS: Final[Mapping[str, Callable[[Tensor, int, Tensor], Tensor]]] = MappingProxyType(
    {
        "agreement": _agreement_of_masks,
        "stability": _agreement_of_masks,
        "expected_dice": _expected_dice_of_masks,
        "consistency": _consistency_of_masks,
        "entropy": _entropy_of_masks,
    }
)
_OF_CLASSES: Final[Mapping[str, Callable[[Tensor, int], Tensor]]] = MappingProxyType(
    {"agreement": _agreement, "consistency": _consistency, "margin": _margin, "entropy": _entropy}
)
