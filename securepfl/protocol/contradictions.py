"""Two signed statements that cannot both be of one honest run: evidence for a third person."""

import hmac
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

import msgspec

from securepfl.crypto.keys.identity import PublicIdentity
from securepfl.errors import MessageError, StorageError
from securepfl.protocol.messages import Statement
from securepfl.protocol.statements import check_statement

SCHEMA: Final = 1


class Stated(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What hospital `name` stated."""

    name: str
    statement: Statement


class Contradiction(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Two statements about one round of the run that `session` (32 bytes in hexadecimal) stands for.

    | of | differ in | shows |
    |---|---|---|
    | two hospitals | state | the coordinator gave them different sums, or one of them states what it does not hold |
    | one hospital | state or ledger head | that hospital stated two things about one round |

    A digest of a state is keyed: it tells the third person nothing of the state.

    >>> from securepfl.crypto.keys.identity import Identity
    >>> from securepfl.protocol.statements import make_statement
    >>> alder, birch = Identity.generate("alder"), Identity.generate("birch")
    >>> one, other = (make_statement(who, bytes(32), 3, n * 64, "0" * 64) for who, n in ((alder, "a"), (birch, "b")))
    >>> found = Contradiction.between(bytes(32), ("alder", one), ("birch", other))
    >>> found.check({"alder": alder.public, "birch": birch.public})
    >>> found.check({"alder": alder.public, "birch": alder.public})
    Traceback (most recent call last):
    securepfl.errors.MessageError: a signature of 'alder' does not verify; the message was not used
    """

    schema: int = SCHEMA
    session: str
    one: Stated
    other: Stated

    @classmethod
    def between(cls, session: bytes, one: tuple[str, Statement], other: tuple[str, Statement]) -> Self:
        """The evidence of (name, statement) twice."""
        stated = (Stated(name=name, statement=statement) for name, statement in (one, other))
        return cls(session=session.hex(), one=next(stated), other=next(stated))

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a hospital's file. Raises StorageError where it can't be read, MessageError where it is no such file."""
        try:
            found = msgspec.json.decode(path.read_bytes(), type=cls)
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror or error}; name a file of a hospital's evidence") from None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise MessageError(f"{path}: no two statements in JSON; name a file of a hospital's evidence") from None
        if found.schema != SCHEMA:
            raise MessageError(f"{path}: schema {found.schema}, but this securepfl reads {SCHEMA}; upgrade it")
        return found

    def to_json(self) -> bytes:
        """What `read` reads: indented, signatures in base64."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    def check(self, identities: Mapping[str, PublicIdentity]) -> None:
        """Raises MessageError unless the hospitals in `identities`, by name, signed both and they do contradict."""
        try:
            session = bytes.fromhex(self.session)
            people = [identities[stated.name] for stated in (self.one, self.other)]
        except (KeyError, ValueError):
            raise MessageError("evidence about somebody whose identity is not given; give both hospitals'") from None
        for public, stated in zip(people, (self.one, self.other), strict=True):
            check_statement(public, session, stated.statement)
        if not self._contradicts():
            raise MessageError("evidence of nothing: both statements can be true")

    def _contradicts(self) -> bool:
        one, other = self.one.statement, self.other.statement
        alike = self.one.name == self.other.name and one.head != other.head
        return one.round == other.round and (alike or not same_state(one.state, other.state))


def same_state(one: str, other: str) -> bool:
    """Whether two digests of states are equal, in constant time."""
    return hmac.compare_digest(one.encode(), other.encode())
