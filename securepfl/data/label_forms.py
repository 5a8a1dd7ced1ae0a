"""What a declaration says of labels, of tables and of images alike: yes or no, one of several classes, or a number."""

import dataclasses
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from securepfl.data.labels import BinaryLabels
from securepfl.data.outcomes import ClassLabels, LabelRange
from securepfl.data.source import Source
from securepfl.data.values import Value, in_both, require


class DeclaresLabels(Protocol):
    """The keys of `[data]` that declare labels."""

    @property
    def label(self) -> str | tuple[str, ...] | None:
        """The column, or several; None where no column holds a label."""

    @property
    def positive(self) -> str | int | float | tuple[Value, ...] | None:
        """Which labels count as 1."""

    @property
    def negative(self) -> str | int | float | tuple[Value, ...] | None:
        """Which count as 0."""

    @property
    def classes(self) -> tuple[Value, ...] | None:
        """Every class, in order."""

    @property
    def label_range(self) -> LabelRange | None:
        """The range of a label that is a number."""


LabelRule = BinaryLabels | ClassLabels | LabelRange


def columns_of_labels(spec: DeclaresLabels) -> tuple[str, ...]:
    """The columns that hold labels."""
    if spec.label is None:
        return ()
    return (spec.label,) if isinstance(spec.label, str) else spec.label


def rule_of_labels(spec: DeclaresLabels) -> LabelRule:
    """What a column of labels may hold, and what that is read as. Raises ValueError."""
    if spec.label_range is not None:
        return spec.label_range
    return BinaryLabels.of(spec.positive, spec.negative) if spec.classes is None else ClassLabels(spec.classes)


def read_labels(spec: DeclaresLabels, source: Source, missing_values: Iterable[Value] = ()) -> NDArray[Any]:
    """The labels: 0 and 1 int64 [n], of several columns [n, columns]; classes int64 [n]; numbers float64 [n].

    Raises DataError for the first that is missing or not declared.
    """
    rule, missing_values = rule_of_labels(spec), tuple(missing_values)
    columns = [rule.read(source, column, missing_values) for column in columns_of_labels(spec)]
    return columns[0] if isinstance(spec.label, str) else np.stack(columns, axis=1)


def options_of_labels(spec: DeclaresLabels) -> dict[str, Any]:
    """What is declared of the labels for a task: nothing of binary ones."""
    if spec.classes is not None:
        return {"classes": ClassLabels(spec.classes).names}
    if spec.label_range is not None:
        return dataclasses.asdict(spec.label_range)
    return {} if spec.label is None or isinstance(spec.label, str) else {"labels": spec.label}


def require_labels(spec: DeclaresLabels, missing_values: Iterable[Value] = ()) -> None:
    """Raise ValueError where the keys contradict each other."""
    declared = {
        "positive": spec.positive is not None or spec.negative is not None,
        "classes": spec.classes is not None,
        "label_range": spec.label_range is not None,
    }
    kinds = [key for key, there in declared.items() if there]
    require(len(kinds) <= 1, f"{' and '.join(kinds)} are both declared; a label is of one kind")
    if isinstance(spec.label, tuple):
        require(len(spec.label) >= 2, "label: a list names at least two columns; write one column as a text")
        of_one = next((kind for kind in kinds if kind != "positive"), None)
        require(of_one is None, f"{of_one}: of several label columns each is a yes or no; remove it")
    gone = in_both(rule_of_labels(spec).listed, missing_values)
    mend = "where features alone have that code, move it to [data.ranges] COLUMN missing_values"
    require(gone is None, f"missing_values: {gone!r} is a declared label too, whose rows would have none; {mend}")


def require_threshold(spec: DeclaresLabels, threshold: float | None) -> None:
    """Raise ValueError for a threshold that is no probability, or where labels are no yes or no."""
    decides = threshold is None or 0 < threshold < 1
    require(decides, f"threshold = {threshold}: must be between 0 and 1 (a probability)")
    binary = spec.classes is None and spec.label_range is None
    require(threshold is None or binary, "threshold: has its place where labels are yes or no; remove it")
