"""An identity as a file that people read, send and compare by phone."""

import base64
import binascii
import textwrap
from dataclasses import dataclass
from typing import Final, Self

from securepfl.crypto.keys.identity import SIGNATURE_BYTES, Identity, PublicIdentity
from securepfl.errors import MessageError

MAX_CARD_BYTES: Final = 2**15
_VERSION: Final = 1


@dataclass(frozen=True)
class IdentityCard:
    """A public identity with its role, as text for people: signed by itself, so that nobody else changes the role.

    The card proves nothing about who made it: that is what comparing fingerprints by phone is for. Its lines, what is
    signed and the order of the bytes may never change under one version number.

    >>> card = IdentityCard.make(Identity.generate("alder"), coordinator=False)
    >>> IdentityCard.from_text(card.to_text().encode()) == card, card.role
    (True, 'hospital')
    """

    public: PublicIdentity
    coordinator: bool
    signature: bytes

    @classmethod
    def make(cls, identity: Identity, *, coordinator: bool) -> Self:
        """The card of a party of this role."""
        signature = identity.sign(bytes((coordinator,)) + identity.public.to_bytes(), b"identity card")
        return cls(identity.public, coordinator, signature)

    @property
    def role(self) -> str:
        """The role in a word."""
        return "coordinator" if self.coordinator else "hospital"

    def to_text(self) -> str:
        """Name, role and fingerprint to read, then all of it in base64."""
        data = bytes((_VERSION, self.coordinator)) + self.signature + self.public.to_bytes()
        lines = textwrap.wrap(base64.b64encode(data).decode(), 76)
        head = [f"name: {self.public.name}", f"role: {self.role}", f"fingerprint: {self.public.fingerprint}"]
        return "\n".join(["securepfl identity", *head, "-----BEGIN-----", *lines, "-----END-----", ""])

    @classmethod
    def from_text(cls, data: bytes) -> Self:
        """Read a card and check its signature. Raises MessageError for anything that `to_text` does not give."""
        if len(data) > MAX_CARD_BYTES:
            raise MessageError(f"identity of more than {MAX_CARD_BYTES} bytes; copy the file again")
        try:
            text = data.decode().replace("\r\n", "\n").strip() + "\n"
            lines = text.splitlines()
            raw = base64.b64decode("".join(lines[lines.index("-----BEGIN-----") + 1 : -1]), validate=True)
        except (ValueError, binascii.Error):
            raise MessageError("not an identity file, or a truncated one; copy the file again") from None
        if raw[:1] != bytes((_VERSION,)) or raw[1:2] not in (b"\0", b"\1"):
            raise MessageError("identity of another version; install the same securepfl")
        public = PublicIdentity.from_bytes(raw[2 + SIGNATURE_BYTES :])
        card = cls(public, raw[1] == 1, raw[2 : 2 + SIGNATURE_BYTES])
        public.verify(card.signature, raw[1:2] + public.to_bytes(), b"identity card")
        if not public.name.isprintable():
            raise MessageError("the identity's name has characters that do not print; refused")
        if card.to_text() != text:
            raise MessageError("the identity's readable lines differ from what is signed; copy the file again")
        return card
