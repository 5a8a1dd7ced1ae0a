"""What several receive is sealed once, and nobody, other receivers included, can put anything else in its place."""

import dataclasses
import hashlib
import secrets
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from securepfl.crypto.keys.identity import Identity
from securepfl.crypto.messages import content as module
from securepfl.crypto.messages.content import CHUNK, Content, open_content, plain_bytes, seal_content, sealed_bytes
from securepfl.crypto.messages.envelope import (
    CONTENT_BYTES,
    LONG,
    OVERHEAD_BYTES,
    Header,
    Kind,
    open_message,
    seal_message,
    seal_pieces,
)
from securepfl.errors import MessageError

HUB, NORTH, SOUTH = (Identity.generate(name) for name in ("hub", "north", "south"))
DIGEST, RUN = b"d" * 32, b"r" * 16
MOST = 4 * CHUNK


def place(receiver=NORTH, **changes):
    header = Header(Kind.ANSWER, DIGEST, RUN, 3, 0, HUB.public.fingerprint, receiver.public.fingerprint)
    return dataclasses.replace(header, **changes)


def sealed(*pieces):
    data = bytearray()
    return seal_content(pieces, data.extend), bytes(data)


def opened(message, receiver=NORTH, most=MOST, **changes):
    expected = {"kinds": {Kind.ANSWER}, "federation_digest": DIGEST, "run": RUN, "round": 3, "max_bytes": most}
    return open_message(message, receiver, [HUB.public], **(expected | changes))[1]


SUM, DATA = sealed(b"the sum ", b"for all")
OTHER, OTHER_DATA = sealed(b"another ", b"sum for")
OWN = seal_message(place(), b"north: ", HUB, NORTH.public, SUM)
SOUTHS = seal_message(place(SOUTH), b"south: ", HUB, SOUTH.public, SUM)


def test_everybody_opens_what_is_its_own_and_then_what_is_for_all():
    assert opened(OWN + DATA) == b"north: the sum for all"
    assert opened(SOUTHS + DATA, SOUTH) == b"south: the sum for all"
    assert len(OWN) == OVERHEAD_BYTES + CONTENT_BYTES + len(b"north: ")
    assert SUM.key.hex() not in repr(SUM) and repr(SUM.key) not in repr(SUM)


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 5])
def test_contents_of_any_length_come_back(size):
    plain = secrets.token_bytes(size)
    cut = min(size, 70)
    content, data = sealed(plain[:cut], memoryview(plain)[cut:], b"")
    assert len(data) == content.size == sealed_bytes(size) and plain_bytes(len(data)) == size
    assert opened(seal_message(place(), b"", HUB, NORTH.public, content) + data) == plain


def test_no_two_contents_share_a_key_and_no_two_chunks_a_nonce(monkeypatch):
    used = []

    def watched(key):
        return SimpleNamespace(encrypt=lambda nonce, *said: used.append(nonce) or AESGCM(key).encrypt(nonce, *said))

    assert sealed(b"same")[0].key != sealed(b"same")[0].key
    monkeypatch.setattr(module, "AESGCM", watched)
    sealed(bytes(3 * CHUNK))
    assert len(used) == len(set(used)) == 3


# --- what must not be taken, each as whoever holds the content's key can make it ---


def encrypted(content, chunks, last=None):
    """Chunks under the content's own key, as another hospital could make them."""
    last = len(chunks) - 1 if last is None else last
    nonces = [bytes(3) + number.to_bytes(8, "big") + bytes((number == last,)) for number in range(len(chunks))]
    return b"".join(
        AESGCM(content.key).encrypt(nonce, chunk, b"securepfl content 1")
        for nonce, chunk in zip(nonces, chunks, strict=True)
    )


def test_a_receiver_that_holds_the_key_cannot_pass_off_another_content():
    forged = encrypted(SUM, [b"a wrong sum 123"])
    assert len(forged) == len(DATA) and forged != DATA
    with pytest.raises(MessageError, match="another content than was signed"):
        opened(OWN + forged)


def test_a_content_of_another_round_attempt_or_answer_is_refused():
    """Each in whole messages of the same lengths: what is exchanged is the content, or the envelope before it."""
    assert len(OTHER_DATA) == len(DATA)
    other = seal_message(place(), b"north: ", HUB, NORTH.public, OTHER)
    earlier = seal_message(place(round=2), b"north: ", HUB, NORTH.public, OTHER)
    again = seal_message(place(attempt=1), b"north: ", HUB, NORTH.public, OTHER)
    for message in (OWN + OTHER_DATA, other + DATA, earlier + DATA, again + DATA, SOUTHS + DATA, earlier + OTHER_DATA):
        with pytest.raises(MessageError):
            opened(message)
    assert opened(other + OTHER_DATA) == b"north: another sum for"


