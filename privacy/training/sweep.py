"""Every record of a data set in two companies, seen by what each gives in either: they must not differ.

Units are taken in windows, in an order that anyone can repeat and that has nothing to do with their order in the data
set. Each window is run in batches of the size that training takes, and again in smaller ones, sorted by the records'
shapes, so that no unit keeps its neighbours and short records meet no long ones.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from securepfl.privacy.training.chance import without_dropout
from securepfl.privacy.training.clipping import Frame, Kept, Layout
from securepfl.privacy.training.gradients import KEPT_BYTES, Recorder, trained_layers
from securepfl.privacy.training.items import Items, label_key
from securepfl.privacy.training.passes import Loss, pass_through
from securepfl.privacy.training.units import Batch
from securepfl.randomness import RandomStream, derive_key

# Of the larger norm, or of the median one where that is more.
TOLERANCE = 1e-3
# Entries of gradients that are formed in all, in one of the companies: at most as much as a short step of training.
_ENTRIES = 2**25
_FEWEST = 8
# Units that the model is run on. Of more, the rest are fetched and collated only.
_EVALUATED = 2**17
_BUCKETS = 64
# Distinct shapes, and labels, of which one unit each is remembered.
_KINDS = 256
_T = TypeVar("_T")
_PUBLIC_KEY = b"securepfl order of the sweep"


@dataclass
class Survey:
    """What there is in a data set: one unit of each shape and of each label, and how many have each label."""

    shapes: dict[tuple[int, ...], int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, items: Items) -> None:
        for index, item in items.held.items():
            shape, label = items.shape(index), label_key(item)
            if shape in self.shapes or len(self.shapes) < _KINDS:
                self.shapes.setdefault(shape, index)
            if label in self.labels or len(self.labels) < _KINDS:
                self.labels.setdefault(label, index)
                self.counts[label] = self.counts.get(label, 0) + 1

    def chosen(self, most: int) -> list[int]:
        """Units that differ: the smallest and the largest by shape, some between, and those of the rarest labels."""
        by_size = [self.shapes[shape] for shape in sorted(self.shapes, key=lambda shape: (math.prod(shape), shape))]
        half = most // 2
        spread = [by_size[round(place * (len(by_size) - 1) / (half - 1))] for place in range(half)]
        rare = [self.labels[label] for label in sorted(self.counts, key=lambda label: self.counts[label])]
        return list(dict.fromkeys([*spread, *rare]))[:most]


@dataclass(frozen=True)
class Seen:
    """What units gave, in the order of `units`: norms [units], and what else is compared [units, entries]."""

    units: tuple[int, ...]
    norms: Tensor
    values: Tensor


@dataclass(frozen=True)
class Compared:
    """What two companies showed: a unit that gave something else in either, or None, and those that gave no number."""

    odd: int | None
    blank: frozenset[int]


def windows(available: int, physical_batch: int) -> Iterator[tuple[list[int], bool]]:
    """All units in a public order, two physical batches at a time, and whether the model is to be run on them.

    >>> [(len(units), run) for units, run in windows(5, physical_batch=2)]
    [(4, True), (1, True)]
    """
    order = RandomStream(derive_key(_PUBLIC_KEY, available)).permutation(available).tolist()
    for start in range(0, available, 2 * physical_batch):
        yield order[start : start + 2 * physical_batch], start < _EVALUATED


@dataclass(frozen=True)
class Sweep:
    """A model, in the mode in which it is run, and how its records are."""

    model: nn.Module
    loss: Loss
    physical_batch: int

    def compare(self, items: Items, units: Sequence[int], *, gradients: bool) -> Compared:
        """Units in two companies. What single precision shows is looked at again in double, where the model can be run
        in it: rounding, and what a rounded input tips over, is no dependence.
        """
        found = self._compared(self.model, items, units, gradients)
        if found.odd is None:
            return found
        again = in_double(
            lambda: self._compared(copy.deepcopy(self.model).double(), items.doubled(), units, gradients).odd, found.odd
        )
        return replace(found, odd=again)

    def _compared(self, model: nn.Module, items: Items, units: Sequence[int], gradients: bool) -> Compared:
        most = self._gradients_at_once() if gradients else self.physical_batch
        shapes = {index: items.shape(index) for index in units}
        turned = [*units[::2], *units[1::2]]
        turned.sort(key=lambda index: (math.prod(shapes[index]), shapes[index]))
        smaller = max(1, min(most, len(units)) // 2)
        one, other = (
            self._seen(model, list(items.batches(order, size)), gradients, size)
            for order, size in ((units, most), (turned, smaller))
        )
        return Compared(_farthest(one, other), _blank(one) | _blank(other))

    def _seen(self, model: nn.Module, batches: list[Batch], gradients: bool, most: int) -> Seen:
        parts = _sketches(model, batches, self.loss, most) if gradients else _losses(model, batches, self.loss, most)
        norms, values = zip(*parts, strict=True)
        units = tuple(index for batch in batches for index in batch.units)
        return Seen(units, torch.cat(norms), torch.cat(values))

    def units_by_gradient(self) -> int:
        """Of how many units gradients are compared."""
        return max(_FEWEST, _ENTRIES // _entries(self.model))

    def _gradients_at_once(self) -> int:
        return min(self.physical_batch, max(2, KEPT_BYTES // (8 * _entries(self.model))))


def _entries(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _losses(model: nn.Module, batches: list[Batch], loss: Loss, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The sum of each unit's losses, double [units], twice."""
    device = next(model.parameters()).device
    for batch in batches:
        parts = zip(torch.split(batch.x, most), torch.split(batch.y, most), strict=True)
        with torch.no_grad(), without_dropout():
            found = torch.cat([loss(model(x.to(device)), y.to(device)) for x, y in parts]).double()
        owner = batch.owner(device)
        if owner is not None:
            found = found.new_zeros(len(batch.units)).index_add_(0, owner, found)
        yield found.abs(), found[:, None]


