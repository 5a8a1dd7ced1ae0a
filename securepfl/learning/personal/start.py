"""The bias that an output layer starts from, where it is publicly known how common each outcome is."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from securepfl.errors import ModelError
from securepfl.learning.personal.rule import output_layer


def set_start(model: nn.Module, start: Sequence[float]) -> None:
    """Sets the output layer's bias to `start` [outputs], in place. Raises ModelError where there is no such bias.

    >>> layer = nn.Linear(3, 1)
    >>> set_start(layer, [-1.5])
    >>> layer.bias.tolist()
    [-1.5]
    """
    name = output_layer(model)
    bias = getattr(model.get_submodule(name), "bias", None)
    if not isinstance(bias, Tensor) or bias.numel() != len(start):
        raise ModelError(
            f'prevalence: the output layer "{name}" has no bias of {len(start)} value(s) to start from it; give it '
            "one, or leave prevalence out"
        )
    with torch.no_grad():
        bias.copy_(torch.tensor(start, dtype=bias.dtype).view_as(bias))
