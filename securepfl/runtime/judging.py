"""A hospital's own comparison of models on its test rows, and how sure it can be of it.

All of it is an exact function of private rows: for the hospital's eyes, and for simulations.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from securepfl.client.client import Client
from securepfl.client.parts import BuildModel
from securepfl.client.training import dp_settings
from securepfl.client.unprotected import Plain, minibatches
from securepfl.privacy.training.dpsgd import train_private
from securepfl.randomness import RandomStream, derive_key, fresh_key
from securepfl.report.outcome import MODELS
from securepfl.runtime.hospital import Hospital, labels_of
from securepfl.settings.auto import alone_at
from securepfl.settings.binding import initial_model
from securepfl.tasks.curves import Curves, Drawn, observed_numbers, questions_of
from securepfl.tasks.prediction import predict
from securepfl.tasks.registry import answering_for
from securepfl.tasks.regression import Regression
from securepfl.tasks.resampling import Scored, resample_count, resampled, score_means, score_resampled
from securepfl.tasks.task import ByImage, OperatingPoint, Predictions, Task


@dataclass(frozen=True)
class Judged:
    """One hospital's test rows and what each model says of them; None for a model that there is not.

    `units` [n] tells whose row it is: the patient's where they are named, else its own. `points` are the models'
    operating points: each decides from what it started from.
    """

    labels: NDArray[Any]
    units: NDArray[Any]
    points: Mapping[str, OperatingPoint]
    predictions: Mapping[str, Predictions | None]

    @property
    def point(self) -> OperatingPoint:
        """Of the hospital's own model."""
        return self.points["personalised"]

    @property
    def unit_count(self) -> int:
        """How many patients, or rows where these are not named."""
        return len(np.unique(self.units))


def judged_models(
    client: Client, hospital: Hospital, build_model: BuildModel, local: nn.Module | None = None
) -> Judged:
    """What the models say of the hospital's test rows: `local` too, where there is one, and the trivial baseline or,
    in its place, the public start, which answers without any training.
    """
    task, test, federation = client.task, hospital.test, client.federation
    models = {"personalised": client.personal_model(), "shared": client.shared_model(), "local": local}
    if federation.model.start is not None:
        models["majority"] = initial_model(build_model, federation, client.name).to(client.device).eval()
    with answering_for(task):
        said = {name: None if model is None else predict(model, test.features, task) for name, model in models.items()}
        baseline = task.baseline(labels_of(hospital.train), len(test))
    return Judged(
        labels=labels_of(test),
        units=np.arange(len(test)) if test.patients is None else test.patients.astype(str),
        points=points_of(client),
        predictions={"majority": baseline} | said,
    )


def points_of(client: Client) -> dict[str, OperatingPoint]:
    """Where each model's probabilities become decisions at this hospital."""
    federation = client.federation
    own = federation.operating_point_of(client.name)
    return {
        "personalised": own,
        "shared": federation.operating_point_of(),
        "local": federation.operating_point_of(client.name, alone=True),
        "majority": own,
    }


def scores_of(task: Task, judged: Mapping[str, Judged]) -> tuple[dict[str, dict[str, Scored]], dict[str, Scored]]:
    """Every model's metrics at every hospital, and over all hospitals' test rows together, all on the same resamples.

    Units are drawn within each hospital, so a resample has as many of each as there are.
    """
    resamples = resample_count(sum(len(one.labels) for one in judged.values()))
    weights = {name: resampled(name, one.units, resamples) for name, one in judged.items()}
    everyone = np.concatenate(list(weights.values()), axis=1)
    with answering_for(task):
        scored = _scorer(task, judged)
        sites = {name: {model: scored([name], model, weights[name]) for model in MODELS} for name in judged}
        return sites, {model: scored(list(judged), model, everyone) for model in MODELS}


