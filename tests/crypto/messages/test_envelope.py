"""Messages: only what is expected, from whom it is expected, unaltered."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securepfl.crypto.keys.identity import Identity
from securepfl.crypto.messages.envelope import OVERHEAD_BYTES, Header, Kind, open_message, seal_message
from securepfl.errors import MessageError

HOSPITAL, COORDINATOR, STRANGER = (Identity.generate(name) for name in ("hospital", "coordinator", "stranger"))
DIGEST, RUN = b"d" * 32, b"r" * 16
HEADER = Header(Kind.CONTRIBUTION, DIGEST, RUN, 3, 1, HOSPITAL.public.fingerprint, COORDINATOR.public.fingerprint)
BODY = b"the body" * 10
MESSAGE = seal_message(HEADER, BODY, HOSPITAL, COORDINATOR.public)
SENDERS = {"hospital": HOSPITAL.public}


def opened(data=MESSAGE, receiver=COORDINATOR, senders=SENDERS, **changes):
    expected = {
        "kinds": {Kind.CONTRIBUTION},
        "federation_digest": DIGEST,
        "run": RUN,
        "round": 3,
        "max_bytes": 1000,
    } | changes
    return open_message(data, receiver, senders, **expected)


def test_an_expected_message_opens_to_its_header_and_body():
    assert opened() == (HEADER, BODY)
    assert len(MESSAGE) == len(BODY) + OVERHEAD_BYTES
    assert b"the body" not in MESSAGE


@pytest.mark.parametrize(
    "changes",
    [
        {"kinds": {Kind.ANSWER, Kind.INVITATION}},
        {"federation_digest": b"e" * 32},
        {"federation_digest": DIGEST[:-1] + b"e"},
        {"run": b"another run".ljust(16)},
        {"round": 4},
        {"max_bytes": len(BODY) - 1},
        {"receiver": STRANGER},
        {"senders": {"hospital": STRANGER.public}},
        {"senders": {}},
        {"data": MESSAGE[:50]},
        {"data": MESSAGE[:90]},
        {"data": MESSAGE[:-1]},
        {"data": b""},
        {"data": b"HTTP" + MESSAGE[4:]},
        {"data": MESSAGE[:4] + b"\1" + MESSAGE[5:]},
        {"data": MESSAGE[:5] + b"\x63" + MESSAGE[6:]},
    ],
)
def test_anything_unexpected_is_refused_in_one_line(changes):
    with pytest.raises(MessageError) as caught:
        opened(**changes)
    assert "\n" not in str(caught.value)


@given(st.integers(0, len(MESSAGE) - 1), st.integers(1, 255))
@settings(max_examples=40, deadline=None)
def test_any_altered_byte_is_refused(position, change):
    altered = bytearray(MESSAGE)
    altered[position] ^= change
    with pytest.raises(MessageError):
        opened(bytes(altered))


def test_a_header_cannot_be_moved_to_another_attempt():
    moved = dataclasses.replace(HEADER, attempt=2).to_bytes()
    with pytest.raises(MessageError):
        opened(moved + MESSAGE[len(moved) :])


def test_a_stranger_cannot_speak_for_a_hospital():
    head = HEADER.to_bytes()
    forged = head + COORDINATOR.public.seal(STRANGER.sign(head + BODY, b"envelope") + BODY, info=head)
    with pytest.raises(MessageError, match="'hospital' does not verify"):
        opened(forged)
    with pytest.raises(ValueError, match="header names"):
        seal_message(HEADER, BODY, STRANGER, COORDINATOR.public)


def test_headers_out_of_range_are_refused():
    for name, value in [("federation_digest", b""), ("round", -1), ("attempt", 2**32)]:
        with pytest.raises(ValueError, match=name):
            dataclasses.replace(HEADER, **{name: value})
    with pytest.raises(ValueError, match="fingerprint must be"):
        dataclasses.replace(HEADER, sender="AAAA")