def _sketches(model: nn.Module, batches: list[Batch], loss: Loss, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each unit's gradient as training has it: its norm, double [units], and a sketch of it [units, buckets].

    The sketch adds up entries with fixed random signs, so that the distance of two is about that of the gradients
    (Charikar, Chen and Farach-Colton 2002, "Finding frequent items in data streams").
    """
    device = next(model.parameters()).device
    with Recorder(model, trained_layers(model)).attached() as recorder:
        layout = Layout.of(model, {}, None)
        drawn = torch.randint(0, 2, (layout.size,), generator=torch.Generator().manual_seed(1), dtype=torch.int8)
        signs = (2 * drawn - 1).to(device)
        for batch in batches:
            kept = Kept(Frame(layout, batch, None, 1.0, device))
            with without_dropout():
                pass_through(recorder, batch, loss, most, kept, device)
            norms = kept.norms()
            total = torch.zeros(len(batch.units), _BUCKETS, dtype=torch.float64, device=device)
            for place, gradients in kept.parts():
                signed = gradients * signs[place.start : place.start + place.size]
                padded = nn.functional.pad(signed, (0, -place.size % _BUCKETS))
                total += padded.reshape(len(padded), -1, _BUCKETS).sum(1)
            yield norms, total


def _blank(seen: Seen) -> frozenset[int]:
    """Units whose gradient, or loss, is not finite."""
    return frozenset(seen.units[row] for row in (~torch.isfinite(seen.norms)).nonzero()[:, 0].tolist())


def _farthest(one: Seen, other: Seen) -> int | None:
    """The unit that differs most between two companies, None where none differs by more than the tolerance."""
    place = {index: row for row, index in enumerate(other.units)}
    rows = torch.tensor([place[index] for index in one.units], device=one.norms.device)
    larger = torch.maximum(one.norms, other.norms[rows])
    finite = torch.isfinite(larger)
    if not bool(finite.any()):
        return None
    least = larger[finite].median()
    distance = torch.linalg.vector_norm(one.values - other.values[rows], dim=1)
    excess = (distance - TOLERANCE * torch.maximum(larger, least)).masked_fill(~finite, -1.0)
    row = int(excess.argmax())
    return one.units[row] if bool(excess[row] > 0) else None


def in_double(again: Callable[[], _T | None], found: _T) -> _T | None:
    """What `again` finds in double precision, or `found` where model or loss cannot be run in it."""
    try:
        return again()
    except (RuntimeError, TypeError):
        return found
