"""Whether records depend on one another, seen by running some of them alone and together.

The clip bounds what one unit adds only if each unit's gradient is of that unit alone. A model that sorts its rows,
subtracts their mean, or a loss that weighs by the batch's classes breaks that, and no look at the modules shows it.
This finds dependence that shows on a few units; it proves none absent.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.data import Dataset, default_collate

from securepfl.errors import ModelError
from securepfl.privacy.accounting.events import Unit
from securepfl.privacy.training.clipping import Frame, Kept, Layout, clipped_units
from securepfl.privacy.training.dpsgd import Loss
from securepfl.privacy.training.gradients import Recorder, choose_mode, trained_layers
from securepfl.privacy.training.units import Batch, Collate, count_units, patient_batches
from securepfl.privacy.training.validation import set_training, validate_model

Batches = Callable[[list[int]], Batch]

# Units that are run together, and how many are looked at to find some that differ, in their labels too.
_UNITS, _LOOKED_AT = 4, 64
# Of the larger norm: float32 stays well below it, and what matters well above.
_TOLERANCE = 1e-3


def check_independence(
    model: nn.Module,
    dataset: Dataset[Any],
    loss: Loss,
    *,
    device: torch.device | str,
    unit: Unit = "record",
    collate: Collate | None = None,
) -> None:
    """Checks on up to four units that the gradient of each, as training has it, is its own and torch's.

    Arguments are as in dpsgd.train_private; `model` and torch's generator are left alone. Each unit is run alone,
    then all in three orders, in training mode without dropout, and must give what torch.autograd gives of its
    summed loss alone, to 1e-3 of the norm. A copy of the model is run, whose parameters that are zero throughout get
    small random values: behind them no dependence would show. A model that draws at random by other means is checked
    in eval mode. With one unit, only the comparison with torch remains; gradients that are not finite are not compared.

    Raises ModelError where records depend on one another, where a layer's gradient is not what torch gives, or for a
    model or loss that cannot be checked; also what train_private raises for such a model, loss or data set.

    >>> data = torch.utils.data.TensorDataset(torch.randn(8, 3), torch.ones(8))
    >>> check_independence(nn.Linear(3, 1), data, lambda z, y: (z[:, 0] - y) ** 2, device="cpu")
    >>> check_independence(nn.Linear(3, 1), data, lambda z, y: (z[:, 0] - z.mean()) ** 2, device="cpu")
    Traceback (most recent call last):
    securepfl.errors.ModelError: ...
    """
    validate_model(model)
    choose_mode(model, unit=unit)  # raises for layers that no mode can do
    with torch.random.fork_rng(range(torch.cuda.device_count())), torch.enable_grad(), _exact(), _NoDropout():
        probed = _filled(copy.deepcopy(model).to(torch.device(device)))
        set_training(probed)
        plain = copy.deepcopy(probed)
        batches, units = _prepared(dataset, unit, collate)
        own = _own_gradients(plain, loss, batches, units)
        if own is None:
            probed.eval()
            own = _own_gradients(plain.eval(), loss, batches, units)
        if own is None:
            raise ModelError(
                "model or loss gives another gradient the second time, so whether records depend on one another cannot "
                "be seen: draw at random only in training mode, and keep no state from one pass to the next"
            )
        with Recorder(probed, trained_layers(probed)).attached() as recorder:
            layout = Layout.of(probed, {}, None)
            for order in _orders(units):
                batch = batches(order)
                for index, gradient in zip(order, _run(recorder, layout, batch, loss, device), strict=True):
                    if not _same(gradient.to(own[index].dtype), own[index]):
                        raise ModelError(_difference(unit, index, len(order)))


def _difference(unit: str, index: int, together: int) -> str:
    if together > 1:
        return (
            f"records depend on one another: the gradient of {unit} {index} changes with the {unit}s beside it; make "
            f"model, loss and collate treat each {unit} by itself (no sorting of rows, no means or weights over the "
            "batch, no padding to the longest that the model sees)"
        )
    return (
        f"the gradient of {unit} {index} is not the one torch gives: use each parameter only through a call of its own "
        "layer, by place (no functional use of a layer's weight, no child of a layer called from outside it)"
    )


def _orders(units: list[int]) -> list[list[int]]:
    """Each alone, then all: in order, reversed, and turned by one, so that no sorting leaves all as they are."""
    together = [units, units[::-1], units[1:] + units[:1]] if len(units) > 1 else []
    return [[index] for index in units] + together


def _run(recorder: Recorder, layout: Layout, batch: Batch, loss: Loss, device: torch.device | str) -> Iterator[Tensor]:
    """The gradient of each unit by the path that training takes, double [layout.size]; zeros where not finite."""
    x, y = batch.x.to(device), batch.y.to(device)
    gradients = Kept(Frame(layout, batch, None, 1.0, x.device))
    recorder.run(x, lambda output: loss(output, y), len(x), gradients.take)
    for rows in clipped_units(gradients, math.inf):
        yield from rows


def _own_gradients(model: nn.Module, loss: Loss, batches: Batches, units: list[int]) -> dict[int, Tensor] | None:
    """By unit, torch's gradient of its loss, [parameters]; None where the same pass gives another one."""
    found = {}
    for index in units:
        first, second = (_own_gradient(model, loss, batches([index])) for _ in range(2))
        if not _same(first, second):
            return None
        found[index] = first
    return found


