"""What layouts.json, packing.json, tags.json, encoding.json and sums.json hold."""

import hashlib
from dataclasses import dataclass

import layouts
import packing
import ring
from bits import pack_words
from blake2x import seal_uniform
from inputs import CONTEXT, KEY, named, numbers, real_vector
from streams import uniform_words
from text import exact, texts

_SHAPES = (
    (1, 4, 3, 1),
    (5, 10, 4, 1),
    (50, 10, 16, 1),
    (9000, 10, 100, 1),
    (20, 16, 5, 1000),
    (20, 24, 3, 1),
    (300, 8, 2000, 3),
    (1_000_000, 8, 16, 1),
    (40_000, 12, 5, 2),
    (400, 8, 87, 4095),
)


def shapes() -> list:
    """Layouts that follow from settings."""
    found = []
    for values, bits, clients, max_weight in _SHAPES:
        layout = layouts.choose(values, bits, clients, max_weight)
        case = {"values": values, "bits": bits, "clients": clients, "max_weight": max_weight}
        case |= {"set": layout.set.name, "base": str(layout.base)}
        for name in ("fields", "slots", "tag_slots", "dropped_bits", "flood", "ciphertexts"):
            case[name] = getattr(layout, name)
        found.append(case)
    return found


def levels() -> dict:
    """Reals rounded with a fixed stream, two beyond the limit and some on the grid; packed; and back."""
    bits, limit, layout = 10, 0.5, layouts.choose(20, 10, 4, 2)
    reals = [0.75 * real for real in real_vector("reals", 14)] + [0.0, 0.5, -0.5, 0.7, -3.0, 0.5 / 511]
    found, clipped = packing.quantise(reals, bits, limit, KEY)
    slots = packing.packed(found, layout)
    assert packing.unpacked([8 * slot for slot in slots], layout) == [8 * level for level in found]
    return {
        "values": 20,
        "bits": bits,
        "clients": 4,
        "max_weight": 2,
        "limit": limit,
        "key": KEY.hex(),
        "reals": exact(reals),
        "levels": found,
        "clipped": clipped,
        "slots": texts(slots),
        "sum": exact(packing.dequantised([3 * level for level in found], 3, bits, limit)),
    }


def tags() -> dict:
    """Tags of one set of slots for several memberships."""
    layout, weights = layouts.choose(20, 10, 4, 2), ({0: 1}, {3: 1}, {0: 1, 2: 2}, {})
    slots = packing.packed(numbers("tagged levels", 20, 1023), layout)
    return {
        "values": 20,
        "bits": 10,
        "clients": 4,
        "max_weight": 2,
        "key": KEY.hex(),
        "context": CONTEXT.hex(),
        "slots": texts(slots),
        "tags": [{"weights": row, "tag": texts(packing.tag(slots, layout, row, KEY, CONTEXT))} for row in weights],
    }


