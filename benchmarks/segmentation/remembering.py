"""A model that answers the same images once: many recipes look at the same views of the same experts."""

import copy
import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Remembering(nn.Module):
    """`model`, frozen, whose answers are kept by the content of what it was shown; copies begin without any.

    >>> twice = Remembering(nn.Conv2d(1, 1, kernel_size=1))
    >>> image = torch.ones(1, 1, 2, 2)
    >>> torch.equal(twice(image), twice(image)), twice.answered
    (True, 1)
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        self._kept: dict[bytes, Tensor] = {}

    @property
    def answered(self) -> int:
        """How many batches were computed."""
        return len(self._kept)

    def forward(self, images: Tensor) -> Tensor:
        key = hashlib.blake2b(str(images.shape).encode() + images.cpu().contiguous().numpy().tobytes()).digest()
        if key not in self._kept:
            with torch.no_grad():
                self._kept[key] = self.model(images)
        return self._kept[key]

    def __deepcopy__(self, memo: dict[int, Any]) -> "Remembering":
        return Remembering(copy.deepcopy(self.model, memo))

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As of any module; what was kept is forgotten."""
        self._kept = {}
        return super().load_state_dict(state_dict, strict, assign)
