"""The tasks that settings can name. A new one is a file of its own, its name in names.py, and a line here."""

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from securepfl.errors import ConfigError, ExtraError, SecurePFLError
from securepfl.plugins import plugin_named
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


_PARTS = frozenset(part for part in vars(Task) if not part.startswith("_"))


def task_named(name: str | None, **declared: Any) -> Task:
    """The task `name` (None: binary) with what is declared of its labels; one that is not built in is a plug-in's.

    Raises ConfigError for an unknown name, or a plug-in that fails.

    >>> task_named("multiclass", classes=("mild", "severe")).outputs
    2
    """
    wanted = DEFAULT_TASK if name is None else name
    made = {str(known): task for known, task in TASKS.items()}.get(wanted)
    return _plugged_in(wanted, declared) if made is None else made(**declared)


@contextmanager
def answering_for(task: Task) -> Iterator[None]:
    """Where `task` judges: what goes wrong inside with a plug-in's is told as its own, by kind and place alone, as
    its own words may quote a patient. Raises ConfigError.
    """
    plugin = None if task.name in TASKS else plugin_named("securepfl.tasks", task.name)
    try:
        yield
    except SecurePFLError:
        raise
    except Exception as error:
        if plugin is None:
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"{plugin}: its task fails where models are judged ({type(error).__name__} at {Path(last.filename).name}, "
            f"line {last.lineno}); mend it"
        ) from None


def _plugged_in(name: str, declared: Mapping[str, Any]) -> Task:
    plugin = plugin_named("securepfl.tasks", name)
    if plugin is None:
        raise ExtraError(f"task {name!r}: known are {', '.join(TASKS)}, and no plug-in of that name is installed")
    task = plugin.call(**declared)
    if missing := [part for part in sorted(_PARTS) if not hasattr(task, part)]:
        raise ConfigError(f"{plugin}: is no task, as it lacks {', '.join(missing)} (securepfl.tasks.task.Task)")
    if task.name != name:
        raise ConfigError(f"{plugin}: its task calls itself {task.name!r}; both names must be one")
    made: Task = task
    return made
