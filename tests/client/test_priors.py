"""Priors that leave a hospital: what they say, what they cost, and that neighbourhoods show nobody."""

import math

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from securepfl.client.neighbourhood import Neighbourhood, releasable
from securepfl.client.prior import Share, released_shares
from securepfl.client.records import TrainingSet
from securepfl.errors import ConfigError
from securepfl.privacy.accounting.events import Release
from securepfl.privacy.training.units import PatientDataset
from securepfl.randomness import RandomStream, fresh_key
from securepfl.runtime.finetuned import release_finetuned
from securepfl.runtime.local import simulate
from securepfl.runtime.releasing import release_priors
from securepfl.settings.federation import Federation
from securepfl.tasks.models import build_model


def quiet():
    return RandomStream(bytes(32))


def masks(*shares):
    """Images of 10 x 10 whose upper rows hold the structure, and of which the left half is the field."""
    labels = torch.zeros(len(shares), 2, 10, 10)
    for place, share in enumerate(shares):
        labels[place, 0, : round(10 * share)] = 1
        labels[place, 1, :, :5] = 1
    return labels


def test_a_structures_share_is_of_the_field_and_each_patient_counts_once():
    patients = PatientDataset([(torch.zeros(2, 1), masks(0.1, 0.3)), (torch.zeros(1, 1), masks(0.4))])
    share = Share("segmentation", (0.5,), 0.5)
    found = released_shares(share, TrainingSet(patients, None, "patient"), 2, None, quiet())
    assert found.shares == pytest.approx(((0.2 + 0.4) / 2,)) and found.deviation == 0


def test_an_image_without_a_field_and_units_that_are_not_there_move_nothing():
    labels = masks(0.3, 0.3)
    labels[1, 1] = 0
    records = TrainingSet(TensorDataset(torch.zeros(2, 1), labels), None)
    hardly = Release(noise_multiplier=1e-4, sample_rate=1.0, steps=1)
    found = released_shares(Share("segmentation", (0.5,), 0.5), records, 4, hardly, quiet())
    assert found.shares == pytest.approx((0.5 - 0.2 / 4,), abs=1e-3)
    bare = released_shares(Share("segmentation", (0.5,), 0.5), records, 4, None, quiet())
    assert bare.shares == pytest.approx((0.5 - 0.2 / 2,))


def test_no_unit_moves_the_sum_by_more_than_the_limit():
    share = Share("segmentation", (0.1,), 0.1)
    patients = PatientDataset([(torch.zeros(3, 1), masks(1.0, 1.0, 1.0))])
    found = released_shares(share, TrainingSet(patients, None, "patient"), 1, None, quiet())
    assert found.shares == pytest.approx((0.2,))
    classes = Share("multiclass", (1 / 3,) * 3, math.sqrt(2 / 3))
    one = TrainingSet(TensorDataset(torch.zeros(1, 1), torch.tensor([2.0])), None)
    assert released_shares(classes, one, 1, None, quiet()).shares == pytest.approx((0, 0, 1), abs=2e-4)


def test_the_noise_is_what_the_ledger_is_told():
    """Over many draws the deviation is noise multiplier x limit / units, of a sum that holds no unit."""
    release, share = Release(noise_multiplier=3.0, sample_rate=1.0, steps=1), Share("binary", (0.5,), 0.5)
    nobody = TrainingSet(TensorDataset(torch.zeros(1, 1), torch.zeros(1)), None, skipped=frozenset({0}))
    drawn = [released_shares(share, nobody, 40, release, RandomStream(fresh_key())) for _ in range(800)]
    wanted = 3.0 * 0.5 / 40
    assert drawn[0].deviation == pytest.approx(wanted)
    found = np.array([each.shares[0] for each in drawn])
    assert abs(found.std() / wanted - 1) < 0.15 and abs(found.mean() - 0.5) < 0.01


