"""The demo's simulated patients and hospitals."""

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer

from securepfl.data.demo import CLOSENESS, HOSPITALS, OUTSIDE, RANGES, outside_hospital, simulated_hospitals
from securepfl.data.tables import split_table
from securepfl.runtime.planning import configured


def test_sizes_are_as_stated_and_as_the_settings_declare():
    spec, tables = simulated_hospitals()
    assert set(spec.feature_names) == {f"mean {name}" for name in RANGES}
    declared = configured(None).sites
    assert list(tables) == list(HOSPITALS) == list(declared)
    for name, table in tables.items():
        train, test = split_table(table, spec.split)
        assert (len(train), len(test), int(table.labels.sum())) == (declared[name].units, 41, 44)
        assert declared[name].prevalence == pytest.approx(44 / 120, abs=0.01)
    outside = outside_hospital()
    assert OUTSIDE not in tables and (len(outside), int(outside.labels.sum())) == (150, 60)


def test_two_families_have_four_hospitals_each_and_one_is_unusual():
    assert sorted(HOSPITALS.values()) == ["A"] * 4 + ["B"] * 4 + ["unusual"]
    assert all(name.startswith("simulated-") for name in (*HOSPITALS, OUTSIDE))


def test_a_seed_repeats_its_patients_and_another_draws_anew():
    (_, one), (_, same), (_, other) = (simulated_hospitals(seed) for seed in (7, 7, 8))
    for site, table in one.items():
        np.testing.assert_array_equal(table.features, same[site].features)
        assert not np.array_equal(table.features, other[site].features)


def test_family_a_is_distributed_as_the_real_biopsies_with_classes_moved_together():
    spec, _ = simulated_hospitals()
    drawn = [table for seed in range(10) for site, table in simulated_hospitals(seed)[1].items() if "-a" in site]
    features, labels = np.concatenate([t.features for t in drawn]), np.concatenate([t.labels for t in drawn])
    cohort = load_breast_cancer()
    where = [list(cohort.feature_names).index(name) for name in spec.feature_names]
    centres, spreads = (
        np.array([getattr(spec.ranges[n], part) for n in spec.feature_names]) for part in ("centre", "spread")
    )
    real = (cohort.data[:, where] - centres) / spreads
    gap, real_gap = (x[y == 1].mean(0) - x[y == 0].mean(0) for x, y in ((features, labels), (real, 1 - cohort.target)))
    np.testing.assert_allclose(gap, CLOSENESS * real_gap, atol=0.1)
    benign = real[cohort.target == 1]
    np.testing.assert_allclose(np.std(features[labels == 0], axis=0), np.std(benign, axis=0), rtol=0.1)


def test_scanners_of_one_family_agree_and_differ_from_others():
    """By the sign of each feature's difference between malignant and benign; fractal dimension has none."""
    names = simulated_hospitals()[0].feature_names
    kept = [index for index, name in enumerate(names) if name != "mean fractal dimension"]
    drawn = [simulated_hospitals(seed)[1] | {OUTSIDE: outside_hospital(seed)} for seed in range(10)]
    signs = {
        site: np.sign(np.mean([_gap(tables[site]) for tables in drawn], axis=0))[kept] for site in (*HOSPITALS, OUTSIDE)
    }
    for site, family in (HOSPITALS | {OUTSIDE: "B"}).items():
        first = next(name for name, its in HOSPITALS.items() if its == family)
        np.testing.assert_array_equal(signs[site], signs[first])
    assert (signs["simulated-a1"] != signs["simulated-b1"]).sum() == 4
    assert (signs["simulated-a1"] != signs["simulated-unusual"]).sum() == 7


def _gap(table):
    return table.features[table.labels == 1].mean(0) - table.features[table.labels == 0].mean(0)
