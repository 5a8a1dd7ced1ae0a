"""The comparison's data sets: repeatable, no row twice, both classes tested, the known answer known."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from methods.catalogue import ENTRIES
from methods.data_clusters import two_clusters
from methods.data_xray import Scanner, _dealt, _stream, published
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
WIDE = "xray6_wide"
NARROW = [name for name in ENTRIES if name != WIDE]
"""The wide network's images are xray6's."""
TOLD_APART = ("xray6", "xray20", "clusters_d10")
"""Data in which equal rows mean the same row: tables have patients alike."""


@cache
def made(name, seed=0):
    return deal(name, seed)


def deal(name, seed=0):
    entry = ENTRIES[name]
    if entry.folder is not None and not (DATA / entry.folder).is_dir():
        pytest.skip(f"{entry.folder} is not beside the repository")
    if entry.package is not None and find_spec(entry.package) is None:
        pytest.skip(f"{entry.package} is not installed")
    return entry.make(DATA, seed)


def parts(site):
    return site.train_x, site.train_y, site.test_x, site.test_y


@pytest.mark.parametrize("name", NARROW)
def test_a_seed_repeats_its_task_and_models_start_alike(name):
    one, same = made(name), deal(name)
    assert one.sites.keys() == same.sites.keys()
    for site, again in zip(one.sites.values(), same.sites.values(), strict=True):
        for part, repeated in zip(parts(site), parts(again), strict=True):
            assert part.dtype == torch.float32 and torch.equal(part, repeated)
    torch.manual_seed(1)
    first = one.build_model().state_dict()
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    second = one.build_model().state_dict()
    assert torch.equal(state, torch.random.get_rng_state()), "torch's generator was moved"
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", [name for name in NARROW if not name.startswith("heart")])
def test_another_seed_deals_anew(name):
    one, other = made(name), made(name, 1)
    assert any(
        site.train_x.shape != found.train_x.shape or not torch.equal(site.train_x, found.train_x)
        for site, found in zip(one.sites.values(), other.sites.values(), strict=True)
    )


@pytest.mark.parametrize("name", NARROW)
def test_both_classes_are_tested_and_trained_and_shapes_fit_the_model(name):
    task = made(name)
    model = task.build_model()
    for hospital, site in task.sites.items():
        assert len(site.train_x) == len(site.train_y) and len(site.test_x) == len(site.test_y)
        if not (name == "azpro" and hospital == "hospital-0.1"):
            least = 1 if name.startswith("heart") else 8
            assert torch.bincount(site.test_y.int(), minlength=2).min() >= least, hospital
        assert model(site.train_x[:3]).shape == (3,)


@pytest.mark.parametrize("name", TOLD_APART)
def test_no_row_is_in_two_splits_or_hospitals(name):
    task = made(name)
    rows = torch.cat([x.flatten(1) for site in task.sites.values() for x in (site.train_x, site.test_x)])
    assert len(torch.unique(rows, dim=0)) == len(rows)


def test_no_image_is_dealt_twice_before_scanners_render_it():
    made("xray6")
    for images, labels in published(DATA / "pneumonia_xray" / "pneumoniamnist_3882_524_624.npz"):
        assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)
        dealt = np.concatenate(_dealt(labels, np.linspace(0.45, 0.8, 20), _stream(3, "test")))
        assert len(np.unique(dealt)) == len(dealt)


def test_label_shares_are_the_declared_ones_in_training_and_test():
    task = made("xray20")
    shares = sorted((float(site.train_y.mean()), float(site.test_y.mean())) for site in task.sites.values())
    np.testing.assert_allclose(shares, np.stack([np.linspace(0.45, 0.8, 20)] * 2, axis=1), atol=0.03)


def test_a_neutral_scanner_changes_nothing_and_others_do():
    images = np.random.default_rng(0).random((2, 28, 28)).astype(np.float32)
    np.testing.assert_allclose(Scanner(0.0, 1.0, 1.0, 0.0).render(images), images, atol=1e-6)
    for scanner in (Scanner(1, 1, 1, 0), Scanner(0, 2, 1, 0), Scanner(0, 1, 0.5, 0), Scanner(0, 1, 1, 0.1)):
        seen = scanner.render(images)
        assert np.abs(seen - images).max() > 0.05 and seen.min() >= 0 and seen.max() <= 1


def test_azpro_has_every_stay_of_17_hospitals():
    task = made("azpro")
    assert len(task.sites) == 17
    assert sum(len(site.train_y) + len(site.test_y) for site in task.sites.values()) == 3589
    smallest = task.sites["hospital-0.1"]
    assert (len(smallest.train_y), len(smallest.test_y)) == (17, 0)


def test_heart_disease_is_flambys_split():
    sizes = {name: (len(site.train_y), len(site.test_y)) for name, site in made("heart_disease").sites.items()}
    assert sizes == {"cleveland": (199, 104), "hungarian": (172, 89), "switzerland": (30, 16), "va": (85, 45)}


def test_only_the_wide_network_is_large():
    sizes = {name: sum(p.numel() for p in made(name).build_model().parameters()) for name in ("xray6", WIDE)}
    assert 2000 <= sizes["xray6"] <= 5000 and sizes[WIDE] >= 1_000_000


def test_a_cluster_s_model_beats_one_for_all_and_each_hospital_s_own():
    task = two_clusters(0, n=200, d=10)

    def auroc(names):
        scores = []
        for name, site in task.sites.items():
            chosen = [task.sites[other] for other in names(name)]
            x, y = (torch.cat([getattr(s, k) for s in chosen]).numpy() for k in ("train_x", "train_y"))
            model = LogisticRegression(C=1.0).fit(x, y)
            scores.append(roc_auc_score(site.test_y, model.decision_function(site.test_x.numpy())))
        return np.mean(scores)

    alone = auroc(lambda name: [name])
    together = auroc(lambda _: list(task.sites))
    oracle = auroc(lambda name: [other for other in task.sites if task.clusters[other] == task.clusters[name]])
    assert together + 0.15 < alone < oracle - 0.005


def test_fewer_than_two_hospitals_a_cluster_are_refused():
    with pytest.raises(ValueError, match="second must be from 2"):
        two_clusters(0, n=10, d=2, sites=3)
