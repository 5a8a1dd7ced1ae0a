"""A trained head under privacy of patients: shared and local noise, a personal part, and records that a ledger knows
whatever start made features of them.
"""

import numpy as np
import pytest
import torch
from parties import close_all, exchange, parties

from securepfl import group_records
from securepfl.client.features import FeatureRecords
from securepfl.outside.experts import read_experts, write_expert
from securepfl.settings.binding import built_in
from securepfl.settings.federation import Federation
from securepfl.tasks.networks import build_network
from securepfl.tasks.starts.start import Start, taken

SIDE, NAMES = 16, ("alder", "birch", "cedar", "damson")


def start_file(folder, seed):
    weights = taken(build_network("unet", 1, 2, seed=seed))
    path = folder / f"start{seed}.safetensors"
    path.write_bytes(Start(name="tiny", weights=weights, network={"kind": "unet"}, card="No patient.").to_bytes())
    return path


def patients(seed, unreadable=False):
    """Three patients of two images each, a bright disc on noise."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    discs = [(rows - r) ** 2 + (columns - c) ** 2 <= 12 for r, c in generator.integers(5, 11, size=(6, 2))]
    masks = np.stack([np.stack([disc, np.ones_like(disc)]) for disc in discs]).astype(np.uint8)
    images = 2.0 * masks[:, :1] + generator.normal(0, 0.5, (6, 1, SIDE, SIDE))
    found = group_records(torch.tensor(images).float(), torch.from_numpy(masks), list("aabbcc"))
    return [None, *found] if unreadable else found


def bound(start, **tables):
    defaults = {
        "rounds": 2,
        "model": {"kind": "unet", "task": "segmentation", "hidden": 2, "start": str(start), "trained": "head"},
        "training": {"learning_rate": 1.0},
        "privacy": {"epsilon": 50.0, "unit": "patient"},
        "encryption": {"scheme": "none"},
        "release": {"experts": True},
        "data": {"kind": "images", "size": [SIDE, SIDE], "patient": "file"},
    }
    federation = Federation.from_mapping(defaults | tables)
    build = built_in(federation.model, federation.data_spec)
    return federation.bound(NAMES, build, units=3), build


def clients_of(federation, build, folder, rows=None, **options):
    rows = rows or {name: patients(place) for place, name in enumerate(NAMES)}
    return parties(federation, folder, model=build, rows=rows, **options)


def test_the_body_stays_and_the_head_learns_from_features_that_are_had_once(tmp_path):
    federation, build = bound(start_file(tmp_path, 0), training={"steps": 8, "learning_rate": 1.0})
    coordinator, clients = clients_of(federation, build, tmp_path)
    client = clients["alder"]
    assert isinstance(client.training_set.dataset, FeatureRecords)
    before = client.personal_model()
    for _ in range(2):
        exchange(coordinator, clients)
    after, (x, y) = client.shared_model(), patients(9)[0]
    with torch.no_grad():
        losses = [float(client.task.loss(model(x), y).mean()) for model in (before, after)]
    assert losses[1] < losses[0]
    frozen = [name for name, _ in before.named_parameters() if name.startswith("body.")]
    assert all(torch.equal(before.state_dict()[name], after.state_dict()[name]) for name in frozen)
    assert client.ledger.unit == "patient" and client.ledger.spent() <= 50.0 + 1e-6
    model, record = client.release("personal")
    path = tmp_path / "experts" / "alder.safetensors"
    write_expert(path, model, record, federation.model, federation.data_spec, client.session.keyring.identity)
    assert str(tmp_path).encode() not in path.read_bytes()
    again = read_experts(path.parent).models["alder"]
    assert torch.allclose(again(x), model(x), atol=1e-6)
    close_all(clients)


def test_another_start_makes_no_other_patients_of_them(tmp_path):
    """Features are others, images the same: the ledger that knows them is charged."""
    options = {"ledgers": tmp_path / "ledgers"}
    for seed, able in ((0, True), (1, False)):
        federation, build = bound(start_file(tmp_path, seed))
        coordinator, clients = clients_of(federation, build, tmp_path / str(seed), **options)
        assert all(client.affords_run is able for client in clients.values())
        for _ in range(2):
            exchange(coordinator, clients)
        close_all(clients)


def test_the_head_trains_under_shared_noise_and_with_a_personal_bias(tmp_path):
    model = {"kind": "unet", "task": "segmentation", "hidden": 2, "trained": "head", "personal": ["head.bias"]}
    start = start_file(tmp_path, 0)
    tables = {
        "model": model | {"start": str(start)},
        "encryption": {"scheme": "lean", "masking": "pairwise"},
        "shared_noise": {},
        "release": {},
    }
    federation, build = bound(start, **tables)
    coordinator, clients = clients_of(federation, build, tmp_path)
    for _ in range(2):
        exchange(coordinator, clients)
    heads = {name: client.personal_model().head for name, client in clients.items()}
    assert torch.equal(heads["alder"].weight, heads["birch"].weight)
    assert not torch.equal(heads["alder"].bias, heads["birch"].bias)
    close_all(clients)


def test_a_patient_that_cannot_be_read_counts_as_zero(tmp_path):
    federation, build = bound(start_file(tmp_path, 0))
    rows = {name: patients(place) for place, name in enumerate(NAMES)}
    rows["birch"] = patients(1, unreadable=True)
    with pytest.warns(match="birch"):
        coordinator, clients = clients_of(federation, build, tmp_path, rows)
    assert clients["birch"].scan.found == 4 and clients["birch"].scan.used == 3
    exchange(coordinator, clients)
    assert coordinator.closed == 1 and not clients["birch"].last_training.failed
    close_all(clients)
