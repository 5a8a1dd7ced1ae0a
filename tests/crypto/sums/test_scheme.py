"""A scheme is one file: found by its name, and used by settings and both parties without a word elsewhere."""

import numpy as np
import pytest
from parties import close_all, exchange, federation_of, parties

from securepfl.crypto.sums import schemes
from securepfl.crypto.sums.parameters import choose_layout
from securepfl.crypto.sums.scheme import find_scheme, scheme_names
from securepfl.errors import ConfigError

FILE = '''
"""Slots under a mask that all know: no secret, but other bytes than in clear."""

import numpy as np

from securepfl.crypto.sums.schemes.none import PlainCipher
from securepfl.crypto.sums.summation import Aggregate
from securepfl.crypto.sums.wire import Wire

SEEN = []


class Shifted(PlainCipher):
    def encrypt(self, slots, layout):
        SEEN.append(layout)
        return super().encrypt((slots + np.uint64(1)) % np.uint64(layout.parameters.plain_modulus), layout)

    def decrypt(self, answer, layout):
        weights, _, sums = Wire.of_slots(layout).read_answer(answer)
        t = layout.parameters.plain_modulus
        return (sums + np.uint64(t - sum(weights) % t)) % np.uint64(t)


class Toy:
    encrypted, similarity = False, "plain"

    def wire(self, layout):
        return Wire.of_slots(layout)

    def cipher(self, ring_key, layout):
        return Shifted()

    def total(self, layout):
        return Aggregate(self.wire(layout))


SCHEME = Toy()
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """One more file in the folder of schemes."""
    (tmp_path / "toy.py").write_text(FILE)
    monkeypatch.setattr(schemes, "__path__", [*schemes.__path__, str(tmp_path)])
    scheme_names.cache_clear()
    yield find_scheme("toy")
    scheme_names.cache_clear()


def test_the_file_is_found_by_its_name_and_gone_without_it(toy):
    assert set(scheme_names()) >= {"bfv", "none", "toy"}
    layout = choose_layout(30, 8, 3)
    slots = np.arange(layout.slots, dtype=np.uint64)
    total, cipher = toy.total(layout), toy.cipher(b"", layout)
    for _ in range(3):
        total.add(cipher.encrypt(slots, layout))
    assert (cipher.decrypt(total.answer(), layout) == slots * np.uint64(3)).all()


def test_settings_know_the_schemes_that_are_there():
    known = " and ".join(scheme_names())
    with pytest.raises(ConfigError, match=rf"scheme = 'toy': known are {known}"):
        federation_of(encryption={"scheme": "toy"})


def parts_of(client):
    """What two rounds made of the shared and the personal parameters."""
    held = client.state
    return held.shared.tobytes(), held.personal.tobytes()


def test_a_round_runs_under_it_to_the_same_state(toy, tmp_path):
    states = {}
    for name in ("none", "toy"):
        federation = federation_of(rounds=2, encryption={"scheme": name})
        coordinator, clients = parties(federation, tmp_path / name, root_key=b"r" * 32, noise_key=b"n" * 32)
        for _ in range(2):
            exchange(coordinator, clients)
        states[name] = {client: parts_of(clients[client]) for client in clients}
        close_all(clients)
    assert states["toy"] == states["none"]
    assert len(set(states["toy"].values())) == len(states["toy"]) > 2
