"""`scheme = "tenseal"`: exact sums that TenSEAL's SEAL encrypts, adds and decrypts. Packing, tags and bytes are ours.

No seed of a hospital reaches another: the coordinator lets SEAL expand them, and answers with sums of both halves.
"""

from typing import Final

from securepfl.crypto.sums.parameters import Layout, check_set
from securepfl.crypto.sums.ring import check_key, stamp
from securepfl.crypto.sums.scheme import RunningSum, Scheme, SumCipher
from securepfl.crypto.sums.wire import Wire


class TenSeal:
    """SEAL is loaded where a hospital's cipher or the coordinator's sum is made, and to read its version."""

    encrypted = True
    similarity = "products"
    unmasked = "tenseal"
    needs_masks = ""

    def wire(self, layout: Layout) -> Wire:
        """First polynomials and seeds up, both halves down, under this machine's stamp."""
        return Wire.with_halves(layout, stamp())

    def check_key(self, ring_key: bytes) -> None:
        """It needs one."""
        check_key(ring_key, needed=True)

    def cipher(self, ring_key: bytes, layout: Layout) -> SumCipher:
        """SEAL under the key. Raises ValueError for a parameter set outside SETS, MessageError for no key of theirs."""
        from securepfl.crypto.sums.seal_cipher import SealCipher

        self.check_key(ring_key)
        check_set(layout.parameters)
        return SealCipher(ring_key, layout.parameters)

    def total(self, layout: Layout) -> RunningSum:
        """An empty sum of SEAL's ciphertexts."""
        from securepfl.crypto.sums.seal_sum import SealAggregate

        return SealAggregate(self.wire(layout))


SCHEME: Final[Scheme] = TenSeal()
