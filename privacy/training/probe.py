"""Whether records depend on one another, or the model keeps something of them, seen by running it on the data set.

The clip bounds what one unit adds only if each unit's gradient is of that unit alone. A model that sorts its rows,
subtracts their mean, or a loss that weighs by the batch's classes breaks that, and no look at the modules shows it; nor
does one show what a module writes into a buffer or an attribute. What shows on this data set is found; that there is
nothing for other data is not proved.
"""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from securepfl.errors import ModelError
from securepfl.privacy.accounting.events import Unit
from securepfl.privacy.training.chance import without_chance, without_dropout
from securepfl.privacy.training.clipping import Frame, Kept, Layout, clipped_units
from securepfl.privacy.training.gradients import Recorder, choose_mode, trained_layers
from securepfl.privacy.training.items import Items, alike, label_of
from securepfl.privacy.training.passes import Loss
from securepfl.privacy.training.state import HeldState
from securepfl.privacy.training.sweep import TOLERANCE, Survey, Sweep, in_double, windows
from securepfl.privacy.training.units import Batch, Collate, count_units
from securepfl.privacy.training.validation import set_training, validate_model

# Units that are looked at closely at first, how many are looked at to find some that differ, in their labels too, and
# how many at the end, chosen from all.
_UNITS, _LOOKED_AT, _AT_THE_END = 4, 64, 8


def check_independence(
    model: nn.Module,
    dataset: Dataset[Any],
    loss: Loss,
    *,
    device: torch.device | str,
    unit: Unit = "record",
    collate: Collate | None = None,
    physical_batch: int = 256,
) -> None:
    """Checks that each unit's gradient, as training has it, is its own and torch's, and that the model keeps nothing.

    Closely, on up to four of the first units, and then on up to eight of all that differ most in shape and label: each
    is run alone, then all in three orders, in training mode without dropout, and must give what torch.autograd gives of
    its summed loss alone, to 1e-3 of the norm. Widely, on the whole data set: each unit is fetched once, and run in two
    companies (see sweep.py), by its gradient as far as 2^25 entries of them go, the rest by its loss; of more than
    131,072 units the rest is fetched only. A record may be padded to the longest beside it where model and loss mask
    what was padded: then nothing changes.

    No buffer, attribute or parameter, and nothing in the loss, may differ afterwards (see state.HeldState).

    Arguments are as in dpsgd.train_private; `model` and torch's generator are left alone. A copy of the model is run,
    whose parameters that are zero throughout get small random values: behind them no dependence would show. A model
    that draws at random by other means than dropout is compared in eval mode. With one unit, only the comparison with
    torch remains; gradients that are not finite are not compared.

    Raises ModelError where records depend on one another, where a layer's gradient is not what torch gives, where the
    model keeps something, or for a model or loss that cannot be checked; also what train_private raises for such a
    model, loss or data set, and DataError for an item that cannot be read.

    >>> data = torch.utils.data.TensorDataset(torch.randn(8, 3), torch.ones(8))
    >>> check_independence(nn.Linear(3, 1), data, lambda z, y: (z[:, 0] - y) ** 2, device="cpu")
    >>> check_independence(nn.Linear(3, 1), data, lambda z, y: (z[:, 0] - z.mean()) ** 2, device="cpu")
    Traceback (most recent call last):
    securepfl.errors.ModelError: ...
    """
    available = count_units(dataset)
    with Probe.opened(model, loss, device=device, unit=unit, physical_batch=physical_batch) as probe:
        for units, evaluated in windows(available, physical_batch):
            probe.take(Items.fetch(dataset, units, unit, collate), evaluated=evaluated)
        if others := probe.rest():
            probe.closely(Items.fetch(dataset, others, unit, collate))


