"""An unseen hospital's unlabelled rows through the released experts."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from securepfl.data.loading import load_unlabelled
from securepfl.errors import DataError, StorageError
from securepfl.outside.experts import read_experts
from securepfl.outside.gates import AdaptReport, AdaptSettings, adapt
from securepfl.outside.routing import RoutedModel, gate_summary
from securepfl.storage.folder import write_bytes
from securepfl.tasks.prediction import placed_like, predict
from securepfl.tasks.task import OperatingPoint, Task


@dataclass(frozen=True)
class RoutedRows:
    """Predictions [n] with the rows' numbers in their file, the operating point at which they are decided, and how the
    experts were mixed, by layer.
    """

    rows: NDArray[np.int64]
    predictions: NDArray[np.float64]
    task: Task
    point: OperatingPoint
    experts: tuple[str, ...]
    gates: dict[str, list[float]]
    report: AdaptReport | None

    def summary(self) -> list[str]:
        """Lines for a reader: entropy before and after, mean gates."""
        lines = [f"experts: {', '.join(self.experts)}"]
        if self.report is not None:
            before, after = self.report.entropy_before, self.report.entropy_after
            lines.append(f"mean uncertainty (normalised entropy, 0 to 1) of predictions: {before:.3f} -> {after:.3f}")
        elif not _chooses(self.task):
            lines.append(f"predictions of a {self.task.name} have no uncertainty to lower: the experts are averaged")
        for layer, gates in self.gates.items():
            mixed = ", ".join(f"{name} {gate:.2f}" for name, gate in zip(self.experts, gates, strict=True))
            lines.append(f"mean weights in layer {layer}: {mixed}")
        return lines


def route_rows(folder: Path, data: Path, passes: int) -> RoutedRows:
    """Adapt gates to the rows of `data` for `passes` passes (0: the experts' average) and predict them.

    Raises StorageError where `folder` holds no experts, DataError where the rows don't fit their ranges.
    """
    experts = read_experts(folder)
    table = load_unlabelled(data, experts.spec)
    if not len(table.features):
        raise DataError(f"{data}: no rows to predict; name a file with at least one")
    routed = RoutedModel(list(experts.models.values()))
    task, settings = experts.task, AdaptSettings(passes=passes) if passes and _chooses(experts.task) else None
    report = None if settings is None else adapt(routed, table.features, settings, task)
    gates = gate_summary(routed, placed_like(routed, table.features))
    predictions = predict(routed, table.features, task)
    return RoutedRows(table.rows, predictions, task, experts.point, tuple(experts.models), gates, report)


def _chooses(task: Task) -> bool:
    """Whether a prediction is a choice, whose uncertainty adaptation can lower."""
    return task.choices(torch.zeros(1, task.outputs)) is not None


def predictions_csv(routed: RoutedRows) -> str:
    """CSV with the row and the task's columns (binary: probability, prediction)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = {"row": routed.rows} | dict(routed.task.columns(routed.predictions, routed.point))
    writer.writerow(columns)
    cells = zip(*(column.tolist() for column in columns.values()), strict=True)
    writer.writerows([f"{cell:.6f}" if isinstance(cell, float) else cell for cell in row] for row in cells)
    return text.getvalue()


def write_predictions(routed: RoutedRows, path: Path) -> None:
    """To a new file `path`, in UTF-8 and in one step. Raises StorageError where it exists or can't be written."""
    if path.exists():
        raise StorageError(f"{path}: exists; name another file with --out")
    write_bytes(path, predictions_csv(routed).encode())
