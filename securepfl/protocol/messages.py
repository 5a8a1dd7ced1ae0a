"""What travels: typed, versioned bodies. The envelope around them signs and seals (crypto/messages/envelope.py)."""

from collections.abc import Iterable
from typing import Annotated, ClassVar, Final, Literal, TypeVar

import msgspec

from securepfl.crypto.messages.content import Buffer
from securepfl.crypto.messages.envelope import Kind
from securepfl.errors import MessageError

SCHEMA = 7

NONCE_BYTES = 16
"""Of the nonces that make a hospital's next pads and a round's masks fresh."""

MANY: Final = msgspec.Meta(max_length=1 << 16)
"""Entries of a map or list, more than a roster has names: a few bytes of a long message would each take 25 times that
in memory.
"""


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every body. `schema` is the version of this file's layouts, `kind` what envelopes call it.

    A body travels as a MessagePack map by field name. Names, types and meaning may never change under one `SCHEMA`:
    whoever changes them raises it, and the other side refuses by name (tests/protocol/vectors holds today's bytes).
    `common` names the fields that all receivers of a step get alike, or many: they are encoded last and sealed once.
    """

    kind: ClassVar[Kind]
    common: ClassVar[tuple[str, ...]] = ()

    schema: int = SCHEMA


class Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a hospital states, signed (statements.py), once it has applied the answer to `round`.

    `state`: the keyed digest of the shared state that it reached, `head`: the latest hash of its budget ledger, both
    SHA-256 in hexadecimal. `signature`: Ed25519, 64 bytes.
    """

    round: int
    state: str
    head: str
    signature: bytes


class Invitation(Body, frozen=True):
    """Coordinator to hospital: take part in `round`.

    `nonces`: where similarity is due, those that the receiver and all with whom it is compared sent with their last
    contributions, by name. They make this round's pads fresh. `salt`: the coordinator's own, the same for all; it makes
    this round's masks fresh. `statements`: the latest of the receiver and of its companions (companions.py), by name:
    hospitals compare them. `held`: whether the coordinator has the receiver's evaluation keys. `named`: what it has to
    say of hospitals that did something wrong, by name: a line each. The roster is in the digest that headers carry.
    """

    kind = Kind.INVITATION
    common = ("nonces", "salt", "named")

    round: int
    nonces: Annotated[dict[str, bytes], MANY]
    salt: bytes
    statements: Annotated[dict[str, Statement], MANY] = {}
    held: bool = False
    named: Annotated[dict[str, str], MANY] = {}


class MaskShares(Body, frozen=True):
    """What goes with a masked update: sealed shares for each hospital in the roster's order, and commitments."""

    blobs: Annotated[tuple[bytes, ...], MANY]
    commitments: bytes


class Contribution(Body, frozen=True):
    """Hospital to coordinator, one a round.

    `update`: the encrypted slots of the sparse shared update. `personal`: the encrypted personal component, or
    None. `sketch`: the encrypted sketch for similarity, or None. `neighbours`: the others whose personal components
    this hospital wants summed, with their integer weights. `head`: the latest hash of its budget ledger. `nonce`:
    fresh, for the next round's pads. `state`: the keyed digest of the shared state it started from. `masks`: None where
    updates are not masked. `stands`: its signature over the parts (standing.py), with which they can be shown to the
    others. `evaluation`: the public keys with which the coordinator multiplies sketches, until an invitation says that
    it holds them; None where it needs none.
    """

    kind = Kind.CONTRIBUTION

    update: bytes
    personal: bytes | None
    sketch: bytes | None
    neighbours: Annotated[dict[str, int], MANY]
    head: str
    nonce: bytes
    state: str
    masks: MaskShares | None
    stands: bytes
    evaluation: bytes | None = None


class Decline(Body, frozen=True):
    """Hospital to coordinator: not this round. No reason: budgets are nobody else's business."""

    kind = Kind.DECLINE


class Survivors(Body, frozen=True):
    """Coordinator to hospital: the hospitals whose masked updates are in the sum, sorted. To be signed once a round.

    `salt`: the round's, for hospitals that no invitation reached.
    """

    kind = Kind.SURVIVORS
    common = ("survivors", "salt")

    survivors: Annotated[tuple[str, ...], MANY]
    salt: bytes


class Agreement(Body, frozen=True):
    """Hospital to coordinator: its signature over the survivor list."""

    kind = Kind.AGREEMENT

    signature: bytes


class Unmask(Body, frozen=True):
    """Coordinator to hospital: the signatures over the list by name, and the shares that survivors sealed to it."""

    kind = Kind.UNMASK
    common = ("signatures",)

    signatures: Annotated[dict[str, bytes], MANY]
    blobs: Annotated[dict[str, bytes], MANY]


class Reveal(Body, frozen=True):
    """Hospital to coordinator: its shares of what the sum still carries."""

    kind = Kind.REVEAL

    shares: bytes


class Answer(Body, frozen=True):
    """Coordinator to hospital. `aggregate` is None where too few hospitals contributed or revealed to form a sum.

    `products`: this hospital's own row of encrypted inner products by other hospital's name.
    `neighbourhood`: the encrypted sum it asked for, over those `neighbours` that are present.
    `consensus`: in one round, the last or the one before, the encrypted sum of all survivors' personal components.
    `named`: as in Invitation.
    """

    kind = Kind.ANSWER
    common = ("survivors", "aggregate", "consensus", "named")

    survivors: Annotated[tuple[str, ...], MANY]
    aggregate: bytes | None
    products: Annotated[dict[str, bytes], MANY]
    neighbourhood: bytes | None
    neighbours: Annotated[tuple[str, ...], MANY]
    consensus: bytes | None
    named: Annotated[dict[str, str], MANY] = {}


Part = Literal["update", "personal", "sketch"]
"""What a contribution is made of, each with a check of its own."""


class Receipt(Body, frozen=True):
    """Hospital to coordinator, after an answer: either its statement, or the parts of the answer that failed."""

    kind = Kind.RECEIPT

    statement: Statement | None
    refused: Annotated[tuple[Part, ...], MANY]


class Opening(Body, frozen=True):
    """Coordinator to hospital: the sum of the answer that it refused is to be opened, and so the masks of all."""

    kind = Kind.OPENING


class Opened(Body, frozen=True):
    """Hospital to coordinator: the secrets of its masks in this round, 32 bytes each, in its commitments' order."""

    kind = Kind.OPENED

    secrets: bytes


class Evidence(Body, frozen=True):
    """Coordinator to hospital: what one hospital sent in the round, to be judged.

    `parts`: the bytes of those parts that were refused. `digests`: of all that it sent (standing.py), `stands` its
    signature over them. `commitments` and `secrets`: of its masks, empty where updates are not masked or it did not
    open them. `evaluation`: its public keys for products of sketches, None where there are none. `salt`: the round's.
    """

    kind = Kind.EVIDENCE
    common = ("sender", "salt", "parts", "digests", "stands", "commitments", "secrets", "evaluation")

    sender: str
    salt: bytes
    parts: Annotated[dict[Part, bytes], MANY]
    digests: Annotated[dict[str, bytes], MANY]
    stands: bytes
    commitments: bytes = b""
    secrets: bytes = b""
    evaluation: bytes | None = None


class Verdict(Body, frozen=True):
    """Hospital to coordinator: which of the parts shown of `sender` break the rules, signed (standing.py)."""

    kind = Kind.VERDICT

    sender: str
    broken: Annotated[tuple[Part, ...], MANY]
    signature: bytes


class Ended(Body, frozen=True):
    """Coordinator to hospital: the run ends in this round. `reason`: a line."""

    kind = Kind.ENDED

    reason: str


class SnapshotWanted(Body, frozen=True):
    """Coordinator to hospital: the state after the header's round, which it holds, is wanted for who is behind."""

    kind = Kind.SNAPSHOT_WANTED


class SnapshotSent(Body, frozen=True):
    """Hospital to coordinator: the shared state after the header's round, encrypted for hospitals (client/snapshot)."""

    kind = Kind.SNAPSHOT

    snapshot: bytes


class Rejoin(Body, frozen=True):
    """Coordinator to hospital: the shared state after the header's round, for a hospital that is behind.

    `statements`: what hospitals stated, signed, about that round, by name: it is taken on their word alone.
    """

    kind = Kind.REJOIN

    snapshot: bytes
    statements: Annotated[dict[str, Statement], MANY]


AnyBody = TypeVar("AnyBody", bound=Body)


def encode(body: Body) -> bytes:
    """MessagePack bytes of `body`."""
    return msgspec.msgpack.encode(body)


def encode_own(body: Body) -> bytes:
    """The bytes of `body` without what is `common`: its beginning. What is common comes after it, and together they are
    a MessagePack map by field name.

    >>> body = Survivors(survivors=("north", "south"), salt=bytes(16))
    >>> decode(encode_own(body) + b"".join(encode_common(body)), Survivors) == body
    True
    """
    return b"".join((_head(body), *_pieces(body, [name for name in body.__struct_fields__ if name not in body.common])))


def encode_common(body: Body) -> list[Buffer]:
    """What receivers of `body` have in common, in pieces: no long bytes are copied."""
    return _pieces(body, body.common)


def encode_pieces(body: Body) -> list[Buffer]:
    """The bytes of `body` in pieces: no long bytes are copied."""
    return [_head(body), *_pieces(body, body.__struct_fields__)]


_SHORT_MAP: Final = 16
_LONG: Final = 1 << 16


def _head(body: Body) -> bytes:
    """Where a map of so many fields begins."""
    fields = body.__struct_fields__
    return msgspec.msgpack.encode(dict.fromkeys(fields))[: 1 if len(fields) < _SHORT_MAP else 3]


def _pieces(body: Body, names: Iterable[str]) -> list[Buffer]:
    """Names and values; long bytes as they lie, behind their length (bin 32)."""
    pieces: list[Buffer] = []
    for name in names:
        value = getattr(body, name)
        pieces.append(msgspec.msgpack.encode(name))
        if isinstance(value, bytes) and len(value) >= _LONG:
            pieces += [b"\xc6" + len(value).to_bytes(4, "big"), value]
        else:
            pieces.append(msgspec.msgpack.encode(value))
    return pieces


def decode(data: Buffer, kind: type[AnyBody]) -> AnyBody:
    """Read authenticated bytes as `kind`. Raises MessageError where they don't fit or are of another version."""
    try:
        body = msgspec.msgpack.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise MessageError(f"{kind.__name__}: malformed body; both sides must run the same securepfl") from None
    if body.schema != SCHEMA:
        raise MessageError(
            f"{kind.__name__}: schema {body.schema}, but this securepfl reads {SCHEMA}; upgrade the older side"
        )
    return body