@dataclass
class Probe:
    """check_independence, for who reads the data set: `take` its units, window after window, then look `closely` at the
    `rest`.

    `model` is copied for each closer look, `wide` is run on all units and `trained` on those that show what is kept of
    passes in training mode, `before` is what they and the loss held before anything was run.

    >>> data = torch.utils.data.TensorDataset(torch.randn(8, 3), torch.ones(8))
    >>> check_independence(nn.Linear(3, 1), data, lambda z, y: (z[:, 0] - y) ** 2, device="cpu")  # the way of a Probe
    """

    model: nn.Module
    wide: nn.Module
    trained: nn.Module
    before: HeldState
    loss: Loss
    unit: Unit
    physical_batch: int
    _closely: tuple[int, ...] = ()
    _drawn: bool = False
    _compared: int = 0
    _survey: Survey = field(default_factory=Survey)

    @classmethod
    @contextmanager
    def opened(
        cls, model: nn.Module, loss: Loss, *, device: torch.device | str, unit: Unit, physical_batch: int
    ) -> "Iterator[Probe]":
        """To be used within. Raises ModelError for a model that cannot be trained here."""
        validate_model(model)
        choose_mode(model, unit=unit)  # raises for layers that no mode can do
        with without_chance():
            probed = _filled(copy.deepcopy(model).to(torch.device(device)))
            set_training(probed)
            wide, trained = copy.deepcopy(probed), copy.deepcopy(probed)
            yield cls(probed, wide, trained, HeldState.of(probed, loss), loss, unit, physical_batch)

    def take(self, items: Items, *, evaluated: bool = True) -> frozenset[int]:
        """Look at some units: which of them gave no finite number. Not `evaluated`: they are counted only.

        The first units that it gets are looked at closely. Raises ModelError, or what model and loss raise; it may then
        be given others.
        """
        if not self._closely:
            first = _chosen(items)
            self._drawn = self._look(items, first)
            self._closely = tuple(first)
            if self._drawn:
                self.wide.eval()
        blank = self._in_companies(items) if evaluated else frozenset()
        self._survey.add(items)
        return blank

    def rest(self) -> list[int]:
        """The units that differ most, for a closer look. Raises ModelError for a model that kept something."""
        self._check_unchanged()
        others = self._survey.chosen(_AT_THE_END)
        return others if set(others) - set(self._closely) else []

    def closely(self, items: Items) -> None:
        """Each unit alone and among the others. Raises as `take`."""
        self._look(items, list(items.held))

    def failures(self, items: Items) -> dict[int, Exception]:
        """What model and loss raise of units alone, for those of which they do."""
        model, found = copy.deepcopy(self.model), {}
        for index in items.held:
            try:
                with Recorder(model, trained_layers(model)).attached() as recorder:
                    list(_run(recorder, Layout.of(model, {}, None), items.batch([index]), self.loss))
            except Exception as error:  # noqa: BLE001 - whatever the pipeline's own code raises
                found[index] = error
        return found

    def _look(self, items: Items, units: list[int]) -> bool:
        """Each of a few units alone and among the others. Whether the model draws at random in training."""
        drawn, found = self._closer(items, units)
        # Rounding, and what a rounded input tips over, is no dependence.
        if (
            found is not None
            and in_double(lambda: self._doubled()._closer(items.doubled(), units)[1], found) is not None
        ):
            raise ModelError(found)
        return drawn

    def _doubled(self) -> "Probe":
        model = copy.deepcopy(self.model).double()
        return replace(self, model=model, before=HeldState.of(model, self.loss))

    def _closer(self, items: Items, units: list[int]) -> tuple[bool, str | None]:
        """Whether the model draws at random, and what to say of the first gradient that is not what it should be."""
        probed, plain = (copy.deepcopy(self.model) for _ in range(2))
        own = _own_gradients(plain, self.loss, items, units)
        self.before.check_unchanged(plain, self.loss)
        drawn = own is None
        if own is None:
            own = _own_gradients(plain.eval(), self.loss, items, units)
            probed.eval()
        if own is None:
            raise ModelError(
                "model or loss gives another gradient the second time, so whether records depend on one another cannot "
                "be seen: draw at random only in training mode, and keep no state from one pass to the next"
            )
        with Recorder(probed, trained_layers(probed)).attached() as recorder:
            layout = Layout.of(probed, {}, None)
            for order in _orders(units):
                batch = items.batch(order)
                for index, gradient in zip(order, _run(recorder, layout, batch, self.loss), strict=True):
                    if not _same(gradient.to(own[index].dtype), own[index]):
                        return drawn, self._difference(items, index, order)
        self.before.check_unchanged(probed, self.loss)
        return drawn, None

    def _in_companies(self, items: Items) -> frozenset[int]:
        """Every unit in two companies; those that gave no finite number."""
        units = list(items.held)
        if self._drawn:
            for batch in items.batches(units, self.physical_batch):
                _own_gradient(self.trained, self.loss, batch)
        sweep = Sweep(self.wide, self.loss, self.physical_batch)
        by_gradient = units[: max(0, sweep.units_by_gradient() - self._compared)]
        found = [sweep.compare(items, by_gradient, gradients=True)] if by_gradient else []
        if len(by_gradient) < len(units) and all(one.odd is None for one in found):
            found.append(sweep.compare(items, units, gradients=False))
        odd = next((one.odd for one in found if one.odd is not None), None)
        if odd is not None:
            self._check_unchanged()
            raise ModelError(self._difference(items, odd, units))
        self._compared += len(by_gradient)
        return frozenset().union(*(one.blank for one in found))

    def _check_unchanged(self) -> None:
        for model in (self.wide, self.trained):
            self.before.check_unchanged(model, self.loss)

    def _difference(self, items: Items, index: int, together: list[int]) -> str:
        if len(together) == 1:
            return (
                f"the gradient of {self.unit} {index} is not the one torch gives: use each parameter only through a "
                "call of its own layer, by place (no functional use of a layer's weight, no child of a layer called "
                "from outside it)"
            )
        changes = f"the gradient of {self.unit} {index} changes with the {self.unit}s beside it"
        if len({items.shape(other) for other in together}) > 1:
            return (
                f"records depend on one another: {changes}, as it is padded to the longest of them; pad all to one "
                "length that is declared, or mask what is padded in model and loss"
            )
        return (
            f"records depend on one another: {changes}; make model, loss and collate treat each {self.unit} by itself "
            "(no sorting of rows, no means or weights over the batch)"
        )


