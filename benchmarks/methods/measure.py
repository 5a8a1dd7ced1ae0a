"""A fitted method's test metrics, hospital by hospital, and what they come to."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from methods.task import Fitted, Task
from securepfl.tasks.binary import BINARY
from securepfl.tasks.prediction import predict
from securepfl.tasks.task import Metrics

SiteMetrics = Mapping[str, Metrics]


def metrics_of(task: Task, fitted: Fitted) -> dict[str, Metrics]:
    """Each hospital's model on its test rows: None where a metric doesn't exist, all where it has no test rows."""
    return {
        name: BINARY.evaluate(
            _probabilities(fitted.models[name], site.test_x), site.test_y.numpy(), (fitted.thresholds.get(name, 0.5),)
        )
        for name, site in task.sites.items()
    }


def mean_over_hospitals(metrics: SiteMetrics, name: str) -> float:
    """The mean of the hospitals at which the metric exists; NaN where there is none."""
    values = [value for site in metrics.values() if (value := site[name]) is not None]
    return float(np.mean(values)) if values else float("nan")


def worst_hospital(metrics: SiteMetrics) -> tuple[float, float]:
    """(balanced accuracy, AUROC) of the hospital with the lowest; one that is tested on one class is left out."""
    found = [
        (balanced, auroc)
        for site in metrics.values()
        if (balanced := site["balanced_accuracy"]) is not None and (auroc := site["auroc"]) is not None
    ]
    return min(found, default=(float("nan"), float("nan")))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half-width of its 95 % interval by Student's t); NaN as half-width of a single value."""
    if len(values) < 2:
        return float(np.mean(values)), float("nan")
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values)), float(half)


def _probabilities(model: nn.Module, x: Tensor) -> NDArray[np.float64]:
    """A diverged model knows nothing: 1/2 in place of what is no number."""
    return np.nan_to_num(predict(model, x, BINARY), nan=0.5)
