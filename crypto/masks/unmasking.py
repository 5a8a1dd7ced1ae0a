"""The coordinator's half of masks: which shares the survivors reveal, and the masks' sum that comes off."""

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from securepfl.crypto.masks.edges import (
    ABSENT,
    SECRET_BYTES,
    Edge,
    add_masks,
    check_modulus,
    commitment,
    edges_of,
    edges_to_reveal,
    pieces,
)
from securepfl.crypto.masks.graph import Masking
from securepfl.crypto.masks.shamir import PRIME, combine
from securepfl.crypto.sums.words import Words
from securepfl.errors import MessageError


def disagreeing(masking: Masking, context: bytes, commitments: Mapping[int, bytes]) -> list[Edge]:
    """The pairs of clients who committed to different masks for each other, of those in `commitments`: their masks
    would not cancel, and nobody else can tell whose is right. (i, i) is a client whose commitments are too few or many.

    >>> masking = Masking(clients=3, degree=2)
    >>> disagreeing(masking, b"", {0: bytes(96), 1: bytes(96), 2: bytes(95) + b"x"})
    [(1, 2)]
    """
    graph, listed, wrong = masking.graph(context), dict[Edge, bytes](), []
    for index, data in sorted(commitments.items()):
        edges = edges_of(graph, index)
        if len(data) == SECRET_BYTES * len(edges):
            listed.update(zip(edges, pieces(data), strict=True))
        else:
            wrong.append((index, index))
    pairs = ((left, right) for left, right in listed if left < right and (right, left) in listed)
    return wrong + [(left, right) for left, right in pairs if listed[left, right] != listed[right, left]]


class Unmasking:
    """The coordinator's half, for one survivor list: `add` reveals, then subtract `total_mask` from the sum.

    A commitment stands for each secret, so that a false share can't put other masks into the sum.

    `commitments` are the survivors', by index. Raises MessageError where the list cannot be one, a commitment is
    missing or of a wrong length, or two neighbours committed to different masks, which would not cancel.
    `dealt_falsely` is who alone can have kept them from being taken off, if at most one client lies.

    | what is revealed                                  | what happens                                        |
    |---------------------------------------------------|-----------------------------------------------------|
    | enough true shares, by survivors or others        | the exact sum of the masks that are left            |
    | too few                                           | MessageError; more may be added                     |
    | one false reveal, one more than needed            | it is left out                                      |
    | false reveals otherwise                           | MessageError naming whose secrets did not come out  |
    | a share out of range, another length, a second    | MessageError; it is not taken                       |
    | shares that a survivor itself dealt falsely, or   | MessageError naming that survivor                   |
    | sealed so that they do not open                   |                                                     |
    """

    def __init__(
        self, masking: Masking, context: bytes, survivors: Collection[int], commitments: Mapping[int, bytes]
    ) -> None:
        self._masking, self._context = masking, context
        self._survivors = masking.survivors(survivors)
        graph = masking.graph(context)
        self._wanted = edges_to_reveal(graph, self._survivors)
        self._commitments: dict[Edge, bytes] = {}
        for index in self._survivors:
            edges, own = edges_of(graph, index), commitments.get(index, b"")
            if len(own) != SECRET_BYTES * len(edges):
                raise MessageError(f"client {index}'s commitments are missing or too long; repeat the round without it")
            self._commitments.update(zip(edges, pieces(own), strict=True))
        for (left, right), committed in self._commitments.items():
            if self._commitments.get((right, left), committed) != committed:
                raise MessageError(f"clients {left} and {right} hold different pair secrets; enrol them again")
        self._reveals: dict[int, list[bytes]] = {}
        self.dealt_falsely: int | None = None

    def add(self, revealer: int, data: bytes) -> None:
        """Take authenticated bytes that client `revealer`'s `reveal` gave.

        Raises MessageError for a wrong length, shares out of range, an unknown client or a second reveal.
        """
        if not 0 <= revealer < self._masking.clients or revealer in self._reveals:
            raise MessageError(f"client {revealer} is unknown or has revealed already; refused")
        shares = pieces(data)
        in_range = all(share == ABSENT or int.from_bytes(share, "big") < PRIME for share in shares)
        if len(data) != SECRET_BYTES * len(self._wanted) or not in_range or set(shares) == {ABSENT}:
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
        check_modulus(modulus)
        zeros = np.zeros(count, dtype=np.uint64)
        return add_masks(zeros, self.reconstruct(), modulus, self._context)

    def reconstruct(self) -> dict[Edge, int]:
        """The secrets that the sum still carries, each as committed to: a self-mask b_i as (i, i), the mask s_ij of a
        survivor i with a client j that is none as (i, j). Raises MessageError as `total_mask` does.
        """
        if not self.ready:
            raise MessageError(
                f"{len(self._reveals)} clients revealed, {self._masking.threshold} are needed; ask the others"
            )
        found: dict[Edge, int] = {}
        for holders, owners in self._holders().items():
            places = [place for place, edge in enumerate(self._wanted) if edge[0] in owners]
            for revealers in self._trials(holders):
                rows = {r: [int.from_bytes(self._reveals[r][place], "big") for place in places] for r in revealers}
                edges = [self._wanted[place] for place in places]
                found |= self._right(dict(zip(edges, combine(rows), strict=True)))
                places = [place for place in places if self._wanted[place] not in found]
                if not places:
                    break
        lost = sorted({edge[0] for edge in self._wanted if edge not in found})
        if not lost:
            return found
        if len(lost) == 1 and len(self._reveals) > self._masking.threshold:
            self.dealt_falsely = lost[0]
        named = ", ".join(map(str, lost))
        raise MessageError(
            f"shares do not give the secrets that clients {named} committed to; let one more client reveal, or repeat "
            "the round without them"
        )

    def _holders(self) -> dict[tuple[int, ...], set[int]]:
        """The survivors by who revealed shares of theirs."""
        by_holders: dict[tuple[int, ...], set[int]] = {}
        for owner in self._survivors:
            place = self._wanted.index((owner, owner))
            holders = tuple(sorted(r for r, shares in self._reveals.items() if shares[place] != ABSENT))
            by_holders.setdefault(holders, set()).add(owner)
        return by_holders

    def _right(self, values: Mapping[Edge, int]) -> dict[Edge, int]:
        """Those that were committed to."""
        return {e: s for e, s in values.items() if commitment(e, s, self._context) == self._commitments[e]}

    def _trials(self, revealers: Sequence[int]) -> Iterator[list[int]]:
        """Threshold revealers at a time: the first, then with each of those left out and the next in its place."""
        needed = self._masking.threshold
        if len(revealers) >= needed:
            yield list(revealers[:needed])
        if len(revealers) > needed:
            for out in revealers[:needed]:
                yield [revealer for revealer in revealers[: needed + 1] if revealer != out]
