"""Pairwise masks: a coordinator that colludes with some hospitals learns the sum of the others and nothing else.

After Bonawitz et al. (CCS 2017, section 6) with the sparse graph of Bell et al. (CCS 2020). Client i sends
y_i = x_i + PRG(b_i) + sum over neighbours j of sign(i, j) PRG(s_ij) modulo t; sign(i, j) is 1 for i < j, else -1.
s_ij comes from a secret that only i and j hold, bound to the context; b_i is fresh from the OS. With y_i go, sealed
to each client, its Shamir shares of b_i and of every s_ij, and commitments to those secrets. When the coordinator has
fixed the survivors (those whose contribution is in the sum), every client signs that list, and a client that holds
enough signatures over the list it signed itself reveals its shares of b_i for each survivor i and of s_ij for each
survivor i and each neighbour j that is none. That is what the sum still carries: never an edge between two survivors,
never b_j of a client that is none.

The caller owes: `context` names federation, round and attempt; one vector is masked and one list signed under a
context, also after a restart (the same bytes may be sent again); whoever revealed never sends the same update under
another context; and what travels is authenticated (envelope.py).
"""

import hashlib
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from securepfl.crypto.keys.identity import PublicIdentity
from securepfl.crypto.masks.shamir import PRIME, combine, split
from securepfl.crypto.sums.uniform import uniform_chunks
from securepfl.crypto.sums.words import Words
from securepfl.errors import MessageError
from securepfl.randomness import KEY_BYTES, RandomStream, derive_key

SIGNATURE_CONTEXT: Final = b"mask survivors"
"""The `context` with which Identity.sign signs a survivor statement."""

MAX_MODULUS: Final = 2**60

_SECRET_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_INDEX_BYTES: Final = 4

Graph = tuple[frozenset[int], ...]
_Edge = tuple[int, int]
"""Names a secret: (i, i) is b_i, (i, j) is s_ij as shared by i."""


def threshold(clients: int) -> int:
    """Signatures and shares needed: 2n // 3 + 1. Two lists that both get that many signatures share at least
    2 threshold - n signers, so one of them is honest while fewer than that collude.
    """
    return 2 * clients // 3 + 1


def default_degree(clients: int) -> int:
    """2 ceil(log2 n) + 2 neighbours, or all."""
    return min(clients - 1, 2 * (clients - 1).bit_length() + 2)


def mask_graph(clients: int, degree: int, context: bytes) -> Graph:
    """Each client's neighbours: Harary's graph (The maximum connectivity of a graph, PNAS 1962), in an order that
    `context` fixes.

    Each client has at least `degree` neighbours; all but at most one have exactly that many, and one has one more
    where `degree` and `clients` are odd. From n - 1 on the graph is complete. While fewer than `degree` clients are
    taken away, colluders and dropouts together, the rest stays connected, so that only its sum is free of masks.
    Raises ValueError for fewer than 3 clients (a sum of two hides neither from the other) or a degree below 2.
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
    """How many clients mask, each with at least how many neighbours. Raises ValueError as `mask_graph` does."""

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
        lengths = {_NONCE_BYTES + count * _SECRET_BYTES + _TAG_BYTES for count in counts}
        return (
            len(blobs) == self.clients
            and {len(blob) for blob in blobs} <= lengths
            and len(commitments) in {count * _SECRET_BYTES for count in counts}
        )

    @property
    def least_degree(self) -> int:
        """The fewest neighbours of a client; at most one client has one more."""
        return min(self.degree, self.clients - 1)

    @property
    def most_bytes(self) -> int:
        """The most that one client's shares for another take, sealed."""
        return _NONCE_BYTES + (self.least_degree + 2) * _SECRET_BYTES + _TAG_BYTES

    def survivors(self, survivors: Collection[int]) -> tuple[int, ...]:
        """The list in order. Raises MessageError where it cannot be one: too short, doubles, unknown clients."""
        ordered = tuple(sorted(survivors))
        if len(set(ordered)) < len(ordered) or not set(ordered) <= set(range(self.clients)):
            raise MessageError("survivor list with doubles or unknown clients; the coordinator must send it again")
        if len(ordered) < self.least_survivors:
            raise MessageError(f"{len(ordered)} survivors, {self.least_survivors} are needed; repeat the round")
        return ordered


