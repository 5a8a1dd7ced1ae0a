"""The coordinator's half where sketches are multiplied as ciphertexts: what it computes of each pair, and how what
leaves is hidden. It holds public keys only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from securepfl.crypto.similarity.parameters import flood
from securepfl.crypto.similarity.product_wire import EvaluationKeys, Hidden, Lanes, ProductAnswer, SketchUpload
from securepfl.crypto.similarity.scheme import Shape
from securepfl.crypto.similarity.seal import Keys, PublicRing
from securepfl.crypto.sums.ring import stamp
from securepfl.errors import MessageError


@dataclass(frozen=True)
class _Held:
    """One hospital's upload and keys for one plain modulus, loaded."""

    value: Any
    check: Any
    keys: Keys


class CiphertextTable:
    """One round's uploads, and rows of answers from them. `keys` are evaluation keys by hospital.

    What is sent about j is made with j's own keys, and a row's check is re-randomised under each of the others' public
    keys: one honest hospital among them is enough to hide it, and nobody's keys can lay another's sketch bare. (Under
    the sum of their keys, the last to send one could make it less those of all others.)
    A pair is multiplied once, when the first of its two rows is asked for, and both answers kept: no answer is ever
    made twice, since two floods would hide half as well. Until the first row only bytes are kept; then some 1.5 MB a
    hospital and plain modulus.
    """

    def __init__(self, shape: Shape, keys: Mapping[int, bytes]) -> None:
        self._shape, self._keys = shape, keys
        self._uploads: dict[int, bytes] = {}
        self._answers: dict[tuple[int, int], bytes] = {}
        self._lanes: list[_Lane] = []
        self._norms: dict[int, bytes] = {}

    def check(self, client: int, upload: bytes) -> None:
        """Raises MessageError for what `add` would refuse, and keeps nothing."""
        self._read(client, upload)

    def add(self, client: int, upload: bytes) -> None:
        """Take a hospital's upload.

        Raises MessageError for a wrong length or range, or where its evaluation keys are missing; ValueError for an
        index outside the roster or one that has uploaded.
        """
        if client in self._uploads:
            raise ValueError(f"client {client} has uploaded its sketch already")
        self.check(client, upload)
        if client not in self._keys:
            raise MessageError("a sketch without evaluation keys; contribute again with them")
        self._uploads[client] = upload

    def _read(self, client: int, upload: bytes) -> SketchUpload:
        self._shape.check_client(client)
        return SketchUpload.from_bytes(upload, self._shape, stamp())

    def leave_out(self, client: int) -> None:
        """Speak of a hospital in no row from now on, nor to it. Rows then have another check."""
        self._uploads.pop(client, None)
        self._norms.pop(client, None)
        self._answers = {
            (receiver, other): answer
            for (receiver, other), answer in self._answers.items()
            if client not in (receiver, other) and receiver != other
        }
        for lane in self._lanes:
            lane.remove(client)

    def row(self, client: int) -> dict[int, bytes]:
        """The answers to one hospital by the other's index, and under its own the row's check; none for a hospital that
        uploaded nothing, or alone.
        """
        others = [other for other in sorted(self._uploads) if other != client]
        if client not in self._uploads or not others:
            return {}
        self._load()
        for other in others:
            if (client, other) not in self._answers:
                self._multiply(client, other)
        if (client, client) not in self._answers:
            self._answers[client, client] = ProductAnswer(b"", self._of_all(client)).to_bytes()
        return {other: self._answers[client, other] for other in (client, *others)}

    def _load(self) -> None:
        """All uploads as SEAL's ciphertexts."""
        if not self._lanes:
            self._lanes = [_Lane(modulus, self._shape.clients) for modulus in self._shape.precision.moduli]
        for client, upload in self._uploads.items():
            if client not in self._norms:
                read, keys = self._read(client, upload), EvaluationKeys.from_bytes(self._keys[client], stamp())
                for lane, parts in zip(self._lanes, read.lanes, strict=True):
                    lane.add(client, parts, keys)
                self._norms[client] = read.norm

    def _multiply(self, one: int, two: int) -> None:
        """Both answers of a pair."""
        products = [lane.pair(one, two) for lane in self._lanes]
        for receiver, other in ((one, two), (two, one)):
            hidden = tuple(lane.about(other, product) for lane, product in zip(self._lanes, products, strict=True))
            self._answers[receiver, other] = ProductAnswer(self._norms[other], hidden).to_bytes()

    def _of_all(self, receiver: int) -> tuple[Hidden, ...]:
        return tuple(lane.about_all(receiver) for lane in self._lanes)


class _Lane:
    """All of a table that is modulo one plain modulus."""

    def __init__(self, plain_modulus: int, clients: int) -> None:
        self.ring, self._flood = PublicRing(plain_modulus), flood(plain_modulus, clients)
        self._held: dict[int, _Held] = {}
        self._checks: Any = None

    def add(self, client: int, parts: Lanes, keys: EvaluationKeys) -> None:
        """Take what one hospital uploaded."""
        ring = self.ring
        held = _Held(ring.upload(parts.value), ring.upload(parts.check), ring.keys(keys))
        self._held[client] = held
        self._checks = held.check if self._checks is None else self.ring.add(self._checks, held.check)

    def remove(self, client: int) -> None:
        """Forget it."""
        held = self._held.pop(client, None)
        if held is not None:
            # SEAL refuses a difference that is zero.
            self._checks = self.ring.subtract(self._checks, held.check) if self._held else None

    def pair(self, one: int, two: int) -> Any:
        """The product of two sketches."""
        return self.ring.multiply(self._held[one].value, self._held[two].value)

    def about(self, other: int, product: Any) -> Hidden:
        """What leaves of a product about `other`."""
        keys = self._held[other].keys
        return self.ring.hidden(product, keys.relinearising, [keys.encryptor], self._flood)

    def about_all(self, receiver: int) -> Hidden:
        """What leaves of the product of `receiver`'s sketch and the sum of all others' check lanes."""
        held = self._held[receiver]
        product = self.ring.multiply(held.value, self.ring.subtract(self._checks, held.check))
        others = [self._held[other].keys for other in sorted(self._held) if other != receiver]
        encryptors = [keys.encryptor for keys in others]
        return self.ring.hidden(product, others[0].relinearising, encryptors, self._flood)