def _own_gradient(model: nn.Module, loss: Loss, batch: Batch) -> Tensor:
    parameters = [p for p in model.parameters() if p.requires_grad]
    device = parameters[0].device
    losses = loss(model(batch.x.to(device)), batch.y.to(device))
    if not losses.requires_grad:
        return torch.cat([torch.zeros_like(p).flatten() for p in parameters])
    parts = torch.autograd.grad(losses.sum(), parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two gradients are the same but for rounding; what is not finite is not compared."""
    norms = [torch.linalg.vector_norm(g, dtype=torch.float64) for g in (one, other, one - other)]
    larger = torch.maximum(norms[0], norms[1])
    return not bool(torch.isfinite(larger)) or bool(norms[2] <= _TOLERANCE * larger)


def _prepared(dataset: Dataset[Any], unit: Unit, collate: Collate | None) -> tuple[Batches, list[int]]:
    """What makes a batch of the chosen units in the order asked for, and their numbers in the data set.

    Items are fetched once: a data set may draw at random. So may a collate function, and then it gets items singly.
    """
    items = _chosen(dataset, unit)
    units = list(items)
    if unit == "patient":
        return lambda order: next(patient_batches(items, order, 2**62)), units  # type: ignore[arg-type]
    join = collate or default_collate

    def joined(order: list[int]) -> Batch:
        x, y = join([items[index] for index in order])
        return Batch(x, y, tuple(order))

    if _equal(joined(units), joined(units)):
        return joined, units
    rows = {index: joined([index]) for index in units}

    def stacked(order: list[int]) -> Batch:
        return Batch(torch.cat([rows[i].x for i in order]), torch.cat([rows[i].y for i in order]), tuple(order))

    return stacked, units


def _equal(one: Batch, other: Batch) -> bool:
    return _alike((one.x, one.y), (other.x, other.y))


def _chosen(dataset: Dataset[Any], unit: Unit) -> dict[int, Any]:
    """The first units by number, rather ones that differ: alike, they show no dependence."""
    found: dict[int, Any] = {}
    spare: dict[int, Any] = {}
    for index in range(min(count_units(dataset), _LOOKED_AT)):
        item = dataset[index]
        alike = any(_alike(item, other) for other in found.values())
        # The last place is for another label.
        last = len(found) == _UNITS - 1 and all(_alike(_label(item), _label(other)) for other in found.values())
        (spare if alike or last else found)[index] = item
        if len(found) == _UNITS:
            return found
    return dict(list((found | spare).items())[:_UNITS])


def _alike(one: Any, other: Any) -> bool:
    """Whether two items, of any kind that a collate function takes, or parts of them, hold the same."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(_alike(a, b) for a, b in zip(one, other, strict=True))
    try:
        one, other = torch.as_tensor(one), torch.as_tensor(other)
    except (TypeError, ValueError, RuntimeError):
        return (one == other) is True
    return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())


def _label(item: Any) -> Any:
    return item[-1] if isinstance(item, tuple | list) else item


def _filled(model: nn.Module) -> nn.Module:
    """A parameter that starts at zero may hide all gradients before it: a little noise shows them."""
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad and not p.any():
                p.normal_(std=0.1)
    return model


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
