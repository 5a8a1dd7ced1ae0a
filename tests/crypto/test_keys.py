"""The federation's key: sealed to one hospital, signed by the steward, silent about itself."""

import numpy as np
import pytest

from securepfl.crypto import seal
from securepfl.crypto.aggregation import Aggregate, PlainCipher
from securepfl.crypto.keys import FederationKey, Identity
from securepfl.crypto.parameters import SETS, SIMILARITY, choose_layout
from securepfl.crypto.similarity import PlainSimilarity, SealMultiplier
from securepfl.crypto.versions import make_stamp
from securepfl.errors import MessageError

STEWARD, HOSPITAL, STRANGER = (Identity.generate(name) for name in ("steward", "hospital", "stranger"))
DIGEST = b"d" * 32
KEY = FederationKey.generate([SETS[0], SIMILARITY], epoch=7)
SEALED = KEY.seal_for(HOSPITAL.public, STEWARD, DIGEST)


def test_a_sealed_key_opens_to_the_same_key():
    opened = FederationKey.open(SEALED, HOSPITAL, STEWARD.public, DIGEST)
    assert opened == KEY
    assert opened.commitment == KEY.commitment
    assert opened.epoch == 7
    layout = choose_layout(20, 8, 3)
    slots = np.arange(layout.slots, dtype=np.uint64)
    aggregate = Aggregate(layout, "bfv", seal.stamp())
    aggregate.add(KEY.sum_cipher(layout).encrypt(slots, layout))
    assert (opened.sum_cipher(layout).decrypt(aggregate.answer(), layout) == slots).all()
    upload = KEY.similarity_cipher().encrypt_sketch(np.array([3, -4]))
    answer = SealMultiplier(KEY.public_key).product(upload, upload)
    assert opened.similarity_cipher().decrypt_product(answer) == 25


def test_only_the_right_recipient_steward_and_federation_open_it():
    for recipient, steward, digest in [
        (STRANGER, STEWARD, DIGEST),
        (HOSPITAL, STRANGER, DIGEST),
        (HOSPITAL, STEWARD, b"e" * 32),
    ]:
        with pytest.raises(MessageError):
            FederationKey.open(SEALED, recipient, steward.public, digest)


@pytest.mark.parametrize("position", [0, 1100, 1200, 4600, -1])
def test_an_altered_or_truncated_key_is_refused(position):
    altered = bytearray(SEALED)
    altered[position] ^= 1
    for bad in (bytes(altered), SEALED[:position]):
        with pytest.raises(MessageError):
            FederationKey.open(bad, HOSPITAL, STEWARD.public, DIGEST)


def test_a_key_made_by_another_seal_is_refused_naming_both(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(seal, "stamp", lambda: make_stamp((3, 6), (0, 3, 4)))
        old = KEY.seal_for(HOSPITAL.public, STEWARD, DIGEST)
    with pytest.raises(MessageError, match=r"SEAL 3\.6, TenSEAL 0\.3\.4.*SEAL 4\."):
        FederationKey.open(old, HOSPITAL, STEWARD.public, DIGEST)


def test_a_root_key_fixes_the_derived_keys_and_never_the_he_secrets():
    one, two = (FederationKey.generate([SETS[0]], root_key=b"r" * 32) for _ in range(2))
    assert (one.tag_key, one.support_key) == (two.tag_key, two.support_key)
    assert one.tag_key != one.support_key
    assert one.he_keys["small"] != two.he_keys["small"]
    assert FederationKey.generate([]).tag_key != FederationKey.generate([]).tag_key
    assert one.tag_key != FederationKey.generate([], root_key=b"r" * 32, epoch=1).tag_key


def test_without_he_keys_the_ciphers_are_the_plain_ones():
    plain = FederationKey.generate([])
    assert isinstance(plain.sum_cipher(choose_layout(3, 4, 3)), PlainCipher)
    assert isinstance(plain.similarity_cipher(), PlainSimilarity)
    assert (
        FederationKey.open(plain.seal_for(HOSPITAL.public, STEWARD, DIGEST), HOSPITAL, STEWARD.public, DIGEST) == plain
    )


def test_a_missing_key_is_refused_rather_than_sent_in_clear():
    with pytest.raises(ValueError, match="'similarity'"):
        FederationKey.generate([SETS[0]]).similarity_cipher()
    with pytest.raises(ValueError, match="no key for parameter set"):
        FederationKey.generate([SIMILARITY]).sum_cipher(choose_layout(3, 4, 3))


def test_no_repr_shows_a_secret():
    shown = repr(KEY) + repr(HOSPITAL)
    for secret in (KEY.tag_key, KEY.support_key, *KEY.he_keys.values()):
        assert secret.hex()[:16] not in shown
        assert repr(secret)[2:12] not in shown
    assert repr(HOSPITAL) == "Identity('hospital')"
