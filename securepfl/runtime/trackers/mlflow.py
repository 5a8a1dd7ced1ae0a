"""MLflow: a run of the experiment "securepfl" at a tracking server, or in a folder or database."""

from collections.abc import Mapping
from typing import Any, Final

_EXPERIMENT: Final = "securepfl"


class MLflow:
    """One run, by its client alone: nothing global is set, and no run of the caller's own is touched."""

    def __init__(self, client: Any, run: str) -> None:
        found = client.get_experiment_by_name(_EXPERIMENT)
        experiment = client.create_experiment(_EXPERIMENT) if found is None else found.experiment_id
        self._client, self._id = client, client.create_run(experiment, run_name=run).info.run_id

    def log(self, values: Mapping[str, float], step: int) -> None:
        """See Tracker."""
        for name, value in values.items():
            self._client.log_metric(self._id, name, value, step=step)

    def close(self) -> None:
        """See Tracker."""
        self._client.set_terminated(self._id)


def open_tracker(place: str, run: str) -> MLflow:
    """`place`: a tracking URI; empty: MLflow's own settings, MLFLOW_TRACKING_URI among them."""
    from mlflow import MlflowClient  # noqa: PLC0415 - an extra

    return MLflow(MlflowClient(tracking_uri=place or None), run)
