"""How a hospital's models did on its own test rows round by round: a file for its own eyes, as figures of rows are.

A line a round: {"round": 3, "metrics": {"personalised": {"auroc": 0.8}, "shared": {"auroc": 0.7}}}. Nothing depends on
it: a line that a killed process lost is a gap in a plot.
"""

import json
import math
import time
from typing import Any, Final

import numpy as np

from securepfl.client.client import Client
from securepfl.data.table import Table
from securepfl.report.pages.reading import ROUNDS
from securepfl.report.pages.rounds import MOST_IMAGES
from securepfl.runtime.hospital import labels_of
from securepfl.storage.folder import storage_error
from securepfl.tasks.prediction import predict
from securepfl.tasks.registry import answering_for
from securepfl.tasks.resampling import score
from securepfl.tasks.task import ByImage

_MOST_LINES: Final = 50
_CHEAP: Final = 0.5
"""Seconds that a look may always take."""
_SHARE: Final = 0.05
"""Of the time since the last look, what a longer one may take."""


class RoundsFile:
    """The file of `client`, whose test rows are `test`: at most about 50 lines, and little of the run's time. Metrics
    that are taken image by image are of at most 16 images: all would take longer than the round.
    """

    def __init__(self, client: Client, test: Table) -> None:
        self.path = client.folder / ROUNDS
        self._client, self._test = client, test
        self._every = math.ceil(client.federation.rounds / _MOST_LINES)
        self._looked, self._took, self._ended = client.round, 0.0, -math.inf
        count = min(len(test), MOST_IMAGES) if isinstance(client.task, ByImage) else len(test)
        self._rows = np.linspace(0, len(test) - 1, count).round().astype(int)

    def look(self) -> None:
        """Add a line where the hospital has applied a round since the last look. Raises StorageError."""
        at, now = self._client.round, time.perf_counter()
        last = at == self._client.federation.rounds
        due = at % self._every == 0 or last
        affordable = self._took <= max(_CHEAP, _SHARE * (now - self._ended))
        if not len(self._rows) or at == self._looked or not due or not (affordable or last):
            return
        line = json.dumps({"round": at, "metrics": self._metrics()})
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
        except OSError as error:
            raise storage_error(self.path, error) from None
        self._looked, self._ended = at, time.perf_counter()
        self._took = self._ended - now

    def _metrics(self) -> dict[str, Any]:
        client, task = self._client, self._client.task
        features, labels = self._test.features[self._rows], labels_of(self._test)[self._rows]
        models = {
            "personalised": (client.personal_model(), client.federation.operating_point_of(client.name)),
            "shared": (client.shared_model(), client.federation.operating_point_of()),
        }
        shown = [metric.name for metric in task.metrics if not metric.detail]
        found = {}
        for name, (model, point) in models.items():
            if model is not None:
                with answering_for(task):
                    scored = score(task, predict(model, features, task), labels, point)
                found[name] = {metric: scored.point[metric] for metric in shown}
        return found
