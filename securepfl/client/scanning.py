"""One pass over all of a hospital's units before the first round: which can be used, and what is wrong with the others.

A record never decides whether a hospital answers. So one that cannot be used is no error: it counts as zero, and the
hospital is told. What is wrong with the data set as a whole is one: a model that is not for the task, records that
depend on one another, or so many units that cannot be used that something else must have been meant.
"""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from securepfl.client.contents import Contents
from securepfl.client.labels import illegal_labels
from securepfl.client.records import Loss, TrainingSet
from securepfl.client.scan import Reason, Scan, Unusable
from securepfl.errors import DataError, ModelError, SecurePFLError, first_line
from securepfl.privacy.accounting.events import Unit
from securepfl.privacy.training.items import Items
from securepfl.privacy.training.probe import Probe
from securepfl.privacy.training.sweep import windows
from securepfl.privacy.training.units import Batch
from securepfl.tasks.task import Shape, Task

_TOLD: Final = 3
"""Of how many unusable units the hospital is told what is wrong, for each reason."""

_LOOKED_AT: Final = 4
"""Records of which the model is asked how many outputs it has, until one tells."""


@dataclass(frozen=True)
class Scanned:
    """What the pass found. `records` leave out what is not to be trained; `feature_type` is that of the features, None
    where they are no tensor; `contents` are digests of all that could be read.
    """

    scan: Scan
    records: TrainingSet
    feature_type: torch.dtype | None
    contents: Contents


def scan_units(
    records: TrainingSet,
    declared: int,
    task: Task,
    model: nn.Module,
    loss: Loss,
    device: torch.device,
    site: str,
    physical_batch: int,
    *,
    probed: bool = True,
) -> Scanned:
    """Read each unit once (but for a few that are looked at closely), check its label, run `model` on it, digest it.

    `declared`: the units that the hospital counts as. Of more that can be used, a hash of what they hold tells which
    are kept. `model` and torch's generator are left alone. Not `probed`: nothing is clipped, so that units may depend
    on one another, and the model runs on a few alone.

    Raises DataError or ModelError naming `site`, where no more than half of the units can be used, for what is wrong
    with most of them; ModelError for a model of another task, and as probe.check_independence does.
    """
    opened: AbstractContextManager[Probe | None] = nullcontext()
    if probed:
        opened = Probe.opened(model, loss, device=device, unit=records.unit, physical_batch=physical_batch)
    with telling(site, records.unit), opened as probe:
        scanning = _Scanning(records, task, model, device, physical_batch, probe)
        for places, evaluated in windows(records.found, physical_batch):
            scanning.window(places, evaluated=evaluated)
        scanning.finish()
        return scanning.scanned(declared)


