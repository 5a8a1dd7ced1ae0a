"""A shared output bias that each hospital shifts by a declared constant: in its training and in its own model alone."""

from functools import partial

import numpy as np
import pytest
import torch
from parties import FEATURES, NAMES, close_all, exchange, parties, rows_of

from securepfl import Federation
from securepfl.settings.prevalence import start_of
from securepfl.tasks.models import build_model

LOGISTIC = partial(build_model, "logistic", FEATURES)
PREVALENCES = dict(zip(NAMES, (0.2, 0.5, 0.6, 0.9), strict=True))


@pytest.fixture
def federation():
    tables = {
        "rounds": 1,
        "model": {"kind": "logistic"},
        "training": {"learning_rate": 0.5},
        "privacy": {"epsilon": 1e6, "clip": 100.0},
        "encryption": {"bits": 16, "limit": 2.0},
        "data": {"label": "y", "ranges": {f"x{i}": {"centre": 0, "spread": 1} for i in range(FEATURES)}},
        "sites": {name: {"units": 40, "prevalence": share} for name, share in PREVALENCES.items()},
    }
    return Federation.from_mapping(tables).bound(NAMES, LOGISTIC)


def _gradient(name: str, bias: float) -> np.ndarray:
    """Of the mean loss of the hospital's rows by (weights, bias), at weights 0 and this bias."""
    x, y = (part.double() for part in rows_of(name).tensors)
    errors = torch.sigmoid(torch.full_like(y, bias)) - y
    return torch.cat([errors @ x, errors.sum()[None]]).numpy() / len(y)


def test_a_hospital_trains_from_its_own_start_and_shares_what_it_learns(federation, tmp_path):
    coordinator, clients = parties(federation, tmp_path, model=LOGISTIC)
    assert federation.shape.personal == 0
    (common,) = start_of(federation)
    exchange(coordinator, clients)
    mean = np.mean([_gradient(name, start_of(federation, name)[0]) for name in NAMES], axis=0)
    expected = np.r_[np.zeros(FEATURES), common] - 0.5 * mean
    for client in clients.values():
        np.testing.assert_allclose(client.state.shared, expected, atol=2e-3)
    close_all(clients)


def test_the_shift_is_in_the_hospitals_own_model_and_not_in_the_shared_one(federation, tmp_path):
    coordinator, clients = parties(federation, tmp_path, model=LOGISTIC)
    exchange(coordinator, clients)
    (common,) = start_of(federation)
    for name, client in clients.items():
        own, shared = client.personal_model().linear, client.shared_model().linear
        assert torch.equal(own.weight, shared.weight)
        assert float(own.bias - shared.bias) == pytest.approx(start_of(federation, name)[0] - common, abs=1e-6)
    close_all(clients)
