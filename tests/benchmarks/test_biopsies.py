"""Four simulated hospitals of real biopsies."""

import numpy as np
import pytest
from methods.biopsies import HOSPITALS, RANGES, _dealt, simulated_hospitals
from sklearn.datasets import load_breast_cancer

from securepfl.data.tables import split_table


def test_sizes_and_malignant_shares_are_as_stated():
    spec, tables = simulated_hospitals()
    assert len(spec.feature_names) == 30
    trained = {}
    for site, table in tables.items():
        train, test = split_table(table, spec.split)
        trained[site] = len(train)
        assert table.labels is not None
        assert test.labels is not None
        assert (int(table.labels.sum()), len(table)) == (HOSPITALS[site][0], sum(HOSPITALS[site]))
        assert set(test.labels) == {0, 1}
    assert list(trained.values()) == [161, 106, 75, 31]
    assert all(site.startswith("simulated-") for site in tables)
    assert sum(map(len, tables.values())) == 569


def test_every_biopsy_goes_to_exactly_one_hospital():
    dealt = np.concatenate(list(_dealt(load_breast_cancer().target, seed=3).values()))
    np.testing.assert_array_equal(np.sort(dealt), np.arange(569))


def test_ranges_are_declared_for_every_feature_of_the_cohort():
    spec, _ = simulated_hospitals()
    assert set(spec.ranges) == {str(name) for name in load_breast_cancer().feature_names}
    assert len(RANGES) == 10


def test_a_seed_repeats_its_hospitals_and_another_deals_anew():
    (_, one), (_, same), (_, other) = (simulated_hospitals(seed) for seed in (7, 7, 8))
    for site, table in one.items():
        np.testing.assert_array_equal(table.features, same[site].features)
        assert not np.array_equal(table.features, other[site].features)


def test_calibration_keeps_areas_squares_of_lengths():
    spec, tables = simulated_hospitals()
    cohort = load_breast_cancer()
    names = [str(name) for name in cohort.feature_names]
    pooled = np.sort(cohort.data[:, names.index("mean radius")])
    for table in tables.values():
        values = {}
        for name in ("mean radius", "mean area"):
            scaled = table.features[:, spec.feature_names.index(name)]
            values[name] = spec.ranges[name].centre + spec.ranges[name].spread * scaled
        inside = np.abs(table.features[:, spec.feature_names.index("mean area")]) < 3
        ratio = np.median(values["mean area"][inside] / values["mean radius"][inside] ** 2)
        assert ratio == pytest.approx(3.1, abs=0.1)
        assert 0.85 * pooled[0] < values["mean radius"].min()
