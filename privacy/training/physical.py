"""How many records are in memory at once: as many as pay, from the sizes of model and records. It changes no result."""

from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from securepfl.privacy.accounting.events import Unit

# What the gradients of one physical batch may take, and what its records may with all that the layers make of them.
_BYTES = 2**28
# A model's layers keep about as many numbers as this many copies of a record.
_COPIES = 64
# Fewer than the first pay only where records are large; more than the last hardly pay.
_FEWEST, _MOST, _UNKNOWN = 32, 4096, 256
_LOOKED_AT = 4


def fitting_batch(model: nn.Module, dataset: Dataset[Any], unit: Unit) -> int:
    """Records to be in memory at once, from 1 to 4096: few where a model's gradients or the records are large.

    The first item that can be read tells how large a record is; 256 at most where none is a tensor.

    >>> from torch.utils.data import TensorDataset
    >>> table = TensorDataset(torch.zeros(9, 30), torch.zeros(9))
    >>> fitting_batch(nn.Linear(30, 1), table, "record")
    4096
    >>> fitting_batch(nn.Linear(30, 50_000), table, "record")
    43
    >>> fitting_batch(nn.Conv3d(1, 8, 3), TensorDataset(torch.zeros(2, 1, 96, 96, 96), torch.zeros(2)), "record")
    1
    """
    gradients = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    by_model = max(_FEWEST, _BYTES // max(1, gradients))
    record = _record_bytes(dataset, unit)
    by_record = _UNKNOWN if record is None else max(1, _BYTES // (_COPIES * record))
    return int(min(by_model, by_record, _MOST))


def _record_bytes(dataset: Any, unit: Unit) -> int | None:
    for index in range(min(_LOOKED_AT, len(dataset))):
        try:
            x = dataset[index][0]
            records = len(x) if unit == "patient" else 1
        except Exception:  # noqa: BLE001, S112 - a unit that cannot be read is counted in training
            continue
        if isinstance(x, torch.Tensor) and x.numel():
            return -(-x.numel() * x.element_size() // records)
    return None
