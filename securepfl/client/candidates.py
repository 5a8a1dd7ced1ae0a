"""The personal parts that a suggestion chooses from, each in the model in which it is trained."""

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from securepfl.client.parts import BuildModel
from securepfl.errors import ModelError
from securepfl.learning.personal.adapters import adapter_names, folded, with_adapters
from securepfl.learning.personal.partition import personal_names
from securepfl.learning.personal.rule import candidates
from securepfl.settings.binding import initial_model
from securepfl.settings.federation import Federation

Choice = Literal["none", "intercept", "head", "adapters"]
SIZES: tuple[Choice, ...] = ("intercept", "head", "adapters")
"""From the smallest part up, as the public rule has them."""


@dataclass(frozen=True)
class Candidate:
    """A candidate: the parameters `names` of `model`, which stands at its start and is copied, never trained."""

    choice: Choice
    names: tuple[str, ...]
    model: nn.Module

    @property
    def personal(self) -> tuple[str, ...]:
        """Patterns that match `names` only."""
        return personal_names(self.model, lambda name, _: name in self.names)

    def frozen(self) -> dict[str, Tensor]:
        """Masks under which `names` alone are trained, clipped and noised."""
        parameters = self.model.named_parameters()
        return {n: torch.zeros_like(p) for n, p in parameters if p.requires_grad and n not in self.names}


def candidates_for(
    federation: Federation, build_model: BuildModel, start: nn.Module | None, device: torch.device
) -> tuple[Candidate, ...]:
    """The candidates, the smallest first, each with its model on `device`. Raises ModelError where there are none."""
    rank = federation.model.adapters
    plain = initial_model(build_model, federation.changed("model", adapters=None))
    given = copy.deepcopy(plain if start is None else start)
    adapted = None if rank is None else given if adapter_names(given) else with_adapters(copy.deepcopy(given), rank)
    bare = given if rank is None else folded(given)
    _check_start(bare, plain, "the model without adapters")
    found = {choice: Candidate(choice, names, bare) for choice, names in _named(plain).items()}
    if adapted is not None:
        _check_start(adapted, initial_model(build_model, federation), "the model with its adapters")
        found["adapters"] = Candidate("adapters", adapter_names(adapted), adapted)
    if not found:
        raise ModelError(
            f"{federation.name}: no candidate, as the model's output layer is not known or is all there is; set "
            "[model] adapters, or name personal parameters by patterns"
        )
    for part in found.values():
        part.model.to(device)
    return tuple(found[choice] for choice in SIZES if choice in found)


def _named(plain: nn.Module) -> dict[Choice, tuple[str, ...]]:
    found = candidates(plain)
    return {choice: found[choice] for choice in SIZES if choice in found}


def _check_start(model: nn.Module, like: nn.Module, what: str) -> None:
    """A layer that had no bias may have one where a correction was folded into it. Raises ModelError."""
    model_frozen, frozen = ({n for n, p in m.named_parameters() if not p.requires_grad} for m in (model, like))
    if model_frozen != frozen:
        raise ModelError(
            f'start: parameter "{min(model_frozen ^ frozen)}" is frozen in one of start and {what} and trained in the '
            "other; freeze the same ones"
        )
    have, need = ({n: tuple(p.shape) for n, p in m.named_parameters()} for m in (model, like))
    wrong = sorted(n for n, shape in need.items() if have.get(n) != shape)
    if wrong:
        raise ModelError(
            f'start: parameter "{wrong[0]}" is {have.get(wrong[0], "missing")}, and {need[wrong[0]]} in {what}; give '
            "this federation's own shared model"
        )
