"""The tasks' names, for settings: without torch."""

from typing import Literal

TaskName = Literal["binary", "multiclass", "multilabel", "regression"]
DEFAULT_TASK: TaskName = "binary"
