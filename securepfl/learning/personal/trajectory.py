"""Inside personalisation: a moving average over a hospital's own local models, kept at the hospital.

p1 = w1 and pt = alpha p(t-1) + (1 - alpha) wt (Jiang et al., arXiv 2204.08467). It gathers the hospital's own
and the federation's updates, and never feeds training back.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from securepfl.errors import ConfigError
from securepfl.learning.personal.partition import Partition, unmatched


class Trajectory:
    """The moving average of named tensors; `alpha` in [0, 1] weighs history: one number, or one for each entry of a
    named tensor (shaped like it, or to be broadcast).

    Holds copies only: training goes on in the tensors it was shown. Raises ValueError for another `alpha`.
    """

    def __init__(self, alpha: float | Mapping[str, Tensor]) -> None:
        values = list(alpha.values()) if isinstance(alpha, Mapping) else [torch.tensor(float(alpha))]
        if not all(((value >= 0) & (value <= 1)).all() for value in values):
            raise ValueError(f"alpha must be in [0, 1], not {alpha}")
        self.alpha = alpha
        self._average: dict[str, Tensor] = {}

    def move(self, weights: Mapping[str, Tensor]) -> None:
        """Take in this round's local model: named floating tensors, as from `Module.state_dict()`.

        Raises ValueError where names, shapes or types are not those of the first round.
        """
        for name, tensor in weights.items():
            if not tensor.is_floating_point():
                raise ValueError(f"only floating tensors can be averaged, {name!r} is {tensor.dtype}")
        if not self._average:
            self._average = _copies(weights)
            return
        shapes = {name: tensor.shape for name, tensor in weights.items()}
        if shapes != {name: tensor.shape for name, tensor in self._average.items()}:
            raise ValueError(f"names or shapes changed since the first round: {sorted(shapes)}")
        self._average = {name: self._step(name, now) for name, now in weights.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """Contiguous copies of the average, fit for safetensors; empty before the first round."""
        return _copies(self._average)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state`, as `state_dict` gave it. Replaces whatever was gathered so far."""
        self._average = _copies(state)

    def _step(self, name: str, now: Tensor) -> Tensor:
        alpha = self.alpha[name].to(now) if isinstance(self.alpha, Mapping) else self.alpha
        with torch.no_grad():
            return alpha * self._average[name].to(now) + (1.0 - alpha) * now


def check_patterns(partition: Partition, layers: Mapping[str, float]) -> None:
    """Raise ConfigError for a pattern in `layers` that matches no parameter of `partition`."""
    for pattern in layers:
        if not any(fnmatchcase(name, pattern) for name in partition.shapes):
            raise ConfigError(unmatched("[trajectory.layers]", pattern, list(partition.shapes)))


def alphas_by_part(partition: Partition, alpha: float, layers: Mapping[str, float]) -> float | dict[str, Tensor]:
    """The alpha of every coordinate: "shared" [d] and "personal" [p] as the partition flattens them, or the one number
    where `layers`, patterns of parameter names, is empty. Of the patterns that match, the longest counts.

    Raises ConfigError for a pattern that matches no parameter.
    """
    check_patterns(partition, layers)
    if not layers:
        return alpha

    def of(name: str) -> float:
        matching = [pattern for pattern in layers if fnmatchcase(name, pattern)]
        return layers[max(matching, key=lambda pattern: (len(pattern), pattern))] if matching else alpha

    parts = {"shared": partition.shared, "personal": partition.personal}
    return {
        part: torch.tensor([of(name) for name in names]).repeat_interleave(
            torch.tensor([torch.Size(partition.shapes[name]).numel() for name in names], dtype=torch.int64)
        )
        for part, names in parts.items()
    }


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
