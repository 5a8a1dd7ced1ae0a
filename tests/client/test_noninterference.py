"""What leaves a hospital depends on its rows through noised sums alone: worlds that differ in rows are told by nothing.

Compared are messages and their sizes, who sat out, states, models, public attributes and the lines of ledgers.
"""

import dataclasses
import json
import warnings

import pytest
from parties import NAMES
from worlds import (
    KEY,
    UNITS,
    WHO,
    WORLDS,
    Picky,
    Rows,
    bound,
    differing,
    huge_patient,
    items_of,
    patients_of,
    plain,
    seen,
)

from securepfl import Identity, Simulation, suggest_partition
from securepfl.client import suggestion
from securepfl.client.sending import Sender
from securepfl.client.training import LocalTraining, dp_settings
from securepfl.client.trial import Trial

IDENTITY = Identity.generate(WHO)
ALONE = {"similarity": {"every": 0}, "coupling": {"strength": 0.0}}
MASKED = ALONE | {"encryption": {"scheme": "none", "masking": "pairwise"}}
MODES = {
    "default": {},
    "tenseal": {"encryption": {"scheme": "tenseal"}},
    "masked": MASKED,
    "lean masked": MASKED | {"encryption": {"scheme": "lean", "masking": "pairwise"}},
    "compared beside masks": {
        "encryption": {"scheme": "lean", "masking": "pairwise"},
        "similarity": {"every": 1, "beside_masks": True},
    },
    "shared noise": MASKED | {"shared_noise": {}, "release": {"experts": False}},
    "select": {"sparsity": {"density": 0.4, "kind": "select"}},
    "soft": {"sparsity": {"density": 0.4, "kind": "soft", "strength": 0.5}},
    "difference": {"sparsity": {"density": 0.4, "kind": "difference", "strength": 0.5}},
    "lasso": {"lasso": {"penalty": 0.01}, "coupling": {"strength": 0.0}},
    "mixture": {"trajectory": {"of": "mixture"}},
    "adapters": {"model": {"kind": "own", "personal": "adapters", "adapters": 1}},
    "intercept": {
        "model": {"kind": "own", "personal": "intercept"},
        "sites": {name: {"prevalence": 0.1 * (1 + place)} for place, name in enumerate(NAMES)},
    },
    "patients": {"privacy": {"unit": "patient", "clip": 1.0, "delta": 1e-3}},
    "Poisson": {"units": 600, "privacy": {"sample_rate": 0.08, "clip": 1.0, "delta": 1e-5}},
}


class Compare:
    """Runs of one mode: of the plain world twice, as keys, signatures and times are others each time, and of others.
    `options` are those of all runs.
    """

    def __init__(self, monkeypatch, folder, mode, **options):
        self.options = options
        tables = dict(MODES[mode])
        self.units = tables.pop("units", UNITS)
        self.patch, self.folder = monkeypatch, folder
        self.federation = bound(self.units, **tables)
        self.patients = self.federation.privacy.unit == "patient"
        self.one, self.again = self.run(plain), self.run(plain)

    def run(self, world):
        rows = {name: Rows(items_of(name, self.units)) for name in NAMES} | {WHO: world(self.units)}
        if self.patients:
            whole = (WHO,) if world is huge_patient else ()
            rows = {name: its if name in whole else patients_of(its) for name, its in rows.items()}
        self.folder.mkdir(exist_ok=True)
        place = self.folder / str(len(list(self.folder.iterdir())))
        with self.patch.context() as patch, warnings.catch_warnings(action="ignore"):
            return seen(patch, place, self.federation, rows, **self.options)

    def differing(self, world):
        return differing(self.one, self.again, self.run(world))