def survivor_statement(masking: Masking, context: bytes, survivors: Collection[int]) -> bytes:
    """What a client signs, under SIGNATURE_CONTEXT and once for a context, before anybody reveals anything.

    Raises MessageError for a list that cannot be one.
    """
    numbers = (masking.clients, masking.degree, len(context), *masking.survivors(survivors))
    return b"".join(number.to_bytes(_INDEX_BYTES, "big") for number in numbers) + context


def check_agreement(
    masking: Masking,
    context: bytes,
    survivors: Collection[int],
    signatures: Mapping[int, bytes],
    roster: Sequence[PublicIdentity],
) -> frozenset[int]:
    """The clients whose signature over exactly this list verifies; `roster` is by client index.

    Raises MessageError where they are fewer than the threshold or the list cannot be one; ValueError for a roster of
    another size.
    """
    if len(roster) != masking.clients:
        raise ValueError(f"roster must have {masking.clients} identities, not {len(roster)}")
    statement = survivor_statement(masking, context, survivors)
    signers = frozenset(
        index for index, identity in enumerate(roster) if _verifies(identity, signatures.get(index), statement)
    )
    if len(signers) < masking.threshold:
        raise MessageError(
            f"{len(signers)} valid signatures on the survivor list, {masking.threshold} are needed; "
            "nothing was revealed; ask more hospitals to sign"
        )
    return signers


def _verifies(identity: PublicIdentity, signature: bytes | None, statement: bytes) -> bool:
    try:
        identity.verify(signature or b"", statement, SIGNATURE_CONTEXT)
    except MessageError:
        return False
    return True


@dataclass(frozen=True)
class Masked:
    """What a client sends: masked slots, shape (slots,), uniform modulo t; a sealed blob of shares for each client by
    index; and 32 bytes of commitment to each secret, its own first, then its neighbours' in order.
    """

    slots: Words
    blobs: tuple[bytes, ...]
    commitments: bytes


class PairwiseMasker:
    """Client `index`'s half: masks its vector, later reveals shares. Keeps nothing between calls.

    `pair_secrets` holds, for every client, 32 bytes that only this client and that one know; under its own index, 32
    bytes that it alone knows. Raises ValueError where it does not.
    """

    def __init__(self, index: int, pair_secrets: Mapping[int, bytes], masking: Masking) -> None:
        if set(pair_secrets) != set(range(masking.clients)) or index not in pair_secrets:
            raise ValueError(f"index {index} and pair_secrets must cover clients 0 to {masking.clients - 1}")
        if any(len(secret) != KEY_BYTES for secret in pair_secrets.values()):
            raise ValueError(f"pair_secrets must be {KEY_BYTES} bytes each")
        self._index = index
        self._pair_secrets = dict(pair_secrets)
        self._masking = masking

    def mask(self, slots: Words, modulus: int, context: bytes) -> Masked:
        """Mask slots, shape (slots,), words below `modulus`, which is at most 2^60. Once for a context: two vectors
        under one would differ by what the masks no longer hide.

        Raises ValueError for another shape or type, slots not below the modulus, or a modulus out of range.
        """
        _check_modulus(modulus)
        if slots.dtype != np.uint64 or slots.ndim != 1 or (slots.size and int(slots.max()) >= modulus):
            raise ValueError(f"slots must be uint64 words below {modulus} in one dimension")
        own = self._secrets(context)
        rows = split(list(own.values()), self._masking.threshold, self._masking.clients)
        return Masked(
            _add_masks(slots, own, modulus, context),
            tuple(self._seal(receiver, row, context) for receiver, row in enumerate(rows)),
            b"".join(_commitment(edge, secret, context) for edge, secret in own.items()),
        )

    def _secrets(self, context: bytes) -> dict[_Edge, int]:
        own = {(self._index, self._index): secrets.randbelow(PRIME)}
        for _, other in _held(self._masking.graph(context), self._index)[1:]:
            own[self._index, other] = _pair_mask_secret(self._pair_secrets[other], self._index, other, context)
        return own

    def _seal(self, receiver: int, row: list[int], context: bytes) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        key = _blob_key(self._pair_secrets[receiver], self._index, receiver, context)
        return nonce + AESGCM(key).encrypt(nonce, b"".join(map(_to_bytes, row)), None)

    def reveal(
        self,
        context: bytes,
        survivors: Collection[int],
        signatures: Mapping[int, bytes],
        roster: Sequence[PublicIdentity],
        blobs: Mapping[int, bytes],
    ) -> bytes:
        """This client's shares of what the sum of `survivors` still carries, 32 bytes each, in a fixed order.

        `signatures` are those over `survivor_statement`, by client index; `roster` is by client index; `blobs` are
        those that the survivors addressed to this client, by sender. Raises MessageError, and reveals nothing, where
        the list has too few survivors or valid signatures, this client's own is not among them, or a survivor's blob
        is missing or was altered.
        """
        ordered = self._masking.survivors(survivors)
        if self._index not in check_agreement(self._masking, context, ordered, signatures, roster):
            raise MessageError("this hospital has not signed this survivor list; nothing was revealed; sign one list")
        graph = self._masking.graph(context)
        shares: dict[_Edge, bytes] = {}
        for sender in ordered:
            held = _held(graph, sender)
            shares.update(zip(held, self._open(sender, blobs.get(sender, b""), len(held), context), strict=True))
        return b"".join(shares[edge] for edge in _wanted(graph, ordered))

    def _open(self, sender: int, blob: bytes, count: int, context: bytes) -> list[bytes]:
        refused = f"client {sender}'s shares are missing or were altered; repeat the round without it"
        if len(blob) != _NONCE_BYTES + count * _SECRET_BYTES + _TAG_BYTES:
            raise MessageError(refused)
        key = _blob_key(self._pair_secrets[sender], sender, self._index, context)
        try:
            row = AESGCM(key).decrypt(blob[:_NONCE_BYTES], blob[_NONCE_BYTES:], None)
        except InvalidTag:
            raise MessageError(refused) from None
        shares = _pieces(row)
        # Passed on unchecked, the sender's fault would look like this client's.
        if any(int.from_bytes(share, "big") >= PRIME for share in shares):
            raise MessageError(refused)
        return shares


