"""The federation's key: granted to one hospital, signed by the steward, silent about itself. And the pairs' secrets."""

import dataclasses
import traceback

import numpy as np
import pytest

from securepfl.crypto.keys.card import MAX_CARD_BYTES, IdentityCard
from securepfl.crypto.keys.grant import Grant, Notice
from securepfl.crypto.keys.identity import SIGNATURE_BYTES
from securepfl.crypto.keys.keys import FederationKey, Identity, Keyring, key_commitment
from securepfl.crypto.keys.pair import PAIR_BYTES, open_pair, seal_pair
from securepfl.crypto.keys.place import HEADER_BYTES
from securepfl.crypto.keys.roster import Roster
from securepfl.crypto.keys.secret import Secret
from securepfl.crypto.sums import seal
from securepfl.crypto.sums.parameters import SETS, choose_layout
from securepfl.crypto.sums.scheme import find_scheme
from securepfl.crypto.sums.versions import make_stamp
from securepfl.errors import MessageError

STEWARD, HOSPITAL, THIRD, STRANGER, SERVER = map(Identity.generate, ("alder", "birch", "cedar", "stranger", "server"))
HOSPITALS = {identity.name: identity.public for identity in (STEWARD, HOSPITAL, THIRD)}
ROSTER = Roster.of("alder", SERVER.public, HOSPITALS.values())
DIGEST = b"d" * 32
KEY = FederationKey.generate(encrypted=True, epoch=7)
GRANT = Grant(KEY, ROSTER, predecessor=b"p" * 32)
SEALED = GRANT.seal_for(HOSPITAL.public, STEWARD, DIGEST)
WHERE = {"federation_digest": DIGEST, "epoch": 7}
PAIR = seal_pair(b"s" * 32, HOSPITAL, THIRD.public, **WHERE)


def test_a_grant_opens_to_the_same_key_roster_and_predecessor():
    opened = Grant.open(SEALED, HOSPITAL, STEWARD.public, DIGEST)
    assert opened == GRANT
    assert opened.key.commitment == KEY.commitment
    assert opened.key.epoch == 7
    assert opened.roster.hospitals == ("alder", "birch", "cedar")


def test_one_he_key_serves_every_parameter_set():
    opened = Grant.open(SEALED, HOSPITAL, STEWARD.public, DIGEST).key
    for parameters in SETS:
        layout = dataclasses.replace(choose_layout(20, 8, 3), parameters=parameters)
        slots = np.arange(layout.slots, dtype=np.uint64)
        tenseal = find_scheme("tenseal")
        aggregate = tenseal.total(layout)
        aggregate.add(tenseal.cipher(KEY.he_key, layout).encrypt(slots, layout))
        assert (tenseal.cipher(opened.he_key, layout).decrypt(aggregate.answer(), layout) == slots).all()


def test_only_the_right_recipient_steward_and_federation_open_it():
    for recipient, steward, digest in [
        (THIRD, STEWARD, DIGEST),
        (STRANGER, STEWARD, DIGEST),
        (HOSPITAL, STRANGER, DIGEST),
        (HOSPITAL, STEWARD, b"e" * 32),
        (HOSPITAL, STEWARD, lambda roster: b"e" * 32),
    ]:
        with pytest.raises(MessageError):
            Grant.open(SEALED, recipient, steward.public, digest)


def test_a_grant_for_other_settings_says_so():
    with pytest.raises(MessageError, match="other settings"):
        Grant.open(SEALED, HOSPITAL, STEWARD.public, b"e" * 32)


def test_the_digest_may_follow_from_the_signed_roster():
    seen = []
    Grant.open(SEALED, HOSPITAL, STEWARD.public, lambda roster: seen.append(roster) or DIGEST)
    assert seen == [ROSTER]


def test_an_older_epoch_than_the_one_held_is_refused():
    assert Grant.open(SEALED, HOSPITAL, STEWARD.public, DIGEST, oldest=7) == GRANT
    with pytest.raises(MessageError, match="epoch 7, but epoch 8 is already held"):
        Grant.open(SEALED, HOSPITAL, STEWARD.public, DIGEST, oldest=8)


@pytest.mark.parametrize("position", [0, 4, 5, 9, 20, 50, 70, 1100, 1300, 4600, -1])
def test_an_altered_or_truncated_grant_is_refused(position):
    altered = bytearray(SEALED)
    altered[position] ^= 1
    for bad in (bytes(altered), SEALED[:position], SEALED + b"\0"):
        with pytest.raises(MessageError):
            Grant.open(bad, HOSPITAL, STEWARD.public, DIGEST)


