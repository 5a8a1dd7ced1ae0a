"""An unseen hospital's unlabelled rows through the released experts."""

import csv
import io
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from securepfl.data.tables import load_unlabelled
from securepfl.errors import DataError, StorageError
from securepfl.outside.experts import read_experts
from securepfl.outside.gates import AdaptReport, AdaptSettings, adapt
from securepfl.outside.routing import RoutedModel, gate_summary
from securepfl.storage.folder import write_bytes
from securepfl.tasks.prediction import placed_like, predict


@dataclass(frozen=True)
class RoutedRows:
    """Predictions [n] with the rows' numbers in their file, and how the experts were mixed, by layer."""

    rows: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    experts: tuple[str, ...]
    gates: dict[str, list[float]]
    report: AdaptReport | None

    def summary(self) -> list[str]:
        """Lines for a reader: entropy before and after, mean gates."""
        lines = [f"experts: {', '.join(self.experts)}"]
        if self.report is not None:
            before, after = self.report.entropy_before, self.report.entropy_after
            lines.append(f"mean uncertainty (normalised entropy, 0 to 1) of predictions: {before:.3f} -> {after:.3f}")
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
    report = adapt(routed, table.features, AdaptSettings(passes=passes)) if passes else None
    gates = gate_summary(routed, placed_like(routed, table.features))
    return RoutedRows(table.rows, predict(routed, table.features), tuple(experts.models), gates, report)


def write_predictions(routed: RoutedRows, path: Path | None) -> None:
    """CSV with columns row, probability, prediction, to a new file `path` in one step, or to stdout.

    Raises StorageError where `path` exists or can't be written.
    """
    if path is not None and path.exists():
        raise StorageError(f"{path}: exists; name another file with --out")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "probability", "prediction"])
    decided = (routed.probabilities >= 0.5).astype(int)
    columns = zip(routed.rows.tolist(), routed.probabilities.tolist(), decided.tolist(), strict=True)
    writer.writerows((row, f"{probability:.6f}", prediction) for row, probability, prediction in columns)
    if path is None:
        sys.stdout.write(text.getvalue())
    else:
        write_bytes(path, text.getvalue().encode())
