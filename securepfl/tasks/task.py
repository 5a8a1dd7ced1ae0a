"""What a model is for: which labels are legal, what the loss is, what `predict` returns, and how good that is.

One file a task; registry.py knows them by name. Nothing here needs torch before it is used.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Predictions = NDArray[np.float64]
Labels = NDArray[np.generic]
Metrics = dict[str, float | None]
Shape = tuple[int, ...]
OperatingPoint = tuple[float, ...]
"""Where probabilities become decisions, of declared numbers in (0, 1): the threshold of a yes, one for each label, or
each class's share, against which its probability is held. Empty: 1/2, or the most probable class.
"""


@dataclass(frozen=True)
class Illegal:
    """A label that a task refuses: its place among those looked at, and what is wrong with it and how to mend it."""

    place: int
    problem: str


@dataclass(frozen=True)
class Metric:
    """A test metric: its name in result.json, its title for people (with its unit), and which way is better.

    `detail`: it is shown of all hospitals together only.
    """

    name: str
    title: str
    higher_is_better: bool = True
    detail: bool = False


class Task(Protocol):
    """What everybody asks who must not know which task it is.

    Labels are [n, ...] as the data set gives them, outputs [n, ...] as the model does. Predictions are what
    `predict` makes of outputs, and what `evaluate`, `baseline` and `columns` speak of.
    """

    @property
    def name(self) -> str:
        """As in `[model] task` and result.json."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """In the order in which they are shown."""

    @property
    def deciding(self) -> str:
        """The metric by which models of this task are chosen."""

    @property
    def outputs(self) -> int:
        """How many outputs a built-in model needs."""

    @property
    def baseline_title(self) -> str:
        """What the trivial baseline answers."""

    def misfit(self, output: Shape) -> str:
        """Why a model whose output for one record has this shape is not for this task; "" where it is."""

    def illegal(self, labels: "Tensor", output: Shape | None) -> Illegal | None:
        """The first label that is not legal, None where all are. `output`: of one record, None where unknown."""

    def loss(self, outputs: "Tensor", labels: "Tensor") -> "Tensor":
        """One number a record, [n]."""

    def predict(self, outputs: "Tensor") -> Predictions:
        """What a model's user is told. Raises ValueError for outputs of another shape."""

    def choices(self, outputs: "Tensor") -> "Tensor | None":
        """Logits [n, choices, classes] of what a prediction chooses between; None where it is no choice."""

    def decide(self, predictions: Predictions, point: OperatingPoint = ()) -> NDArray[np.generic]:
        """What is told of each row where one answer is wanted: a yes or no, a class; a number as it is."""

    def measure(
        self, predictions: Predictions, decided: NDArray[np.generic], labels: Labels, weights: NDArray[np.float64]
    ) -> Mapping[str, NDArray[np.float64]]:
        """All metrics by name, [R] each, for weights [R, n] of the rows; NaN where one does not exist.

        `decided` is what `decide` made of the predictions, at each row's own operating point. Raises ValueError where
        predictions and labels do not fit.
        """

    def evaluate(self, predictions: Predictions, labels: Labels, point: OperatingPoint = ()) -> Metrics:
        """All metrics by name; None where one does not exist. Raises ValueError where the two do not fit."""

    def baseline(self, labels: Labels, rows: int) -> Predictions:
        """What the trivial predictor, fitted to training labels alone, answers for `rows` rows. ValueError for none."""

    def lacking(self, labels: Labels) -> str:
        """What these labels lack for every metric to exist, or for anything to be learnt; "" for nothing."""

    def columns(self, predictions: Predictions, point: OperatingPoint = ()) -> Mapping[str, NDArray[np.generic]]:
        """Predictions as named columns of a table, [n] each."""


@runtime_checkable
class ByImage(Protocol):
    """Beside Task, of one whose metrics are means over images: each is measured once, and then only weighted."""

    def by_image(
        self, predictions: Predictions, decided: NDArray[np.generic], labels: Labels
    ) -> Mapping[str, NDArray[np.float64]]:
        """Every metric of each image, [n]; NaN where it does not exist. Raises as `Task.measure`."""


def deciding_of(task: Task) -> Metric | None:
    """The metric by which models of `task` are judged; None for a task without any."""
    return next((metric for metric in task.metrics if metric.name == task.deciding), None)


def baseline_metrics(task: Task, train: Labels, test: Labels) -> Metrics:
    """The metrics of `task`'s trivial predictor. Raises ValueError where there is no training label."""
    return task.evaluate(task.baseline(train, len(test)), test)


def no_labels(labels: Labels) -> None:
    """Raises ValueError where there are none: a baseline needs one."""
    if len(labels) == 0:
        raise ValueError("train_labels must hold at least one label, not 0")
