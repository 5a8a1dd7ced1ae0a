"""A hospital's own comparison on its test rows: personalised, shared, local at the same epsilon, majority."""

import torch
from torch import nn
from torch.utils.data import TensorDataset

from securepfl.client import BuildModel, Client, dp_settings
from securepfl.data.tables import Table
from securepfl.federation import initial_model
from securepfl.learning.metrics import evaluate, majority
from securepfl.learning.models import bce
from securepfl.learning.prediction import predict
from securepfl.privacy.dpsgd import train_private
from securepfl.randomness import RandomStream, derive_key, fresh_key
from securepfl.runtime.outcome import Metrics


def dataset_of(table: Table) -> TensorDataset:
    """The table as items (features float32 [d], label float32)."""
    return TensorDataset(torch.from_numpy(table.features), torch.from_numpy(table.labels).float())


def compare_models(
    client: Client, train: Table, test: Table, build_model: BuildModel, noise_key: bytes | None
) -> dict[str, Metrics]:
    """Test metrics of the four models. They are exact functions of private rows: for the hospital's eyes.

    The local model trains on `train` with as many noisy steps, of the same noise, as the client took; in a
    real deployment that would be a second release from the same rows.
    """
    models = {
        "personalised": client.personal_model(),
        "shared": client.shared_model(),
        "local": _local_model(client, train, build_model, noise_key),
    }
    compared: dict[str, Metrics] = {
        name: evaluate(predict(model, test.features), test.labels) for name, model in models.items()
    }
    return compared | {"majority": majority(train.labels, test.labels)}


def _local_model(client: Client, train: Table, build_model: BuildModel, noise_key: bytes | None) -> nn.Module:
    federation = client.federation
    model = initial_model(build_model, federation.model.seed)
    rounds = federation.rounds - len(client.sat_out)
    if rounds:
        train_private(
            model,
            dataset_of(train),
            bce,
            dp_settings(federation, len(train.labels), steps=rounds * federation.training.steps),
            noise=_stream(noise_key, client.name, "local noise"),
            sampling=_stream(noise_key, client.name, "local sampling"),
            device=client.device,
            units=len(train.labels),
        )
    return model


def _stream(noise_key: bytes | None, *labels: str) -> RandomStream:
    return RandomStream(fresh_key() if noise_key is None else derive_key(noise_key, *labels))
