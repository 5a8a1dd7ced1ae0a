"""`scheme = "none"`, or `--plaintext`: the same sums in clear, readable by the coordinator, the same bit for bit."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from securepfl.crypto.sums.packing import check_slots
from securepfl.crypto.sums.parameters import Layout
from securepfl.crypto.sums.ring import check_key
from securepfl.crypto.sums.scheme import Scheme, SumCipher
from securepfl.crypto.sums.summation import Aggregate
from securepfl.crypto.sums.wire import Wire


class PlainCipher:
    """Slots travel packed at the bit length of the plain modulus."""

    def encrypt(self, slots: NDArray[np.uint64], layout: Layout) -> bytes:
        """One contribution, not encrypted. Raises ValueError for slots that do not fit the layout."""
        check_slots(slots, layout)
        return Wire.of_slots(layout).pack(slots)

    def decrypt(self, answer: bytes, layout: Layout) -> NDArray[np.uint64]:
        """The sums of slots. Raises MessageError for bytes that do not fit the layout."""
        return Wire.of_slots(layout).read_answer(answer)[2]


class Plain:
    """No key, no stamp, no seeds, and no SEAL anywhere."""

    encrypted = False
    similarity = "plain"
    unmasked = "none"
    needs_masks = ""

    def wire(self, layout: Layout) -> Wire:
        """Slots alone."""
        return Wire.of_slots(layout)

    def check_key(self, ring_key: bytes) -> None:
        """There must be none."""
        check_key(ring_key, needed=False)

    def cipher(self, ring_key: bytes, layout: Layout) -> SumCipher:
        """The same for every layout."""
        self.check_key(ring_key)
        return PlainCipher()

    def total(self, layout: Layout) -> Aggregate:
        """An empty sum of slots."""
        return Aggregate(self.wire(layout))


SCHEME: Final[Scheme] = Plain()