class Unmasking:
    """The coordinator's half, for one survivor list: `add` reveals, then subtract `total_mask` from the sum.

    `commitments` are the survivors', by index. Raises MessageError where the list cannot be one, a commitment is
    missing or of a wrong length, or two neighbours committed to different masks, which would not cancel.
    """

    def __init__(
        self, masking: Masking, context: bytes, survivors: Collection[int], commitments: Mapping[int, bytes]
    ) -> None:
        self._masking, self._context = masking, context
        self._survivors = masking.survivors(survivors)
        graph = masking.graph(context)
        self._wanted = _wanted(graph, self._survivors)
        self._commitments: dict[_Edge, bytes] = {}
        for index in self._survivors:
            held, own = _held(graph, index), commitments.get(index, b"")
            if len(own) != _SECRET_BYTES * len(held):
                raise MessageError(f"client {index}'s commitments are missing or too long; repeat the round without it")
            self._commitments.update(zip(held, _pieces(own), strict=True))
        for (left, right), commitment in self._commitments.items():
            if self._commitments.get((right, left), commitment) != commitment:
                raise MessageError(f"clients {left} and {right} hold different pair secrets; enrol them again")
        self._reveals: dict[int, list[int]] = {}

    def add(self, revealer: int, data: bytes) -> None:
        """Take authenticated bytes that client `revealer`'s `reveal` gave.

        Raises MessageError for a wrong length, shares out of range, an unknown client or a second reveal.
        """
        if not 0 <= revealer < self._masking.clients or revealer in self._reveals:
            raise MessageError(f"client {revealer} is unknown or has revealed already; refused")
        shares = [int.from_bytes(share, "big") for share in _pieces(data)]
        if len(data) != _SECRET_BYTES * len(self._wanted) or max(shares) >= PRIME:
            raise MessageError(f"client {revealer}'s reveal has a wrong length or range; ask for it again")
        self._reveals[revealer] = shares

    @property
    def ready(self) -> bool:
        """Whether enough clients have revealed."""
        return len(self._reveals) >= self._masking.threshold

    def total_mask(self, count: int, modulus: int) -> Words:
        """What to subtract, modulo `modulus`, from the survivors' summed slots: shape (count,).

        One false reveal is left out where there is one more than needed. Raises MessageError where too few have
        revealed or the shares do not give what was committed to; ValueError for a modulus out of range.
        """
        _check_modulus(modulus)
        zeros = np.zeros(count, dtype=np.uint64)
        return _add_masks(zeros, self._reconstruct(), modulus, self._context)

    def _reconstruct(self) -> dict[_Edge, int]:
        if not self.ready:
            raise MessageError(
                f"{len(self._reveals)} clients revealed, {self._masking.threshold} are needed; ask the others"
            )
        suspects: set[int] = set()
        for revealers in self._trials():
            values = combine({revealer: self._reveals[revealer] for revealer in revealers})
            found = dict(zip(self._wanted, values, strict=True))
            wrong = {
                edge[0]
                for edge, secret in found.items()
                if _commitment(edge, secret, self._context) != self._commitments[edge]
            }
            if not wrong:
                return found
            suspects = suspects & wrong or wrong
        named = ", ".join(map(str, sorted(suspects)))
        raise MessageError(
            f"shares do not give the secrets that clients {named} committed to; let one more client reveal, "
            "or repeat the round without them"
        )

    def _trials(self) -> Iterator[list[int]]:
        """Threshold revealers at a time: the first, then with each of those left out and the next in its place."""
        revealers = sorted(self._reveals)
        needed = self._masking.threshold
        yield revealers[:needed]
        if len(revealers) > needed:
            for out in revealers[:needed]:
                yield [revealer for revealer in revealers[: needed + 1] if revealer != out]


