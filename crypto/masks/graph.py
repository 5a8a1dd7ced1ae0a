"""Who masks with whom: how many clients, each one's neighbours, and how many of them must agree."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from securepfl.crypto.masks.edges import SECRET_BYTES, Graph
from securepfl.crypto.masks.shares import sealed_bytes
from securepfl.errors import MessageError
from securepfl.randomness import RandomStream


def threshold(clients: int) -> int:
    """Signatures and shares needed: 2n // 3 + 1. Two lists that both get that many signatures share at least
    2 threshold - n signers, so one of them is honest while fewer than that collude.

    >>> [threshold(clients) for clients in (3, 5, 10)]
    [3, 4, 7]
    """
    return 2 * clients // 3 + 1


def default_degree(clients: int) -> int:
    """2 ceil(log2 n) + 2 neighbours, or all.

    >>> [default_degree(clients) for clients in (3, 10, 100)]
    [2, 9, 16]
    """
    return min(clients - 1, 2 * (clients - 1).bit_length() + 2)


def mask_graph(clients: int, degree: int, context: bytes) -> Graph:
    """Each client's neighbours: Harary's graph (The maximum connectivity of a graph, PNAS 1962), in an order that
    `context` fixes.

    Each client has at least `degree` neighbours; all but at most one have exactly that many, and one has one more
    where `degree` and `clients` are odd. From n - 1 on the graph is complete. While fewer than `degree` clients are
    taken away, colluders and dropouts together, the rest stays connected, so that only its sum is free of masks.
    Raises ValueError for fewer than 3 clients (a sum of two hides neither from the other) or a degree below 2.

    >>> [sorted(neighbours) for neighbours in mask_graph(6, 2, b"pinned")]
    [[1, 3], [0, 2], [1, 5], [0, 4], [3, 5], [2, 4]]
    """
    if clients < 3 or degree < 2:
        raise ValueError(f"clients must be at least 3 and degree at least 2, not {clients} and {degree}")
    degree = min(degree, clients - 1)
    edges = [(at, (at + step) % clients) for at in range(clients) for step in range(1, degree // 2 + 1)]
    if degree % 2:
        edges += [(at, at + clients // 2) for at in range((clients + 1) // 2)]
    key = hashlib.sha256(b"securepfl mask graph 1" + context).digest()
    order = RandomStream(key).permutation(clients).tolist()
    neighbours: list[set[int]] = [set() for _ in range(clients)]
    for left, right in edges:
        neighbours[order[left]].add(order[right])
        neighbours[order[right]].add(order[left])
    return tuple(map(frozenset, neighbours))


@dataclass(frozen=True)
class Masking:
    """How many clients mask, each with at least how many neighbours. Raises ValueError as `mask_graph` does.

    >>> masking = Masking(clients=10, degree=4)
    >>> masking.threshold, masking.least_survivors
    (7, 8)
    """

    clients: int
    degree: int

    def __post_init__(self) -> None:
        self.graph(b"")

    @property
    def threshold(self) -> int:
        """Signatures and shares needed."""
        return threshold(self.clients)

    @property
    def least_survivors(self) -> int:
        """Survivors needed: the threshold, and so many that with one colluder fewer than `degree` are taken away."""
        return max(self.threshold, self.clients - self.degree + 2)

    def graph(self, context: bytes) -> Graph:
        """Each client's neighbours under `context`."""
        return mask_graph(self.clients, self.degree, context)

    def fits(self, blobs: Sequence[bytes], commitments: bytes) -> bool:
        """Whether there are as many shares and commitments as a client can have sent, each of a possible length."""
        counts = range(self.least_degree + 1, self.least_degree + 3)
        lengths = {sealed_bytes(count) for count in counts}
        return (
            len(blobs) == self.clients
            and {len(blob) for blob in blobs} <= lengths
            and len(commitments) in {count * SECRET_BYTES for count in counts}
        )

    @property
    def least_degree(self) -> int:
        """The fewest neighbours of a client; at most one client has one more."""
        return min(self.degree, self.clients - 1)

    @property
    def most_bytes(self) -> int:
        """The most that one client's shares for another take, sealed."""
        return sealed_bytes(self.least_degree + 2)

    def survivors(self, survivors: Collection[int]) -> tuple[int, ...]:
        """The list in order. Raises MessageError where it cannot be one: too short, doubles, unknown clients."""
        ordered = tuple(sorted(survivors))
        if len(set(ordered)) < len(ordered) or not set(ordered) <= set(range(self.clients)):
            raise MessageError("survivor list with doubles or unknown clients; the coordinator must send it again")
        if len(ordered) < self.least_survivors:
            raise MessageError(f"{len(ordered)} survivors, {self.least_survivors} are needed; repeat the round")
        return ordered
