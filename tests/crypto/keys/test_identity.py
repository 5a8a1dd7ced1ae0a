"""Identities: both signatures, strict bytes, fingerprints."""

import dataclasses
import re

import pytest

from securepfl.crypto.keys.identity import SIGNATURE_BYTES, Identity, PublicIdentity, fingerprint_bytes
from securepfl.errors import MessageError

ALICE, BOB = Identity.generate("alice"), Identity.generate("bob")


def test_public_identities_survive_bytes_and_have_fingerprints_for_the_phone():
    again = PublicIdentity.from_bytes(ALICE.public.to_bytes())
    assert again == ALICE.public
    assert re.fullmatch(r"([A-Z2-7]{4}-){7}[A-Z2-7]{4}", again.fingerprint)
    assert len(fingerprint_bytes(again.fingerprint)) == 20
    renamed = dataclasses.replace(ALICE.public, name="mallory")
    assert len({again.fingerprint, BOB.public.fingerprint, renamed.fingerprint}) == 3


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b + b"\0", lambda b: b"", lambda b: b"\0" + b[6:]])
def test_public_identities_of_a_wrong_length_are_refused(change):
    with pytest.raises(MessageError):
        PublicIdentity.from_bytes(change(ALICE.public.to_bytes()))


def test_invalid_names_and_keys_are_refused():
    data = ALICE.public.to_bytes()
    for bad in (data[:1] + b"\xff" * 5 + data[6:], data[:1990] + b"\xff" * 1184 + data[3174:]):
        with pytest.raises(MessageError):
            PublicIdentity.from_bytes(bad)
    for name in ("", "x" * 256):
        with pytest.raises(ValueError, match="name"):
            Identity.generate(name)


def test_both_signatures_must_verify():
    signature, other = ALICE.sign(b"data", b"use"), BOB.sign(b"data", b"use")
    assert len(signature) == SIGNATURE_BYTES
    ALICE.public.verify(signature, b"data", b"use")
    for bad in (other[:64] + signature[64:], signature[:64] + other[64:], signature[:-1], b""):
        with pytest.raises(MessageError):
            ALICE.public.verify(bad, b"data", b"use")


@pytest.mark.parametrize(("data", "context"), [(b"datb", b"use"), (b"data", b"usf"), (b"edata", b"us")])
def test_a_signature_binds_data_and_context(data, context):
    with pytest.raises(MessageError):
        ALICE.public.verify(ALICE.sign(b"data", b"use"), data, context)


def test_sealed_bytes_open_only_for_the_receiver_under_the_same_info():
    sealed = BOB.public.seal(b"secret", b"info")
    assert BOB.open(sealed, b"info") == b"secret"
    for who, data, info in [
        (ALICE, sealed, b"info"),
        (BOB, sealed, b"other"),
        (BOB, sealed[:-1], b"info"),
        (BOB, b"", b""),
    ]:
        with pytest.raises(MessageError):
            who.open(data, info)


def test_a_low_order_public_key_is_refused_in_one_line():
    unusable = dataclasses.replace(BOB.public, x25519=bytes(32))
    with pytest.raises(MessageError, match="'bob'") as caught:
        unusable.seal(b"secret", b"info")
    assert "\n" not in str(caught.value)
