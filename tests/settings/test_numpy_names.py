"""Hospitals' names and declared numbers may be numpy's, as a pipeline's often are, wherever they are taken."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from securepfl.crypto.keys.identity import Identity
from securepfl.errors import ConfigError
from securepfl.runtime.local import simulate
from securepfl.settings.federation import Federation

NAMES = np.array(["north", "south", "west"])
SETTINGS: dict[str, Any] = {"rounds": 1, "model": {"kind": "own"}, "encryption": {"scheme": "none"}}


def build_model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))


def bound(names: Any = NAMES, units: Any = 4, **settings: Any) -> Federation:
    return Federation.from_mapping({**SETTINGS, **settings}).bound(names, build_model, units=units)


@pytest.mark.parametrize("units", [np.int64(4), {name: np.int32(4) for name in NAMES}, dict.fromkeys(NAMES, 4)])
def test_numpys_names_and_numbers_give_the_same_federation(units: Any):
    plain = bound(NAMES.tolist())
    assert bound(units=units).digest == plain.digest
    declared = {np.str_("sites"): {name: {"units": np.int64(4)} for name in NAMES}, "rounds": np.int64(1)}
    assert bound(units=None, **declared).digest == plain.digest
    assert {type(name) for name in bound(units=units).roster} == {str}


def test_a_declaration_of_data_may_be_numpys():
    data = {"label": "y", "ranges": {"a": {"centre": 1, "spread": 2}}, "categories": {"c": ["u", "v"]}}
    numpys = {
        "label": np.str_("y"),
        "ranges": {np.str_("a"): {"centre": np.float64(1), "spread": np.int64(2)}},
        "categories": {"c": np.array(["u", "v"])},
    }
    one, other = (Federation.from_mapping({"data": table}) for table in (data, numpys))
    assert one.digest == other.digest


def test_a_simulation_runs_on_numpys_names(tmp_path: Path):
    training = dict.fromkeys(NAMES, TensorDataset(torch.eye(4), torch.tensor([0.0, 1.0, 0.0, 1.0])))
    with simulate(bound(training), training, build_model, tmp_path, seed=1) as run:
        assert sorted(run.clients) == NAMES.tolist()
        assert {type(client.name) for client in run.clients.values()} == {str}
    assert type(Identity.generate(NAMES[0]).name) is str


@pytest.mark.parametrize("units", [4.5, True, "4", {"north": 4.5}])
def test_units_that_are_no_whole_number_are_refused(units: Any):
    with pytest.raises(ConfigError, match=r"\[sites\.north\] units = .*: must be a whole number"):
        bound(units=units)


@pytest.mark.parametrize(
    ("sites", "problem"),
    [
        ("north", "must be a list of the hospitals' names"),
        (None, "must be a list of the hospitals' names"),
        ([b"north", b"south", b"west"], "must be a text"),
        ([1, 2, 3], "must be a text"),
        (NAMES[:, None], "must be a text"),
        (["north", "north", "south"], "`north`: is there twice"),
        (["x" * 300, "south", "west"], "cannot be a file name"),
    ],
)
def test_what_names_no_hospitals_is_refused(sites: Any, problem: str):
    with pytest.raises(ConfigError, match=problem):
        bound(sites)


def test_a_hospital_that_is_not_there_is_named():
    for ask in (bound().units_of, bound().prevalence_of, bound().operating_point_of, bound().budget_of):
        with pytest.raises(ConfigError, match="east: no such hospital among north, south, west"):
            ask("east")


@pytest.mark.parametrize("mapping", [None, "rounds", ["rounds"]])
def test_settings_that_are_no_mapping_are_refused(mapping: Any):
    with pytest.raises(ConfigError, match="must be a mapping"):
        Federation.from_mapping(mapping)


def test_a_file_may_be_named_by_a_text(tmp_path: Path):
    (tmp_path / "federation.toml").write_text("rounds = 1\n", encoding="utf-8")
    assert Federation.read(str(tmp_path / "federation.toml")).rounds == 1