def _orders(units: list[int]) -> list[list[int]]:
    """Each alone, then all: in order, reversed, and turned by one, so that no sorting leaves all as they are."""
    together = [units, units[::-1], units[1:] + units[:1]] if len(units) > 1 else []
    return [[index] for index in units] + together


def _run(recorder: Recorder, layout: Layout, batch: Batch, loss: Loss) -> Iterator[Tensor]:
    """The gradient of each unit by the path that training takes, double [layout.size]; zeros where not finite."""
    device = next(iter(layout.places)).device
    x, y = batch.x.to(device), batch.y.to(device)
    gradients = Kept(Frame(layout, batch, None, 1.0, x.device))
    with without_dropout():
        recorder.run(x, lambda output: loss(output, y), len(x), gradients.take)
    for rows in clipped_units(gradients, math.inf)[0]:
        yield from rows


def _own_gradients(model: nn.Module, loss: Loss, items: Items, units: list[int]) -> dict[int, Tensor] | None:
    """By unit, torch's gradient of its loss, [parameters]; None where the same pass gives another one."""
    found = {}
    for index in units:
        first, second = (_own_gradient(model, loss, items.batch([index])) for _ in range(2))
        if not _same(first, second):
            return None
        found[index] = first
    return found


def _own_gradient(model: nn.Module, loss: Loss, batch: Batch) -> Tensor:
    parameters = [p for p in model.parameters() if p.requires_grad]
    device = parameters[0].device
    with without_dropout():
        losses = loss(model(batch.x.to(device)), batch.y.to(device))
        if not losses.requires_grad:
            return torch.cat([torch.zeros_like(p).flatten() for p in parameters])
        parts = torch.autograd.grad(losses.sum(), parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two gradients are the same but for rounding; what is not finite is not compared."""
    if torch.equal(one, other):
        return True
    norms = [torch.linalg.vector_norm(g, dtype=torch.float64) for g in (one, other, one - other)]
    larger = torch.maximum(norms[0], norms[1])
    return not bool(torch.isfinite(larger)) or bool(norms[2] <= TOLERANCE * larger)


def _chosen(items: Items) -> list[int]:
    """The first units by number, rather ones that differ: alike, they show no dependence."""
    found: dict[int, Any] = {}
    spare: dict[int, Any] = {}
    for index in sorted(items.held)[:_LOOKED_AT]:
        item = items.held[index]
        repeats = any(alike(item, other) for other in found.values())
        # The last place is for another label.
        last = len(found) == _UNITS - 1 and all(alike(label_of(item), label_of(other)) for other in found.values())
        (spare if repeats or last else found)[index] = item
        if len(found) == _UNITS:
            return list(found)
    return list(found | spare)[:_UNITS]


def _filled(model: nn.Module) -> nn.Module:
    """A parameter that starts at zero may hide all gradients before it: a little noise shows them."""
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad and not p.any():
                p.normal_(std=0.1)
    return model
