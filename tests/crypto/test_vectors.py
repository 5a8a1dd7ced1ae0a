"""Known answers: securepfl makes the bytes that the independent implementation made, and it makes them again.

Where securepfl draws from the OS, the tests hand it what the vectors say was drawn.
"""

import base64
import hashlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from vectors import ints, reals, vectors, words

from securepfl.client.comparing import Comparison
from securepfl.crypto.keys import keystore
from securepfl.crypto.keys.card import IdentityCard
from securepfl.crypto.keys.grant import Grant, Notice
from securepfl.crypto.keys.holdings import Holdings
from securepfl.crypto.keys.identity import Identity, PublicIdentity
from securepfl.crypto.keys.keys import FederationKey
from securepfl.crypto.keys.keystore import StoreKey, passphrase_bytes
from securepfl.crypto.keys.pair import open_pair
from securepfl.crypto.keys.signing import LedgerSigner, ledger_verifier
from securepfl.crypto.masks import masking as masking_module
from securepfl.crypto.masks import shamir, shares
from securepfl.crypto.masks.agreement import SIGNATURE_CONTEXT, survivor_statement
from securepfl.crypto.masks.edges import add_masks, commitment, pair_mask_secret
from securepfl.crypto.masks.graph import Masking, default_degree, mask_graph, threshold
from securepfl.crypto.masks.masking import PairwiseMasker
from securepfl.crypto.masks.shamir import PRIME, combine, split
from securepfl.crypto.masks.unmasking import Unmasking
from securepfl.crypto.messages import content as content_module
from securepfl.crypto.messages.envelope import Header, Kind, open_message
from securepfl.crypto.similarity import sealed_norms
from securepfl.crypto.similarity.norms import encode_norm, travelled_norm
from securepfl.crypto.similarity.parameters import DEGREE, KEY_PRIMES, PRIMES
from securepfl.crypto.similarity.precision import COARSE, FINE
from securepfl.crypto.similarity.product_wire import EvaluationKeys, Fresh, Hidden, Lanes, ProductAnswer, SketchUpload
from securepfl.crypto.similarity.row_check import RowCheck
from securepfl.crypto.similarity.scheme import Shape, similarity_scheme
from securepfl.crypto.similarity.sketches import sketch
from securepfl.crypto.sums import lean_cipher, seal, seal_sum
from securepfl.crypto.sums.contribution import check_and_unpack, prepare
from securepfl.crypto.sums.encoding import encoded
from securepfl.crypto.sums.packing import dequantise_sum, pack, quantise, unpack
from securepfl.crypto.sums.parameters import SETS, choose_layout, top_level
from securepfl.crypto.sums.scheme import find_scheme
from securepfl.crypto.sums.tags import expected_tag
from securepfl.crypto.sums.uniform import uniform_words
from securepfl.crypto.sums.words import dot, pack_words, scale, unpack_words
from securepfl.errors import AggregateError
from securepfl.learning.sparse.support import choose_support
from securepfl.privacy.ledger.lines import decode_line, encode_line, reservation_id, signed_message
from securepfl.randomness import RandomStream, derive_key
from securepfl.runtime.local import noise_key


def of(name):
    return vectors("crypto", name)


def layout_of(case):
    return choose_layout(case["values"], case["bits"], case["clients"], case["max_weight"])


def raw(text):
    return bytes.fromhex(text)


class Drawn:
    """Stands where a module draws from the OS: gives what the vectors say was drawn, in order, and no more."""

    def __init__(self, numbers=(), tokens=()):
        self.numbers, self.tokens = list(map(int, numbers)), list(map(raw, tokens))

    def randbelow(self, below):
        assert self.numbers[0] < below
        return self.numbers.pop(0)

    def token_bytes(self, count):
        assert len(self.tokens[0]) == count
        return self.tokens.pop(0)

    def instead_in(self, monkeypatch, *modules):
        for module in modules:
            monkeypatch.setattr(module, "secrets", self)
        return self


# --- the independent implementation ---

HERE = Path(__file__).parent
OTHERS = {"state"}
MADE = [path for path in sorted(HERE.parent.glob("*/vectors/*.json")) if path.stem not in OTHERS]


