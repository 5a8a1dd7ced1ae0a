"""The examples' declarations, and the public images that they are for, where these lie beside the checkout."""

import runpy
import tomllib
from pathlib import Path

import numpy as np
import pytest

from securepfl.data.images.spec import ImageSpec
from securepfl.runtime.planning import Plan, plan_tables
from securepfl.settings.federation import Federation

REPOSITORY = Path(__file__).resolve().parents[3]
PUBLIC = REPOSITORY.parent / "shared" / "data"


def federation_of(name: str) -> Federation:
    return Federation.read(REPOSITORY / "examples" / name / "federation.toml")


def declared(name: str) -> ImageSpec:
    spec = federation_of(name).data_spec
    assert isinstance(spec, ImageSpec)
    return spec


def planned(name: str) -> Plan:
    """As `securepfl run` plans the example, but without its start, a file that `securepfl start` makes."""
    if not (PUBLIC / name).is_dir():
        pytest.skip(f"no images at {PUBLIC / name}")
    federation = federation_of(name).changed("model", start=None, trained="all")
    return plan_tables(federation, PUBLIC / name, seed=1, ledgers=None)


def training_patients(plan: Plan) -> dict[str, int]:
    return {name: len(set(hospital.train.patients)) for name, hospital in plan.hospitals.items()}


def check_units(plan: Plan) -> None:
    """Nobody counts as more patients than train, so that no zeros stand for any, and few are left out."""
    for name, found in training_patients(plan).items():
        assert found - 1 <= plan.federation.units_of(name) <= found


def test_both_declare_masks_and_a_field_of_view():
    vessels, lungs = declared("fundus_vessels"), declared("chest_lungs")
    assert vessels.segments and lungs.segments and vessels.fields == lungs.fields == "fov"
    assert vessels.patient_pattern is not None
    eyes = {
        name: vessels.patient_pattern.search(name)[1] for name in ("Image_01L", "Image_01R", "im0077", "21_training")
    }
    assert list(eyes.values()) == ["Image_01", "Image_01", "im0077", "21_training"]


@pytest.mark.parametrize("name", ["fundus_vessels", "chest_lungs"])
def test_training_without_privacy_is_of_the_same_images(name: str):
    other = Federation.read(REPOSITORY / "examples" / name / "without_privacy.toml")
    assert (other.data, other.sites) == (federation_of(name).data, federation_of(name).sites)


@pytest.mark.parametrize("name", ["fundus_vessels", "chest_lungs"])
def test_each_hospital_can_be_left_out_of_either_settings(name: str):
    script = runpy.run_path(str(REPOSITORY / "examples" / "leave_one_site_out.py"))
    for file in ("federation.toml", "without_privacy.toml"):
        text = (REPOSITORY / "examples" / name / file).read_text()
        whole = tomllib.loads(text)
        for site in whole["sites"]:
            left = tomllib.loads(script["without"](text, site))
            assert left["sites"] == {other: its for other, its in whole["sites"].items() if other != site}
            assert left["data"] == whole["data"] | {"without": [site]}
            assert left.get("minimum", 3) <= len(left["sites"]), "a sum of so few hospitals is refused"


def test_the_vessels_of_three_hospitals_are_read_and_planned_as_declared():
    plan = planned("fundus_vessels")
    assert list(plan.hospitals) == ["chasedb1", "drive", "stare"]
    assert sum(len(its.train) + len(its.test) for its in plan.hospitals.values()) == 88
    for hospital in plan.hospitals.values():
        labels = hospital.train.labels
        assert labels is not None and np.abs(hospital.train.features).max() <= 4
        assert 0.03 < labels[:, 0].sum() / labels[:, 1].sum() < 0.25
    eyes = plan.hospitals["chasedb1"]
    assert len(set(eyes.train.patients)) == len(eyes.train) / 2
    check_units(plan)


def test_the_lungs_of_four_hospitals_are_read_and_planned_as_declared():
    plan = planned("chest_lungs")
    assert list(plan.hospitals) == ["europe_other", "hannover", "spain", "uk"]
    assert sum(len(its.train) + len(its.test) for its in plan.hospitals.values()) == 147
    people = [len({*its.train.patients, *its.test.patients}) for its in plan.hospitals.values()]
    assert sum(people) == 83
    told = [note for note in plan.notes if "different people" in note]
    assert len(told) == 1 and told[0].startswith("1 patient id(s) stand at several sites"), "how many, and not whose"
    assert "image" not in told[0]
    check_units(plan)