def _held(graph: Graph, index: int) -> list[_Edge]:
    """The secrets that a client shares, in the order of its blobs and commitments."""
    return [(index, index), *((index, other) for other in sorted(graph[index]))]


def _wanted(graph: Graph, survivors: Sequence[int]) -> list[_Edge]:
    """The secrets to be revealed, in the order of reveals. No edge between two survivors is ever among them, nor b_j
    of a client that is none.
    """
    dropped = set(range(len(graph))) - set(survivors)
    edges = ((index, other) for index in survivors for other in sorted(graph[index] & dropped))
    return [*((index, index) for index in survivors), *edges]


def _to_bytes(secret: int) -> bytes:
    return secret.to_bytes(_SECRET_BYTES, "big")


def _pieces(data: bytes) -> list[bytes]:
    return [data[at : at + _SECRET_BYTES] for at in range(0, len(data), _SECRET_BYTES)]


def _pair_mask_secret(pair_secret: bytes, index: int, other: int, context: bytes) -> int:
    # 512 bits, so that the residue is uniform up to 2^-257.
    labels = (context.hex(), min(index, other), max(index, other))
    wide = b"".join(derive_key(pair_secret, "pair mask 1", half, *labels) for half in (0, 1))
    return int.from_bytes(wide, "big") % PRIME


def _blob_key(pair_secret: bytes, sender: int, receiver: int, context: bytes) -> bytes:
    return derive_key(pair_secret, "mask shares 1", context.hex(), sender, receiver)


def _commitment(edge: _Edge, secret: int, context: bytes) -> bytes:
    # Both ends of an edge commit to the same bytes, so that a disagreement shows before anything is added.
    ends = b"".join(end.to_bytes(_INDEX_BYTES, "big") for end in sorted(edge))
    return hashlib.sha256(b"securepfl mask commitment 1" + ends + _to_bytes(secret) + context).digest()


def _check_modulus(modulus: int) -> None:
    if not 2 <= modulus <= MAX_MODULUS:
        raise ValueError(f"modulus must be in [2, 2^60], not {modulus}")


def _add_masks(slots: Words, masks: Mapping[_Edge, int], modulus: int, context: bytes) -> Words:
    """slots + the sum of sign(i, j) PRG(secret), modulo `modulus`."""
    total = slots.copy()
    # So many words below the modulus, and what is there already, fit in 64 bits: the rest is reduced once for all.
    room = 2**64 // modulus - 1
    terms = list(masks.items())
    for start in range(0, len(terms), room):
        for (index, other), secret in terms[start : start + room]:
            key = derive_key(_to_bytes(secret), "mask words 1", context.hex())
            _accumulate(total, uniform_chunks(key, total.size, modulus), modulus, subtract=index > other)
        total %= np.uint64(modulus)
    return total


def _accumulate(total: Words, chunks: Iterable[Words], modulus: int, *, subtract: bool) -> None:
    at = 0
    for chunk in chunks:
        part = total[at : at + chunk.size]
        part += np.uint64(modulus) - chunk if subtract else chunk
        at += chunk.size
