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

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from securepfl.crypto.keys.identity import PublicIdentity
from securepfl.crypto.masks.agreement import check_agreement
from securepfl.crypto.masks.edges import (
    ABSENT,
    Edge,
    add_masks,
    check_modulus,
    commitment,
    edges_of,
    edges_to_reveal,
    pair_mask_secret,
    secret_to_bytes,
)
from securepfl.crypto.masks.graph import Masking
from securepfl.crypto.masks.shamir import PRIME, split
from securepfl.crypto.masks.shares import open_shares, seal_shares
from securepfl.crypto.sums.words import Words
from securepfl.errors import MessageError
from securepfl.randomness import KEY_BYTES


@dataclass(frozen=True)
class Masked:
    """What a client sends: masked slots, shape (slots,), uniform modulo t; a sealed blob of shares for each client by
    index; and 32 bytes of commitment to each secret, its own first, then its neighbours' in order. It keeps `own`, the
    secret of its self-mask, 32 bytes: `PairwiseMasker.opened` needs it.
    """

    slots: Words
    blobs: tuple[bytes, ...]
    commitments: bytes
    own: bytes = field(repr=False)


class PairwiseMasker:
    """Client `index`'s half: masks its vector, later reveals shares. Keeps nothing between calls.

    `pair_secrets` holds, for every client, 32 bytes that only this client and that one know; under its own index, 32
    bytes that it alone knows. Raises ValueError where it does not.

    >>> masking = Masking(clients=3, degree=2)
    >>> pairs = {frozenset((one, two)): bytes([one + 3 * two]) * 32 for one in range(3) for two in range(one, 3)}
    >>> maskers = [PairwiseMasker(i, {j: pairs[frozenset((i, j))] for j in range(3)}, masking) for i in range(3)]
    >>> masked = maskers[0].mask(np.array([1, 2, 3], dtype=np.uint64), modulus=101, context=b"round 1")
    >>> masked.slots.shape, len(masked.blobs), masking.fits(masked.blobs, masked.commitments)
    ((3,), 3, True)
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
        check_modulus(modulus)
        if slots.dtype != np.uint64 or slots.ndim != 1 or (slots.size and int(slots.max()) >= modulus):
            raise ValueError(f"slots must be uint64 words below {modulus} in one dimension")
        own = self._secrets(context, secrets.randbelow(PRIME))
        rows = split(list(own.values()), self._masking.threshold, self._masking.clients)
        return Masked(
            add_masks(slots, own, modulus, context),
            tuple(self._sealed(receiver, row, context) for receiver, row in enumerate(rows)),
            b"".join(commitment(edge, secret, context) for edge, secret in own.items()),
            secret_to_bytes(own[self._index, self._index]),
        )

    def opened(self, context: bytes, own: bytes) -> bytes:
        """All secrets behind this client's mask under `context`, given its `own` one: 32 bytes each, in the order of
        its commitments. Whoever has them takes the mask off (opening.py).
        """
        return b"".join(map(secret_to_bytes, self._secrets(context, int.from_bytes(own, "big")).values()))

    def _secrets(self, context: bytes, self_mask: int) -> dict[Edge, int]:
        own = {(self._index, self._index): self_mask}
        for _, other in edges_of(self._masking.graph(context), self._index)[1:]:
            own[self._index, other] = pair_mask_secret(self._pair_secrets[other], self._index, other, context)
        return own

    def _sealed(self, receiver: int, row: list[int], context: bytes) -> bytes:
        return seal_shares(row, self._pair_secrets[receiver], self._index, receiver, context)

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
        the list has too few survivors or valid signatures, or this client's own is not among them. A survivor whose
        blob is missing or does not open costs its own shares alone: ABSENT stands for each.

        | the coordinator asks with                                | what this client does                        |
        |----------------------------------------------------------|----------------------------------------------|
        | a list that it signed itself, signed by enough           | reveals b_i of survivors, s_ij of the others |
        | another list than the one it signed                      | reveals nothing, MessageError                |
        | too few signatures, ones of others, or over another list | reveals nothing, MessageError                |
        | too few survivors, doubles or strangers among them       | reveals nothing, MessageError                |
        | a blob missing, altered, of another receiver or context  | reveals all shares but those in it           |
        | the same list again                                      | the same shares again                        |
        """
        ordered = self._masking.survivors(survivors)
        if self._index not in check_agreement(self._masking, context, ordered, signatures, roster):
            raise MessageError("this hospital has not signed this survivor list; nothing was revealed; sign one list")
        graph = self._masking.graph(context)
        shares: dict[Edge, bytes] = {}
        for sender in ordered:
            edges = edges_of(graph, sender)
            opened = self._opened(sender, blobs.get(sender, b""), len(edges), context)
            shares.update(zip(edges, opened, strict=True))
        return b"".join(shares[edge] for edge in edges_to_reveal(graph, ordered))

    def _opened(self, sender: int, blob: bytes, count: int, context: bytes) -> list[bytes]:
        """The shares that `sender` sealed to this client. One who sealed none that open must not silence the others."""
        try:
            return open_shares(blob, count, self._pair_secrets[sender], sender, self._index, context)
        except MessageError:
            return [ABSENT] * count
