"""Weights as convolutions of images take them fastest on a CPU: channels last. The numbers stay the same."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import nn

from securepfl.tasks.networks import ConvNet, UNet

_WEIGHT: Final = 4


@contextmanager
def laid_out(model: nn.Module, *, trained: bool = False) -> Iterator[None]:
    """Inside the block weights [out, in, height, width] of a built-in network on a CPU lie channels last, which takes a
    third off a U-Net's time; afterwards they lie where and as they did, as those who flatten or save them expect.

    `trained`: they change in the block, and what became of them is kept. Another's model stays as it is: it may ask its
    convolutions' answers for views that only one layout has.

    >>> from securepfl.tasks.networks import build_network
    >>> net = build_network("unet", 1, 4)
    >>> first = net.body.conv_0.conv_1.conv.weight
    >>> with laid_out(net):
    ...     first.is_contiguous()
    False
    >>> first.is_contiguous()
    True
    """
    own = {parameter: parameter.data for parameter in model.parameters()} if isinstance(model, UNet | ConvNet) else {}
    own = {parameter: data for parameter, data in own.items() if _can_be_laid_out(data)}
    for parameter, data in own.items():
        parameter.data = data.contiguous(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for parameter, data in own.items():
            parameter.data = data.copy_(parameter.data) if trained else data


def _can_be_laid_out(data: torch.Tensor) -> bool:
    """What lies so already stays: another thread may have laid it out, and will put it back."""
    stands = data.ndim == _WEIGHT and data.device.type == "cpu"
    return stands and not data.is_contiguous(memory_format=torch.channels_last)