def curves_of(task: Task, judged: Sequence[Judged]) -> Drawn:
    """ROC and calibration, by model that all of them have, of all their test rows; nothing of masks. Of one hospital
    each class or label has them of its own model alone.
    """
    curves, by_part, numbers = dict[str, Curves](), dict[str, dict[str, Curves]](), {}
    for model in MODELS[:-1]:
        said = [(one, predictions) for one in judged if (predictions := one.predictions[model]) is not None]
        if len(said) < len(judged) or isinstance(task, ByImage):
            continue
        labels = np.concatenate([one.labels for one, _ in said])
        predictions = np.concatenate([predictions for _, predictions in said])
        decided = np.concatenate([task.decide(predictions, one.points[model]) for one, predictions in said])
        if isinstance(task, Regression):
            numbers[model] = observed_numbers(labels, predictions)
        for asked in questions_of(task, labels, predictions, decided):
            if not asked.name:
                curves[model] = Curves.of(*asked[1:])
            elif len(judged) > 1 or model == MODELS[0]:
                by_part.setdefault(asked.name, {})[model] = Curves.of(*asked[1:])
    return Drawn(curves, by_part, numbers)


_Scorer = Callable[[Sequence[str], str, NDArray[np.float64]], Scored]


def _scorer(task: Task, judged: Mapping[str, Judged]) -> _Scorer:
    """What gives a model's metrics on some hospitals' test rows, one after the other; NaN where one lacks the model."""

    def scored(names: Sequence[str], model: str, weights: NDArray[np.float64]) -> Scored:
        if any(judged[name].predictions[model] is None for name in names):
            return Scored({metric.name: np.full(len(weights), np.nan) for metric in task.metrics})
        found = (
            _scored(task, [judged[name] for name in names], model, weights)
            if figures is None
            else score_means([figures[name, model] for name in names], weights)
        )
        return found.of_units(sum(max(0, judged[name].unit_count - 1) for name in names))

    figures = _figures(task, task.by_image, judged) if isinstance(task, ByImage) else None
    return scored


_ImageFigures = Mapping[str, NDArray[np.float64]]


def _figures(
    task: Task, by_image: Callable[..., _ImageFigures], judged: Mapping[str, Judged]
) -> dict[tuple[str, str], _ImageFigures]:
    """Each image's own metrics, by hospital and model. Distances between outlines take longer than the model does."""
    return {
        (name, model): by_image(predictions, task.decide(predictions, one.points[model]), one.labels)
        for name, one in judged.items()
        for model, predictions in one.predictions.items()
        if predictions is not None
    }


def _scored(task: Task, judged: Sequence[Judged], model: str, weights: NDArray[np.float64]) -> Scored:
    """One model's metrics on the test rows of some hospitals that have it, each at its own operating point."""
    known = [(predictions, one) for one in judged if (predictions := one.predictions[model]) is not None]
    return score_resampled(
        task,
        np.concatenate([predictions for predictions, _ in known]),
        np.concatenate([task.decide(predictions, one.points[model]) for predictions, one in known]),
        np.concatenate([one.labels for _, one in known]),
        weights,
    )


def local_model(client: Client, build_model: BuildModel, key: bytes | None) -> nn.Module:
    """A model trained on the hospital's rows alone, with as many noisy steps, of the same noise, as the client took, at
    the learning rate of the rule for a hospital alone, where the federation's is the rule's for all. In a real
    deployment that would be a second release from the same rows.
    """
    # Adapters correct what is shared: a model that shares nothing would only spread its budget over more numbers.
    federation = alone_at(client.federation.changed("model", adapters=None), client.name)
    model, units = initial_model(build_model, federation, client.name, alone=True), client.training_set
    rounds = federation.rounds - sum(number <= federation.rounds for number in client.sat_out)
    if rounds and not federation.privacy.protects:
        records, steps = minibatches(federation, units, client.device), rounds * federation.training.steps
        stream = _stream(key, client.name, "local sampling")
        Plain.of(federation).train(model.to(client.device), records, client.task.loss, stream, steps=steps)
    elif rounds:
        train_private(
            model,
            units.dataset,
            client.task.loss,
            dp_settings(federation, client.units, steps=rounds * federation.training.steps),
            noise=_stream(key, client.name, "local noise"),
            sampling=_stream(key, client.name, "local sampling"),
            device=client.device,
            units=client.units,
            unit=units.unit,
            collate=units.collate,
            skipped=units.skipped,
        )
    return model


def _stream(key: bytes | None, *labels: str) -> RandomStream:
    return RandomStream(fresh_key() if key is None else derive_key(key, *labels))
