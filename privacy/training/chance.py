"""A model run as in training, but for what chance and hardware add: two runs of the same records give the same."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


@contextmanager
def without_chance() -> Iterator[None]:
    """Gradients on, exact float32; torch's generators are afterwards as they were. Passes run `without_dropout`."""
    with torch.random.fork_rng(range(torch.cuda.device_count())), torch.enable_grad(), _exact():
        yield


def without_dropout() -> AbstractContextManager[Any]:
    """No dropout in what is run within: forward, back and the gradients taken in it. It slows each call of torch."""
    return _NoDropout()


@contextmanager
def _exact() -> Iterator[None]:
    """Float32 as it is: TF32 rounds by as much as the tolerance, otherwise for each size of batch."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


_DROPOUTS = tuple(
    getattr(nn.functional, name)
    for name in ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
)


class _NoDropout(TorchFunctionMode):
    """Dropout lets everything through, in modules and in functional calls; all else is as in training."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _DROPOUTS:
            return args[0] if args else kwargs["input"]
        if func is nn.functional.scaled_dot_product_attention:
            args, kwargs = _without_dropout(args, kwargs)
        return func(*args, **kwargs)


def _without_dropout(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Of scaled_dot_product_attention, whose fifth argument is the chance of dropout."""
    if len(args) > 4:
        return (*args[:4], 0.0, *args[5:]), kwargs
    return args, {**kwargs, "dropout_p": 0.0}
