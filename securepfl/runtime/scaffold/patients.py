"""Made-up patients for a new federation to be tried on: no row is a person. The same everywhere, for the same names."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

PATIENTS: Final = 120
"""Of each hospital; about 80 of them train."""
_TWICE: Final = 15
"""Patients who came twice."""
COLUMNS: Final = ("patient", "age", "sex", "systolic", "cholesterol", "smoker", "ward")
_WARDS: Final = ("surgery", "medicine", "emergency")
_MISSING: Final = 0.05


def table_of(hospital: int, outcome: str) -> str:
    """The CSV of the hospital of this number: COLUMNS, and the outcome as yes or no.

    Hospitals differ in how old and how ill their patients are, and one in five cholesterol values of the first is
    missing.
    """
    draw = np.random.default_rng([2026, hospital])
    whose = np.concatenate([np.arange(PATIENTS), draw.choice(PATIENTS, _TWICE, replace=False)])
    columns = _patients(draw, hospital)
    ill = draw.random(PATIENTS) < _risk(columns, hospital)
    shown = {name: values[whose] for name, values in columns.items()}
    shown["systolic"] = (shown["systolic"] + draw.normal(0, 4, len(whose))).round()
    number = 1000 * (hospital + 1)
    rows: list[Sequence[Any]] = [(*COLUMNS, outcome)]
    for row, patient in enumerate(whose):
        unknown = draw.random() < (0.2 if hospital == 0 else _MISSING)
        cells = {name: values[row] for name, values in shown.items()} | ({"cholesterol": ""} if unknown else {})
        rows.append(
            (number + patient + 1, *(_cell(cells[name]) for name in COLUMNS[1:]), "yes" if ill[patient] else "no")
        )
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def prevalence_of(hospital: int) -> float:
    """The share of yes that the hospital of this number declares."""
    return (0.4, 0.3, 0.5, 0.35)[hospital % 4]


def _patients(draw: np.random.Generator, hospital: int) -> dict[str, NDArray[Any]]:
    age = draw.normal(58 + 3 * (hospital % 3), 13, PATIENTS).clip(18, 95).round()
    return {
        "age": age,
        "sex": draw.choice(["f", "m"], PATIENTS),
        "systolic": (100 + 0.5 * age + draw.normal(0, 14, PATIENTS)).round(),
        "cholesterol": draw.normal(205, 38, PATIENTS).clip(90, 400).round(),
        "smoker": draw.choice([0, 1], PATIENTS, p=[0.7, 0.3]),
        "ward": draw.choice(_WARDS, PATIENTS),
    }


def _risk(columns: Mapping[str, NDArray[Any]], hospital: int) -> NDArray[np.float64]:
    logit = (
        0.9 * (columns["age"] - 60) / 15
        + 0.8 * (columns["systolic"] - 130) / 20
        + 0.6 * (columns["cholesterol"] - 200) / 40
        + 0.9 * columns["smoker"]
        + 0.5 * (columns["ward"] == "emergency")
    )
    share = prevalence_of(hospital)
    odds = 1.6 * (logit - np.median(logit)) + np.log(share / (1 - share))
    risk: NDArray[np.float64] = 1 / (1 + np.exp(-odds))
    return risk


def _cell(value: Any) -> Any:
    return f"{value:g}" if isinstance(value, float) else value
