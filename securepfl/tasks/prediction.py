"""Outputs of a model as it stands: evaluation mode, no gradients, on the model's own device."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from securepfl.errors import ModelError, SecurePFLError, first_line
from securepfl.tasks.inference import is_large, logits_in_windows
from securepfl.tasks.layout import laid_out

if TYPE_CHECKING:
    from securepfl.tasks.task import Predictions, Task

_SURE = 1e300
# Rows at once, what they may take with all that a model makes of them, and how many copies of one that is: a U-Net's
# full-size features are some 200.
_MOST, _BYTES, _COPIES = 1024, 2**29, 256
# Torch knows no type that holds both these and a signed one.
_UNPROMOTED = (torch.uint16, torch.uint32, torch.uint64)


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


def placed_like(model: nn.Module, features: NDArray[Any] | Tensor, trained: torch.dtype | None = None) -> Tensor:
    """`features` on the model's device. Numbers take the model's floating type, float32 where it has no parameters;
    integers and truth values stay what they are, since they may be indices.

    `trained`: the type of the features in training, where known. Integers become of it where it holds all of theirs,
    so that a model of measurements takes 1 for 1.0, and one of codes takes int32 for int64.

    >>> placed_like(nn.Linear(1, 1), np.array([[1, 2]], dtype=">i2")).dtype
    torch.int16
    >>> placed_like(nn.Linear(1, 1), np.array([[1, 2]]), trained=torch.float32).dtype
    torch.float32
    """
    tensor, parameter = _tensor(features), next(model.parameters(), None)
    if parameter is not None:
        tensor = tensor.to(parameter.device)
    if tensor.is_floating_point():
        return tensor.to(torch.float32 if parameter is None else parameter.dtype)
    if trained is None or tensor.dtype == trained or trained in _UNPROMOTED:
        return tensor
    if tensor.dtype in _UNPROMOTED:
        tensor = tensor.to(torch.int64)
    return tensor.to(trained) if torch.promote_types(tensor.dtype, trained) == trained else tensor


def probabilities(logits: Tensor) -> NDArray[np.float64]:
    """Softmax over the last dimension of logits [n, k], in double precision."""
    values: NDArray[np.float64] = bounded(logits).softmax(dim=1).cpu().numpy()
    return values


def bounded(outputs: Tensor) -> Tensor:
    """In double precision, and finite: one that overflowed float32 is an outlier's, and as sure as they come.

    Infinite, it would give NaN.
    """
    return outputs.double().clamp(-_SURE, _SURE)


def predict(
    model: nn.Module,
    features: NDArray[Any] | Tensor,
    task: "Task",
    batch: int | None = None,
    trained: torch.dtype | None = None,
) -> "Predictions":
    """What `task` makes of the model's outputs for `features` [n, ...], in physical batches of `batch` rows (None: as
    many as memory allows). A network of images takes one that is too large for it in windows.

    `trained`: see placed_like. Raises ValueError where `batch` is below 1, ModelError where the model fails on the
    features or its outputs are none of the task's.
    """
    if batch is not None and batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch}")
    rows = placed_like(model, features, trained)
    try:
        with evaluating(model), laid_out(model), torch.no_grad():
            parts = [task.predict(_outputs(model, part)) for part in torch.split(rows, batch or _fitting(rows))]
    except SecurePFLError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the pipeline's own code raises
        reason = first_line(error)
        kind = f"{str(rows.dtype).removeprefix('torch.')} features {list(rows.shape)}"
        raise ModelError(f"predict: the model fails on {kind} ({reason}); hand in rows as in training") from None
    return np.concatenate(parts)


def _fitting(rows: Tensor) -> int:
    """How many rows at once: of images few, since every layer keeps them in several channels."""
    row = max(1, rows[:1].numel() * rows.element_size())
    return max(1, min(_MOST, _BYTES // (_COPIES * row)))


def _outputs(model: nn.Module, rows: Tensor) -> Tensor:
    outputs = logits_in_windows(model, rows) if is_large(model, rows) else model(rows)
    if not isinstance(outputs, Tensor) or outputs.ndim == 0 or len(outputs) != len(rows):
        raise ValueError("it must return one tensor with a row for each record")
    return outputs


def _tensor(features: NDArray[Any] | Tensor) -> Tensor:
    """A copy, because torch takes no read-only, reversed or big-endian arrays, which pandas and files can give."""
    if isinstance(features, Tensor):
        return features
    try:
        array = np.asarray(features)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"predict: features cannot be made one array ({first_line(error)}); hand in an array of numbers"
        ) from None
    if array.dtype.kind not in "biuf":
        raise ModelError(f"predict: features of type {array.dtype}; hand in an array of numbers")
    native = np.float64 if array.dtype.kind == "f" and array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")
    return torch.from_numpy(np.array(array, dtype=native, order="C"))
