"""The clipped sum over units of one physical batch: gradients kept, or taken twice layer by layer (ghost).

Whatever the mode, one unit's gradient, as computed, is scaled to at most the clip, and norms, factors and sums
are double: one unit moves the sum by at most the clip. Ghost clipping (Li et al. 2022, arXiv 2110.05679) usually
takes norms of sequences from Gram matrices, then runs a second backward pass with weighted losses. In float32 both
round without a bound where positions of one record cancel: one record added 5,500 clips in Opacus 1.6. So norms
are of gradients that were formed, or of outer products, which cannot cancel, and the sum is taken from what the
first pass left at each layer (book-keeping, Bu et al. 2023, arXiv 2210.00038).
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from securepfl.errors import ModelError
from securepfl.privacy.training.canaries import Canaries
from securepfl.privacy.training.gradients import Call, Layer
from securepfl.privacy.training.units import Batch

# Rounding of double-precision norms, factors and sums stays far below this.
_ROUNDING_MARGIN = 1e-6
# Ghost: gradients of one layer that are in memory at once, or those of one unit where they are more.
_PIECE_BYTES = 2**27
# Entries that are copied to double at once.
_DOUBLE_ENTRIES = 2**20


@dataclass(frozen=True)
class Place:
    """Where one parameter lies in the concatenation of all: from `start`, `size` entries.

    support: bool [size], the entries that move, or None for all. zeroed: int64, entries kept for canaries.
    """

    name: str
    start: int
    size: int
    support: Tensor | None
    zeroed: Tensor


@dataclass(frozen=True)
class Layout:
    """All trained parameters as one vector of `size` entries, in named_parameters() order.

    support: bool [size], or None for all of it.
    """

    places: Mapping[nn.Parameter, Place]
    size: int
    support: Tensor | None

    @property
    def device(self) -> torch.device:
        return next(iter(self.places)).device

    @classmethod
    def of(cls, model: nn.Module, masks: Mapping[str, Tensor], canaries: Canaries | None) -> "Layout":
        """Raises ValueError for a mask or canaries that do not fit the model."""
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        _check_masks(parameters, masks)
        device = next(iter(parameters.values())).device
        reserved = canaries.zeroed if canaries else np.zeros(0, dtype=np.int64)
        places, start = {}, 0
        for name, p in parameters.items():
            support = masks[name].to(device, torch.bool).flatten() if name in masks else None
            inside = reserved[(reserved >= start) & (reserved < start + p.numel())] - start
            places[p] = Place(name, start, p.numel(), support, torch.from_numpy(inside).to(device))
            start += p.numel()
        if (reserved >= start).any():
            raise ValueError(f"canaries lie outside the model's {start} parameters")
        return cls(places, start, _whole_support(places, device) if masks else None)

    def entries(self, chosen: Callable[[str], bool] = lambda name: True) -> Tensor:
        """Positions, int64, of the entries that move, of the parameters whose names are chosen.

        Asked once a training: where there are masks, a GPU waits for it.
        """
        parts = [
            torch.arange(place.start, place.start + place.size, device=self.device)
            for place in self.places.values()
            if chosen(place.name)
        ]
        found = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64, device=self.device)
        return found if self.support is None else found[self.support[found]]


def _whole_support(places: Mapping[nn.Parameter, Place], device: torch.device) -> Tensor:
    everything = [torch.ones(place.size, dtype=torch.bool, device=device) for place in places.values()]
    supports = [place.support for place in places.values()]
    return torch.cat([own if own is not None else ones for own, ones in zip(supports, everything, strict=True)])


def _check_masks(parameters: Mapping[str, nn.Parameter], masks: Mapping[str, Tensor]) -> None:
    for name, mask in masks.items():
        if name not in parameters:
            raise ValueError(f"masks names {name!r}, which is no trained parameter of the model")
        if mask.shape != parameters[name].shape:
            raise ValueError(f"mask {name!r} has shape {tuple(mask.shape)}, not {tuple(parameters[name].shape)}")
        if not ((mask == 0) | (mask == 1)).all():
            raise ValueError(f"mask {name!r} holds values other than 0 and 1")


class Frame:
    """Makes units' gradients of one batch from records': sums, support and canaries, all before the norm.

    clip: the bound, which canaries' gradients are multiples of.
    """

    def __init__(
        self, layout: Layout, batch: Batch, canaries: Canaries | None, clip: float, device: torch.device
    ) -> None:
        self.layout, self.units = layout, len(batch.units)
        self._height = clip * canaries.scale if canaries else 0.0
        self._owner, self._counts = batch.owner(device), batch.counts
        self._canaries = canaries is not None
        first = canaries.first if canaries else math.inf
        rows = [row for row, unit in enumerate(batch.units) if unit >= first] if canaries else []
        chosen = [int(canaries.coordinates[batch.units[row] - canaries.first]) for row in rows] if canaries else []
        # On the host: which of them a piece holds would otherwise be read from the device, piece by piece.
        self._rows, self._positions = np.array(rows, dtype=np.int64), np.array(chosen, dtype=np.int64)

    @property
    def by_record(self) -> bool:
        """Whether unit gradients are those of records, within the support."""
        return self._owner is None and not self._canaries

    def pieces(self, records: int) -> Iterator[tuple[slice, slice]]:
        """Ranges (units, their records) that cover the batch: at most `records` records, at least one unit."""
        counts = self._counts or (1,) * self.units
        unit = record = held = 0
        for number, count in enumerate(counts):
            if held and held + count > records:
                yield slice(unit, number), slice(record, record + held)
                unit, record, held = number, record + held, 0
            held += count
        yield slice(unit, self.units), slice(record, record + held)

    def summed(self, gradients: Tensor, units: slice, records: slice, before: Tensor | None) -> Tensor:
        """Gradients of `records`, [records, ...], summed by unit onto `before`: [units, entries]."""
        flat = gradients.reshape(len(gradients), -1)
        if self._owner is None:
            return flat if before is None else before + flat
        total = flat.new_zeros((units.stop - units.start, flat.shape[1])) if before is None else before
        return total.index_add_(0, self._owner[records] - units.start, flat)

    def parts(self, records: slice, layer: Layer) -> Iterator[slice]:
        """Ranges that cover `records`: those whose gradients of one layer are in memory before they are summed."""
        if self._owner is None:  # each record is a unit, and the caller wants the gradients of all these units
            yield records
            return
        most = _records_at_once(layer)
        for start in range(records.start, records.stop, most):
            yield slice(start, min(start + most, records.stop))

    def finished(self, gradients: Tensor, place: Place, units: slice) -> Tensor:
        """The same within the support and with canaries: what is clipped. [units, entries]."""
        if place.support is not None:
            gradients = gradients.masked_fill(~place.support, 0)  # unlike a product, also clears NaN
        return self._planted(gradients.clone(), place, units) if self._canaries else gradients

    def _planted(self, gradients: Tensor, place: Place, units: slice) -> Tensor:
        here = (self._rows >= units.start) & (self._rows < units.stop)
        rows, positions = self._rows[here] - units.start, self._positions[here] - place.start
        inside = (positions >= 0) & (positions < place.size)
        gradients[:, place.zeroed] = 0
        gradients[rows.tolist()] = 0
        gradients[rows[inside].tolist(), positions[inside].tolist()] = self._height
        return gradients


class Kept:
    """Unit gradients of a batch, kept for all layers together (modes per-sample and functorch)."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._found: dict[nn.Parameter, Tensor] = {}

    def take(self, call: Call) -> None:
        """Adds what one call of a layer gives. Where the batch is one unit, a call may hold some of its records."""
        frame = self._frame
        for records in frame.parts(slice(0, len(call.backprops)), call.layer):
            for p, gradients in call.gradients(records).items():
                self._found[p] = frame.summed(gradients, slice(0, frame.units), records, self._found.get(p))

    def norms(self) -> Tensor:
        """Norm of each unit's gradient, double [units]."""
        frame, parts = self._frame, []
        for p, place in frame.layout.places.items():
            if p not in self._found:
                raise _unused(place)
            self._found[p] = frame.finished(self._found[p], place, slice(0, frame.units))
            parts.append(_norms(self._found[p]))
        return _joint_norms(parts)

    def parts(self) -> Iterator[tuple[Place, Tensor]]:
        """The gradients, [units, place.size] of each parameter. To be called after `norms`."""
        return ((place, self._found[p]) for p, place in self._frame.layout.places.items())

    def add(self, factors: Tensor, refused: Tensor | None, total: Tensor) -> None:
        """Adds the sum over units of factor times gradient to `total`, double [layout.size]."""
        for p, place in self._frame.layout.places.items():
            _add_weighted(self._found.pop(p), factors, refused, total[place.start : place.start + place.size])

    def weighted(self, factors: Tensor, refused: Tensor) -> Iterator[Tensor]:
        """Factor times gradient, double [units, layout.size], as many units at a time as fit the entries in double."""
        found = [self._found[p] for p in self._frame.layout.places]
        rows = max(1, _DOUBLE_ENTRIES // self._frame.layout.size)
        for start in range(0, self._frame.units, rows):
            piece = slice(start, start + rows)
            joined = torch.cat([gradients[piece] for gradients in found], dim=1).double()
            yield joined.masked_fill(refused[piece, None], 0) * factors[piece, None]


class Ghost:
    """Unit gradients of a batch, taken layer by layer for the norms and again for the sum."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._calls: dict[Layer, list[Call]] = {}
        self._norms: dict[Layer, Tensor] = {}

    def take(self, call: Call) -> None:
        self._calls.setdefault(call.layer, []).append(call)

    def norms(self) -> Tensor:
        """Norm of each unit's gradient, double [units]."""
        used = {p for layer in self._calls for p in layer.parameters}
        for p, place in self._frame.layout.places.items():
            if p not in used:
                raise _unused(place)
        for layer, calls in self._calls.items():
            if self._is_outer(layer, calls):
                self._norms[layer] = _outer_norms(layer, calls[0], self._frame.layout)
            else:
                pieces = [_norms_of_all(found) for _, found in self._pieces(layer, calls)]
                self._norms[layer] = torch.cat(pieces)
        return _joint_norms(list(self._norms.values()))

    def add(self, factors: Tensor, refused: Tensor | None, total: Tensor) -> None:
        """Adds the sum over units of factor times gradient to `total`, double [layout.size]."""
        while self._calls:
            layer, calls = self._calls.popitem()  # frees what the layer saw
            if self._is_outer(layer, calls):
                self.add_outer(layer, calls[0], factors, refused, total)
                continue
            for units, found in self._pieces(layer, calls):
                # A device may round otherwise the second time: never more than the norm that was clipped.
                first, again = self._norms[layer][units], _norms_of_all(found)
                blank = ~torch.isfinite(again) if refused is None else ~torch.isfinite(again) | refused[units]
                shrunk = torch.where(again > first, factors[units] * first / again, factors[units])
                for p, gradients in found.items():
                    place = self._frame.layout.places[p]
                    part = total[place.start : place.start + place.size]
                    _add_weighted(gradients, shrunk.masked_fill(blank, 0), blank, part)

    def _pieces(self, layer: Layer, calls: list[Call]) -> Iterator[tuple[slice, dict[nn.Parameter, Tensor]]]:
        for units, records in self._frame.pieces(_records_at_once(layer)):
            found: dict[nn.Parameter, Tensor] = {}
            for call in calls:
                for part in self._frame.parts(records, layer):
                    for p, gradients in call.gradients(part).items():
                        found[p] = self._frame.summed(gradients, units, part, found.get(p))
            places = self._frame.layout.places
            yield units, {p: self._frame.finished(value, places[p], units) for p, value in found.items()}

    def _is_outer(self, layer: Layer, calls: list[Call]) -> bool:
        """Whether each unit's gradient is the outer product of two vectors, within the support: its norm follows from
        the vectors.
        """
        if type(layer.module) is not nn.Linear or layer.functorch or not self._frame.by_record:
            return False
        # Any other parameter of the layer's would be outside the norm, and a frozen one must not be in it.
        plain = set(layer.parameters) == {p for p in (layer.module.weight, layer.module.bias) if p is not None}
        return plain and len(calls) == 1 and calls[0].backprops.dim() == 2

    def add_outer(self, layer: Layer, call: Call, factors: Tensor, refused: Tensor | None, total: Tensor) -> None:
        g, a = call.backprops.double(), call.activations[0].double()
        if refused is not None:
            g, a = g.masked_fill(refused[:, None], 0), a.masked_fill(refused[:, None], 0)
        g = g * factors[:, None]
        for p in layer.parameters:
            place = self._frame.layout.places[p]
            value = (g.T @ a if p is layer.module.weight else g.sum(0)).flatten()
            if place.support is not None:
                value = value.masked_fill(~place.support, 0)
            total[place.start : place.start + place.size] += value


def _records_at_once(layer: Layer) -> int:
    """Records whose gradients of one layer are in memory at once, where they are then summed."""
    one = sum(p.numel() * p.element_size() for p in layer.parameters)
    return max(1, _PIECE_BYTES // max(1, one))


def clip_into(total: Tensor, gradients: Kept | Ghost, clip: float) -> tuple[Tensor, Tensor]:
    """Adds the clipped sum of a batch to `total`. (units clipped or refused, units refused), bool [units] each.

    | of one unit's part of what is added | |
    |---|---|
    | its norm over all coordinates of the layout is at most `clip` | with a margin for rounding, in double precision |
    | a gradient that is shorter is added as it is | but for that margin |
    | one with a NaN or an infinity counts as zero | a valid clipped gradient, so the bound holds |
    """
    norms = gradients.norms()
    factors, refused = clip_factors(norms, clip)
    # Leaving out what is refused costs a copy; asking whether anything is, makes a GPU wait.
    gradients.add(factors, refused if refused.device.type != "cpu" or bool(refused.any()) else None, total)
    return refused | (norms > clip), refused


def clipped_units(gradients: Kept, clip: float) -> tuple[Iterator[Tensor], Tensor, Tensor]:
    """The clipped gradients themselves, some units at a time: double [units, layout.size], non-finite ones zero; and,
    bool [units], units clipped or refused, and refused.
    """
    norms = gradients.norms()
    factors, refused = clip_factors(norms, clip)
    return gradients.weighted(factors, refused), refused | (norms > clip), refused


def clip_factors(norms: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """What scales each unit to the clip, and which units are refused: those whose norm is not finite.

    >>> factors, refused = clip_factors(torch.tensor([0.5, 4.0, float("inf")]), 1.0)
    >>> [round(float(factor), 3) for factor in factors], refused.tolist()
    ([1.0, 0.25, 0.0], [False, False, True])
    """
    refused = ~torch.isfinite(norms)
    return (clip * (1 - _ROUNDING_MARGIN) / norms).clamp(max=1).masked_fill(refused, 0), refused


def _unused(place: Place) -> ModelError:
    return ModelError(f"parameter {place.name} gets no gradient from the loss: use it in forward(), or remove it")


def _norms(gradients: Tensor) -> Tensor:
    """Norm of each row in double: float32 squares would overflow, vanish or round by more than the margin."""
    rows = max(1, _DOUBLE_ENTRIES // max(1, gradients.shape[1]))
    parts = [torch.linalg.vector_norm(part, dim=1, dtype=torch.float64) for part in torch.split(gradients, rows)]
    return torch.cat(parts)


def _norms_of_all(found: Mapping[nn.Parameter, Tensor]) -> Tensor:
    return _joint_norms([_norms(gradients) for gradients in found.values()])


def _joint_norms(parts: list[Tensor]) -> Tensor:
    """Norms of vectors whose parts have the norms `parts`, double [units] each."""
    joint: Tensor = torch.linalg.vector_norm(torch.stack(parts), dim=0)
    return joint


def _add_weighted(gradients: Tensor, factors: Tensor, refused: Tensor | None, total: Tensor) -> None:
    """Adds factors @ gradients to `total` in double: a float32 (or TF32) sum could exceed the bound."""
    rows = max(1, _DOUBLE_ENTRIES // max(1, gradients.shape[1]))
    if refused is not None:
        gradients = gradients.masked_fill(refused[:, None], 0)  # a NaN times zero would stay one
    for part, weights in zip(torch.split(gradients, rows), torch.split(factors, rows), strict=True):
        total += weights @ part.double()


def _outer_norms(layer: Layer, call: Call, layout: Layout) -> Tensor:
    """Norms of g a^T and of g within the supports of weight and bias, double [units]."""
    g, a, module = call.backprops, call.activations[0], cast(nn.Linear, layer.module)
    within = layout.places[cast(nn.Parameter, module.weight)].support
    own = _norms(g)
    if within is None:
        parts = [own * _norms(a)]
    else:
        # sum over the support of g_i^2 a_j^2. In double, squares of float32 neither overflow nor vanish.
        squares = a.double().square() @ within.view_as(module.weight).T.double()
        parts = [(g.double().square() * squares).sum(1).sqrt()]
    if module.bias is not None:
        bias = layout.places[module.bias].support
        parts.append(own if bias is None else _norms(g.masked_fill(~bias, 0)))
    return _joint_norms(parts)
