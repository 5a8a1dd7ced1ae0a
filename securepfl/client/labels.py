"""Which task a hospital's labels are of, and whether every one of them is legal: asked before anything is spent."""

import copy
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset, TensorDataset, default_collate

from securepfl.client.records import Loss, TrainingSet
from securepfl.errors import ConfigError, DataError, ModelError, first_line
from securepfl.privacy.training.units import Batch, batches_of
from securepfl.settings.federation import Federation
from securepfl.tasks.own import OwnLoss
from securepfl.tasks.registry import task_named
from securepfl.tasks.task import Shape, Task

# Torch compares no two of these.
_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)


def task_and_loss(federation: Federation, task: str | Task | None, loss: Loss | None) -> tuple[Task, Loss]:
    """The task and the loss: those handed in, else the federation's task and the task's loss.

    A loss of one's own where neither names a task is trained as it is: labels must be finite, and predictions are the
    model's raw outputs. Raises ConfigError for a task that contradicts the federation's, or is none.
    """
    chosen = _chosen(federation, task, loss is not None)
    return chosen, chosen.loss if loss is None else loss


def _chosen(federation: Federation, task: str | Task | None, own_loss: bool) -> Task:
    name, options = federation.model.task, federation.label_options
    if task is None:
        return OwnLoss() if name is None and own_loss else task_named(name, **options)
    given = task if isinstance(task, str) else getattr(task, "name", None)
    if not isinstance(given, str) or isinstance(task, type):
        raise ConfigError(f"task must be a task's name or a Task, not {task!r}")
    if name not in (None, given):
        raise ConfigError(f'task "{given}": the federation declares [model] task = "{name}"; hand in that, or none')
    if isinstance(task, str):
        return task_named(task, **options)
    if options and task != task_named(given, **options):
        raise ConfigError(f"task {task!r}: [data] declares other labels ({options}); hand in none")
    return task


def check_labels(
    records: TrainingSet, task: Task, model: nn.Module, device: torch.device, site: str, physical_batch: int
) -> None:
    """Look at every label once, as training will see it, `physical_batch` records at a time.

    Raises DataError naming the site, the item, and the label's value, ModelError for a model that is not for the task.
    What is wrong with model or loss otherwise is for TrainingSet.try_out to tell.
    """
    # A DataLoader draws from torch's generator, which is the pipeline's own.
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        output = _output_of(model, records, device)
        if output is not None and (problem := task.misfit(output)):
            raise ModelError(f"{site}: {problem}; change the model's last layer, or set another task")
        for labels, name in _labels(records, site, physical_batch):
            if labels.is_complex():
                raise DataError(f"{site}: labels are complex numbers; hand in whole or real ones")
            illegal = task.illegal(labels.long() if labels.dtype in _UNSIGNED else labels, output)
            if illegal is not None:
                raise DataError(f"{site}: {name(illegal.place)}: {illegal.problem}")


def feature_type(records: TrainingSet) -> torch.dtype | None:
    """The type of the first unit's features, None where they are no tensor."""
    x = next(batches_of(records.dataset, [0], 1, records.unit, records.collate)).x
    return x.dtype if isinstance(x, Tensor) else None


def _output_of(model: nn.Module, records: TrainingSet, device: torch.device) -> Shape | None:
    """The shape of the model's output for one record; None where it gives no tensor with a row for each."""
    try:
        x = next(batches_of(records.dataset, [0], 1, records.unit, records.collate)).x.to(device)
        with torch.no_grad():
            output = copy.deepcopy(model).eval()(x)
    except Exception:  # noqa: BLE001 - whatever the pipeline's own code raises
        return None
    return tuple(output.shape[1:]) if isinstance(output, Tensor) and output.shape[:1] == x.shape[:1] else None


def _labels(records: TrainingSet, site: str, most: int) -> Iterator[tuple[Tensor, Callable[[int], str]]]:
    """All labels [n, ...] in parts, each with what tells the name of the item at a place in it."""
    whole = _tensor_of(records.dataset, records)
    if whole is not None:
        yield whole, lambda place: f"record {place} (from 0)"
        return
    for start in range(0, records.units, most):
        for batch in _read(records, list(range(start, min(start + most, records.units))), site):
            if isinstance(batch.y, Tensor) and batch.y.ndim:
                yield batch.y, _namer(batch)


def _tensor_of(dataset: Dataset[Any], records: TrainingSet) -> Tensor | None:
    """The labels of a TensorDataset, or a Subset of one, at once; None for another data set or collate function."""
    if records.unit != "record" or records.collate not in (None, default_collate):
        return None
    if type(dataset) is Subset:
        inner = _tensor_of(dataset.dataset, records)
        return None if inner is None else inner[[operator.index(place) for place in dataset.indices]]
    return dataset.tensors[1] if type(dataset) is TensorDataset and len(dataset.tensors) == 2 else None


def _read(records: TrainingSet, units: list[int], site: str) -> list[Batch]:
    """The batches of some units. Raises DataError naming the first that cannot be read."""
    try:
        return list(batches_of(records.dataset, units, len(units), records.unit, records.collate))
    except DataError as error:
        raise DataError(f"{site}: {error}") from None
    except Exception as error:  # noqa: BLE001 - whatever the pipeline's own code raises
        reason = first_line(error)
        if len(units) == 1:
            raise DataError(f"{site}: {records.unit} {units[0]} (from 0) cannot be read ({reason})") from None
    for unit in units:
        _read(records, [unit], site)
    raise DataError(
        f"{site}: {records.unit}s {units[0]} to {units[-1]} (from 0) do not make a batch ({reason}); give all the same "
        "shapes, or a collate function"
    )


def _namer(batch: Batch) -> Callable[[int], str]:
    """What tells the item of a record of `batch`, and for patients which of their records."""

    def name(place: int) -> str:
        if batch.counts is None:
            return f"record {batch.units[place]} (from 0)"
        for unit, count in zip(batch.units, batch.counts, strict=True):
            if place < count:
                return f"patient {unit} (from 0), record {place} of theirs"
            place -= count
        raise ValueError("no such record in the batch")

    return name
