"""The bytes of every body, and what sums and masks are bound to, as an earlier version made them."""

import pytest
from vectors import vectors

from securepfl.errors import MessageError
from securepfl.protocol import messages
from securepfl.protocol.channels import mask_context, round_context


def read(value):
    """JSON to what a body holds: bytes stand as {"hex": ...}, tuples as lists."""
    if isinstance(value, dict):
        if set(value) == {"hex"}:
            return bytes.fromhex(value["hex"])
        if set(value) == {"blobs", "commitments"}:
            return messages.MaskShares(**{name: read(part) for name, part in value.items()})
        return {name: read(part) for name, part in value.items()}
    return tuple(map(read, value)) if isinstance(value, list) else value


BODIES = vectors("protocol", "messages")


def test_every_body_has_a_vector():
    assert {case["body"] for case in BODIES} == {kind.__name__ for kind in messages.Body.__subclasses__()}


@pytest.mark.parametrize("case", BODIES, ids=lambda case: case["body"])
def test_bodies(case):
    kind = getattr(messages, case["body"])
    body = kind(**{name: read(value) for name, value in case["fields"].items()})
    assert messages.encode(body).hex() == case["encoded"]
    assert messages.decode(bytes.fromhex(case["encoded"]), kind) == body


@pytest.mark.parametrize("case", BODIES, ids=lambda case: case["body"])
def test_a_body_of_another_schema_is_refused_by_name(case):
    data = bytes.fromhex(case["encoded"]).replace(b"\xa6schema\x04", b"\xa6schema\x05")
    with pytest.raises(MessageError, match="schema 5, but this securepfl reads 4"):
        messages.decode(data, getattr(messages, case["body"]))


def test_contexts():
    told = vectors("protocol", "contexts")
    session, masked = bytes.fromhex(told["session"]), told["mask"]
    for case in told["round"]:
        assert round_context(session, case["kind"], case["round"], case["attempt"]).hex() == case["context"]
    salt = bytes.fromhex(masked["salt"])
    assert mask_context(session, masked["round"], masked["attempt"], salt).hex() == masked["context"]
