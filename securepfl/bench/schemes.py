"""The ways to add up updates that the benchmark compares, each as a hospital's half and a coordinator's half.

Quantising, packing, tags and masks belong to `encrypt`; checking and scaling back to `decrypt`. TenSEAL's vectors and
CKKS are in ckks.py, ours in packed.py and masked.py.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from securepfl.bench.case import LIMIT, Case, Updates, Values
from securepfl.bench.ckks import BfvVector, Ckks, SeededCkks, SeededCkksCoordinator, VectorCoordinator
from securepfl.bench.masked import PackedMasked, PackedMaskedCoordinator
from securepfl.bench.packed import Packed, PackedCoordinator
from securepfl.crypto.sums.packing import dequantise_sum, quantise
from securepfl.crypto.sums.parameters import top_level
from securepfl.crypto.sums.words import pack_words, unpack_words
from securepfl.randomness import RandomStream, fresh_key

_NONCE_BYTES: Final = 12
_COUNTER_BYTES: Final = 4


class Hospital(Protocol):
    """A hospital's half. `public` is what the coordinator's half is built from; `sparse` says whether only the
    support's values go in and come out.
    """

    sparse: bool
    public: bytes

    def encrypt(self, index: int, values: Values) -> Any:
        """Hospital `index`'s contribution, whatever object the scheme has for it."""
        ...

    def serialize(self, encrypted: Any) -> bytes:
        """What it uploads."""
        ...

    def decrypt(self, answer: bytes) -> Values:
        """The mean over all hospitals."""
        ...


class Coordinator(Protocol):
    """The coordinator's half: one running sum."""

    def load(self, data: bytes) -> Any:
        """An upload as something to add."""
        ...

    def add(self, loaded: Any) -> None:
        """Add it to the sum."""
        ...

    def answer(self) -> bytes:
        """What every hospital downloads."""
        ...


PadWords = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class _PadWire:
    """Words of a pad: modulo 2^`bits`, which no sum of levels reaches, in the smallest machine word that holds them."""

    count: int
    bits: int

    @classmethod
    def of(cls, case: Case) -> Self:
        return cls(case.sent, (case.hospitals * top_level(case.bits)).bit_length())

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        return next(np.dtype(f"<u{width}") for width in (1, 2, 4, 8) if 8 * width >= self.bits)

    def pack(self, words: PadWords) -> bytes:
        # Machine words wrap modulo a multiple of 2^bits, so this is the only reduction needed.
        return pack_words(words.astype(np.uint64) & np.uint64((1 << self.bits) - 1), self.bits)

    def unpack(self, data: bytes) -> PadWords:
        return unpack_words(data, self.count, self.bits, 1 << self.bits).astype(self.dtype)


class Pad:
    """Levels plus an AES-256-CTR keystream, modulo a power of two: what hospitals could do with only a shared key.

    No tag: the lower bound for hiding, not for noticing alterations. A nonce must never come twice.
    """

    sparse = True
    public = b""

    def __init__(self, case: Case) -> None:
        self._case, self._wire = case, _PadWire.of(case)
        self._key, self._stream = secrets.token_bytes(32), RandomStream(fresh_key())

    def _keystream(self, nonce: bytes) -> PadWords:
        # Whole machine words, of which the low bits count: cheaper than cutting the stream into bits.
        cipher = Cipher(algorithms.AES256(self._key), modes.CTR(nonce + bytes(_COUNTER_BYTES)))
        dtype = self._wire.dtype
        return np.frombuffer(cipher.encryptor().update(bytes(self._case.sent * dtype.itemsize)), dtype)

    def encrypt(self, index: int, values: Values) -> tuple[bytes, PadWords]:
        """Nonce and padded levels; `index` plays no part."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        levels = quantise(values, self._case.bits, LIMIT, self._stream).levels
        return nonce, levels.astype(self._wire.dtype) + self._keystream(nonce)

    def serialize(self, encrypted: tuple[bytes, PadWords]) -> bytes:
        """The nonce, then the words, tightly packed."""
        nonce, words = encrypted
        return nonce + self._wire.pack(words)

    def decrypt(self, answer: bytes) -> Values:
        """Take off every hospital's pad, divide."""
        head, hospitals = _NONCE_BYTES * self._case.hospitals, self._case.hospitals
        sums = self._wire.unpack(answer[head:])
        for start in range(0, head, _NONCE_BYTES):
            sums -= self._keystream(answer[start : start + _NONCE_BYTES])
        levels = sums.astype(np.uint64) & np.uint64((1 << self._wire.bits) - 1)
        return dequantise_sum(levels, hospitals, self._case.bits, LIMIT) / hospitals


class PadCoordinator:
    """The coordinator's half of `Pad`."""

    def __init__(self, case: Case) -> None:
        self._wire = _PadWire.of(case)
        self._sum: PadWords = np.zeros(case.sent, dtype=self._wire.dtype)
        self._nonces: list[bytes] = []

    def load(self, data: bytes) -> tuple[bytes, PadWords]:
        """Nonce and words."""
        return data[:_NONCE_BYTES], self._wire.unpack(data[_NONCE_BYTES:])

    def add(self, loaded: tuple[bytes, PadWords]) -> None:
        """Add; what wraps is a multiple of the modulus."""
        nonce, words = loaded
        self._nonces.append(nonce)
        self._sum += words

    def answer(self) -> bytes:
        """The nonces, then the sum, tightly packed."""
        return b"".join(self._nonces) + self._wire.pack(self._sum)


