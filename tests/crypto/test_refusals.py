"""Files and numbers that only a party with keys, a wrong build or a mistaken caller brings: refused in words."""

import dataclasses
import hashlib
import re
from datetime import UTC, datetime
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from securepfl.crypto.keys.card import IdentityCard
from securepfl.crypto.keys.certificates import (
    Approval,
    CertificateRequest,
    Holder,
    check_leaf,
    make_leaf,
    make_root,
    new_key,
    public_key_of,
)
from securepfl.crypto.keys.grant import Grant
from securepfl.crypto.keys.holdings import Epoch, Holdings, StoredHoldings
from securepfl.crypto.keys.identity import SIGNATURE_BYTES, PublicIdentity
from securepfl.crypto.keys.keys import FederationKey, Identity, key_commitment
from securepfl.crypto.keys.pair import open_pair, seal_pair
from securepfl.crypto.keys.place import EVERYONE, Kind, Place
from securepfl.crypto.keys.roster import Roster
from securepfl.crypto.keys.secret import Secret
from securepfl.crypto.masks.graph import Masking
from securepfl.crypto.masks.unmasking import disagreeing
from securepfl.crypto.messages.envelope import Header
from securepfl.crypto.messages.envelope import Kind as Message
from securepfl.crypto.similarity import parameters as similar
from securepfl.crypto.similarity.precision import FINE
from securepfl.crypto.similarity.scheme import Shape
from securepfl.crypto.similarity.sketches import sketch
from securepfl.crypto.sums import seal
from securepfl.crypto.sums.containers import SEED_BYTES, framed, read_seed, save
from securepfl.crypto.sums.contribution import prepare
from securepfl.crypto.sums.packing import dequantise_sum
from securepfl.crypto.sums.parameters import SETS, Layout, ParameterSet, choose_layout
from securepfl.crypto.sums.ring import pack_key
from securepfl.crypto.sums.scheme import find_scheme
from securepfl.crypto.sums.wire import Wire
from securepfl.crypto.sums.words import dot, pack_words, scale
from securepfl.errors import MessageError, StorageError

STEWARD, HOSPITAL, HUB = map(Identity.generate, ("alder", "birch", "hub"))
HOSPITALS = {identity.name: identity.public for identity in (STEWARD, HOSPITAL)}
ROSTER = Roster.of("alder", HUB.public, HOSPITALS.values())
DIGEST = b"d" * 32
KEY = FederationKey.generate(encrypted=False, epoch=7)
NOW = datetime.now(UTC)
ROOT_KEY, OWN_KEY = new_key(), new_key()
ROOT = make_root("hub", ROOT_KEY, NOW)
HOLDER = Holder("hospital", "birch", HOSPITAL.public.fingerprint)
LAYOUT = choose_layout(values=50, bits=10, clients=4)


def message(words):
    return pytest.raises(MessageError, match=words)


def value(words):
    return pytest.raises(ValueError, match=words)


def other_key():
    """(private, public) of a kind that is none for TLS here, in DER."""
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return Secret(private), key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_a_name_that_hides_what_it_is_makes_no_card():
    text = IdentityCard.make(Identity.generate("ald\u202eer"), coordinator=False).to_text()
    with message("characters that do not print"):
        IdentityCard.from_text(text.encode())


@pytest.mark.parametrize("fingerprint", ["AAAA", f"{HOLDER.fingerprint}:more"], ids=["short", "long"])
def test_a_certificate_that_names_no_party_is_none_of_ours(fingerprint):
    leaf = make_leaf(ROOT, ROOT_KEY, public_key_of(OWN_KEY), Holder("hospital", "birch", fingerprint), (), NOW)
    for certificate in (leaf, ROOT):
        with message("names no party"):
            Holder.of(x509.load_der_x509_certificate(certificate))


def test_certificates_are_for_keys_of_the_one_kind():
    private, public = other_key()
    with message("not a key for TLS; restore"):
        public_key_of(private)
    with message("not a key for TLS; run"):
        make_leaf(ROOT, ROOT_KEY, public, HOLDER, (), NOW)
    leaf = make_leaf(ROOT, ROOT_KEY, public_key_of(OWN_KEY), HOLDER, (), NOW)
    check_leaf(leaf, ROOT, OWN_KEY, HOLDER)
    with message("not for this party's key"):
        check_leaf(leaf, ROOT, new_key(), HOLDER)