@pytest.mark.parametrize("path", MADE, ids=lambda path: path.stem)
def test_the_independent_implementation_makes_the_same_file(path):
    name = path.relative_to(HERE.parent).as_posix()
    command = [sys.executable, HERE / "independent" / "make.py", "--check", name]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr


# --- randomness ---


def test_derived_keys_and_streams():
    told, key = of("randomness"), raw(of("randomness")["key"])
    for case in told["derive_key"]:
        assert derive_key(key, *case["labels"]).hex() == case["derived"]
    assert RandomStream(key).bytes(48).hex() == told["bytes"]
    assert RandomStream(key).words(4).tolist() == told["words"]
    assert RandomStream(key).permutation(12).tolist() == told["permutation"]
    for case in told["integers"]:
        assert RandomStream(key).integers(6, case["modulus"]).tolist() == case["drawn"]


def test_streams_of_reals():
    told, key = of("randomness"), raw(of("randomness")["key"])
    assert RandomStream(key).uniform(5).tolist() == reals(told["uniform"]).tolist()
    # The inverse of the normal law is a library's on both sides, whose last digits are not ours.
    np.testing.assert_allclose(RandomStream(key).gaussian(5), [float(text) for text in told["gaussian"]], rtol=1e-12)


def test_streams_of_a_seeded_simulation_and_the_blocks_of_a_support():
    told = of("seeds")
    assert noise_key(told["seed"]).hex() == told["noise_key"]
    key = raw(told["noise_key"])
    for use, start in told["streams"].items():
        assert RandomStream(derive_key(key, told["hospital"], use, told["round"])).bytes(16).hex() == start
    drawn = told["support"]
    setting = {"density": len(drawn["drawn"]) / drawn["blocks"], "block": 1, "exploration": 0.1}
    chosen = choose_support(None, drawn["blocks"], **setting, key=raw(drawn["key"]), round_number=told["round"])
    assert np.flatnonzero(chosen).tolist() == drawn["drawn"]


def test_keys_of_a_rounds_sketches():
    told, asked = of("seeds"), []
    shared = SimpleNamespace(sketch_key=raw(told["sketch"]["key"]), shape=None, name=told["hospital"])
    compared = SimpleNamespace(sketch=lambda shape, *keys: asked.extend(keys))
    Comparison._sketch(shared, compared, told["round"])
    assert [key.hex() for key in asked] == [told["sketch"]["of_round"], told["sketch"]["rounding"]]


# --- sums ---


@pytest.mark.parametrize("case", of("words")["packed"], ids=lambda case: f"{case['bits']} bits")
def test_packed_words(case):
    plain = words(case["words"])
    assert pack_words(plain, case["bits"]).hex() == case["packed"]
    assert (unpack_words(raw(case["packed"]), plain.size, case["bits"], 2 ** case["bits"]) == plain).all()


def test_words_in_several_chunks_scaled_and_multiplied():
    told = of("words")
    chunked, bits = told["chunked"], told["chunked"]["bits"]
    packed = pack_words(uniform_words(raw(chunked["key"]), chunked["count"], 2**bits), bits)
    assert hashlib.sha256(packed).hexdigest() == chunked["sha256"]
    for case in told["scale"]:
        found = scale(words(case["words"]), case["factor"], int(case["modulus"]))
        assert found.tolist() == words(case["scaled"]).tolist()
    product = told["dot"]
    assert dot(words(product["left"]), words(product["right"]), int(product["modulus"])) == int(product["product"])


@pytest.mark.parametrize("case", of("uniform"), ids=lambda case: case["modulus"])
def test_expanded_words(case):
    found = uniform_words(raw(case["key"]), case["count"], int(case["modulus"]))
    assert found[:4].tolist() == words(case["first"]).tolist()
    assert hashlib.sha256(found.astype("<u8").tobytes()).hexdigest() == case["sha256"]


@pytest.mark.parametrize("case", of("encoding"), ids=lambda case: case["set"])
def test_encoded_words(case):
    (parameters,) = [found for found in SETS if found.name == case["set"]]
    t, q = int(case["plain_modulus"]), int(case["modulus"])
    assert (parameters.plain_modulus, parameters.coeff_modulus) == (t, q)
    assert encoded(words(case["words"]), t, q).tolist() == words(case["encoded"]).tolist()


