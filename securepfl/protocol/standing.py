"""What signs a contribution's parts, so that they can be shown to other hospitals, and what signs verdicts about them.

The signatures are Ed25519's alone, as those of statements: they must hold while a round is disputed. The coordinator
keeps the whole message too, under both signatures of its envelope.
"""

import hashlib
import struct
from collections.abc import Collection, Mapping
from typing import Final, get_args

from securepfl.crypto.keys.identity import Identity, PublicIdentity
from securepfl.errors import MessageError
from securepfl.protocol.messages import Contribution, Evidence, Part, Verdict

PARTS: Final[tuple[Part, ...]] = get_args(Part)
_COVERED: Final = (*PARTS, "commitments")
_DIGEST_BYTES: Final = 32
_ABSENT: Final = bytes(_DIGEST_BYTES)
_PARTS_DOMAIN: Final = b"securepfl parts 1"
_VERDICT_DOMAIN: Final = b"securepfl verdict 1"
_NUMBER: Final = struct.Struct(">I")


def parts_of(body: Contribution) -> dict[Part, bytes]:
    """The parts that a contribution has, by name."""
    found: dict[Part, bytes | None] = {"update": body.update, "personal": body.personal, "sketch": body.sketch}
    return {part: data for part, data in found.items() if data is not None}


def digests_of(parts: Mapping[Part, bytes], commitments: bytes) -> dict[str, bytes]:
    """SHA-256 of each part that a hospital sends, and of the commitments to its masks, if it masks.

    >>> sorted(digests_of({"update": b"words"}, b""))
    ['update']
    """
    covered = {str(part): data for part, data in parts.items()} | ({"commitments": commitments} if commitments else {})
    return {name: hashlib.sha256(data).digest() for name, data in covered.items()}


def _signed(session: bytes, round_: int, name: str, digests: Mapping[str, bytes]) -> bytes:
    """What a hospital signs: fixed lengths, its name last. These bytes may never change."""
    listed = b"".join(digests.get(covered, _ABSENT) for covered in _COVERED)
    return _PARTS_DOMAIN + session + _NUMBER.pack(round_) + listed + name.encode()


def sign_parts(identity: Identity, session: bytes, round_: int, digests: Mapping[str, bytes]) -> bytes:
    """That `identity` contributes parts of these `digests` in `round_` of the run that `session` (32 bytes) stands for.

    >>> alder = Identity.generate("alder")
    >>> digests = digests_of({"update": b"words"}, b"")
    >>> signature = sign_parts(alder, bytes(32), 1, digests)
    >>> check_parts(alder.public, bytes(32), 1, digests, signature)
    >>> check_parts(alder.public, bytes(32), 2, digests, signature)
    Traceback (most recent call last):
    securepfl.errors.MessageError: a signature of 'alder' does not verify; the message was not used
    """
    return identity.sign_classical(_signed(session, round_, identity.name, digests))


def check_parts(
    public: PublicIdentity, session: bytes, round_: int, digests: Mapping[str, bytes], signature: bytes
) -> None:
    """Raises MessageError unless `public` signed these digests, in this round and run, or where they are malformed."""
    if not set(digests) <= set(_COVERED) or any(len(digest) != _DIGEST_BYTES for digest in digests.values()):
        raise MessageError(f"digests of {public.name!r} of a wrong form; refused")
    public.verify_classical(signature, _signed(session, round_, public.name, digests))


def check_evidence(public: PublicIdentity, session: bytes, round_: int, body: Evidence) -> None:
    """Raises MessageError unless `public` signed exactly the parts shown, and commitments if there are any."""
    check_parts(public, session, round_, body.digests, body.stands)
    shown = digests_of(body.parts, body.commitments)
    if not shown.items() <= body.digests.items() or ("commitments" in body.digests) != bool(body.commitments):
        raise MessageError(f"parts shown as those of {public.name!r} that it did not sign; refused")


def _judged(session: bytes, round_: int, judge: str, evidence: Evidence, broken: Collection[Part]) -> bytes:
    """What a judge signs: of whose signed parts, which of them were shown, and which break the rules."""
    names = [name.encode() for name in (judge, evidence.sender)]
    flags = bytes([part in evidence.parts for part in PARTS] + [part in broken for part in PARTS])
    about = hashlib.sha256(_signed(session, round_, evidence.sender, evidence.digests)).digest()
    return _VERDICT_DOMAIN + session + about + flags + b"".join(_NUMBER.pack(len(name)) + name for name in names)


def sign_verdict(
    identity: Identity, session: bytes, round_: int, evidence: Evidence, broken: Collection[Part]
) -> Verdict:
    """The verdict of `identity` about what it was shown."""
    signature = identity.sign_classical(_judged(session, round_, identity.name, evidence, broken))
    return Verdict(sender=evidence.sender, broken=tuple(broken), signature=signature)


def check_verdict(public: PublicIdentity, session: bytes, round_: int, evidence: Evidence, verdict: Verdict) -> None:
    """Raises MessageError unless `public` gave this verdict about this evidence, of parts that it holds, each once."""
    broken = set(verdict.broken)
    if verdict.sender != evidence.sender or not broken <= set(evidence.parts) or len(broken) < len(verdict.broken):
        raise MessageError(f"{public.name}: a verdict about something else than it was shown; refused")
    public.verify_classical(verdict.signature, _judged(session, round_, public.name, evidence, verdict.broken))
