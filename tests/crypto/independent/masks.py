"""Pairwise masks, as the documents of crypto/masks tell it: graph, secrets, commitments, words, shares, statement."""

import hashlib

from aes import gcm_seal
from shamir import PRIME
from streams import derive_key, permutation, uniform_words

Edge = tuple[int, int]


def threshold(clients: int) -> int:
    """More than two thirds."""
    return 2 * clients // 3 + 1


def default_degree(clients: int) -> int:
    """2 ceil(log2 n) + 2, or all."""
    logarithm = 0
    while 2**logarithm < clients:
        logarithm += 1
    return min(clients - 1, 2 * logarithm + 2)


def graph(clients: int, degree: int, context: bytes) -> list[list[int]]:
    """Each client's neighbours, sorted: Harary's graph on places of a circle, and who stands at which place.

    Places up to degree // 2 apart are joined; where the degree is odd, opposite ones too, and where both are odd, each
    place of the first half, the middle one included, with the one n // 2 further on.
    """
    degree = min(degree, clients - 1)
    order = permutation(hashlib.sha256(b"securepfl mask graph 1" + context).digest(), clients)
    joined = set()
    for place in range(clients):
        for step in range(1, degree // 2 + 1):
            joined.add(frozenset((place, (place + step) % clients)))
        if degree % 2 and place <= (clients - 1) // 2:
            joined.add(frozenset((place, (place + clients // 2) % clients)))
    neighbours: list[set[int]] = [set() for _ in range(clients)]
    for left, right in map(sorted, joined):
        neighbours[order[left]].add(order[right])
        neighbours[order[right]].add(order[left])
    return [sorted(found) for found in neighbours]


def pair_secret(pair_key: bytes, edge: Edge, context: bytes) -> int:
    """s_ij: 512 derived bits modulo the prime."""
    labels = (context.hex(), min(edge), max(edge))
    halves = [derive_key(pair_key, "pair mask 1", half, *labels) for half in (0, 1)]
    return int.from_bytes(halves[0] + halves[1], "big") % PRIME


def commitment(edge: Edge, secret: int, context: bytes) -> bytes:
    """SHA-256 over a label, both ends (the smaller first, 4 bytes), the secret (32 bytes) and the context."""
    ends = min(edge).to_bytes(4, "big") + max(edge).to_bytes(4, "big")
    return hashlib.sha256(b"securepfl mask commitment 1" + ends + secret.to_bytes(32, "big") + context).digest()


def mask_words(secret: int, count: int, modulus: int, context: bytes) -> list[int]:
    """PRG(secret)."""
    return uniform_words(derive_key(secret.to_bytes(32, "big"), "mask words 1", context.hex()), count, modulus)


def total(secrets: dict[Edge, int], count: int, modulus: int, context: bytes) -> list[int]:
    """The sum of sign(i, j) PRG(secret); the sign is -1 where i > j."""
    words = [0] * count
    for (index, other), secret in secrets.items():
        sign = -1 if index > other else 1
        drawn = mask_words(secret, count, modulus, context)
        words = [(word + sign * one) % modulus for word, one in zip(words, drawn, strict=True)]
    return words


def shared(neighbours: list[list[int]], index: int) -> list[Edge]:
    """The secrets that a client shares, in order."""
    return [(index, index)] + [(index, other) for other in neighbours[index]]


def revealed(neighbours: list[list[int]], survivors: list[int]) -> list[Edge]:
    """The secrets that come out, in order: survivors' own, then theirs with each neighbour that is none."""
    edges = [(index, index) for index in survivors]
    for index in survivors:
        edges += [(index, other) for other in neighbours[index] if other not in survivors]
    return edges


def sealed_shares(
    shares: list[int], pair_key: bytes, sender: int, receiver: int, context: bytes, nonce: bytes
) -> bytes:
    """Nonce, then AES-256-GCM over the shares, 32 bytes each."""
    key = derive_key(pair_key, "mask shares 1", context.hex(), sender, receiver)
    return nonce + gcm_seal(key, nonce, b"".join(share.to_bytes(32, "big") for share in shares))


def statement(clients: int, degree: int, context: bytes, survivors: list[int]) -> bytes:
    """What is signed: numbers of 4 bytes, then the context."""
    numbers = [clients, degree, len(context), *sorted(survivors)]
    return b"".join(number.to_bytes(4, "big") for number in numbers) + context