@pytest.mark.parametrize("case", of("layouts"), ids=lambda case: f"{case['values']} of {case['bits']}")
def test_layouts(case):
    layout = layout_of(case)
    assert (layout.parameters.name, str(layout.base)) == (case["set"], case["base"])
    for name in ("fields", "slots", "tag_slots", "dropped_bits", "flood", "ciphertexts"):
        assert getattr(layout, name) == case[name], name


def test_quantised_and_packed_values():
    told = of("packing")
    layout, values = layout_of(told), reals(told["reals"])
    found = quantise(values, told["bits"], told["limit"], RandomStream(raw(told["key"])))
    assert (found.levels.tolist(), found.clipped) == (told["levels"], told["clipped"])
    slots = pack(found.levels, layout)
    assert slots.tolist() == words(told["slots"]).tolist()
    assert unpack(slots, layout).tolist() == told["levels"]
    total = dequantise_sum(found.levels * np.uint64(3), 3, told["bits"], told["limit"])
    np.testing.assert_allclose(total, reals(told["sum"]), rtol=1e-15)


def test_tags():
    told = of("tags")
    for case in told["tags"]:
        tag = expected_tag(
            words(told["slots"]), layout_of(told), ints(case["weights"]), raw(told["key"]), raw(told["context"])
        )
        assert tag.tolist() == words(case["tag"]).tolist()


SUMS = of("sums")


def shown(data):
    """As sums.json shows bytes: long ones by their digest."""
    return data.hex() if len(data) < 2000 else "sha256 " + hashlib.sha256(data).hexdigest()


