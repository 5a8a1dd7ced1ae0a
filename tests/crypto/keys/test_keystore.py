"""Secrets at rest: nothing opens without the passphrase, and no file makes scrypt run beyond its bounds."""

import dataclasses
import secrets

import msgspec
import pytest

from securepfl.crypto.keys import keystore
from securepfl.crypto.keys.holdings import Epoch, Holdings, StoredHoldings
from securepfl.crypto.keys.keys import FederationKey, Identity
from securepfl.crypto.keys.keystore import StoreKey, passphrase_bytes
from securepfl.crypto.keys.secret import Secret
from securepfl.errors import ConfigError, StorageError

PASSPHRASE = passphrase_bytes("correct horse battery")
ALDER, BIRCH, CEDAR, SERVER = map(Identity.generate, ("alder", "birch", "cedar", "server"))
HOSPITALS = {identity.name: identity.public for identity in (ALDER, BIRCH, CEDAR)}


@pytest.fixture(scope="module")
def cheap():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keystore, "LOG_N", 14)
        yield StoreKey.create(PASSPHRASE)


def epoch_of(number, pairs=(), encrypted=False):
    key = FederationKey.generate(encrypted=encrypted, epoch=number)
    held = {name: secrets.token_bytes(32) for name in pairs}
    digest, before = bytes((number,)) * 32, bytes((number - 1,)) * 32 if number else b""
    return Epoch(number, digest, before, "alder", SERVER.public, HOSPITALS, key.commitment, key, held)


def test_what_was_sealed_at_full_cost_opens_again():
    key = StoreKey.create(PASSPHRASE)
    data = key.seal(b"plaintext")
    assert data[5:8] == bytes((17, 8, 1))
    assert b"plaintext" not in data
    assert StoreKey.of(data, PASSPHRASE).open(data) == b"plaintext"


def test_salts_are_fresh_for_a_file_and_nonces_for_a_writing(cheap):
    one, two = cheap.seal(b"x"), cheap.seal(b"x")
    assert one[8:24] == two[8:24]
    assert one[24:36] != two[24:36]
    assert one[36:] != two[36:]


def test_a_wrong_passphrase_or_altered_bytes_do_not_open(cheap):
    data = cheap.seal(b"plaintext")
    with pytest.raises(StorageError, match="wrong passphrase"):
        StoreKey.of(data, passphrase_bytes("another passphrase")).open(data)
    for position in (8, 24, 36, -1):
        altered = bytearray(data)
        altered[position] ^= 1
        with pytest.raises(StorageError, match="wrong passphrase, or the file was altered"):
            StoreKey.of(bytes(altered), PASSPHRASE).open(bytes(altered))
    cut = data[:-1]
    with pytest.raises(StorageError):
        cheap.open(cut)


@pytest.mark.parametrize(("position", "value"), [(0, 0), (4, 2), (5, 13), (5, 21), (5, 255), (6, 9), (6, 255), (7, 2)])
def test_a_header_out_of_bounds_is_refused_before_scrypt_runs(cheap, monkeypatch, position, value):
    def fail(**_):
        raise AssertionError("scrypt ran")

    monkeypatch.setattr(keystore, "Scrypt", fail)
    altered = bytearray(cheap.seal(b"plaintext"))
    altered[position] = value
    for data in (bytes(altered), bytes(altered[:40]), b""):
        with pytest.raises(StorageError):
            StoreKey.of(data, PASSPHRASE)


def test_the_cost_in_the_header_is_authenticated(cheap):
    altered = bytearray(cheap.seal(b"plaintext"))
    altered[5] = 15
    with pytest.raises(StorageError):
        cheap.open(bytes(altered))


def test_a_short_passphrase_is_refused_for_a_new_file_and_not_shown():
    with pytest.raises(ConfigError, match="12 characters") as caught:
        StoreKey.create(passphrase_bytes("elevenchars"))
    assert "elevenchars" not in str(caught.value)
    # Characters, not bytes.
    with pytest.raises(ConfigError):
        StoreKey.create(passphrase_bytes("ü" * 11))


def test_a_passphrase_is_the_same_however_its_letters_are_composed():
    assert passphrase_bytes("scho\u0308n") == passphrase_bytes("sch\u00f6n")


def test_a_passphrase_that_is_no_text_is_refused_and_not_shown():
    with pytest.raises(ConfigError) as caught:
        passphrase_bytes("hidden\udcff")
    assert "hidden" not in repr(caught.value) + repr(caught.value.__context__)


def test_holdings_read_back_whole():
    held = Holdings(ALDER, False, (epoch_of(0, ["alder"]), epoch_of(1, ["alder", "birch"], encrypted=True)), ("gone",))
    again = Holdings.from_bytes(held.to_bytes())
    assert again.identity.public == ALDER.public
    assert dataclasses.replace(again, identity=ALDER) == held
    server = Holdings(SERVER, True, (dataclasses.replace(epoch_of(0), key=None),))
    assert dataclasses.replace(Holdings.from_bytes(server.to_bytes()), identity=SERVER) == server


def test_malformed_holdings_are_refused():
    data = Holdings(ALDER, False, (epoch_of(0, ["alder"]),)).to_bytes()
    for bad in (b"", data[:-1], b"\x80", data.replace(b"\xa6schema\x01", b"\xa6schema\x02")):
        with pytest.raises(StorageError):
            Holdings.from_bytes(bad)


def test_the_epoch_before_is_kept_and_older_ones_are_not():
    held = Holdings(ALDER, False)
    for number in range(4):
        held = held.with_epoch(epoch_of(number))
    assert [epoch.number for epoch in held.epochs] == [2, 3]
    assert held.keyring().federation_key.epoch == 3
    assert held.keyring(2).federation_key.epoch == 2
    with pytest.raises(StorageError, match="epoch 1 is not held"):
        held.keyring(1)
    with pytest.raises(ValueError, match="older"):
        held.with_epoch(epoch_of(2))


def test_a_held_pair_secret_never_changes():
    epoch = epoch_of(0, ["birch"])
    with pytest.raises(ValueError, match="never changes"):
        epoch.with_pairs({"birch": bytes(32)})
    assert set(epoch.with_pairs({"cedar": bytes(32)}).pair_secrets) == {"birch", "cedar"}


def test_who_is_not_enrolled_has_no_keyring_and_a_coordinator_never():
    with pytest.raises(StorageError, match="not enrolled"):
        Holdings(ALDER, False).keyring()
    with pytest.raises(StorageError, match="coordinator"):
        Holdings(SERVER, True, (dataclasses.replace(epoch_of(0), key=None),)).keyring()


def test_no_repr_shows_a_secret():
    epoch = epoch_of(0, ["birch"])
    held = Holdings(ALDER, False, (epoch,))
    key = StoreKey(14, bytes(16), Secret(b"k" * 32))
    stored = msgspec.msgpack.decode(held.to_bytes(), type=StoredHoldings)
    shown = f"{held!r} {epoch!r} {key!r} {held.to_bytes()!r} {stored!r} {PASSPHRASE!r} {epoch.pair_secrets!r}"
    for secret in (epoch.key.root_key, epoch.pair_secrets["birch"], ALDER.to_private_bytes(), b"k" * 32, PASSPHRASE):
        assert repr(bytes(secret))[2:12] not in shown
        assert bytes(secret).hex()[:12] not in shown
