"""`scheme = "bfv"`: exact sums of RLWE ciphertexts under the hospitals' common secret key (seal.py says how)."""

from typing import Final

from securepfl.crypto.sums.parameters import SETS, Layout
from securepfl.crypto.sums.ring import stamp
from securepfl.crypto.sums.scheme import Scheme, SumCipher
from securepfl.crypto.sums.summation import Aggregate
from securepfl.crypto.sums.wire import Wire


class Bfv:
    """The coordinator adds words modulo the ring's prime; SEAL is loaded where a hospital's cipher is made, and to read
    its version.
    """

    encrypted = True
    similarity = "pads"

    def wire(self, layout: Layout) -> Wire:
        """First polynomials and seeds, under this machine's stamp."""
        return Wire.of_ciphertexts(layout, stamp())

    def cipher(self, ring_key: bytes, layout: Layout) -> SumCipher:
        """SEAL under the key. Raises ValueError for a parameter set outside SETS, MessageError for no key of theirs."""
        from securepfl.crypto.sums.seal_cipher import SealCipher

        if layout.parameters not in SETS:
            raise ValueError(f"no key for parameter set {layout.parameters.name!r}")
        return SealCipher(ring_key, layout.parameters)

    def total(self, layout: Layout) -> Aggregate:
        """An empty sum of words."""
        return Aggregate(self.wire(layout))


SCHEME: Final[Scheme] = Bfv()
