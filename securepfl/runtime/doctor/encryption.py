"""The encryption: a sum of three hospitals is exact, and how fast this machine is."""

import time
from collections.abc import Iterator
from statistics import median
from typing import Final

import numpy as np

from securepfl.crypto.sums.contribution import check_and_unpack, prepare
from securepfl.crypto.sums.parameters import choose_layout, top_level
from securepfl.crypto.sums.ring import generate_ring_key
from securepfl.crypto.sums.scheme import Scheme
from securepfl.randomness import fresh_key
from securepfl.runtime.doctor.finding import Finding

_VALUES, _BITS, _HOSPITALS = 100_000, 10, 3
_CONTEXT: Final = b"doctor"
_SECONDS: Final = 2.0


def check_encryption(scheme: Scheme, name: str) -> Iterator[Finding]:
    """Encrypt, add, decrypt and compare, as often as two seconds allow."""
    times: list[tuple[bool, float, float]] = []
    until = time.perf_counter() + _SECONDS
    while not times or time.perf_counter() < until:
        times.append(_exact_sum(scheme))
    if not all(exact for exact, *_ in times):
        yield Finding("encryption", "failed", f"{name}: a sum was wrong", "install tenseal anew, and report this")
        return
    up, down = (median(column) * 1e6 / _VALUES for column in list(zip(*times, strict=True))[1:])
    told = f"{name}: {len(times)} sums of {_HOSPITALS} x {_VALUES:,} values exact"
    yield Finding("encryption", "ok", f"{told}; a million values: {up:.2f} s to encrypt, {down:.2f} s to decrypt")


def _exact_sum(scheme: Scheme) -> tuple[bool, float, float]:
    """Whether a sum is exact; seconds to encrypt, and to decrypt."""
    layout, tag_key = choose_layout(_VALUES, _BITS, _HOSPITALS), fresh_key()
    cipher = scheme.cipher(generate_ring_key() if scheme.encrypted else b"", layout)
    top = top_level(_BITS)
    draw = np.random.default_rng()
    levels = draw.integers(0, top, (_HOSPITALS, _VALUES), endpoint=True)
    total, seconds = scheme.total(layout), []
    for place, values in enumerate(levels):
        begun = time.perf_counter()
        sent = cipher.encrypt(prepare(values, layout, place, tag_key, _CONTEXT), layout)
        seconds.append(time.perf_counter() - begun)
        total.add(sent)
    answer, begun = total.answer(), time.perf_counter()
    slots = cipher.decrypt(answer, layout)
    sums = check_and_unpack(slots, layout, dict.fromkeys(range(_HOSPITALS), 1), tag_key, _CONTEXT)
    return bool(np.array_equal(sums, levels.sum(axis=0))), median(seconds), time.perf_counter() - begun
