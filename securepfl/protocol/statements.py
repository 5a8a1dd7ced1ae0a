"""What hospitals state about themselves under their signature: where a round took them.

A statement outlives its message: whoever holds two that contradict each other can show them to anybody.
"""

import re
import struct
from typing import Final

from securepfl.crypto.keys.identity import Identity, PublicIdentity
from securepfl.errors import MessageError
from securepfl.protocol.messages import Statement

_DOMAIN: Final = b"securepfl statement 1"
_ROUND: Final = struct.Struct(">I")
_HASH: Final = re.compile("[0-9a-f]{64}")


def _signed(session: bytes, name: str, round_: int, state: str, head: str) -> bytes:
    """What is signed: every field of fixed length but the name, which comes last. These bytes may never change."""
    return _DOMAIN + session + _ROUND.pack(round_) + bytes.fromhex(state) + bytes.fromhex(head) + name.encode()


def make_statement(identity: Identity, session: bytes, round_: int, state: str, head: str) -> Statement:
    """That `identity` reached `state` by `round_` of the run that `session` (32 bytes) stands for, and its ledger
    `head`. The signature is Ed25519's alone, as a ledger's lines have: it must hold while a run lasts, and many go
    out with every invitation.

    >>> alder = Identity.generate("alder")
    >>> statement = make_statement(alder, bytes(32), 3, "ab" * 32, "cd" * 32)
    >>> check_statement(alder.public, bytes(32), statement)
    >>> check_statement(alder.public, b"another run".ljust(32), statement)
    Traceback (most recent call last):
    securepfl.errors.MessageError: a signature of 'alder' does not verify; the message was not used
    """
    signature = identity.sign_classical(_signed(session, identity.name, round_, state, head))
    return Statement(round=round_, state=state, head=head, signature=signature)


def check_statement(public: PublicIdentity, session: bytes, statement: Statement) -> None:
    """Raises MessageError unless `public` signed the statement in this run, or where its form is wrong."""
    hashes = all(_HASH.fullmatch(text) for text in (statement.state, statement.head))
    if not (hashes and 0 <= statement.round < 2**32):
        raise MessageError(f"a statement of {public.name!r} is malformed; the message was not used")
    signed = _signed(session, public.name, statement.round, statement.state, statement.head)
    public.verify_classical(statement.signature, signed)