def request_of(key, other=None):
    """A PKCS #10 request for `key`, which says that it is for `other`."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    data = builder.sign(key, digest).public_bytes(Encoding.DER)
    if other is not None:
        own, told = (k.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint) for k in (key, other))
        assert data.count(own) == 1
        data = data.replace(own, told)
    return data


def test_a_request_shows_that_its_sender_has_the_key():
    one, another = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    for pkcs10 in (b"none", request_of(ed25519.Ed25519PrivateKey.generate()), request_of(one, another)):
        data = CertificateRequest(1, pkcs10).to_bytes(HOSPITAL, HUB.public)
        with message("the request is malformed"):
            CertificateRequest.from_bytes(data, HOSPITAL.public, HUB.public)
    assert CertificateRequest(1, request_of(one)).public_key


def test_cut_requests_and_approvals_say_so():
    request = CertificateRequest.make(OWN_KEY, 1).to_bytes(HOSPITAL, HUB.public)
    approval = Approval(b"root", b"certificate").to_bytes(HUB, HOSPITAL.public)
    for size, words in ((SIGNATURE_BYTES, "length that it cannot have"), (SIGNATURE_BYTES + 3, "truncated")):
        with message(words):
            CertificateRequest.from_bytes(request[: 1 + size], HOSPITAL.public, HUB.public)
        with message(words):
            Approval.from_bytes(approval[: 1 + size], HUB.public, HOSPITAL.public)
    with message("truncated certificate"):
        Approval.from_bytes(approval[: -len(b"certificate")], HUB.public, HOSPITAL.public)
    with message("of another version"):
        Approval.from_bytes(b"\2" + approval[1:], HUB.public, HOSPITAL.public)


class OfAnotherEpoch(FederationKey):
    """A steward's key that states one epoch and travels as one of the next."""

    @property
    def commitment(self):
        return key_commitment(self.to_bytes())

    def to_bytes(self):
        return FederationKey(self.epoch + 1, self.root_key).to_bytes()


def test_a_grant_of_one_epoch_with_the_key_of_another_is_refused():
    forged = Grant(OfAnotherEpoch(7, KEY.root_key), ROSTER).seal_for(HOSPITAL.public, STEWARD, DIGEST)
    with message("key of epoch 8 in a grant of epoch 7"):
        Grant.open(forged, HOSPITAL, STEWARD.public, DIGEST)


def pair(secret, sender, receiver):
    """As seal_pair makes it, whoever makes it and however long it is."""
    head = Place(Kind.PAIR, 7, DIGEST, sender.public.fingerprint, receiver.fingerprint).to_bytes()
    signature = sender.sign(head + hashlib.sha256(secret).digest(), b"pair secret")
    return head + receiver.seal(Secret(signature + secret), info=head)


def test_a_pair_secret_comes_from_who_makes_it_and_is_whole():
    where = {"federation_digest": DIGEST, "epoch": 7}
    assert open_pair(pair(b"s" * 32, STEWARD, HOSPITAL.public), HOSPITAL, STEWARD.public, **where) == b"s" * 32
    with message("'alder' makes this pair's secret, not 'birch'"):
        open_pair(pair(b"s" * 32, HOSPITAL, STEWARD.public), STEWARD, HOSPITAL.public, **where)
    with message("pair secret of 31 bytes, not 32"):
        open_pair(pair(b"s" * 31, STEWARD, HOSPITAL.public), HOSPITAL, STEWARD.public, **where)
    for digest, epoch, words in ((b"short", 7, "32 bytes, not 5"), (DIGEST, 2**32, "epoch must be in")):
        with value(words):
            seal_pair(b"s" * 32, STEWARD, HOSPITAL.public, federation_digest=digest, epoch=epoch)


def epoch_of(**other):
    fields = {"number": 7, "federation_digest": DIGEST, "predecessor": b"", "steward": "alder"}
    fields |= {"coordinator": HUB.public, "hospitals": HOSPITALS, "commitment": KEY.commitment, "key": KEY}
    return Epoch(**fields | other)


def test_an_epoch_holds_together():
    assert epoch_of().key == KEY
    for other, words in [
        ({"steward": "hub"}, "steward must be a hospital"),
        ({"coordinator": STEWARD.public}, "coordinator none"),
        ({"number": 8}, "not the one of this epoch"),
        ({"commitment": bytes(32)}, "not the one of this epoch"),
    ]:
        with value(words):
            epoch_of(**other)
    with value("'alder' must not be a hospital"):
        Roster.of("alder", STEWARD.public, HOSPITALS.values())


def test_a_key_file_with_a_key_that_is_none_is_told_as_a_file():
    held = Holdings(HOSPITAL, is_coordinator=False).with_epoch(epoch_of())
    stored = msgspec.msgpack.decode(held.to_bytes(), type=StoredHoldings)
    wrong = msgspec.structs.replace(stored.epochs[0], key=stored.epochs[0].key[:-1])
    with pytest.raises(StorageError, match="federation key"):
        Holdings.from_bytes(msgspec.msgpack.encode(msgspec.structs.replace(stored, epochs=[wrong])))


def test_keys_of_a_length_or_an_epoch_that_cannot_be_are_none():
    public = HOSPITAL.public
    with value("public keys must have"):
        PublicIdentity("birch", public.ed25519, public.ml_dsa[:-1], public.ml_kem, public.x25519)
    with value("private keys must have"):
        Identity.from_private_bytes("birch", HOSPITAL.to_private_bytes()[:-1])
    for epoch in (-1, 2**32):
        with value(re.escape("epoch must be in [0, 2^32)")):
            FederationKey(epoch, bytes(32))
    with value("run must be 16 bytes, not 15"):
        Header(Message.INVITATION, DIGEST, bytes(15), 1, 0, EVERYONE, EVERYONE)