def encoding() -> list:
    """Words about every turn of the rounding."""
    found = []
    for parameters in layouts.SETS:
        t = parameters.t
        words = [0, 1, 2, t // 4, t // 2 - 1, t // 2, t // 2 + 1, t // 2 + 2, t - 2, t - 1]
        words += numbers(f"encoded {parameters.name}", 4, t)
        encoded = [packing.encoded(word, parameters) for word in words]
        case = {"set": parameters.name, "plain_modulus": str(t), "modulus": str(parameters.q)}
        found.append(case | {"words": texts(words), "encoded": texts(encoded)})
    return found


_RING_KEY = named("ring key")
_SUMS = (
    # values, bits, clients, max_weight, weights, whether a mask is shown too
    (30, 10, 4, 2, [1, 2, 1], True),
    (20, 16, 5, 1000, [1000, 1, 7], False),
    (20_000, 8, 16, 1, [1, 1], False),
)


def sums() -> dict:
    """Contributions and answers of every scheme, with fixed seeds and noise; long ones as their digests."""
    secret = ring.ternary(_RING_KEY)
    return {
        "ring_key": ring.packed_key(secret).hex(),
        "tag_key": KEY.hex(),
        "context": CONTEXT.hex(),
        "noise": {"key": named("noise").hex(), "drawn": ring.noise(named("noise"), 24)},
        "half": {"seed": named("half", 64).hex(), "sha256": _half(named("half", 64))},
        "cases": [_sum(number, secret) for number in range(len(_SUMS))],
    }


def _half(seed: bytes) -> str:
    return hashlib.sha256(_words(seal_uniform(seed, layouts.DEGREE, layouts.SETS[0].q))).hexdigest()


def _shown(data: bytes) -> str:
    return data.hex() if len(data) < 2000 else "sha256 " + hashlib.sha256(data).hexdigest()


def _sum(number: int, secret: list[int]) -> dict:
    values, bits, clients, max_weight, weights, masks = _SUMS[number]
    layout = layouts.choose(values, bits, clients, max_weight)
    keys = [named(f"levels {number} {index}") for index in range(len(weights))]
    rows = [uniform_words(key, values, layout.top + 1) for key in keys]
    slots = [packing.prepared(row, layout, index, KEY, CONTEXT) for index, row in enumerate(rows)]
    case = {"values": values, "bits": bits, "clients": clients, "max_weight": max_weight, "weights": weights}
    case |= {"levels_keys": [key.hex() for key in keys], "slots": _shown(_words(slots[0]))}
    mask = uniform_words(named(f"mask {number}"), layout.slots, layout.set.t) if masks else None
    if mask is not None:
        # As if one hospital had masked, whose weight is 1, and its mask came off the sum.
        slots[0] = [(slot + one) % layout.set.t for slot, one in zip(slots[0], mask, strict=True)]
        case["mask_key"] = named(f"mask {number}").hex()
    found = _Sum(layout, slots, weights, mask, secret)
    return case | {"none": found.in_clear(), "lean": found.lean(), "tenseal": found.tenseal()}


def _words(row: list[int]) -> bytes:
    return b"".join(word.to_bytes(8, "big") for word in row)


@dataclass(frozen=True)
class _Sum:
    """One sum under each scheme."""

    layout: layouts.Layout
    slots: list[list[int]]
    weights: list[int]
    mask: list[int] | None
    secret: list[int]

    def expected(self, weights: list[int]) -> list[int]:
        """The weighted sum of slots, less the mask."""
        total = [0] * self.layout.slots
        for weight, row in zip(weights, self.slots, strict=False):
            total = [sum_ + weight * slot for sum_, slot in zip(total, row, strict=True)]
        return [
            (word - one) % self.layout.set.t for word, one in zip(total, self.mask or [0] * len(total), strict=True)
        ]

    def name(self, index: int) -> str:
        return f"{self.layout.set.name} {self.layout.values} {index}"

    def in_clear(self) -> dict:
        """Packed slots."""
        width = self.layout.set.t.bit_length()
        head = b"".join(number.to_bytes(4, "big") for number in (len(self.weights), *self.weights))
        return {
            "contributions": [_shown(pack_words(row, width)) for row in self.slots],
            "answer": _shown(head + pack_words(self.expected(self.weights), width)),
        }

    def encrypted(self, halves: list[list[int]], noises: list[bytes]) -> list[list[int]]:
        """c0 of each."""
        drawn = zip(self.slots, halves, noises, strict=False)
        return [ring.hidden(row, self.layout, self.secret, half, noise) for row, half, noise in drawn]

    def check(self, total: list[int], half: list[int], weights: list[int]) -> None:
        """The sum decrypts to what it should."""
        assert ring.decrypted(total, half, weights, self.layout, self.secret) == self.expected(weights)

    def lean(self) -> dict:
        """Our own encryption."""
        names = [self.name(index) for index in range(len(self.slots))]
        seeds, noises = [named(f"seed {name}") for name in names], [named(f"noise {name}") for name in names]
        halves = [ring.lean_half(seed, self.layout) for seed in seeds]
        rows = self.encrypted(halves, noises)
        total = ring.summed(rows, self.weights, self.layout, self.mask)
        self.check(total, ring.summed_half(halves, self.weights, self.layout), self.weights)
        sent = [ring.contribution(row, self.layout, seed) for row, seed in zip(rows, seeds, strict=True)]
        return {
            "seeds": [seed.hex() for seed in seeds],
            "noise_keys": [key.hex() for key in noises],
            "contributions": [_shown(data) for data in sent],
            "answer": _shown(ring.answer(self.weights, b"".join(seeds), total, self.layout)),
            "restored": texts(ring.restored(total, self.weights, self.layout)[:3]),
        }

    def tenseal(self) -> dict:
        """What SEAL could have encrypted, whole, and how the coordinator answers; of long ones the first alone."""
        weights = self.weights if self.layout.ciphertexts == 1 else self.weights[:1]
        names = [self.name(index) for index in range(len(weights))]
        seeds = [named(f"SEAL's seeds {name}", 64 * self.layout.ciphertexts) for name in names]
        halves = [ring.seal_half(seed, self.layout) for seed in seeds]
        rows = self.encrypted(halves, [named(f"SEAL's noise {name}") for name in names])
        flood_key, half = named(f"flood {names[0]}"), ring.summed_half(halves, weights, self.layout)
        total = ring.flooded(ring.summed(rows, weights, self.layout, self.mask), self.layout, flood_key)
        self.check(total, half, weights)
        sent = [ring.contribution(row, self.layout, seed) for row, seed in zip(rows, seeds, strict=True)]
        return {
            "contributions": [data.hex() for data in sent],
            "flood_key": flood_key.hex(),
            "answer": _shown(ring.answer(weights, ring.packed_half(half, self.layout), total, self.layout)),
        }
