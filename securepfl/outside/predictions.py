"""Predictions as tables: a row for each record or image under its own name, and certainty by patient."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from securepfl.data.labels import BinaryLabels, Listed
from securepfl.outside.answered import Answered
from securepfl.outside.masks import MASKS, own_mask

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
_NUMBER: Final = re.compile(r"[+-][0-9.]+")

Column = Sequence[Any] | NDArray[np.generic]


def predictions_csv(answered: Answered) -> str:
    """CSV: the row, its id where it has one, the task's columns by the labels' declared names, and certainty.

    Of masks: the mask's file, how many of the image's own pixels are of the structure, and their share of the image.
    """
    table = answered.table
    columns: dict[str, Column] = {"row": table.rows}
    if table.ids is not None:
        columns["id"] = table.ids
    if answered.segments:
        columns |= _of_masks(answered)
    else:
        columns |= named(answered.task.columns(answered.predictions, answered.experts.point), answered.experts.spec)
    if np.isfinite(answered.routed.certainty).any():
        columns["certainty"] = answered.routed.certainty
    return csv_of(columns)


def _of_masks(answered: Answered) -> dict[str, Column]:
    masks = [own_mask(answered, place) for place in range(len(answered.table))]
    return {
        "mask": [f"{MASKS}/{place}.png" for place in answered.places],
        "pixels": [int(np.count_nonzero(mask)) for mask in masks],
        "share": [float(mask.mean()) for mask in masks],
    }


def named(columns: Mapping[str, NDArray[np.generic]], spec: Any) -> dict[str, Column]:
    """A yes-or-no task's decisions by the declared labels, where each side is declared as one; others as they are."""
    words = _words(spec)
    if not words:
        return dict(columns)
    return {
        name: [words[int(one)] for one in column.tolist()] if name.startswith("prediction") else column
        for name, column in columns.items()
    }


def _words(spec: Any) -> tuple[Any, ...]:
    """The declared labels for no and yes; () where either isn't one, or there are other labels than yes and no."""
    rule = getattr(spec, "label_rule", None)
    if not isinstance(rule, BinaryLabels) or spec.positive is None:
        return ()
    sides = (rule.negative, rule.positive)
    words = tuple(side.values[0] for side in sides if isinstance(side, Listed) and len(side.values) == 1)
    return words if len(words) == 2 else ()


def told_in_words(columns: Mapping[str, NDArray[np.generic]], spec: Any) -> str:
    """One row's columns in a line, by the declared labels; of a class, it and its probability alone."""
    row = {name: column[0] for name, column in named(columns, spec).items()}
    if spec.classes is not None:
        chosen = row["prediction"]
        return f"{chosen}, probability {_short(row[f'probability {chosen}'])}"
    if isinstance(spec.label, str) and "prediction" in row and spec.label_range is None:
        said = row["prediction"] if _words(spec) else f"{spec.label} = {row['prediction']}"
        return f"{said}, probability {_short(row['probability'])}"
    return ", ".join(f"{name} {_short(value)}" for name, value in row.items())


def truth_in_words(label: Any, spec: Any) -> str:
    """One row's true label as it was declared; of several labels those that hold."""
    if spec.classes is not None:
        return str(spec.label_options["classes"][int(label)])
    if isinstance(spec.label, tuple):
        return ", ".join(name for name, holds in zip(spec.label, label, strict=True) if holds) or "none"
    if spec.label_range is not None:
        return _short(float(label))
    words = _words(spec)
    return str(words[int(label)]) if words else f"{spec.label} = {int(label)}"


def _short(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def certainty_csv(answered: Answered) -> str:
    """CSV: each patient's records, and the mean and least certainty of them, in the order of their first row.

    A patient stands under the id that an index or a file's name gave; one that a DICOM element names, under a number.
    Rows without patients stand under their own names.
    """
    table, sure = answered.table, answered.routed.certainty
    if table.patients is None:
        return csv_of({"record": answered.names, "certainty": sure})
    first: dict[str, list[int]] = {}
    for place, patient in enumerate(table.patients.tolist()):
        first.setdefault(str(patient), []).append(place)
    hidden = (getattr(answered.experts.spec, "patient", None) or "").startswith("dicom:")
    names = [str(number) for number in range(1, len(first) + 1)] if hidden else list(first)
    return csv_of(
        {
            "patient": names,
            "records": [len(places) for places in first.values()],
            "mean certainty": [float(np.mean(sure[places])) for places in first.values()],
            "least certainty": [float(np.min(sure[places])) for places in first.values()],
        }
    )


def csv_of(columns: Mapping[str, Column]) -> str:
    """Columns of one length as CSV; floats with six digits, NaN as an empty cell, and before a text that a spreadsheet
    would take for a formula and run, an apostrophe: labels are other hospitals' words.

    >>> csv_of({"row": [1, 2], "certainty": [0.5, float("nan")]})
    'row,certainty\\n1,0.500000\\n2,\\n'
    >>> csv_of({"id": ["=1+1", "-7", "-x"]})
    "id\\n'=1+1\\n-7\\n'-x\\n"
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_cell, columns))
    cells = zip(
        *(column.tolist() if isinstance(column, np.ndarray) else column for column in columns.values()), strict=True
    )
    writer.writerows([_cell(cell) for cell in row] for row in cells)
    return text.getvalue()


def _cell(cell: Any) -> Any:
    if isinstance(cell, str):
        return f"'{cell}" if cell.startswith(_FORMULA) and _NUMBER.fullmatch(cell) is None else cell
    if not isinstance(cell, float):
        return cell
    return f"{cell:.6f}" if np.isfinite(cell) else ""
