"""A patient of many records moves what a hospital sends no further than one of a single record does."""

import numpy as np
import pytest
import torch
from parties import FEATURES, MODEL, federation_of

from securepfl.privacy.training.units import group_records
from securepfl.runtime.local import simulate

NAMES, PATIENTS, RECORDS = ("alder", "birch", "cedar"), 40, 3000


def hospital(seed, records, size=2.0):
    """Patients of one record each, but the first, who has `records` equal ones with a gradient beyond the clip."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(PATIENTS, FEATURES, generator=generator)
    y = (x[:, 0] > 0).float()
    x[0], y[0] = size, 0.0
    patients = torch.cat([torch.zeros(records, dtype=torch.int64), torch.arange(1, PATIENTS)])
    return group_records(x[patients], y[patients], patients)


@pytest.mark.parametrize("physical_batch", [None, 64])
def test_what_is_sent_is_the_same_for_one_record_and_for_thousands(tmp_path, physical_batch):
    """Same noise, and equal records: their gradients add up to one of the same direction, which the clip shortens."""
    bound = federation_of(
        NAMES,
        rounds=1,
        privacy={"unit": "patient", "epsilon": 1e4, "clip": 0.05},
        training={"learning_rate": 20.0, "steps": 1},
        sparsity={"density": 1.0},
        encryption={"scheme": "none"},
    )
    states = []
    for number, (records, size) in enumerate([(1, 2.0), (RECORDS, 2.0), (1, 0.0)]):
        data = {name: hospital(seed, 1) for seed, name in enumerate(NAMES)} | {"cedar": hospital(2, records, size)}
        with simulate(
            bound, data, MODEL, tmp_path / str(number), seed=1, device="cpu", physical_batch=physical_batch
        ) as run:
            assert len(data["cedar"]) == PATIENTS
            states.append(run.clients["cedar"].state.shared)
    one, many, none = states
    assert np.linalg.norm(one - none) > 1e-3
    assert np.linalg.norm(one - many) < 0.02 * np.linalg.norm(one - none)