@dataclass
class _Scanning:
    """What the pass knows so far. `faults` are units that cannot be used, by place."""

    records: TrainingSet
    task: Task
    model: nn.Module
    device: torch.device
    physical_batch: int
    probe: Probe | None
    contents: Contents = field(default_factory=Contents)
    faults: dict[int, tuple[Reason, Exception, str]] = field(default_factory=dict)
    seen: int = 0
    output: Shape | None = None
    feature_type: torch.dtype | None = None

    def window(self, places: list[int], *, evaluated: bool) -> None:
        """Look at some units. Raises where none of the first can be used: then the whole will not be better."""
        first = not self.faults and not self.seen
        held = self._read(places)
        batches = list(self._batches(Items(held, self.records.unit, self.records.collate), list(held)))
        for batch in batches:
            self._look(batch)
        items = self._items({place: item for place, item in held.items() if place not in self.faults})
        for place, item in held.items():
            self.contents.add(place, item, self.records.unit)
        self._run(items, evaluated)
        if first and all(place in self.faults for place in places):
            raise self._worst(len(places))
        self.seen += len(places)

    def finish(self) -> None:
        """Look closely at those that differ most: they are read again."""
        if self.probe is None:
            return
        places = self.probe.rest()
        items = self._items({place: item for place in places if not isinstance(item := self._item(place), Exception)})
        for group in self._forms(items):
            self.probe.closely(items.only(group))

    def scanned(self, declared: int) -> Scanned:
        """All that was found. Raises where most units cannot be used."""
        found, unit = self.records.found, self.records.unit
        usable = [place for place in range(found) if place not in self.faults]
        if 2 * len(usable) <= found:
            raise self._worst(found)
        if self.probe is None:
            declared = len(usable)  # without noise nothing hangs on the declared number
        kept = usable if len(usable) <= declared else self.contents.kept(usable, declared)
        scan = Scan(
            unit=unit,
            declared=declared,
            found=found,
            used=len(kept),
            cut=len(usable) - len(kept),
            largest=self.contents.largest,
            unusable=self._told(),
        )
        skipped = frozenset(range(found)).difference(kept)
        records = replace(self.records, skipped=skipped, scanned=found)
        return Scanned(scan, records, self.feature_type, self.contents)

    @property
    def _own_collate(self) -> bool:
        return self.records.unit == "record" and self.records.collate not in (None, default_collate)

    def _item(self, place: int) -> Any:
        """The item, or what reading it raised."""
        try:
            return self.records.dataset[place]
        except Exception as error:  # noqa: BLE001 - whatever the pipeline's own code raises
            return error

    def _read(self, places: list[int]) -> dict[int, Any]:
        held = {}
        for place in places:
            item = self._item(place)
            if isinstance(item, Exception):
                self._note("unreadable", place, item, f" cannot be read ({first_line(item)})")
            else:
                held[place] = item
        return held

    def _items(self, held: Mapping[int, Any]) -> Items:
        if not held:
            return Items({}, self.records.unit, self.records.collate)
        return Items.of(held, self.records.unit, self.records.collate)

    def _batches(self, items: Items, places: list[int]) -> Iterator[Batch]:
        """The units in batches, as large as can be made of them; one that makes none alone is noted."""
        try:
            yield from list(items.batches(places, self.physical_batch)) if places else []
        except Exception as error:  # noqa: BLE001 - whatever the pipeline's own code raises
            if len(places) > 1:
                for place in places:
                    yield from self._batches(items, [place])
            else:
                what = "" if isinstance(error, DataError) else " makes no batch"
                self._note("unreadable", places[0], error, f"{what}: {first_line(error)}")

    def _look(self, batch: Batch) -> None:
        """At a batch's features and labels. Raises ModelError where the model is not for the task."""
        if self.output is None:
            self.feature_type = batch.x.dtype
            self.output = _output_of(self.model, batch.x.to(self.device))
            if self.output is not None and (problem := self.task.misfit(self.output)):
                raise ModelError(f"{problem}; change the model's last layer, or set another task")
        for illegal in illegal_labels(self.task, batch.y, self.output):
            place, name = _place(batch, illegal.place)
            self._note("illegal label", place, DataError(illegal.problem), f"{name}: {illegal.problem}")

    def _run(self, items: Items, evaluated: bool) -> None:
        """Run the model on units. One that fails alone is noted, and the others are run without it."""
        if self.probe is None:
            self._check_finite(items)
            return
        if not items.held:
            return
        try:
            blank = self.probe.take(items, evaluated=evaluated)
        except Exception:
            failing = self.probe.failures(items)
            for place, error in failing.items():
                self._note("refused", place, error, f": {first_line(error)}")
            left = items.only([place for place in items.held if place not in failing])
            groups = self._forms(left)
            if not failing and len(groups) == 1:
                raise
            for group in groups if len(groups) > 1 and not failing else [list(left.held)]:
                self._run(left.only(group), evaluated)
            return
        for place in blank:
            self._note("not finite", place, DataError(_NOT_FINITE), _NOT_FINITE)

    def _check_finite(self, items: Items) -> None:
        for place, item in items.held.items():
            for part in item:
                if isinstance(part, Tensor) and part.is_floating_point() and not bool(torch.isfinite(part).all()):
                    self._note("not finite", place, DataError(_NOT_FINITE), _NOT_FINITE)

    def _forms(self, items: Items) -> list[list[int]]:
        """Units that can be in one batch: all, where a collate function of the pipeline's own sees to it."""
        if self._own_collate:
            return [list(items.held)]
        groups: dict[Any, list[int]] = {}
        for place in items.held:
            batch = items.batch([place])
            groups.setdefault((batch.x.shape[1:], batch.y.shape[1:]), []).append(place)
        return list(groups.values())

    def _note(self, reason: Reason, place: int, error: Exception, what: str) -> None:
        self.faults.setdefault(place, (reason, error, f"{self.records.unit} {place} (from 0){what}"))

    def _told(self) -> tuple[Unusable, ...]:
        reasons = Counter(reason for reason, _, _ in self.faults.values()).most_common()
        places = sorted(self.faults)
        return tuple(
            Unusable(reason, count, tuple(self.faults[p][2] for p in places if self.faults[p][0] == reason)[:_TOLD])
            for reason, count in reasons
        )

    def _worst(self, seen: int) -> SecurePFLError:
        """What is wrong with most of the units that cannot be used, as an error about the first of them."""
        worst = Counter(reason for reason, _, _ in self.faults.values()).most_common(1)[0][0]
        _, error, line = min((place, *fault) for place, fault in self.faults.items() if fault[0] == worst)[1:]
        unit, many = self.records.unit, f"{len(self.faults)} of {seen}"
        if worst != "refused":
            return DataError(f"{line} ({many} {unit}s cannot be used; more than half must be)")
        if isinstance(error, ModelError):
            return ModelError(f"{error} ({many} {unit}s)")
        return _failing(error, unit)


_NOT_FINITE: Final = " holds NaN or infinity, or numbers so large that the model's gradients do"


def _output_of(model: nn.Module, x: Tensor) -> Shape | None:
    """The shape of the model's output for one record; None where it gives no tensor with a row for each."""
    for row in torch.split(x[:_LOOKED_AT], 1):
        try:
            with torch.no_grad():
                output = copy.deepcopy(model).eval()(row)
        except Exception:  # noqa: BLE001, S112 - whatever the pipeline's own code raises: the probe tells it
            continue
        return tuple(output.shape[1:]) if isinstance(output, Tensor) and output.shape[:1] == row.shape[:1] else None
    return None


def _place(batch: Batch, record: int) -> tuple[int, str]:
    """The unit of a record of `batch`, and for patients which of their records it is."""
    if batch.counts is None:
        return batch.units[record], ""
    for unit, count in zip(batch.units, batch.counts, strict=True):
        if record < count:
            return unit, f", record {record} of theirs"
        record -= count
    raise ValueError("no such record in the batch")


@contextmanager
def telling(site: str, unit: Unit) -> Iterator[None]:
    """What fails within is raised as ModelError or DataError naming the site."""
    try:
        yield
    except (ModelError, DataError) as error:
        raise type(error)(f"{site}: {error}") from None
    except SecurePFLError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the pipeline's own code raises
        raise ModelError(f"{site}: {_failing(error, unit)}") from None


def _failing(error: Exception, unit: Unit) -> ModelError:
    return ModelError(
        f"model and loss fail on this data set ({first_line(error)}); each {unit} is (x, y), and "
        "the loss takes the model's outputs and the labels of a batch"
    )
