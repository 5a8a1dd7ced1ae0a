"""Which task a hospital's labels are of, and which of them are legal."""

from collections.abc import Iterator

import torch
from torch import Tensor

from securepfl.client.records import Loss
from securepfl.errors import ConfigError
from securepfl.settings.federation import Federation
from securepfl.tasks.own import OwnLoss
from securepfl.tasks.registry import task_named
from securepfl.tasks.task import Illegal, Shape, Task

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


def illegal_labels(task: Task, labels: Tensor, output: Shape | None) -> Iterator[Illegal]:
    """All of a batch's labels [n, ...] that `task` refuses; `output` is the shape of a record's, None where unknown.

    >>> from securepfl.tasks.binary import BINARY
    >>> [illegal.place for illegal in illegal_labels(BINARY, torch.tensor([0.0, 7.0, 1.0, -1.0]), ())]
    [1, 3]
    """
    if labels.is_complex():
        yield from (
            Illegal(place, "label is a complex number; hand in whole or real ones") for place in range(len(labels))
        )
        return
    compared, start = labels.long() if labels.dtype in _UNSIGNED else labels, 0
    while start < len(compared) and (found := task.illegal(compared[start:], output)) is not None:
        yield Illegal(start + found.place, found.problem)
        start += found.place + 1