def federation(prior=True, **tables):
    settings = {
        "rounds": 5,
        "model": {"kind": "logistic", "personal": ["linear.weight"]},
        "privacy": {"epsilon": 6.0},
        "encryption": {"scheme": "none", "personal_limit": 16.0, "limit": 2.0},
        "similarity": {"every": 2},
        "coupling": {"strength": 0.5},
        "training": {"learning_rate": 2.0},
        "release": {"experts": True, "prior": prior},
        "data": {"label": "ill", "ranges": {name: {"centre": 0, "spread": 1} for name in "ab"}},
    } | tables
    sites = [f"h{number}" for number in range(7)]
    build = lambda: build_model("logistic", 2)  # noqa: E731
    return Federation.from_mapping(settings).bound(sites, build, units=40), build


def rows(seed):
    drawn = torch.randn(40, 2, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(drawn, (drawn.sum(dim=1) > 0.5).float())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished simulation without a seed, coupled and all alike, of seven hospitals."""
    bound, build = federation()
    folder = tmp_path_factory.mktemp("run")
    training = {name: rows(seed) for seed, name in enumerate(bound.roster)}
    with simulate(bound, training, build, folder, ledgers=folder / "ledgers", device="cpu") as simulated:
        yield simulated


def test_a_prior_is_part_of_the_planned_epsilon_and_is_released_once(run):
    for client in run.clients.values():
        before = client.ledger.spent()
        record = client.release_prior()
        assert before < 5.9 and client.ledger.spent() == pytest.approx(6.0, rel=1e-6)
        assert record["epsilon"] == client.ledger.spent() and record["expert"] == "prior"
        assert client.release_prior() is None


def test_what_was_not_released_is_said_and_stops_nothing(tmp_path):
    bound, build = federation(rounds=1, coupling={}, similarity={}, release={"experts": True, "finetuning": 1})
    training, said = {name: rows(seed) for seed, name in enumerate(bound.roster)}, []

    def begin(run):
        said.extend(release_finetuned(run.clients, tmp_path / "experts"))  # there is no shared model yet

    options = {"ledgers": tmp_path / "ledgers", "device": "cpu", "begin": begin}
    with simulate(bound, training, build, tmp_path / "run", **options):
        assert len(said) == 7 and "h0: no fine-tuned expert: the last round formed no sum" in said[0]


def test_a_prior_that_was_counted_and_lost_is_said(run, tmp_path):
    for client in run.clients.values():
        client.release_prior()
    told = release_priors(run.coordinator.federation, run.clients, tmp_path / "priors.json")
    assert len(told) == 7 and told[0].startswith("h0: no prior: ") and not (tmp_path / "priors.json").exists()


def test_a_federation_that_releases_no_prior_releases_none(tmp_path):
    bound, build = federation(prior=False, rounds=1, coupling={}, similarity={})
    training = {name: rows(seed) for seed, name in enumerate(bound.roster)}
    with (
        simulate(bound, training, build, tmp_path / "run", ledgers=tmp_path / "ledgers", device="cpu") as simulated,
        pytest.raises(ConfigError, match=r"set \[release\] prior = true"),
    ):
        simulated.clients["h0"].release_prior()


def test_a_neighbourhood_is_what_was_answered_and_its_release_says_who_is_in_it(run):
    found = {name: client.neighbourhood for name, client in run.clients.items()}
    assert any(found.values())
    for name in releasable(found, tuple(found)) or [name for name, its in found.items() if its]:
        its, client = found[name], run.clients[name]
        model, record = client.release_cluster(1)
        assert record["hospitals"] == list(its.together) and len(its.together) >= 3 and name not in its.together
        np.testing.assert_allclose(model.linear.weight.detach().numpy().ravel(), its.mean, rtol=1e-6)


def neighbourhood(*together, round_=4):
    return Neighbourhood(np.zeros(1, np.float32), together, round_)


def test_no_two_released_neighbourhoods_show_a_hospital_by_their_difference():
    roster = tuple("abcdefgh")
    alike = {"a": neighbourhood("b", "c", "d"), "b": neighbourhood("a", "c", "d"), "e": neighbourhood("f", "g", "h")}
    assert releasable(alike, roster) == ["a"]  # with f, g and h too, a and e alone would be left
    assert releasable(alike, (*roster, "i")) == ["a", "e"]  # a, e and i are left
    assert releasable({"a": neighbourhood("b", "c")}, roster) == []
    assert releasable({"a": neighbourhood("b", "c", "d", round_=3), "e": neighbourhood("a", "b", "c")}, roster) == ["e"]
    assert releasable({"a": None}, roster) == []
