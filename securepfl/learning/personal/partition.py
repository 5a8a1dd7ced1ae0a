"""Which parameters are shared and which personal: the selectors M and N of x = Mx + Nz, by name."""

import copy
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from securepfl.errors import ModelError
from securepfl.learning.personal.choices import RULES, Rule
from securepfl.learning.personal.rule import named_by

Personal = Sequence[str] | Rule | Callable[[str, nn.Parameter], bool]
"""What picks the personal parameters of a model: patterns, a rule's name, or a callable."""

_NAMES_SHOWN = 6
_SPECIAL = re.compile(r"[*?[]")  # what fnmatch does not take literally


@dataclass(frozen=True)
class Partition:
    """A model's trainable parameters split in two, each part in `named_parameters` order; `frozen` are in neither.

    Either part may be empty: no personal parameters is plain federated averaging, no shared ones is local
    training. Raises ValueError where a name stands in both parts or `shapes` does not cover exactly them.
    """

    shared: tuple[str, ...]
    personal: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    frozen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = self.shared + self.personal
        if len(set(names)) != len(names):
            raise ValueError(f"a parameter is named twice in shared={self.shared}, personal={self.personal}")
        if set(names) != set(self.shapes):
            raise ValueError(f"shapes name {sorted(self.shapes)}, the two parts {sorted(names)}")

    @classmethod
    def of(cls, model: nn.Module, personal: Personal) -> "Partition":
        """Split the trainable parameters of `model`: personal is what `personal` picks.

        That is a sequence of shell-style patterns, a callable (name, parameter) -> bool, or the name of a rule
        (choices.RULES). Raises ModelError where a pattern matches no trainable parameter, the model has
        none, or a rule does not suit it; ValueError for any other string.
        """
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}
        if not shapes:
            raise ModelError("the model has no trainable parameter: give one with requires_grad=True")
        chosen = set(_picked(model, personal, shapes))
        own = tuple(name for name in shapes if name in chosen)
        shared = tuple(name for name in shapes if name not in chosen)
        return cls(shared=shared, personal=own, shapes=shapes, frozen=_frozen(model))

    @property
    def shared_size(self) -> int:
        """Number of shared coordinates, d."""
        return self._size(self.shared)

    @property
    def personal_size(self) -> int:
        """Number of personal coordinates."""
        return self._size(self.personal)

    def flatten_shared(self, model: nn.Module) -> Tensor:
        """A copy of the shared parameters as one float32 vector [shared_size] on the model's device."""
        return self._flatten(model, self.shared)

    def flatten_personal(self, model: nn.Module) -> Tensor:
        """A copy of the personal parameters as one float32 vector [personal_size] on the model's device."""
        return self._flatten(model, self.personal)

    def load_shared(self, model: nn.Module, vector: Tensor) -> None:
        """Write `vector` [shared_size] into the shared parameters, in place, on the model's device."""
        self._load(model, self.shared, vector)

    def load_personal(self, model: nn.Module, vector: Tensor) -> None:
        """Write `vector` [personal_size] into the personal parameters, in place, on the model's device."""
        self._load(model, self.personal, vector)

    def filled(self, model: nn.Module, shared: NDArray[np.float32], personal: NDArray[np.float32]) -> nn.Module:
        """A copy of `model` with these shared [shared_size] and personal [personal_size] parameters."""
        copied = copy.deepcopy(model)
        self.load_shared(copied, torch.from_numpy(shared))
        self.load_personal(copied, torch.from_numpy(personal))
        return copied

    def mask_from_support(self, support: NDArray[np.bool_]) -> dict[str, Tensor]:
        """The support [shared_size] as one float32 0/1 mask per shared parameter, in its shape, on the CPU.

        Personal parameters are not named: they always train. Raises ValueError for another shape or type.
        """
        if support.shape != (self.shared_size,) or support.dtype != np.bool_:
            raise ValueError(f"support must be bool [{self.shared_size}], not {support.dtype} {support.shape}")
        flat = torch.from_numpy(support.astype(np.float32))
        return self._cut(flat, self.shared)

    def _size(self, names: Sequence[str]) -> int:
        return sum(prod(self.shapes[name]) for name in names)

    def _cut(self, vector: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        pieces = torch.split(vector, [prod(self.shapes[name]) for name in names])
        return {name: piece.reshape(self.shapes[name]) for name, piece in zip(names, pieces, strict=False)}

    def _parameters(self, model: nn.Module, names: Sequence[str]) -> list[nn.Parameter]:
        found = dict(model.named_parameters())
        for name in names:
            if name not in found or tuple(found[name].shape) != self.shapes[name]:
                shape = tuple(found[name].shape) if name in found else "missing"
                raise ModelError(
                    f'parameter "{name}" is {shape} in this model but {self.shapes[name]} in the partition: '
                    "use the model the partition was made from"
                )
        return [found[name] for name in names]

    def _flatten(self, model: nn.Module, names: Sequence[str]) -> Tensor:
        pieces = [p.detach().reshape(-1).to(torch.float32) for p in self._parameters(model, names)]
        device = next(model.parameters()).device
        return torch.cat(pieces) if pieces else torch.empty(0, device=device)

    def _load(self, model: nn.Module, names: Sequence[str], vector: Tensor) -> None:
        if tuple(vector.shape) != (self._size(names),):
            raise ValueError(f"vector must have shape ({self._size(names)},), not {tuple(vector.shape)}")
        parameters = self._parameters(model, names)
        with torch.no_grad():
            for parameter, piece in zip(parameters, self._cut(vector, names).values(), strict=True):
                parameter.copy_(piece)


def personal_names(model: nn.Module, personal: Personal) -> tuple[str, ...]:
    """What `personal` picks from `model`, as patterns that match these names only: settings that can be written down.

    Raises as `Partition.of`.
    """
    return tuple(_SPECIAL.sub(r"[\g<0>]", name) for name in Partition.of(model, personal).personal)


def _picked(model: nn.Module, personal: Personal, names: Iterable[str]) -> list[str]:
    if isinstance(personal, str):
        if personal not in RULES:
            raise ValueError(f"personal must be a sequence of patterns or one of {', '.join(RULES)}, not {personal!r}")
        return list(named_by(personal, model))
    if callable(personal):
        parameters = dict(model.named_parameters())
        return [name for name in names if personal(name, parameters[name])]
    known = list(names)
    for pattern in personal:
        if any(fnmatchcase(name, pattern) for name in known):
            continue
        frozen = [name for name in _frozen(model) if fnmatchcase(name, pattern)]
        if frozen:
            raise ModelError(
                f'[model] personal: pattern "{pattern}" matches frozen parameters only ({_some(frozen)}), which are '
                "neither shared nor personal: let them train (requires_grad), or remove the pattern"
            )
        raise ModelError(unmatched("[model] personal", pattern, known))
    return [name for name in known if any(fnmatchcase(name, pattern) for pattern in personal)]


def unmatched(place: str, pattern: str, names: Sequence[str]) -> str:
    """What to say of a pattern in the table or key `place` that matches none of the parameters `names`."""
    return f'{place}: pattern "{pattern}" matches no trainable parameter: mend it; parameters are {_some(names)}'


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")


def _frozen(model: nn.Module) -> tuple[str, ...]:
    return tuple(name for name, parameter in model.named_parameters() if not parameter.requires_grad)
