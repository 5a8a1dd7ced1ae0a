"""The bytes of every body, statements, and what sums and masks are bound to, as tests/crypto/independent makes them."""

from types import SimpleNamespace

import msgspec
import pytest
from vectors import vectors

from securepfl.crypto.keys.identity import Identity
from securepfl.errors import MessageError
from securepfl.protocol import messages
from securepfl.protocol.channels import mask_context, round_context, run_digest
from securepfl.protocol.messages import Evidence, MaskShares, Statement
from securepfl.protocol.standing import sign_parts, sign_verdict
from securepfl.protocol.statements import check_statement, make_statement
from securepfl.settings.federation import Federation

WITHIN = {frozenset(kind.__struct_fields__) - {"schema"}: kind for kind in (MaskShares, Statement)}


def read(value):
    """JSON to what a body holds: bytes stand as {"hex": ...}, tuples as lists, bodies within bodies by their fields."""
    if isinstance(value, dict):
        if set(value) == {"hex"}:
            return bytes.fromhex(value["hex"])
        parts = {name: read(part) for name, part in value.items()}
        return WITHIN[frozenset(value)](**parts) if frozenset(value) in WITHIN else parts
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
    data = bytes.fromhex(case["encoded"]).replace(b"\xa6schema\x07", b"\xa6schema\x08")
    with pytest.raises(MessageError, match="schema 8, but this securepfl reads 7"):
        messages.decode(data, getattr(messages, case["body"]))


def test_contexts():
    told = vectors("protocol", "contexts")
    session, masked = bytes.fromhex(told["session"]), told["mask"]
    settings = SimpleNamespace(digest=bytes.fromhex(told["settings"]))
    assert Federation.session_digest(settings, bytes.fromhex(told["commitment"])).hex() == told["base"]
    assert run_digest(bytes.fromhex(told["base"]), bytes.fromhex(told["run"])) == session
    for case in told["round"]:
        assert round_context(session, case["kind"], case["round"], case["attempt"]).hex() == case["context"]
    salt = bytes.fromhex(masked["salt"])
    assert mask_context(session, masked["round"], masked["attempt"], salt).hex() == masked["context"]


def test_statements():
    told = vectors("protocol", "statements")
    identity = Identity.from_private_bytes(told["name"], bytes.fromhex(told["private"]))
    session, stated = bytes.fromhex(told["session"]), read(told["statement"])
    assert make_statement(identity, session, stated.round, stated.state, stated.head) == stated
    check_statement(identity.public, session, stated)
    with pytest.raises(MessageError):
        check_statement(identity.public, session, msgspec.structs.replace(stated, round=stated.round + 1))


def test_what_signs_parts_and_verdicts():
    told = vectors("protocol", "standing")
    alder, birch = (Identity.from_private_bytes(name, bytes.fromhex(key)) for name, key in told["private"].items())
    session, digests = bytes.fromhex(told["session"]), {n: bytes.fromhex(d) for n, d in told["digests"].items()}
    stands = sign_parts(alder, session, told["round"], digests)
    assert stands.hex() == told["stands"]
    parts = dict.fromkeys(told["shown"], b"")
    evidence = Evidence(sender="alder", salt=b"", parts=parts, digests=digests, stands=stands)
    assert sign_verdict(birch, session, told["round"], evidence, told["broken"]).signature.hex() == told["verdict"]