def test_who_commits_to_too_few_masks_is_named():
    whole, short = bytes(96), bytes(95)
    assert disagreeing(Masking(3, 2), b"", {0: whole, 1: short, 2: whole}) == [(1, 1)]


def test_numbers_of_a_comparison_that_cannot_be():
    with value("wrap modulo"):
        dataclasses.replace(FINE, largest=2**31)
    for clients, dimensions in ((0, 8), (3, 0)):
        with value("needs hospitals and dimensions"):
            Shape(clients, dimensions, FINE)
    for scaled in (0.0, 1.5):
        with value("scale must be in"):
            sketch(np.ones(8), 16, bytes(32), scale=scaled)


def test_the_ring_of_similarities_has_128_bits_by_seals_tables_against_quantum_computers_too():
    from tenseal import sealapi

    from securepfl.crypto.similarity.seal import PublicRing

    for table in (sealapi.util.seal_he_std_parms_128_tq, sealapi.util.seal_he_std_parms_128_tc):
        assert np.prod(similar.KEY_PRIMES, dtype=object).bit_length() <= table(similar.DEGREE)
    with value(f"SEAL refuses plain modulus {similar.PRIMES[0]}"):
        PublicRing(similar.PRIMES[0])


def test_a_seal_of_another_build_is_told():
    def saving(compression):
        def write(path):
            data = bytearray(framed((4, 1), b"body"))
            data[5] = compression
            with open(path, "wb") as file:  # noqa: PTH123 - as SEAL does
                file.write(data)

        return SimpleNamespace(save=write)

    assert save(saving(0)) == ((4, 1), b"body")
    with pytest.raises(RuntimeError, match="compression 1; built differently"):
        save(saving(1))
    assert read_seed(b"\1" + bytes(SEED_BYTES)) == bytes(SEED_BYTES)
    with pytest.raises(RuntimeError, match="seed of another generator"):
        read_seed(b"\2" + bytes(SEED_BYTES))


def test_a_sum_of_nothing_or_of_more_than_it_was_made_for():
    wide = choose_layout(values=50, bits=10, clients=2, max_weight=3)
    scheme = find_scheme("none")
    slots = scheme.cipher(b"", wide).encrypt(prepare(np.zeros(50, dtype=np.uint64), wide, 0, bytes(32), b""), wide)
    total = scheme.total(wide)
    total.add(slots)
    total.add(slots)
    with value("contributions must be at most 2"):
        total.add(slots)
    for name in ("tenseal", "lean", "none"):
        with value("at least 1 to form a sum"):
            find_scheme(name).total(LAYOUT).answer()


def test_numbers_of_a_layout_that_cannot_be():
    for index in (-1, 4):
        with value(re.escape("client_index must be in [0, 4)")):
            prepare(np.zeros(50, dtype=np.uint64), LAYOUT, index, bytes(32), b"")
    for bits in (1, 25):
        for refused in (
            lambda bits=bits: dequantise_sum(np.zeros(2, dtype=np.uint64), 1, bits, 0.5),
            lambda bits=bits: Layout(SETS[0], 50, bits, 4, 4),
            lambda bits=bits: choose_layout(50, bits, 4),
        ):
            with value("bits"):
                refused()
    with value("weight must be at least 1"):
        dequantise_sum(np.zeros(2, dtype=np.uint64), 0, 4, 0.5)
    with value("plain_modulus 1025 leaves no margin"):
        ParameterSet("tight", 1024, 2 * 1025 - 1, 1025)
    unknown = dataclasses.replace(LAYOUT, parameters=dataclasses.replace(LAYOUT.parameters, name="mine"))
    for name in ("tenseal", "lean"):
        with value("no key for parameter set 'mine'"):
            find_scheme(name).cipher(seal.generate_secret_key(), unknown)


def test_words_and_wires_that_cannot_be():
    words = np.zeros(4096, dtype=np.uint64)
    for wrong in (words[:-1], words + np.uint64(5)):
        with value("each -1, 0 or 1"):
            pack_key(wrong, 97)
    for bits in (0, 65):
        with value(re.escape("bits must be in [1, 64]")):
            pack_words(words, bits)
    for factor, modulus in ((-1, 97), (1, 2**63)):
        with value("at most 62 bits and factor"):
            scale(words, factor, modulus)
    with value("at most 50 bits, not 51"):
        dot(words, words, 2**50)
    for dropped, seeds in ((-1, 0), (40, 0), (0, -1)):
        with value("do not fit a word"):
            Wire(LAYOUT, 97, dropped, seed_bytes=seeds)
    with value("bytes or none, not 3"):
        Wire(LAYOUT, 97, stamp=b"SB0")
    for form in (Wire.with_seeds, Wire.with_halves):
        with value("stamp must have 8 bytes, not 0"):
            form(LAYOUT, b"")
