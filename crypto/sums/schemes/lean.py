"""`scheme = "lean"`: exact sums of RLWE ciphertexts that we encrypt and add ourselves (lean_cipher.py says how).

The smallest and fastest, under masks alone: an answer carries every contribution's seed.
"""

from typing import Final

from securepfl.crypto.sums.parameters import Layout, check_set
from securepfl.crypto.sums.ring import check_key, stamp
from securepfl.crypto.sums.scheme import Scheme, SumCipher
from securepfl.crypto.sums.summation import Aggregate
from securepfl.crypto.sums.wire import Wire


class Lean:
    """The coordinator adds words modulo the ring's prime; SEAL is loaded where a hospital's cipher is made, and to read
    its version.
    """

    encrypted = True
    similarity = "pads"
    unmasked = "tenseal"
    needs_masks = (
        "an answer would carry every hospital's seed, and the low bits of the sum would show single updates to every "
        "hospital"
    )

    def wire(self, layout: Layout) -> Wire:
        """First polynomials and seeds, under this machine's stamp."""
        return Wire.with_seeds(layout, stamp())

    def check_key(self, ring_key: bytes) -> None:
        """It needs one."""
        check_key(ring_key, needed=True)

    def cipher(self, ring_key: bytes, layout: Layout) -> SumCipher:
        """Ours under the key. Raises ValueError for a parameter set outside SETS, MessageError for no key of theirs."""
        from securepfl.crypto.sums.lean_cipher import LeanCipher

        self.check_key(ring_key)
        check_set(layout.parameters)
        return LeanCipher(ring_key, layout.parameters)

    def total(self, layout: Layout) -> Aggregate:
        """An empty sum of words."""
        return Aggregate(self.wire(layout))


SCHEME: Final[Scheme] = Lean()
