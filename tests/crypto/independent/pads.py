"""Sketches under one-time pads modulo 2^31 - 1, as the head of crypto/similarity/pads.py tells it, and in clear."""

from bits import pack_words
from sketches import FINE, level_norm, norm_level
from streams import derive_key, integers, uniform_words

P = 2**31 - 1


class Pads:
    """What hides and tags in one context."""

    def __init__(self, key: bytes, clients: int, dimensions: int, context: bytes, nonces: dict[int, bytes]) -> None:
        self.key, self.clients, self.dimensions, self.context, self.nonces = key, clients, dimensions, context, nonces

    def _key(self, purpose: str, *labels: str | int) -> bytes:
        return derive_key(self.key, "similarity", purpose, self.context.hex(), self.clients, self.dimensions, *labels)

    def scalars(self) -> list[int]:
        """s_0 = 1, s_1, s_2."""
        told = [label for client in sorted(self.nonces) for label in (client, self.nonces[client].hex())]
        return [1] + [number + 1 for number in integers(self._key("scalars", *told), 2, P - 1)]

    def of(self, client: int) -> tuple[list[list[int]], list[list[int]]]:
        """r^l, l = 0, 1, 2, and pad_i^l for each hospital i."""
        d, n = self.dimensions, self.clients
        words = uniform_words(self._key("pads", client, self.nonces.get(client, b"").hex()), 3 * (d + n), P, size=4)
        rest = words[3 * d :]
        return [words[lane * d : (lane + 1) * d] for lane in range(3)], [rest[3 * i : 3 * i + 3] for i in range(n)]


def dot(left: list[int], right: list[int]) -> int:
    """An inner product modulo p."""
    return sum(a * b for a, b in zip(left, right, strict=True)) % P


def upload_words(pads: Pads, sketch: list[int], norm: float, client: int) -> tuple[list[list[int]], list[list[int]]]:
    """A^l and U_i^l, with V^l in one's own place."""
    vectors, slots = pads.of(client)
    scalars = pads.scalars()
    lanes = [
        [(s * a + r) % P for a, r in zip(sketch, row, strict=True)] for s, row in zip(scalars, vectors, strict=True)
    ]
    corrections = []
    for other in range(pads.clients):
        value = norm_level(norm) if other == client else dot(pads.of(other)[0][0], sketch)
        corrections.append([(s * value + pad) % P for s, pad in zip(scalars, slots[other], strict=True)])
    return lanes, corrections


def upload(pads: Pads, sketch: list[int], norm: float, client: int) -> bytes:
    """What travels."""
    lanes, corrections = upload_words(pads, sketch, norm, client)
    return pack_words([word for row in lanes + corrections for word in row], 31)


Parts = tuple[list[list[int]], list[list[int]]]


def answer(uploads: list[Parts], client: int, other: int) -> bytes:
    """What the coordinator answers `client` about `other`: x^l, then V^l."""
    own, (lanes, corrections) = uploads[client][0][0], uploads[other]
    products = [(dot(own, lane) - taken) % P for lane, taken in zip(lanes, corrections[client], strict=True)]
    return pack_words(products + corrections[other], 31)


def opened(sketches: list[list[int]], norms: list[float], client: int, other: int) -> list[float]:
    """Cosine and norm."""
    product = sum(a * b for a, b in zip(sketches[client], sketches[other], strict=True))
    return [max(-1.0, min(1.0, product / FINE.norm**2)), level_norm(norm_level(norms[other]))]


def plain_upload(sketch: list[int], norm: float) -> bytes:
    """In clear: 32-bit integers, the least significant byte first, the norm's level last."""
    return b"".join((number % 2**32).to_bytes(4, "little") for number in [*sketch, norm_level(norm)])


def plain_answer(sketches: list[list[int]], norms: list[float], client: int, other: int) -> bytes:
    """In clear: the product modulo p and the level."""
    return pack_words([dot(sketches[client], sketches[other]), norm_level(norms[other])], 31)
