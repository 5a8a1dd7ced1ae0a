"""The tasks that settings can name. A new one is a file of its own, its name in names.py, and a line here."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from securepfl.errors import ConfigError
from securepfl.tasks.binary import Binary
from securepfl.tasks.multiclass import Multiclass
from securepfl.tasks.multilabel import Multilabel
from securepfl.tasks.names import DEFAULT_TASK, TaskName
from securepfl.tasks.regression import Regression
from securepfl.tasks.segmentation import Segmentation
from securepfl.tasks.task import Task

TASKS: Mapping[TaskName, Callable[..., Task]] = MappingProxyType(
    {
        "binary": Binary,
        "multiclass": Multiclass,
        "multilabel": Multilabel,
        "regression": Regression,
        "segmentation": Segmentation,
    }
)


def task_named(name: str | None, **declared: Any) -> Task:
    """The task `name` (None: binary) with what is declared of its labels. Raises ConfigError for an unknown name.

    >>> task_named("multiclass", classes=("mild", "severe")).outputs
    2
    """
    made = {str(known): task for known, task in TASKS.items()}.get(DEFAULT_TASK if name is None else name)
    if made is None:
        raise ConfigError(f"task {name!r}: known are {', '.join(TASKS)}")
    return made(**declared)