def test_nothing_is_parsed_before_the_signature_holds(monkeypatch):
    monkeypatch.setattr(Identity, "sign", lambda self, data, context: bytes(SIGNATURE_BYTES))
    forged = GRANT.seal_for(HOSPITAL.public, STEWARD, DIGEST)
    monkeypatch.undo()

    def fail(*_):
        raise AssertionError("parsed")

    monkeypatch.setattr(FederationKey, "from_bytes", fail)
    monkeypatch.setattr(Notice, "read", fail)
    with pytest.raises(MessageError, match="does not verify"):
        Grant.open(forged, HOSPITAL, STEWARD.public, DIGEST)


def test_a_key_under_a_signed_commitment_to_another_is_refused(monkeypatch):
    other = FederationKey.generate(encrypted=True, epoch=7)
    with monkeypatch.context() as patch:
        patch.setattr(FederationKey, "commitment", property(lambda self: other_commitment))
        other_commitment = key_commitment(other.to_bytes())
        forged = GRANT.seal_for(HOSPITAL.public, STEWARD, DIGEST)
    with pytest.raises(MessageError, match="does not match its commitment"):
        Grant.open(forged, HOSPITAL, STEWARD.public, DIGEST)


def test_a_key_made_by_another_seal_is_refused_naming_both(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(seal, "stamp", lambda: make_stamp((3, 6), (0, 3, 4)))
        old = GRANT.seal_for(HOSPITAL.public, STEWARD, DIGEST)
    with pytest.raises(MessageError, match=r"SEAL 3\.6, TenSEAL 0\.3\.4.*SEAL 4\."):
        Grant.open(old, HOSPITAL, STEWARD.public, DIGEST)


def test_a_grant_is_never_sealed_to_the_coordinator_or_a_stranger_or_by_another_than_the_steward():
    with pytest.raises(ValueError, match="never holds the federation key"):
        GRANT.seal_for(SERVER.public, STEWARD, DIGEST)
    with pytest.raises(ValueError, match="not in the roster"):
        GRANT.seal_for(STRANGER.public, STEWARD, DIGEST)
    with pytest.raises(ValueError, match="not the steward"):
        GRANT.seal_for(HOSPITAL.public, THIRD, DIGEST)


def test_the_public_roster_opens_for_everyone_and_holds_no_secret():
    notice = GRANT.notice(DIGEST)
    signed = notice.sign(STEWARD)
    assert Notice.open(signed, STEWARD.public, DIGEST, oldest=7) == notice
    assert KEY.root_key not in signed and KEY.he_key[:16] not in signed
    altered = bytearray(signed)
    altered[-3] ^= 1
    for bad, steward, digest, oldest in [
        (bytes(altered), STEWARD, DIGEST, 0),
        (signed[:200], STEWARD, DIGEST, 0),
        (signed, STRANGER, DIGEST, 0),
        (signed, STEWARD, b"e" * 32, 0),
        (signed, STEWARD, DIGEST, 8),
        (SEALED, STEWARD, DIGEST, 0),
    ]:
        with pytest.raises(MessageError):
            Notice.open(bad, steward.public, digest, oldest=oldest)


def test_a_card_reads_back_and_nobody_changes_its_role_or_its_readable_lines():
    for coordinator in (False, True):
        card = IdentityCard.make(HOSPITAL, coordinator=coordinator)
        text = card.to_text()
        assert IdentityCard.from_text(text.encode()) == card
        assert IdentityCard.from_text(text.replace("\n", "\r\n").encode()) == card
        assert HOSPITAL.public.fingerprint in text
    other = dataclasses.replace(card, coordinator=False)
    for bad in (
        other.to_text(),
        text.replace(HOSPITAL.public.fingerprint, STRANGER.public.fingerprint),
        text.replace("name: birch", "name: cedar"),
        text[:500],
        text[:-40],
        "",
        "-----BEGIN-----",
        text + "x" * MAX_CARD_BYTES,
    ):
        with pytest.raises(MessageError):
            IdentityCard.from_text(bad.encode())
    with pytest.raises(MessageError):
        IdentityCard.from_text(b"\xff\xfe")


def test_a_pairs_secret_opens_for_the_other_hospital_alone():
    assert len(PAIR) == PAIR_BYTES
    assert open_pair(PAIR, THIRD, HOSPITAL.public, **WHERE) == b"s" * 32
    for identity in (STEWARD, HOSPITAL, STRANGER, SERVER):
        with pytest.raises(MessageError):
            open_pair(PAIR, identity, HOSPITAL.public, **WHERE)
        # Nor by anybody who skips the checks and tries the bare sealing.
        with pytest.raises(MessageError):
            identity.open(PAIR[HEADER_BYTES:], info=PAIR[:HEADER_BYTES])


def test_a_pairs_secret_is_bound_to_maker_federation_and_epoch():
    for sender, digest, epoch in [(STEWARD, DIGEST, 7), (HOSPITAL, b"e" * 32, 7), (HOSPITAL, DIGEST, 8)]:
        with pytest.raises(MessageError):
            open_pair(PAIR, THIRD, sender.public, federation_digest=digest, epoch=epoch)
    with pytest.raises(ValueError, match="does not make the pair"):
        seal_pair(b"s" * 32, THIRD, HOSPITAL.public, **WHERE)
    for position in (0, 6, 30, 60, 90, 1500, -1):
        altered = bytearray(PAIR)
        altered[position] ^= 1
        for bad in (bytes(altered), PAIR[:position]):
            with pytest.raises(MessageError):
                open_pair(bad, THIRD, HOSPITAL.public, **WHERE)


def test_a_root_key_fixes_the_derived_keys_and_never_the_he_secret():
    one, two = (FederationKey.generate(encrypted=True, root_key=b"r" * 32) for _ in range(2))
    names = ("tag_key", "support_key", "similarity_key", "snapshot_key")
    assert [getattr(one, name) for name in names] == [getattr(two, name) for name in names]
    assert len({getattr(one, name) for name in names}) == 4
    assert len({one.he_key, one.similarity_he_key, two.he_key, two.similarity_he_key}) == 4
    later = FederationKey.generate(encrypted=False, root_key=b"r" * 32, epoch=1)
    assert not {getattr(one, name) for name in names} & {getattr(later, name) for name in names}
    fresh = FederationKey.generate(encrypted=False)
    assert fresh.root_key != FederationKey.generate(encrypted=False).root_key


def test_a_key_without_an_he_key_reads_back_and_says_so():
    plain = FederationKey.generate(encrypted=False)
    assert not plain.encrypted and plain.he_key == plain.similarity_he_key == b""
    assert FederationKey.from_bytes(plain.to_bytes()) == plain


def test_keys_of_a_wrong_length_are_refused():
    with pytest.raises(ValueError, match="root_key"):
        FederationKey(0, b"short")
    for rings in ((b"short", b"short"), (KEY.he_key, b""), (b"", KEY.he_key), (KEY.he_key, KEY.he_key + b"\0")):
        with pytest.raises(ValueError, match="he_key"):
            FederationKey(0, bytes(32), *rings)
    for bad in (KEY.to_bytes()[:-1], KEY.to_bytes() + b"\0", KEY.to_bytes()[:10], b""):
        with pytest.raises(MessageError):
            FederationKey.from_bytes(bad)


def test_a_keyring_holds_together():
    keyring = Keyring(HOSPITAL, KEY, SERVER.public, HOSPITALS, {"birch": bytes(32), "cedar": b"s" * 32})
    assert keyring.roster == ("alder", "birch", "cedar")
    assert keyring.missing_pairs == ("alder",)
    for changes in (
        {"identity": STRANGER},
        {"coordinator": STEWARD.public},
        {"hospitals": {"birch": HOSPITAL.public, "alder": THIRD.public}},
        {"pair_secrets": {"stranger": bytes(32)}},
        {"pair_secrets": {"cedar": b"short"}},
    ):
        with pytest.raises(ValueError):
            dataclasses.replace(keyring, **changes)


def test_private_keys_read_back_as_the_same_identity():
    again = Identity.from_private_bytes("birch", HOSPITAL.to_private_bytes())
    assert again.public == HOSPITAL.public
    assert Grant.open(SEALED, again, STEWARD.public, DIGEST) == GRANT
    HOSPITAL.public.verify(again.sign(b"data", b"test"), b"data", b"test")


def test_no_repr_shows_a_secret():
    keyring = Keyring(HOSPITAL, KEY, SERVER.public, HOSPITALS, {"cedar": b"\x07secret pair secret of cedar!!!!"[:32]})
    things = (
        KEY,
        GRANT,
        keyring,
        HOSPITAL,
        keyring.pair_secrets,
        KEY.to_bytes(),
        HOSPITAL.to_private_bytes(),
        KEY.tag_key,
    )
    shown = "".join(f"{thing!r} {thing!s} {thing}" for thing in things)
    rings = (KEY.he_key, KEY.similarity_he_key)
    secrets = (KEY.root_key, *rings, KEY.tag_key, HOSPITAL.to_private_bytes(), *keyring.pair_secrets.values())
    for secret in secrets:
        plain = bytes(secret)
        assert plain.hex()[:16] not in shown
        assert repr(plain)[2:12] not in shown
    assert repr(HOSPITAL) == "Identity('birch')"


def test_a_secret_is_bytes_that_do_not_show():
    secret = Secret(b"abcdef")
    assert secret == b"abcdef" and hash(secret) == hash(b"abcdef") and secret[0] == 97
    assert f"{secret} {secret!r} {secret[1:3]!r} {[secret]}".count("abc") == 0
    assert isinstance(secret[1:3], Secret) and secret[1:3] == b"bc"
    try:
        raise ValueError("x")
    except ValueError as error:
        assert "Secret(6 bytes)" in "".join(
            traceback.TracebackException.from_exception(error, capture_locals=True).format()
        )
