"""A scheme is one file: found by its name, and used by settings and both parties without a word elsewhere."""

import numpy as np
import pytest
from parties import close_all, exchange, federation_of, parties

from securepfl.crypto.sums import schemes
from securepfl.crypto.sums.parameters import choose_layout
from securepfl.crypto.sums.ring import generate_ring_key
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
    encrypted, similarity, unmasked, needs_masks = False, "plain", "toy", ""

    def wire(self, layout):
        return Wire.of_slots(layout)

    def check_key(self, ring_key):
        assert not ring_key

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
    assert set(scheme_names()) >= {"lean", "none", "tenseal", "toy"}
    layout = choose_layout(30, 8, 3)
    slots = np.arange(layout.slots, dtype=np.uint64)
    total, cipher = toy.total(layout), toy.cipher(b"", layout)
    for _ in range(3):
        total.add(cipher.encrypt(slots, layout))
    assert (cipher.decrypt(total.answer(), layout) == slots * np.uint64(3)).all()


def test_settings_know_the_schemes_that_are_there():
    with pytest.raises(ConfigError, match="scheme = 'toy': known are lean, none and tenseal"):
        federation_of(encryption={"scheme": "toy"})


def test_an_old_name_is_refused_with_the_new_ones():
    with pytest.raises(ConfigError, match=r"scheme = 'bfv': it is called lean now.*tenseal") as caught:
        federation_of(encryption={"scheme": "bfv"})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", scheme_names())
def test_a_scheme_that_needs_masks_is_refused_without_and_carries_no_sum_without(name):
    scheme, masked = find_scheme(name), {"encryption": {"scheme": name, "masking": "pairwise"}}
    assert not find_scheme(scheme.unmasked).needs_masks
    assert find_scheme(scheme.unmasked).encrypted == scheme.encrypted
    beside = {"similarity": {"every": 1, "beside_masks": True}}
    federation = federation_of(**masked, **beside)
    assert federation.scheme_of("update") is scheme
    assert federation.scheme_of("personal") is find_scheme(scheme.unmasked)
    if not scheme.needs_masks:
        unmasked = federation_of(encryption={"scheme": name})
        assert unmasked.scheme_of("update") is unmasked.scheme_of("personal") is scheme is find_scheme(scheme.unmasked)
        return
    with pytest.raises(ConfigError, match=r'scheme = "lean" needs masking = "pairwise": .*seed.*low bits') as caught:
        federation_of(encryption={"scheme": name})
    assert "\n" not in str(caught.value)


def test_a_key_of_the_other_kind_is_refused_in_a_line():
    layout, key = choose_layout(30, 8, 3), generate_ring_key()
    for name in scheme_names():
        scheme = find_scheme(name)
        wrong = b"" if scheme.encrypted else key
        for refused in (scheme.check_key, lambda bad, scheme=scheme: scheme.cipher(bad, layout)):
            with pytest.raises(ConfigError, match="ask the steward") as caught:
                refused(wrong)
            assert "\n" not in str(caught.value)


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
