"""MLflow: a run of the experiment "securepfl" at a tracking server, or in a database."""

import re
import time
from collections.abc import Mapping
from typing import Any, Final

_EXPERIMENT: Final = "securepfl"
_MOST: Final = 1000
"""Values that MLflow takes together."""
_REFUSED: Final = re.compile(r"[^\w./ -]")


def allowed(name: str) -> str:
    """A metric's name as MLflow takes it: other characters by their number.

    >>> allowed("epsilon/St. Anna's"), allowed("epsilon/Köln")
    ('epsilon/St. Anna_27_s', 'epsilon/Köln')
    """
    return _REFUSED.sub(lambda found: f"_{ord(found[0]):x}_", name)


class MLflow:
    """One run, by its client alone: nothing global is set, and no run of the caller's own is touched."""

    def __init__(self, client: Any, run: str) -> None:
        found = client.get_experiment_by_name(_EXPERIMENT)
        experiment = client.create_experiment(_EXPERIMENT) if found is None else found.experiment_id
        self._client, self._id = client, client.create_run(experiment, run_name=run).info.run_id

    def log(self, values: Mapping[str, float], step: int) -> None:
        """See Tracker."""
        from mlflow.entities import Metric  # noqa: PLC0415 - an extra

        at = time.time_ns() // 1_000_000
        metrics = [Metric(allowed(name), value, at, step) for name, value in values.items()]
        for start in range(0, len(metrics), _MOST):
            self._client.log_batch(self._id, metrics=metrics[start : start + _MOST])

    def close(self) -> None:
        """See Tracker."""
        self._client.set_terminated(self._id)


def open_tracker(place: str, run: str) -> MLflow:
    """`place`: a tracking URI; empty: MLflow's own settings, MLFLOW_TRACKING_URI among them."""
    from mlflow import MlflowClient  # noqa: PLC0415 - an extra

    return MLflow(MlflowClient(tracking_uri=place or None), run)
