"""The tasks' names, and what settings must know of each: without torch."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, get_args

TaskName = Literal["binary", "multiclass", "multilabel", "regression", "segmentation"]
DEFAULT_TASK: TaskName = "binary"
TASK_NAMES: tuple[str, ...] = get_args(TaskName)
"""The built-in tasks. Others are plug-ins' (plugins.py), and declare their labels as they like."""
LABEL_KEYS: Mapping[str, str | None] = MappingProxyType(
    {
        "binary": None,
        "multiclass": "classes",
        "multilabel": "label",
        "regression": "label_range",
        "segmentation": None,
    }
)
"""The key of `[data]` that declares a task's labels (`label`: as a list); None where they are yes or no."""

COUNTED: frozenset[TaskName] = frozenset({"binary", "multiclass", "multilabel"})
"""Tasks whose predictions are scores of a yes or no for each outcome: these can be counted and released."""
