"""Candidates made one by their gates: of their logits, or of their parameters."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from securepfl.errors import ModelError


def mixed_logits(gates: Tensor, logits: Tensor) -> Tensor:
    """sum_c gates[:, c] logits[c]: gates [n, C], logits [C, looks, n, ...] -> [looks, n, ...].

    A gate of exactly 1 gives that candidate exactly.

    >>> mixed_logits(torch.tensor([[0.25, 0.75]]), torch.tensor([[[4.0]], [[8.0]]])).tolist()
    [[7.0]]
    """
    return torch.einsum("nc,cvn...->vn...", gates.to(logits), logits)


def averaged(models: Sequence[nn.Module], weights: Sequence[float]) -> nn.Module:
    """A copy of the first model with sum_k weights[k] parameters_k, buffers of numbers alike; in evaluation mode.

    Raises ModelError where the models' parameters differ in name or shape.

    >>> one, other = nn.Linear(1, 1), nn.Linear(1, 1)
    >>> torch.equal(averaged([one, other], [0.0, 1.0]).weight, other.weight)
    True
    """
    states = [model.state_dict() for model in models]
    shapes = [{name: value.shape for name, value in state.items()} for state in states]
    if any(each != shapes[0] for each in shapes):
        raise ModelError("experts differ in architecture: route models of one kind only")
    made = copy.deepcopy(models[0]).eval()
    made.load_state_dict({name: _sum([state[name] for state in states], weights) for name in states[0]})
    return made


def _sum(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    if not values[0].is_floating_point():
        return values[0]
    parts = [weight * value.double() for weight, value in zip(weights, values, strict=True)]
    return torch.stack([part.to(parts[0].device) for part in parts]).sum(dim=0).to(values[0])
