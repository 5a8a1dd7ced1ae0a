"""Inside personalisation: a moving average over a hospital's own local models, kept at the hospital.

p1 = w1 and pt = alpha p(t-1) + (1 - alpha) wt (Jiang et al., arXiv 2204.08467). It gathers the hospital's own
and the federation's updates, and never feeds training back.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


class Trajectory:
    """The moving average of named tensors; `alpha` in [0, 1] weighs history: one for all, or for each name a tensor of
    its shape, one for each of its numbers.

    Holds copies only: training goes on in the tensors it was shown. Raises ValueError for another `alpha`.

    >>> average = Trajectory({"w": torch.tensor([0.0, 0.5])})
    >>> average.move({"w": torch.tensor([1.0, 1.0])})
    >>> average.move({"w": torch.tensor([3.0, 3.0])})
    >>> average.state_dict()["w"].tolist()
    [3.0, 2.0]
    """

    def __init__(self, alpha: float | Mapping[str, Tensor]) -> None:
        for part in alpha.values() if isinstance(alpha, Mapping) else [torch.tensor(alpha, dtype=torch.float64)]:
            if not bool(((part >= 0) & (part <= 1)).all()):
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
        with torch.no_grad():
            alpha = self.alpha[name].to(now) if isinstance(self.alpha, Mapping) else self.alpha
            return alpha * self._average[name].to(now) + (1.0 - alpha) * now


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
