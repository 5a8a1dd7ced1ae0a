"""The same sums under pairwise masks: masked in `encrypt`, signed and revealed in `reveals`, unmasked in `answer`."""

import time
from statistics import median
from typing import Any, Final

import msgspec

from securepfl.bench.case import LIMIT, Case, Values
from securepfl.bench.packed import CONTEXT, Packed
from securepfl.crypto.keys.identity import Identity
from securepfl.crypto.masks.agreement import SIGNATURE_CONTEXT, survivor_statement
from securepfl.crypto.masks.graph import Masking, default_degree
from securepfl.crypto.masks.masking import Masked, PairwiseMasker
from securepfl.crypto.masks.unmasking import Unmasking
from securepfl.crypto.sums.contribution import prepare
from securepfl.crypto.sums.packing import quantise
from securepfl.crypto.sums.parameters import choose_layout
from securepfl.crypto.sums.scheme import find_scheme
from securepfl.randomness import fresh_key

_TIMED: Final = 3


def _masking(case: Case) -> Masking:
    return Masking(case.hospitals, default_degree(case.hospitals))


class PackedMasked:
    """All hospitals' half. What goes with a masked update, and the two exchanges that unmask the sum, is timed; its
    bytes are not counted.
    """

    sparse = True
    public = b""

    def __init__(self, case: Case, name: str) -> None:
        self._case, self._plain, self._masking = case, Packed(case, name), _masking(case)
        clients = range(case.hospitals)
        pairs = {frozenset((one, other)): fresh_key() for one in clients for other in clients}
        self._maskers = [
            PairwiseMasker(one, {other: pairs[frozenset((one, other))] for other in clients}, self._masking)
            for one in clients
        ]
        self._sent: dict[int, Masked] = {}

    def encrypt(self, index: int, values: Values) -> tuple[int, bytes]:
        """Quantise, pack, tag, mask with shares, encrypt."""
        layout = self._plain.layout
        levels = quantise(values, self._case.bits, LIMIT, self._plain.stream).levels
        slots = prepare(levels, layout, index, self._plain.tag_key, CONTEXT)
        masked = self._maskers[index].mask(slots, layout.parameters.plain_modulus, CONTEXT)
        self._sent[index] = masked
        return index, self._plain.cipher.encrypt(masked.slots, layout)

    def serialize(self, encrypted: tuple[int, bytes]) -> bytes:
        """The update's bytes; its shares and commitments travel beside it."""
        return encrypted[1]

    def reveals(self) -> tuple[list[bytes], float]:
        """What as many hospitals as are needed reveal of the sum of all, and one hospital's seconds for it: signing the
        list, checking the others' signatures, opening shares.
        """
        everyone = range(self._case.hospitals)
        identities = [Identity.generate(f"hospital {index}") for index in everyone]
        roster = [identity.public for identity in identities]
        statement = survivor_statement(self._masking, CONTEXT, everyone)
        start = time.perf_counter()
        signatures = {0: identities[0].sign(statement, SIGNATURE_CONTEXT)}
        signing = time.perf_counter() - start
        signers = range(self._masking.threshold)
        signatures |= {index: identities[index].sign(statement, SIGNATURE_CONTEXT) for index in signers[1:]}
        seconds, reveals = [], []
        for index in signers:
            blobs = {sender: masked.blobs[index] for sender, masked in self._sent.items()}
            start = time.perf_counter()
            shares = self._maskers[index].reveal(CONTEXT, everyone, signatures, roster, blobs)
            seconds.append(time.perf_counter() - start)
            reveals.append(msgspec.msgpack.encode((index, shares)))
        return reveals, signing + median(seconds)

    def commitments(self) -> bytes:
        """What the coordinator checks reconstructed secrets against."""
        return msgspec.msgpack.encode({index: masked.commitments for index, masked in self._sent.items()})

    def decrypt(self, answer: bytes) -> Values:
        """As without masks."""
        return self._plain.decrypt(answer)


class PackedMaskedCoordinator:
    """The coordinator's half of `PackedMasked`."""

    def __init__(self, case: Case, name: str) -> None:
        self._layout, self._masking = choose_layout(case.sent, case.bits, case.hospitals), _masking(case)
        self._total, self._hospitals = find_scheme(name).total(self._layout), case.hospitals
        self._unmasking: Unmasking | None = None

    def load(self, data: bytes) -> bytes:
        """As it is."""
        return data

    def add(self, loaded: bytes) -> None:
        """Read and add."""
        self._total.add(loaded)

    def unmask(self, commitments: bytes, reveals: list[bytes]) -> None:
        """Take what hospitals revealed."""
        known: dict[int, bytes] = msgspec.msgpack.decode(commitments, type=dict[int, bytes])
        self._unmasking = Unmasking(self._masking, CONTEXT, range(self._hospitals), known)
        for reveal in reveals:
            index, shares = msgspec.msgpack.decode(reveal, type=tuple[int, bytes])
            self._unmasking.add(index, shares)

    def answer(self) -> bytes:
        """Reconstruct the masks' sum, take it off, pack."""
        unmasking: Any = self._unmasking
        return self._total.answer(unmasking.total_mask(self._layout.slots, self._layout.parameters.plain_modulus))
