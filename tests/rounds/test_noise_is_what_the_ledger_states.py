"""The noise that real clients draw, read from what they trained, has the size that their ledger's lines state: from the
ledger file, with the learning rate of the settings whose digest it names, and nothing else."""

import json
from functools import partial

import msgspec
import numpy as np
import pytest
from parties import NAMES, Carried, close_all, parties

from securepfl.privacy.training.dpsgd import DPSettings
from securepfl.protocol.rounds import drive
from securepfl.settings.federation import Federation
from securepfl.tasks.models import build_model

RATE = 0.002
WIDE = partial(build_model, "mlp", 6, hidden=200)
"""The first layer's weights are personal: 1,200 numbers, which take the noise as it is drawn."""


def drawn_over_stated(folder):
    """Of each hospital, the deviation of its personal parameters' noise in a round over what its ledger states."""
    tables = {
        "rounds": 3,
        "model": {"hidden": 200, "personal": ["body.weight"]},
        "privacy": {"epsilon": 0.05, "clip": 0.8, "budget": 1.0},
        "training": {"learning_rate": RATE},
        "encryption": {"scheme": "none"},
    }
    federation = Federation.from_mapping(tables).bound(NAMES, WIDE, units=40)
    coordinator, clients = parties(federation, folder, model=WIDE)
    before = {name: client.state.personal for name, client in clients.items()}
    assert drive(coordinator, Carried(clients)) == ()
    found = {}
    for name, client in clients.items():
        drawn = np.std(client.state.personal - before[name])
        found[name] = drawn / stated_deviation(client.ledger.path, federation)
    close_all(clients)
    return found


def stated_deviation(path, federation):
    """Of the noise of one round on each parameter, by the ledger's lines."""
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    facts = next(line["facts"] for line in lines if line["kind"] == "declared-session")
    assert facts["settings"] == federation.digest.hex()
    (reserved,) = [line["release"] for line in lines if line["kind"] == "reservation"]
    of_a_step = reserved["noise_multiplier"] * facts["clip"] / (reserved["sample_rate"] * facts["units"])
    return RATE * of_a_step * np.sqrt(reserved["steps"])


def test_the_noise_that_is_drawn_is_what_the_ledger_states(tmp_path):
    """1,200 numbers: their deviation is known to 2 %, one standard deviation. Seven of them are allowed."""
    for name, ratio in drawn_over_stated(tmp_path).items():
        assert ratio == pytest.approx(1, abs=0.15), name


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_a_ledger_that_states_other_noise_than_was_drawn_is_seen(tmp_path, monkeypatch, factor):
    release = DPSettings.release

    def otherwise(self, *arguments):
        stated = release(self, *arguments)
        return msgspec.structs.replace(stated, noise_multiplier=factor * stated.noise_multiplier)

    monkeypatch.setattr(DPSettings, "release", otherwise)
    for name, ratio in drawn_over_stated(tmp_path).items():
        assert ratio == pytest.approx(1 / factor, rel=0.15), name
