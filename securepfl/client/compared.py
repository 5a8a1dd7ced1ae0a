"""What a hospital compares with others: its accumulated updates, or its personal parameters, less the known noise."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from securepfl.client.state import ClientState
from securepfl.crypto.similarity.similarity import Similarity, sketch, travelled_norm
from securepfl.learning.personal.signal import KnownNoise, Signal, largest_excess


@dataclass(frozen=True)
class Compared:
    """What a hospital compares: `vector` [m], and the known noise in it, which nobody else can take off.

    It travels scaled so that products give the cosine between signals; where the signal does not pass the gate, as
    zero. Others learn debiased cosines and norms; from few coordinates they can work out how much noise there was, and
    so how many rows (docs/threat-model.md).
    """

    vector: NDArray[np.float64]
    noise: KnownNoise
    gate: float

    @cached_property
    def signal(self) -> Signal:
        """How much of it is signal."""
        return Signal.of(self.vector, self.noise)

    @property
    def visible(self) -> bool:
        """Whether there is signal enough to compare."""
        return self.signal.norm > 0 and self.signal.ratio >= self.gate

    @property
    def norm(self) -> float:
        """The signal's norm as all hospitals read it, 0 where it is not visible."""
        return travelled_norm(self.signal.norm if self.visible else 0.0)

    def sketch(self, dimensions: int, key: bytes) -> NDArray[np.int64]:
        """The sketch [dimensions], its norm in proportion to the vector's over the signal's."""
        if not self.visible:
            return np.zeros(dimensions, dtype=np.int64)
        excess = float(np.linalg.norm(self.vector)) / self.signal.norm
        return sketch(self.vector, dimensions, key, scale=min(1.0, excess / self.most_excess))

    def opened(self, answer: Similarity) -> Similarity:
        """What an answer about another hospital says of the signals."""
        return Similarity(max(-1.0, min(1.0, answer.cosine * self.most_excess**2)), answer.norm)

    @property
    def most_excess(self) -> float:
        """The scale that all hospitals share."""
        return largest_excess(self.vector.size, self.gate)


def compared_of(state: ClientState, gate: float) -> Compared:
    """What `state` holds for comparison."""
    return Compared(state.compared, noise_of(state), gate)


def noise_of(state: ClientState) -> KnownNoise:
    """The known noise in what `state` holds for comparison."""
    return KnownNoise(state.noise_energy, state.noise_peak)


def set_noise(state: ClientState, noise: KnownNoise) -> None:
    """Keep `noise` as what is known."""
    state.noise_energy, state.noise_peak = noise.energy, noise.peak