@pytest.mark.parametrize("mode", MODES)
def test_worlds_that_differ_in_rows_of_one_hospital_look_alike(monkeypatch, tmp_path, mode):
    compare = Compare(monkeypatch, tmp_path / "runs", mode)
    assert len(compare.one) > 300
    worlds = list(WORLDS.values()) if mode in ("default", "shared noise") else [WORLDS["unusable"], WORLDS["more"]]
    for world in [*worlds, huge_patient] if compare.patients else worlds:
        assert compare.differing(world) == [], world.__name__


def test_hospitals_do_couple_there(monkeypatch, tmp_path):
    """Otherwise much of what is compared would be what nobody sent."""
    compare = Compare(monkeypatch, tmp_path / "runs", "default")
    assert all(compare.one[f"{name}.coupled_rounds"] != "0" for name in NAMES)
    assert compare.one[f"{WHO}.sat_out.count"] == 0


# Broken builds, each found. What is planted is in the hospital whose rows differ, in every world.


class SitsOut(LocalTraining):
    """Training that fails ends the hospital's round."""

    def train(self, round_, state):
        return self._trained(round_, state, self.training.dataset)


class Padding(Sender):
    """A message has a byte for each unit that cannot be used."""

    unusable = 0

    def personal(self, round_, sent):
        made = super().personal(round_, sent)
        return None if made is None else dataclasses.replace(made, data=made.data + bytes(self.unusable))


def sits_out(client):
    return {"training": _as(SitsOut, client._parts.training)}


def counts_its_rows(client):
    """The noise, and what is known of it, are those of the rows that are there."""
    training = client._parts.training
    found, steps = training.training.found, client.federation.training.steps
    return {
        "training": dataclasses.replace(training, units=found, settings=dp_settings(client.federation, found, steps))
    }


def sends_more(client):
    padding = _as(Padding, client._parts.sender)
    object.__setattr__(padding, "unusable", sum(one.units for one in client.scan.unusable))
    return {"sender": padding}


def _as(kind, part):
    return kind(**{field.name: getattr(part, field.name) for field in dataclasses.fields(part)})


@pytest.mark.parametrize(
    ("plant", "world", "told"),
    [
        (sits_out, "failing", "raised"),
        (counts_its_rows, "more", "state"),
        (counts_its_rows, "fewer", "state"),
        (sends_more, "unusable", "refused"),
    ],
)
def test_a_build_in_which_rows_tell_is_found(monkeypatch, tmp_path, plant, world, told):
    def planted(client):
        contributor = dataclasses.replace(client._parts.contributor, **plant(client))
        client._parts = dataclasses.replace(client._parts, contributor=contributor)

    compare = Compare(monkeypatch, tmp_path / "runs", "default", planted=planted)
    found = compare.differing(WORLDS[world])
    assert any(told in path for path in found), found


def asked(monkeypatch, folder, world):
    """What a suggestion shows, with its noised scores replaced by data-free ones: each is taken, and not used."""
    score = Trial.score

    def instead(trial, part, noise, sampling):
        score(trial, part, noise, sampling)
        return 0.3 * len(part.names)

    monkeypatch.setattr(Trial, "score", instead)
    monkeypatch.setattr(suggestion, "candidate_count", lambda _: 3)
    monkeypatch.setenv("SECUREPFL_LEDGERS", str(folder))
    federation = bound(model={"kind": "own"}).changed("privacy", budget=9.0)
    rows = world(UNITS)
    with warnings.catch_warnings(action="ignore"):
        found = suggest_partition(
            federation, WHO, Picky, rows, IDENTITY, ledgers=folder, epsilon=1.0, simulation=Simulation(KEY)
        )
    (ledger,) = folder.rglob("*.jsonl")
    return repr(found), [sorted(json.loads(line)) for line in ledger.read_text().splitlines()]


@pytest.mark.parametrize("world", [world for world in WORLDS if world not in ("gone", "failing")])
def test_a_suggestion_tells_by_its_noised_scores_alone(monkeypatch, tmp_path, world):
    one = asked(monkeypatch, tmp_path / "one", plain)
    assert asked(monkeypatch, tmp_path / "other", WORLDS[world]) == one
