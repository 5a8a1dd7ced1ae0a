"""Probabilities from a model as it stands: evaluation mode, no gradients, on the model's own device."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_SURE = 1e300


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; afterwards each submodule is in the mode it was in before."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def placed_like(model: nn.Module, features: NDArray[np.floating] | Tensor) -> Tensor:
    """`features` on the model's device in its floating type; float32 where the model has no parameters."""
    tensor = _tensor(features)
    parameter = next(model.parameters(), None)
    return tensor.to(torch.float32) if parameter is None else tensor.to(parameter.device, parameter.dtype)


def class_logits(logits: Tensor) -> Tensor:
    """Logits [B, C] with C >= 2. Binary logits, [B] or [B, 1], become [B, 2] with 0 for the negative class.

    Raises ValueError for any other shape.
    """
    if logits.ndim == 2 and logits.shape[1] > 1:
        return logits
    if logits.ndim == 1 or (logits.ndim == 2 and logits.shape[1] == 1):
        positive = logits.reshape(-1)
        return torch.stack([torch.zeros_like(positive), positive], dim=1)
    raise ValueError(f"logits must be [B] or [B, C], not {tuple(logits.shape)}")


def predict(model: nn.Module, features: NDArray[np.floating] | Tensor, batch: int = 1024) -> NDArray[np.float64]:
    """Probabilities of `features` [n, ...], in physical batches of `batch` rows.

    [n] of the positive class from binary logits ([B] or [B, 1]); [n, C] from logits [B, C]; [0] for no rows.
    Raises ValueError where `batch` is below 1 or the model returns another shape.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch}")
    if len(features) == 0:
        return np.empty(0)
    with evaluating(model), torch.no_grad():
        batches = torch.split(_tensor(features), batch)
        parts = [_probabilities(model(placed_like(model, rows))) for rows in batches]
    return np.concatenate(parts)


def _probabilities(logits: Tensor) -> NDArray[np.float64]:
    classes = class_logits(logits)
    binary = logits.ndim == 1 or logits.shape[1] == 1
    # A logit that overflowed float32 is an outlier's, and as sure as they come; infinite, it would give NaN.
    bounded = classes.double().clamp(-_SURE, _SURE)
    values: NDArray[np.float64] = bounded.softmax(dim=1).cpu().numpy()
    return values[:, 1] if binary else values


def _tensor(features: NDArray[np.floating] | Tensor) -> Tensor:
    # A copy, because torch takes neither read-only nor reversed arrays, both of which pandas can give.
    return features if isinstance(features, Tensor) else torch.from_numpy(np.array(features))
