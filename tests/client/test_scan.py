"""What a hospital is told of its own units, which of them train, and what it sends where training fails altogether."""

import warnings
from contextlib import closing

import pytest
import torch
from torch.utils.data import TensorDataset
from worlds import FEATURES, UNITS, WHO, Picky, Rows, bound, failing, huge_patient, items_of, plain, unusable

from securepfl import Client, Simulation, local_parties
from securepfl.client.contents import contents_of


def client(folder, rows, **tables):
    federation = bound(**tables)
    keyrings, coordinator = local_parties(federation)
    with warnings.catch_warnings(action="ignore"):
        made = Client(federation, WHO, Picky, rows, keyrings[WHO], folder, device="cpu", simulation=Simulation())
    made.coordinator = coordinator
    return closing(made)


def trained(made):
    """Digests of the units that train, in no order."""
    records = made._parts.training.training
    places = set(range(records.found)) - records.skipped
    return sorted(contents_of(records, places).units.values())


def test_more_units_than_declared_are_cut_to_the_same_ones_whatever_their_order(tmp_path):
    items = items_of(WHO, UNITS + 25)
    kept = []
    for number, rows in enumerate((items, items[::-1])):
        with client(tmp_path / str(number), Rows(rows)) as made:
            assert (made.scan.used, made.scan.cut, made.scan.padded, made.units) == (UNITS, 25, 0, UNITS)
            kept.append(trained(made))
    assert kept[0] == kept[1] and len(kept[0]) == UNITS


def test_fewer_units_than_declared_are_padded(tmp_path):
    with client(tmp_path, Rows(items_of(WHO, 7))) as made:
        assert (made.scan.used, made.scan.found, made.scan.padded, made.units) == (7, 7, UNITS - 7, UNITS)
        assert "7 were found: zeros stand for the rest" in made.scan.notes[0] and made.scan.warnings == ()


def test_every_kind_of_unusable_unit_is_told_with_its_place(tmp_path):
    with client(tmp_path, unusable(UNITS)) as made:
        found = {one.reason: one.units for one in made.scan.unusable}
        assert found["illegal label"] == 1 and found["unreadable"] == 2 and found["refused"] == 2
        assert found["not finite"] >= 3 and made.scan.used == UNITS - sum(found.values())


def test_the_largest_patient_is_told(tmp_path):
    with client(tmp_path, huge_patient(UNITS), privacy={"unit": "patient", "delta": 1e-3}) as made:
        assert (made.scan.largest, made.scan.used) == (500, UNITS)


def test_each_unit_is_read_once_and_a_few_twice(tmp_path):
    read = []

    class Counting(TensorDataset):
        def __getitem__(self, place):
            read.append(place)
            return super().__getitem__(place)

    x = torch.randn(900, FEATURES)
    with client(tmp_path, Counting(x, (x[:, 0] > 0).float()), units=900):
        assert set(read) == set(range(900)) and len(read) <= 900 + 16


@pytest.mark.parametrize("noise", ["own", "shared"])
def test_where_training_fails_altogether_noise_alone_is_sent_and_the_hospital_told(tmp_path, noise):
    alone = {"similarity": {"every": 0}, "coupling": {"strength": 0.0}, "release": {"experts": False}}
    masked = {"encryption": {"scheme": "none", "masking": "pairwise"}, "shared_noise": {}}
    rows = failing(UNITS)
    with client(tmp_path, rows, **alone | (masked if noise == "shared" else {})) as made:
        rows.items = rows.later
        assert made.coordinator.receive(made.contribute(made.coordinator.invite()[WHO])) == WHO
        assert made.last_training.failed == "a record that the model's code fails on" and made.sat_out == ()
        assert made.last_training.unusable == {} and made.ledger.spent() > 0


def test_a_round_that_trains_says_so(tmp_path):
    with client(tmp_path, plain(UNITS)) as made:
        made.contribute(made.coordinator.invite()[WHO])
        assert made.last_training.failed == "" and made.last_training.mean_loss > 0


@pytest.mark.parametrize("now", [UNITS - 4, UNITS + 4, 0])
def test_units_that_come_or_go_after_the_scan_train_in_no_round(tmp_path, now):
    """No ledger knows those that came, and a place may be another unit's then."""
    rows = Rows(items_of(WHO, UNITS))
    with client(tmp_path, rows) as made:
        rows.items = items_of(WHO, now)
        made.contribute(made.coordinator.invite()[WHO])
        assert f"had {UNITS} records when the Client was made and has {now} now" in made.last_training.failed