def test_the_noise_of_lean(monkeypatch):
    told, signed = SUMS["noise"], 2**60
    monkeypatch.setattr(lean_cipher, "fresh_key", lambda: raw(told["key"]))
    found = lean_cipher.centred_noise(len(told["drawn"]), signed).tolist()
    assert [(word + signed // 2) % signed - signed // 2 for word in found] == told["drawn"]


CASES = pytest.mark.parametrize("case", SUMS["cases"], ids=lambda case: f"{case['values']} of {case['bits']} bits")


class Prepared:
    """What hospitals put into one sum, and what must come out."""

    def __init__(self, case):
        self.layout, self.weights = layout_of(case), case["weights"]
        self.key, self.context = raw(SUMS["tag_key"]), raw(SUMS["context"])
        levels = top_level(case["bits"]) + 1
        self.levels = [uniform_words(raw(key), case["values"], levels) for key in case["levels_keys"]]
        self.slots = [prepare(row, self.layout, index, self.key, self.context) for index, row in enumerate(self.levels)]
        assert shown(self.slots[0].astype(">u8").tobytes()) == case["slots"]
        t, self.mask = self.layout.parameters.plain_modulus, None
        if "mask_key" in case:
            self.mask = uniform_words(raw(case["mask_key"]), self.layout.slots, t)
            self.slots[0] = (self.slots[0] + self.mask) % np.uint64(t)

    def check(self, slots, weights):
        """The decrypted slots are right, tag and all."""
        found = check_and_unpack(slots, self.layout, dict(enumerate(weights)), self.key, self.context)
        rows = zip(*self.levels[: len(weights)], strict=True)
        assert found.tolist() == [sum(w * int(one) for w, one in zip(weights, row, strict=True)) for row in rows]


@CASES
@pytest.mark.parametrize("name", ["lean", "none"])
def test_sums_and_answers(name, case, monkeypatch):
    scheme, stored, sums = find_scheme(name), case[name], Prepared(case)
    layout, total = sums.layout, scheme.total(sums.layout)
    cipher = scheme.cipher(raw(SUMS["ring_key"]) if scheme.encrypted else b"", layout)
    drawn = Drawn(tokens=stored.get("seeds", [])).instead_in(monkeypatch, lean_cipher)
    noise = list(map(raw, stored.get("noise_keys", [])))
    monkeypatch.setattr(lean_cipher, "fresh_key", lambda: noise.pop(0))
    for row, contribution, weight in zip(sums.slots, stored["contributions"], sums.weights, strict=True):
        sent = cipher.encrypt(row, layout)
        assert shown(sent) == contribution
        assert len(sent) == scheme.wire(layout).contribution_bytes
        total.add(sent, weight)
    assert not drawn.tokens and not noise
    answer = total.answer(sums.mask)
    assert shown(answer) == stored["answer"]
    if "restored" in stored:
        wire = scheme.wire(layout)
        words_ = wire.with_middles(wire.read_answer(answer)[2], sum(sums.weights))
        assert words_[:3].tolist() == words(stored["restored"]).tolist()
    sums.check(cipher.decrypt(answer, layout), sums.weights)


@CASES
def test_sums_and_answers_by_seal(case, monkeypatch):
    """SEAL's own noise can't be fixed: what it could have encrypted is given, and what it makes has the same form."""
    scheme, stored, sums = find_scheme("tenseal"), case["tenseal"], Prepared(case)
    layout, total, cipher = sums.layout, scheme.total(sums.layout), scheme.cipher(raw(SUMS["ring_key"]), sums.layout)
    weights = sums.weights[: len(stored["contributions"])]
    for contribution, weight, slots in zip(stored["contributions"], weights, sums.slots, strict=False):
        total.add(raw(contribution), weight)
        own = cipher.encrypt(slots, layout)
        assert (len(own), own[:8]) == (len(contribution) // 2, raw(contribution)[:8])
    monkeypatch.setattr(seal_sum, "fresh_key", lambda: raw(stored["flood_key"]))
    answer = total.answer(sums.mask)
    assert shown(answer) == stored["answer"]
    assert len(answer) == scheme.wire(layout).answer_bytes(len(weights))
    sums.check(cipher.decrypt(answer, layout), weights)


# --- masks ---


def test_shares_of_secrets(monkeypatch):
    told = of("shamir")
    assert int(told["prime"]) == PRIME
    rows, values = [[int(share) for share in row] for row in told["rows"]], [int(value) for value in told["values"]]
    drawn = Drawn([power for powers in told["coefficients"] for power in reversed(powers)])
    drawn.instead_in(monkeypatch, shamir)
    assert split(values, told["threshold"], len(rows)) == rows
    assert not drawn.numbers
    for holders in ((0, 1, 2), (1, 3, 4), (0, 1, 2, 3, 4)):
        assert combine({holder: rows[holder] for holder in holders}) == values


def test_graphs_statements_and_numbers_of_a_roster():
    told = of("masks")
    for case in told["graphs"]:
        graph = mask_graph(case["clients"], case["degree"], raw(case["context"]))
        assert [sorted(neighbours) for neighbours in graph] == case["neighbours"]
    assert {count: default_degree(count) for count in ints(told["degrees"])} == ints(told["degrees"])
    assert {count: threshold(count) for count in ints(told["thresholds"])} == ints(told["thresholds"])
    for case in told["statements"]:
        masking = Masking(case["clients"], case["degree"])
        assert survivor_statement(masking, raw(told["context"]), case["survivors"]).hex() == case["statement"]


def test_pair_streams_and_commitments():
    told = of("masks")
    context, modulus = raw(told["context"]), int(told["modulus"])
    for case in told["edges"]:
        edge = case["index"], case["other"]
        secret = pair_mask_secret(raw(case["pair_secret"]), *edge, context)
        assert str(secret) == case["secret"]
        assert commitment(edge, secret, context).hex() == case["commitment"]
        assert add_masks(np.zeros(4, dtype=np.uint64), {edge: secret}, modulus, context).tolist() == [
            int(word) for word in case["stream"]
        ]


def maskers(case):
    masking = Masking(case["clients"], case["degree"])
    pairs = [{other: raw(text) for other, text in enumerate(sent["pair_secrets"])} for sent in case["sent"]]
    return masking, [PairwiseMasker(index, secrets, masking) for index, secrets in enumerate(pairs)]


ROUNDS = pytest.mark.parametrize("case", of("masks")["rounds"], ids=lambda case: f"{case['clients']} hospitals")


@ROUNDS
def test_what_hospitals_send_in_a_masked_round(case, monkeypatch):
    context, modulus = raw(of("masks")["context"]), int(of("masks")["modulus"])
    for masker, sent in zip(maskers(case)[1], case["sent"], strict=True):
        drawn = Drawn(sent["drawn"], sent["nonces"]).instead_in(monkeypatch, masking_module, shamir, shares)
        masked = masker.mask(words(sent["slots"]), modulus, context)
        assert masked.slots.tolist() == words(sent["masked"]).tolist()
        assert [blob.hex() for blob in masked.blobs] == sent["blobs"]
        assert masked.commitments.hex() == sent["commitments"]
        assert not drawn.numbers and not drawn.tokens


@ROUNDS
def test_a_masked_round_is_revealed_and_unmasked(case):
    context, modulus = raw(of("masks")["context"]), int(of("masks")["modulus"])
    (masking, everyone), survivors = maskers(case), case["survivors"]
    people = [Identity.generate(f"hospital {n}") for n in range(case["clients"])]
    roster, statement = [person.public for person in people], survivor_statement(masking, context, survivors)
    signatures = {index: people[index].sign(statement, SIGNATURE_CONTEXT) for index in survivors}
    unmasking = Unmasking(masking, context, survivors, {n: raw(case["sent"][n]["commitments"]) for n in survivors})
    for index in survivors:
        blobs = {sender: raw(case["sent"][sender]["blobs"][index]) for sender in survivors}
        revealed = everyone[index].reveal(context, survivors, signatures, roster, blobs)
        assert revealed.hex() == case["reveals"][index]
        unmasking.add(index, revealed)
    mask = unmasking.total_mask(len(case["total_mask"]), modulus)
    assert mask.tolist() == words(case["total_mask"]).tolist()


# --- similarity ---


def test_sketches_and_norms():
    told = of("similarity")
    key, dimensions, vectors_ = raw(told["sketch_key"]), told["dimensions"], [reals(row) for row in told["vectors"]]
    assert [sketch(vector, dimensions, key).tolist() for vector in vectors_] == told["sketches"]
    assert sketch(np.array([0.5, -2.0, 0.25]), 5, key).tolist() == told["kept"]
    assert sketch(vectors_[0], dimensions, key, 0.5).tolist() == told["scaled"]
    for norm, level in told["levels"].items():
        assert encode_norm(float.fromhex(norm)) == level
        found = float.fromhex(told["travelled"][norm])
        assert travelled_norm(float.fromhex(norm)) == pytest.approx(found, rel=1e-15, abs=0.0)


@pytest.mark.parametrize("name", ["pads", "plain"])
def test_similarity_uploads_rows_and_what_they_open_to(name):
    told, stored, way = of("similarity"), of("similarity")["schemes"][name], similarity_scheme(name)
    context, norms = raw(told["context"]), reals(told["norms"])
    nonces = {index: raw(text) for index, text in ints(told["nonces"]).items()}
    sketches = [np.array(row, dtype=np.int64) for row in told["sketches"]]
    shape = Shape(3, told["dimensions"], FINE)
    cipher, table = way.cipher(raw(told["key"]), b"", shape), way.table(shape, {})
    for index, own in enumerate(sketches):
        upload = cipher.encrypt(own, float(norms[index]), index, context, nonces)
        assert upload.hex() == stored["uploads"][index]
        assert len(upload) == way.upload_bytes(shape)
        table.add(index, upload)
    for index, own in enumerate(sketches):
        row, opened = ints(stored["rows"][str(index)]), ints(told["opened"][str(index)])
        assert {other: answer.hex() for other, answer in table.row(index).items()} == row
        for other, answer in row.items():
            found = cipher.open_row({other: raw(answer)}, own, index, context, nonces)[other]
            assert [found.cosine, found.norm] == pytest.approx(reals(opened[other]).tolist(), rel=1e-15)


def test_pads_without_nonces_and_scalars():
    told = of("similarity")
    cipher = similarity_scheme("pads").cipher(raw(told["key"]), b"", Shape(3, told["dimensions"], FINE))
    own = np.array(told["sketches"][0], dtype=np.int64)
    assert cipher.encrypt(own, 1.0, 0, raw(told["context"])).hex() == told["without_nonces"]
    nonces = {index: raw(text) for index, text in ints(told["nonces"]).items()}
    assert cipher.pads(raw(told["context"]), nonces).scalars().tolist() == told["scalars"]


PRODUCTS = of("products")


def compared():
    """Key, context, shape and the cipher of the first hospital."""
    key, context, shape = raw(PRODUCTS["key"]), raw(PRODUCTS["context"]), Shape(3, PRODUCTS["dimensions"], COARSE)
    return key, context, shape, similarity_scheme("products").cipher(key, raw(PRODUCTS["ring_key"]), shape)


def test_sketches_rounded_at_random():
    vectors_, key = [reals(row) for row in of("similarity")["vectors"]], raw(PRODUCTS["sketch_key"])
    for vector, rounding, stored in zip(vectors_, PRODUCTS["rounding"], PRODUCTS["sketches"], strict=True):
        assert sketch(vector, PRODUCTS["dimensions"], key, 1.0, COARSE, raw(rounding)).tolist() == stored
    short = sketch(np.array([3e-3, 1.0]), 4, key, 0.01, COARSE, raw(PRODUCTS["rounding"][0]))
    assert short.tolist() == PRODUCTS["short"]


def test_sealed_norms(monkeypatch):
    key, context, _, _ = compared()
    Drawn(tokens=PRODUCTS["nonces"]).instead_in(monkeypatch, sealed_norms)
    for client, (norm, sealed) in enumerate(zip(PRODUCTS["norms"], PRODUCTS["sealed_norms"], strict=True)):
        assert sealed_norms.seal_norm(float.fromhex(norm), key, context, client).hex() == sealed
        assert sealed_norms.open_norm(raw(sealed), key, context, client) == encode_norm(float.fromhex(norm))


def test_the_lanes_that_check_rows():
    key, context, shape, _ = compared()
    (modulus,) = COARSE.moduli
    check, zeros = RowCheck(key, modulus, context, (shape.clients, shape.dimensions)), np.zeros(DEGREE, dtype=np.uint64)
    for client, stored in enumerate(PRODUCTS["row_check"]):
        assert check.lane(zeros, client)[:4].tolist() == stored["u"]
        assert int(check.lane(zeros + np.uint64(1), client)[0]) == (stored["l"] + stored["u"][0]) % modulus
        slots = zeros.copy()
        slots[: shape.dimensions] = np.array(PRODUCTS["sketches"][client]) % modulus
        assert check.lane(slots, client)[: shape.dimensions].tolist() == PRODUCTS["lanes"][client]


def test_an_upload_and_a_row_as_seal_could_have_made_them():
    """SEAL reads what the independent implementation encrypted; altered in one bit, it is refused."""
    _, context, shape, cipher = compared()
    way, upload = similarity_scheme("products"), base64.b64decode(PRODUCTS["upload"])
    assert len(upload) == way.upload_bytes(shape)
    assert cipher.check_upload(upload, 0, context)
    assert not cipher.check_upload(upload, 1, context)
    assert not cipher.check_upload(upload[:-9] + bytes((upload[-9] ^ 1,)) + upload[-8:], 0, context)
    row = {other: base64.b64decode(text) for other, text in ints(PRODUCTS["row"]).items()}
    own = np.array(PRODUCTS["sketches"][0], dtype=np.int64)
    found = cipher.open_row(row, own, 0, context)
    assert [found[other].cosine for other in (1, 2)] == reals(PRODUCTS["cosines"]).tolist()
    assert [found[other].norm for other in (1, 2)] == pytest.approx(reals(PRODUCTS["travelled"]).tolist(), rel=1e-15)
    with pytest.raises(AggregateError):
        cipher.open_row({**row, 1: row[1][:28] + row[2][28:]}, own, 0, context)


def test_the_bytes_of_given_words():
    told, stamp = PRODUCTS["given_words"], seal.stamp()

    def rows(name, primes):
        keys = [raw(told["keys"][f"{name} {at}"]) for at in range(len(primes))]
        return np.stack([uniform_words(key, DEGREE, prime) for key, prime in zip(keys, primes, strict=True)])

    def fresh(seed, name, primes):
        return Fresh(raw(told["seeds"][seed]), rows(name, primes))

    def agrees(data, name):
        return hashlib.sha256(data).hexdigest() == told[name]

    lanes = [fresh(f"seed {n}", f"lane {n}", PRIMES) for n in range(4)]
    upload = SketchUpload(raw(told["norm"]), (Lanes(*lanes[:2]), Lanes(*lanes[2:])))
    assert agrees(upload.to_bytes(stamp), "upload")
    seconds = [uniform_words(raw(told["keys"][f"second {n}"]), DEGREE, PRIMES[0]) for n in range(2)]
    answer = ProductAnswer(raw(told["norm"]), tuple(Hidden(n + 5, second) for n, second in enumerate(seconds)))
    assert agrees(answer.to_bytes(), "answer")
    public = np.stack([rows(f"public {n}", KEY_PRIMES) for n in range(2)])
    relinearising = tuple(fresh(f"seed of key {n}", f"key {n}", KEY_PRIMES) for n in range(2))
    assert agrees(EvaluationKeys(public, relinearising).to_bytes(stamp), "evaluation_keys")


# --- keys ---


def person(name):
    return Identity.from_private_bytes(name, raw(of("keys")["identities"][name]["private"]))


@pytest.mark.parametrize("name", of("keys")["identities"])
def test_identities(name):
    stored, identity = of("keys")["identities"][name], person(name)
    assert identity.to_private_bytes().hex() == stored["private"]
    assert identity.public.to_bytes().hex() == stored["public"]
    assert identity.public.fingerprint == stored["fingerprint"]
    assert PublicIdentity.from_bytes(raw(stored["public"])) == identity.public


def test_what_was_signed_and_sealed():
    told = of("keys")
    signed, sealed = told["signed"], told["sealed_to"]
    person(signed["by"]).public.verify(raw(told["signature"]), raw(signed["data"]), raw(signed["context"]))
    assert person(sealed["to"]).open(raw(told["sealed"]), raw(sealed["info"])).hex() == sealed["plaintext"]


def test_federation_keys_and_what_derives_from_them():
    told, stored = of("keys"), of("keys")["federation_key"]
    plain = FederationKey(stored["epoch"], raw(stored["root_key"]))
    assert plain.to_bytes().hex() == stored["plain"]
    assert FederationKey.from_bytes(raw(stored["plain"])) == plain
    assert plain.commitment.hex() == stored["plain_commitment"]
    for name, derived in told["derived"].items():
        assert getattr(plain, name).hex() == derived
    encrypted = FederationKey(stored["epoch"], raw(stored["root_key"]), *map(raw, stored["ring_keys"]))
    assert encrypted.commitment.hex() == stored["encrypted_commitment"]
    assert hashlib.sha256(encrypted.to_bytes()).hexdigest() == stored["encrypted_sha256"]
    assert SUMS["ring_key"] == stored["ring_keys"][0]


def test_files_of_the_ceremony():
    told, alder, birch, server = of("keys"), person("alder"), person("birch"), person("server")
    digest, predecessor = raw(told["digest"]), raw(told["predecessor"])
    card = IdentityCard.from_text(told["card"].encode())
    assert (card.public, card.coordinator) == (server.public, True)
    notice = Notice.open(raw(told["notice"]), alder.public, digest)
    grant = Grant.open(raw(told["grant"]), birch, alder.public, digest)
    assert grant.key.to_bytes().hex() == told["federation_key"]["plain"]
    assert grant.notice(digest) == notice and notice.predecessor == predecessor
    assert notice.roster.hospitals == ("alder", "birch", "cedar")
    assert told["notice"].endswith(notice.statement().hex())
    secret = open_pair(raw(told["pair"]), birch, alder.public, federation_digest=digest, epoch=3)
    assert secret.hex() == told["pair_secret"]


def test_a_key_file_opens_to_the_same_holdings_and_is_written_again(monkeypatch):
    told = of("keys")
    data = raw(told["keyfile"])
    store = StoreKey.of(data, passphrase_bytes(told["passphrase"]))
    opened = store.open(data)
    assert opened.hex() == told["holdings"]
    held = Holdings.from_bytes(opened)
    assert held.to_bytes() == opened
    assert (held.identity.name, held.is_coordinator, held.removed) == ("alder", False, ("gone",))
    assert held.keyring().federation_key.epoch == 3
    assert set(held.keyring().pair_secrets) == {"birch"}
    # The nonce is the last of the header's 36 bytes.
    Drawn(tokens=[data[24:36].hex()]).instead_in(monkeypatch, keystore)
    assert store.seal(opened) == data


def test_a_ledger_lines_signature():
    told = of("ledger_signing")
    signer = LedgerSigner(Identity.from_private_bytes("alder", raw(told["private"])), trusting=False)
    assert (signer.algorithm, signer.public_key.hex()) == (told["algorithm"], told["public_key"])
    assert signer.sign(raw(told["message"])).hex() == told["signature"]
    verify = ledger_verifier([signer.public_key])
    verify(told["algorithm"], signer.public_key, raw(told["message"]), raw(told["signature"]))
    with pytest.raises(ValueError, match="no valid signature"):
        verify(told["algorithm"], signer.public_key, raw(told["message"]) + b".", raw(told["signature"]))


def test_the_lines_of_a_ledger():
    """Read to the byte, chained, and signed over what they are without their signatures."""
    told, previous = of("ledger_signing"), "0" * 64
    signer = LedgerSigner(Identity.from_private_bytes("alder", raw(told["private"])), trusting=False)
    for text in told["lines"]:
        line = decode_line(text.encode())
        assert line.previous == previous
        assert signer.sign(signed_message(line)).hex() == line.signature
        signer.verify(told["algorithm"], signer.public_key, signed_message(line), raw(line.signature))
        assert encode_line(line) == text.encode()
        previous = hashlib.sha256(text.encode()).hexdigest()
    assert reservation_id(line.run, line.federation, line.round, line.attempt) == line.id


# --- messages ---


def test_headers_and_a_whole_message():
    told = of("envelope")
    sender, receiver = (
        Identity.from_private_bytes(told[side]["name"], raw(told[side]["private"])) for side in ("sender", "receiver")
    )
    digest, run, number, attempt = raw(told["digest"]), raw(told["run"]), told["round"], told["attempt"]
    assert set(told["headers"]) == {kind.name for kind in Kind}
    for name, header in told["headers"].items():
        whole = Header(Kind[name], digest, run, number, attempt, sender.public.fingerprint, receiver.public.fingerprint)
        assert whole.to_bytes().hex() == header
        assert Header.from_bytes(raw(header)) == whole
    opened = open_message(
        raw(told["message"]),
        receiver,
        [sender.public],
        kinds={Kind.CONTRIBUTION},
        federation_digest=digest,
        run=run,
        round=number,
        max_bytes=100,
    )
    assert opened == (Header.from_bytes(raw(told["headers"]["CONTRIBUTION"])), raw(told["body"]))


def test_messages_that_end_with_a_content(monkeypatch):
    told = of("envelope")
    sender, receiver = (
        Identity.from_private_bytes(told[side]["name"], raw(told[side]["private"])) for side in ("sender", "receiver")
    )
    key, short, sealed = told["content_key"], told["short"], bytearray()
    Drawn(tokens=[key, key, key]).instead_in(monkeypatch, content_module)
    content = content_module.seal_content([raw(short["text"])], sealed.extend)
    assert (sealed.hex(), content.digest.hex(), content.key.hex()) == (short["content"], short["digest"], key)
    empty, long = bytearray(), bytearray()
    content_module.seal_content([], empty.extend)
    assert empty.hex() == told["empty"]
    plain = bytes(2**20) + b"\1" * 2**20 + raw(short["text"])
    content_module.seal_content([plain[:5], plain[5 : 2**20 + 7], plain[2**20 + 7 :]], long.extend)
    assert hashlib.sha256(long).hexdigest() == told["long_sha256"]
    _, body = open_message(
        raw(told["with_content"]) + long,
        receiver,
        [sender.public],
        kinds={Kind.CONTRIBUTION},
        federation_digest=raw(told["digest"]),
        run=raw(told["run"]),
        round=told["round"],
        max_bytes=3 * 2**20,
    )
    assert body == raw(told["body"]) + plain
