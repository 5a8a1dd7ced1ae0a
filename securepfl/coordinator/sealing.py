"""A step's messages to hospitals: what receivers have in common is sealed once, and for each what is its own."""

import io
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from securepfl.crypto.keys.identity import Identity, PublicIdentity
from securepfl.crypto.messages.content import Buffer, Content, seal_content
from securepfl.crypto.messages.envelope import Header, Kind, seal_message
from securepfl.protocol.messages import Body, encode_common, encode_own
from securepfl.protocol.rounds import Messages

Share = Callable[[Sequence[Buffer]], Content]
"""Seals the joined pieces, and keeps the content for those whose messages end with it."""


@dataclass
class Sealing:
    """One step's. `header` says of a hospital and a kind where in the protocol its message stands; `share` keeps what
    several receive.
    """

    identity: Identity
    hospitals: Mapping[str, PublicIdentity]
    header: Callable[[str, Kind], Header]
    share: Share
    _shared: list[tuple[tuple[object, ...], Content]] = field(default_factory=list, repr=False)

    def own(self, name: str, body: Body) -> tuple[bytes, Content | None]:
        """The message to a hospital without its content, and that content; None where the body has nothing common."""
        content, receiver = self._content(body) if body.common else None, self.hospitals[name]
        return seal_message(self.header(name, body.kind), encode_own(body), self.identity, receiver, content), content

    def _content(self, body: Body) -> Content:
        """Of all bodies that have the same in common, one."""
        values = tuple(getattr(body, name) for name in body.common)
        for known, content in self._shared:
            if known == values:
                return content
        self._shared.append((values, self.share(encode_common(body))))
        return self._shared[-1][1]


class Contents:
    """Contents in memory, by digest."""

    def __init__(self) -> None:
        self._kept: dict[bytes, bytes] = {}

    def share(self, pieces: Sequence[Buffer]) -> Content:
        """As Share says."""
        sealed = io.BytesIO()
        content = seal_content(pieces, sealed.write)
        self._kept[content.digest] = sealed.getvalue()
        return content

    def __getitem__(self, digest: bytes) -> bytes:
        return self._kept[digest]

    def only(self, digests: Collection[bytes]) -> None:
        """Forget all others."""
        self._kept = {digest: sealed for digest, sealed in self._kept.items() if digest in digests}


def messages(
    kind: Kind, names: Collection[str], body_of: Callable[[str], Body], sealing: Sealing, contents: Contents
) -> Messages:
    """The messages of a step, each made when it is asked for first; what is its own is kept, so that it stays the same.
    `sealing` shares in `contents`.
    """
    made: dict[str, tuple[bytes, Content | None]] = {}

    def message(name: str) -> bytes:
        if name not in made:
            made[name] = sealing.own(name, body_of(name))
        own, content = made[name]
        return own if content is None else own + contents[content.digest]

    return Messages(kind, names, message)
