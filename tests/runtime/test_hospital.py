"""Rows of a table as the units that a client trains on."""

import numpy as np
import pytest
import torch

from securepfl.data.schema import DataSpec
from securepfl.data.tables import load_sites
from securepfl.errors import ConfigError
from securepfl.runtime.hospital import dataset_of

ROWS = 3000


def table_of(tmp_path, **declared):
    """One patient of all rows but every hundredth, whose patients have one row each."""
    spec = DataSpec.from_mapping({"label": "y", "ranges": {"a": {"centre": 0, "spread": 1}}, **declared})
    rows = [f"{row},{row % 2},{'frequent' if row % 100 else row}" for row in range(ROWS)]
    (tmp_path / "north.csv").write_text("\n".join(["a,y,id", *rows]) + "\n", encoding="utf-8")
    return load_sites(tmp_path, spec)["north"]


def test_all_rows_of_a_patient_are_one_unit_however_many(tmp_path):
    table = table_of(tmp_path, patient="id")
    dataset = dataset_of(table, "patient")
    sizes = sorted(len(dataset[index][0]) for index in range(len(dataset)))
    assert sizes == [1] * 30 + [ROWS - 30]
    largest = next(dataset[index] for index in range(len(dataset)) if len(dataset[index][0]) > 1)
    assert torch.equal(largest[0], torch.from_numpy(table.features[np.arange(ROWS) % 100 > 0]))
    assert len(largest[1]) == ROWS - 30


def test_without_patients_each_row_is_a_unit(tmp_path):
    table = table_of(tmp_path, drop=["id"])
    assert len(dataset_of(table)) == ROWS
    with pytest.raises(ConfigError, match="declare the column that names them"):
        dataset_of(table, "patient")
