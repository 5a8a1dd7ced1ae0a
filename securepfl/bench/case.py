"""What the benchmark adds up: one case, and every hospital's update, made afresh whenever it is asked for."""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from securepfl.crypto.sums.parameters import MAX_BITS, MIN_BITS
from securepfl.errors import ConfigError

Values = NDArray[np.float64]

LIMIT: Final = 1.0
"""No entry of an update lies beyond it; quantisation spans it."""

_BLOCK: Final = 1 << 16
_SPREAD: Final = 0.2
_GROUPS: Final = 3


@dataclass(frozen=True)
class Case:
    """`hospitals` updates of `size` float32 parameters, of which a share `density` is not zero, at `bits` bits.

    All hospitals know which: the positions are agreed and never travel, except in "float32-sparse". Raises
    ConfigError, naming the option, for numbers that make no case.
    """

    size: int
    hospitals: int
    bits: int
    density: float

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"--size {self.size}: a model needs parameters; give at least 1")
        if self.hospitals < 2:
            raise ConfigError(f"--hospitals {self.hospitals}: a sum hides nobody alone; give at least 2")
        if not MIN_BITS <= self.bits <= MAX_BITS:
            raise ConfigError(f"--bits {self.bits}: give {MIN_BITS} to {MAX_BITS}")
        if not 0 < self.density <= 1:
            raise ConfigError(f"--density {self.density}: give a share above 0 and at most 1")

    @property
    def sent(self) -> int:
        """Values that are not zero, at least 1."""
        return max(1, round(self.size * self.density))


class Updates:
    """The updates of a case, the same in every process; none is kept, so memory does not grow with the roster.

    Hospitals fall into three groups: two of a group have a cosine of about 0.5, others of about 0.
    """

    def __init__(self, case: Case) -> None:
        self.case = case

    @cached_property
    def support(self) -> NDArray[np.int64]:
        """Positions that are not zero, ascending, shape (case.sent,)."""
        if self.case.sent == self.case.size:
            return np.arange(self.case.size)
        chosen = np.random.default_rng(0).choice(self.case.size, self.case.sent, replace=False, shuffle=False)
        return np.sort(chosen)

    def _block(self, hospital: int, start: int) -> Values:
        count = min(_BLOCK, self.case.sent - start)
        group = np.random.default_rng([0, hospital % _GROUPS, start]).standard_normal(count)
        own = np.random.default_rng([1, hospital, start]).standard_normal(count)
        # Models train in float32, so that is what their updates hold.
        return np.clip(_SPREAD * (group + own), -LIMIT, LIMIT).astype(np.float32).astype(np.float64)

    def values(self, hospital: int) -> Values:
        """One hospital's update on the support, shape (case.sent,)."""
        return np.concatenate([self._block(hospital, start) for start in range(0, self.case.sent, _BLOCK)])

    def dense(self, values: Values) -> Values:
        """Values on the support as a whole update, shape (case.size,)."""
        if self.case.sent == self.case.size:
            return values
        whole = np.zeros(self.case.size)
        whole[self.support] = values
        return whole

    def cosines(self) -> Values:
        """Exact cosines between hospitals, shape (case.hospitals, case.hospitals)."""
        products = np.zeros((self.case.hospitals, self.case.hospitals))
        for start in range(0, self.case.sent, _BLOCK):
            rows = np.stack([self._block(hospital, start) for hospital in range(self.case.hospitals)])
            products += rows @ rows.T
        norms = np.sqrt(np.diag(products))
        cosines: Values = products / np.outer(norms, norms)
        return cosines
