"""What a pipeline that embeds the SDK leaves of a run: result.json and the page, in the client's own folder.

`securepfl evidence FOLDER` and `securepfl report FOLDER` read them there. The SDK knows no file of the pipeline's: it
judges models on the records that it is handed, and on none where it is handed none.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader, Dataset

from securepfl.client.client import Client
from securepfl.client.labels import illegal_labels
from securepfl.client.records import TrainingSet
from securepfl.errors import DataError
from securepfl.privacy.training.units import Batch, use_batches
from securepfl.privacy.training.unusable import Unusable
from securepfl.report.outcome import MODELS
from securepfl.report.pages.page import PAGE
from securepfl.report.pages.writing import write_own_page
from securepfl.runtime.evaluation import client_outcome
from securepfl.runtime.judging import Judged, points_of, scores_of
from securepfl.runtime.own_result import RESULT, result_of_client
from securepfl.storage.folder import write_json
from securepfl.tasks.prediction import predict
from securepfl.tasks.task import Predictions

_TOGETHER: Final = 256
"""Records that are read together."""


def write_result(client: Client, test: DataLoader[Any] | Dataset[Any] | None = None) -> Path:
    """Write result.json and report.html into `client.folder`: the hospital's own record of its run, as far as it got.

    `test`: records, or patients, like `training`, that never trained. Models are judged on them; without, and under a
    loss of your own without a task, the record says that nothing was measured. What it says of them is exact, costs no
    budget and is for the hospital alone: keep the folder where the rows may lie. Call it again whenever you like: it
    replaces what it wrote before. `securepfl evidence FOLDER` takes from it nothing that was measured.

    Gives report.html's path. Raises DataError where no test record can be used, StorageError where it can't be written.

    >>> import tempfile, torch, securepfl
    >>> build_model = lambda: nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    >>> settings = {"rounds": 1, "model": {"kind": "own"}, "encryption": {"scheme": "none"}}
    >>> federation = securepfl.Federation.from_mapping(settings).bound(("a", "b", "c"), build_model, units=4)
    >>> rows = torch.utils.data.TensorDataset(torch.eye(4), torch.tensor([0.0, 1.0, 0.0, 1.0]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     place, training = Path(folder, "run"), dict.fromkeys(federation.roster, rows)
    ...     with securepfl.simulate(federation, training, build_model, place, ledgers=Path(folder, "ledgers")) as run:
    ...         securepfl.write_result(run.clients["a"], test=rows).name
    'report.html'
    """
    judged, train, notes = _judged(client, test)
    scores, _ = scores_of(client.task, {client.name: judged})
    patients = client.scan.unit == "patient"
    site = client_outcome(client, judged, scores[client.name], train=train, patients_named=patients)
    if client.round < client.federation.rounds and not client.ended:
        notes.insert(0, f"written after round {client.round} of {client.federation.rounds}: the run is not over")
    said = [f"{client.name}: {note}" for note in dict.fromkeys((*notes, *client.ledger_notes))]
    write_json(client.folder / RESULT, result_of_client(client, site, said))
    write_own_page(client.folder)
    return client.folder / PAGE


def _judged(client: Client, test: DataLoader[Any] | Dataset[Any] | None) -> tuple[Judged, int, list[str]]:
    """What the models say of the test records, how many records train, and what to know of that."""
    points = points_of(client)
    if test is None or _is_empty(test) or not client.task.metrics:
        why = "no test records were handed in" if client.task.metrics else "its loss is its own, without a task"
        nothing = Judged(np.empty(0), np.empty(0), points, dict.fromkeys(MODELS))
        return nothing, client.scan.found, [f"nothing was measured: {why}"]
    asked = {"personalised": client.personal_model(), "shared": client.shared_model()}
    started = client.federation.model.start is not None
    models = {name: model for name, model in asked.items() if model is not None}
    models |= {"majority": client.initial_model()} if started else {}
    tested = TrainingSet.of(test, client.name, client.federation.privacy.unit)
    unusable = Unusable()
    parts = list(_read(client, tested, models, unusable))
    if not parts:
        why = f" ({unusable.model_error})" if unusable.model_error else ""
        raise DataError(f"{client.name}: no test {tested.unit} can be used{why}; hand in some like those that train")
    labels, units, said = zip(*parts, strict=True)
    truth, trained = np.concatenate(labels), _training_labels(client)
    predictions: dict[str, Predictions | None] = dict.fromkeys(MODELS)
    predictions |= {name: np.concatenate([one[name] for one in said]) for name in models}
    if not started:
        predictions["majority"] = client.task.baseline(trained, len(truth))
    left = sum(unusable.counts().values())
    notes = [f"{left} of {tested.found} test {tested.unit}s could not be used and were left out"] if left else []
    lacking = client.task.lacking(truth)
    notes += [f"its test records {lacking}; metrics that need more are null"] if lacking else []
    return Judged(truth, np.concatenate(units), points, predictions), len(trained), notes


def _is_empty(test: DataLoader[Any] | Dataset[Any]) -> bool:
    dataset = test.dataset if isinstance(test, DataLoader) else test
    return hasattr(dataset, "__len__") and not len(dataset)


_Part = tuple[NDArray[Any], NDArray[Any], dict[str, Predictions]]


def _read(client: Client, tested: TrainingSet, models: dict[str, nn.Module], unusable: Unusable) -> Iterator[_Part]:
    """Labels, whose they are, and what each model says, some records at a time."""

    def use(batch: Batch) -> _Part:
        if (bad := next(illegal_labels(client.task, batch.y, None), None)) is not None:
            raise DataError(f"{client.name}: test record {bad.place}: {bad.problem}")
        said = {name: predict(model, batch.x, client.task) for name, model in models.items()}
        return batch.y.detach().cpu().numpy(), _owners(batch), said

    places = range(tested.found)
    yield from use_batches(tested.dataset, places, _TOGETHER, tested.unit, tested.collate, use, unusable)


def _training_labels(client: Client) -> NDArray[Any]:
    """What the trivial baseline is fitted to."""
    units = client.training_set
    places = [place for place in range(units.found) if place not in units.skipped]
    found = use_batches(
        units.dataset, places, _TOGETHER, units.unit, units.collate, lambda batch: batch.y.cpu().numpy(), Unusable()
    )
    return np.concatenate(list(found))


def _owners(batch: Batch) -> NDArray[Any]:
    """The place in the data set of each record's unit."""
    return np.repeat(np.array(batch.units), 1 if batch.counts is None else np.array(batch.counts))
