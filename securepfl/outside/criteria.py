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

_LEAST_SHARE: Final = 0.1
"""No group of a split is smaller: one outlier would split any score well."""
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


def two_groups(values: Tensor) -> Tensor:
    """How much of the variance of `values` [n] a split in two explains, in [0, 1]; a normal distribution's is 0.64.

    It changes neither with their scale nor with a shift, so that it says whether a classifier's scores fall into two
    groups, however sure it is and wherever its threshold lies (Otsu 1979, doi 10.1109/TSMC.1979.4310076). 0 where they
    are all alike, or fewer than two.

    >>> two_groups(torch.tensor([0.0, 0.0, 5.0, 5.0])).item()
    1.0
    """
    n = len(values)
    ordered = values.double().sort().values
    centred = ordered - ordered.mean() if n else ordered
    total = centred.square().sum()
    if n < 2 or total <= 1e-12 * max(1.0, float(ordered.square().sum())):
        return torch.zeros((), dtype=torch.float64, device=values.device)
    least = max(1, int(_LEAST_SHARE * n))
    sizes = torch.arange(1, n, device=values.device, dtype=torch.float64)
    between = centred.cumsum(0)[:-1].square() * (1.0 / sizes + 1.0 / (n - sizes))
    return (between[least - 1 : n - least] / total).max().clamp(0.0, 1.0)


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
    return torch.special.ndtr(firm.clamp(-_SURE, _SURE)).mean(dim=1)


def _margin(choices: Tensor, views: int) -> Tensor:
    """The site's, for each row: whether scores fall into groups, one of the classes against the rest at a time."""
    first = choices[:views].mean(dim=0)
    against = first - torch.stack(
        [torch.cat([first[..., :k], first[..., k + 1 :]], dim=-1).logsumexp(dim=-1) for k in range(first.shape[-1])], -1
    )
    against = against[..., 1:] if against.shape[-1] == 2 else against
    found = torch.stack([two_groups(column) for column in against.reshape(len(first), -1).T]).mean()
    return found.expand(len(first))


def _entropy(choices: Tensor, views: int) -> Tensor:
    return 1.0 - normalised_entropy(choices[:views].mean(dim=0))


_OF_MASKS: Final[Mapping[str, Callable[[Tensor, int, Tensor], Tensor]]] = MappingProxyType(
    {
        "agreement": _agreement_of_masks,
        "expected_dice": _expected_dice_of_masks,
        "consistency": _consistency_of_masks,
        "entropy": _entropy_of_masks,
    }
)
_OF_CLASSES: Final[Mapping[str, Callable[[Tensor, int], Tensor]]] = MappingProxyType(
    {"agreement": _agreement, "consistency": _consistency, "margin": _margin, "entropy": _entropy}
)