@pytest.mark.parametrize(
    "altered",
    [
        lambda data: data[:-1],
        lambda data: data[:16],
        lambda data: b"",
        lambda data: data + b"\0",
        lambda data: data + bytes(16),
        lambda data: data + data,
        lambda data: bytes((data[0] ^ 1,)) + data[1:],
        lambda data: data[:-1] + bytes((data[-1] ^ 1,)),
        lambda data: bytes(len(data)),
    ],
)
def test_a_content_that_is_cut_longer_or_altered_is_refused(altered):
    data = altered(DATA)
    with pytest.raises(MessageError):
        opened(OWN + data)
    head = place().to_bytes(len(data))
    with pytest.raises(MessageError):  # though the header, which anybody can write, says that it is so long
        opened(head + OWN[len(head) :] + data)


def test_chunks_that_are_missing_doubled_or_in_another_order_are_refused():
    """Even where the envelope vouches for these bytes: the cipher itself keeps a content whole and in order."""
    chunks = [b"a" * CHUNK, b"b" * CHUNK, b"c"]
    content, data = sealed(*chunks)
    one, two, three = data[: CHUNK + 16], data[CHUNK + 16 : 2 * CHUNK + 32], data[2 * CHUNK + 32 :]
    for wrong in (one + two, two + one + three, one + one + three, one + three, encrypted(content, chunks, last=1)):
        told = Content(content.key, hashlib.sha256(wrong).digest(), len(wrong))
        with pytest.raises(MessageError, match="does not open"):
            opened(seal_message(place(), b"", HUB, NORTH.public, told) + wrong)


def test_another_key_is_refused():
    told = dataclasses.replace(SUM, key=OTHER.key)
    with pytest.raises(MessageError, match="does not open"):
        opened(seal_message(place(), b"", HUB, NORTH.public, told) + DATA)


@given(st.integers(0, len(OWN + DATA) - 1), st.integers(1, 255))
@settings(max_examples=60, deadline=None)
def test_any_altered_byte_of_a_message_with_a_content_is_refused(position, change):
    altered = bytearray(OWN + DATA)
    altered[position] ^= change
    with pytest.raises(MessageError):
        opened(bytes(altered))


def test_both_signatures_cover_what_the_envelope_says_of_its_content():
    """Who seals in the coordinator's name without its keys is refused; so is a signature over the own part alone."""
    head, signed = place().to_bytes(len(OTHER_DATA)), OTHER.key + OTHER.digest + b"north: "
    for covered in (head + b"north: ", head, place().to_bytes(len(DATA)) + SUM.key + SUM.digest + b"north: "):
        signature = HUB.sign(covered, b"envelope")
        with pytest.raises(MessageError, match="does not verify"):
            opened(head + NORTH.public.seal(signature + signed, info=head) + OTHER_DATA)
    classical = HUB.sign(head + signed, b"envelope")[:64] + bytes(3309)
    with pytest.raises(MessageError, match="does not verify"):
        opened(head + NORTH.public.seal(classical + signed, info=head) + OTHER_DATA)


def test_a_body_is_bounded_before_anything_is_opened(monkeypatch):
    whole = b"north: the sum for all"
    assert opened(OWN + DATA, most=len(whole)) == whole
    nothing = SimpleNamespace(public=NORTH.public)  # it has no keys that could open anything
    with pytest.raises(MessageError, match="4721 bytes, at most 4720"):
        opened(OWN + DATA, nothing, most=len(whole) - 1)
    with pytest.raises(MessageError, match="does not open"):
        opened(place().to_bytes(len(DATA) + 1) + (OWN + DATA)[len(place().to_bytes()) :])
    for length in (len(DATA) + len(b"north: ") + 1, len(OWN + DATA), 2**40, 2**64 - 1):
        head = place().to_bytes(length)
        with pytest.raises(MessageError):
            opened(head + (OWN + DATA)[len(head) :], nothing)
    short = seal_message(place(), bytes(CONTENT_BYTES + 1), HUB, NORTH.public)
    with pytest.raises(MessageError, match="a body of 65 bytes, at most 64"):
        opened(short, nothing, most=CONTENT_BYTES)
    with pytest.raises(MessageError, match="a length that none has"):
        opened(place().to_bytes(15) + bytes(OVERHEAD_BYTES + CONTENT_BYTES), nothing)


def test_nothing_is_decrypted_of_a_content_with_another_digest(monkeypatch):
    monkeypatch.setattr(module, "AESGCM", lambda key: pytest.fail("decrypted"))
    with pytest.raises(MessageError, match="another content"):
        open_content(SUM.key, SUM.digest, OTHER_DATA, memoryview(bytearray(15)))


def test_a_long_body_for_one_receiver_travels_as_a_content():
    for size in (LONG - 1, LONG, 2 * CHUNK):
        body = secrets.token_bytes(size)
        message = seal_pieces(place(), [body[:9], body[9:]], HUB, NORTH.public)
        assert opened(message) == body
        extra = CONTENT_BYTES + sealed_bytes(size) - size if size >= LONG else 0
        assert len(message) == OVERHEAD_BYTES + size + extra
        assert body[100:200] not in message