class Float32:
    """Every parameter in clear as four bytes, zeros and all."""

    sparse = False
    public = b""

    def __init__(self, case: Case) -> None:
        self._hospitals = case.hospitals

    def encrypt(self, index: int, values: Values) -> NDArray[np.float32]:
        """Round to float32; `index` plays no part."""
        return values.astype("<f4")

    def serialize(self, encrypted: NDArray[np.float32]) -> bytes:
        """Little-endian."""
        return encrypted.tobytes()

    def decrypt(self, answer: bytes) -> Values:
        """Divide."""
        return np.frombuffer(answer, "<f4").astype(np.float64) / self._hospitals


class Float32Coordinator:
    """The coordinator's half of `Float32`."""

    def __init__(self, case: Case) -> None:
        self._sum = np.zeros(case.size, dtype=np.float32)

    def load(self, data: bytes) -> NDArray[np.float32]:
        """A view of the bytes."""
        return np.frombuffer(data, "<f4")

    def add(self, loaded: NDArray[np.float32]) -> None:
        """Add in float32."""
        self._sum += loaded

    def answer(self) -> bytes:
        """The sum."""
        return self._sum.astype("<f4").tobytes()


_ENTRY: Final = np.dtype([("position", "<i4"), ("value", "<f4")])


class Float32Sparse:
    """Position and value in clear, eight bytes an entry, as where no support is agreed."""

    sparse = True
    public = b""

    def __init__(self, updates: Updates) -> None:
        self._support, self._hospitals = updates.support, updates.case.hospitals

    def encrypt(self, index: int, values: Values) -> NDArray[np.void]:
        """Entries; `index` plays no part."""
        entries = np.empty(values.size, dtype=_ENTRY)
        entries["position"], entries["value"] = self._support, values
        return entries

    def serialize(self, encrypted: NDArray[np.void]) -> bytes:
        """Entry after entry."""
        return encrypted.tobytes()

    def decrypt(self, answer: bytes) -> Values:
        """Find the support's entries, divide."""
        entries = np.frombuffer(answer, dtype=_ENTRY)
        values = np.zeros(self._support.size)
        values[np.searchsorted(self._support, entries["position"])] = entries["value"]
        return values / self._hospitals


class Float32SparseCoordinator:
    """The coordinator's half of `Float32Sparse`: the answer holds every position that any hospital sent."""

    def __init__(self, case: Case) -> None:
        self._sum = np.zeros(case.size, dtype=np.float32)
        self._seen = np.zeros(case.size, dtype=np.bool_)

    def load(self, data: bytes) -> NDArray[np.void]:
        """A view of the bytes."""
        return np.frombuffer(data, dtype=_ENTRY)

    def add(self, loaded: NDArray[np.void]) -> None:
        """Add in float32; one hospital names no position twice."""
        self._sum[loaded["position"]] += loaded["value"]
        self._seen[loaded["position"]] = True

    def answer(self) -> bytes:
        """Entries of the sum."""
        positions = np.flatnonzero(self._seen)
        entries = np.empty(positions.size, dtype=_ENTRY)
        entries["position"], entries["value"] = positions, self._sum[positions]
        return entries.tobytes()


DENSE_SCHEMES: Final = ("ckks", "float32")
"""Those that send every parameter, zeros and all."""


def scheme_names(case: Case) -> tuple[str, ...]:
    """The schemes that a case compares: ours by their names in `[encryption] scheme`, "lean" with the masks that it
    needs; TenSEAL's vectors and CKKS; additive pads; and what travels in clear.
    """
    masked = ("tenseal-masked", "lean") if case.hospitals > 2 else ()  # masks between two hide neither from the other
    theirs = ("bfv-vector", "ckks", "ckks-seeded", "pad", "float32")
    sparse = ("float32-sparse",) if case.sent < case.size else ()
    return ("tenseal", *masked, "none", *theirs, *sparse)


def hospital_half(scheme: str, updates: Updates) -> Hospital:
    """A hospital with fresh keys. Raises KeyError for a name that is not in `scheme_names`."""
    case = updates.case
    makers: dict[str, Callable[[], Hospital]] = {
        "tenseal": lambda: Packed(case, "tenseal"),
        "tenseal-masked": lambda: PackedMasked(case, "tenseal"),
        "lean": lambda: PackedMasked(case, "lean"),
        "none": lambda: Packed(case, "none"),
        "bfv-vector": lambda: BfvVector(case),
        "ckks": lambda: Ckks(case),
        "ckks-seeded": lambda: SeededCkks(case),
        "pad": lambda: Pad(case),
        "float32": lambda: Float32(case),
        "float32-sparse": lambda: Float32Sparse(updates),
    }
    return makers[scheme]()


def coordinator_half(scheme: str, case: Case, public: bytes) -> Coordinator:
    """The coordinator for a hospital's `public`. Raises KeyError for a name that is not in `scheme_names`."""
    makers: dict[str, Callable[[], Coordinator]] = {
        "tenseal": lambda: PackedCoordinator(case, "tenseal"),
        "tenseal-masked": lambda: PackedMaskedCoordinator(case, "tenseal"),
        "lean": lambda: PackedMaskedCoordinator(case, "lean"),
        "none": lambda: PackedCoordinator(case, "none"),
        "bfv-vector": lambda: VectorCoordinator.of_integers(public),
        "ckks": lambda: VectorCoordinator.of_reals(public),
        "ckks-seeded": SeededCkksCoordinator,
        "pad": lambda: PadCoordinator(case),
        "float32": lambda: Float32Coordinator(case),
        "float32-sparse": lambda: Float32SparseCoordinator(case),
    }
    return makers[scheme]()
