"""What layouts.json, packing.json, tags.json, encoding.json and sums.json hold."""

import hashlib

import layouts
import packing
import ring
from bits import pack_words
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
    (14_000, 12, 5, 1, [1, 1], False),
)


def sums() -> dict:
    """Contributions and answers of "lean" and in clear, with fixed seeds and noise; long ones as their digests."""
    secret = ring.ternary(_RING_KEY)
    return {
        "ring_key": ring.packed_key(secret).hex(),
        "tag_key": KEY.hex(),
        "context": CONTEXT.hex(),
        "noise": {"key": named("noise").hex(), "drawn": ring.noise(named("noise"), 24)},
        "cases": [_sum(number, secret) for number in range(len(_SUMS))],
    }


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
    return case | {"none": _in_clear(layout, slots, weights, mask), "lean": _lean(layout, slots, weights, mask, secret)}


def _words(row: list[int]) -> bytes:
    return b"".join(word.to_bytes(8, "big") for word in row)


def _in_clear(layout: layouts.Layout, slots: list[list[int]], weights: list[int], mask: list[int] | None) -> dict:
    t = layout.set.t
    width = t.bit_length()
    total = [sum(w * slot for w, slot in zip(weights, row, strict=True)) for row in zip(*slots, strict=True)]
    total = [(word - one) % t for word, one in zip(total, mask or [0] * len(total), strict=True)]
    head = b"".join(number.to_bytes(4, "big") for number in (len(weights), *weights))
    return {
        "contributions": [_shown(pack_words(row, width)) for row in slots],
        "answer": _shown(head + pack_words(total, width)),
    }


def _lean(
    layout: layouts.Layout, slots: list[list[int]], weights: list[int], mask: list[int] | None, secret: list[int]
) -> dict:
    names = [f"{layout.set.name} {layout.values} {index}" for index in range(len(slots))]
    seeds, noises = [named(f"seed {name}") for name in names], [named(f"noise {name}") for name in names]
    words = [ring.encrypted(row, layout, secret, *drawn) for row, *drawn in zip(slots, seeds, noises, strict=True)]
    answer, total, a = ring.answered(words, weights, seeds, layout, mask)
    if layout.ciphertexts == 1:
        expected = [sum(w * slot for w, slot in zip(weights, row, strict=True)) for row in zip(*slots, strict=True)]
        expected = [(word - one) % layout.set.t for word, one in zip(expected, mask or [0] * len(total), strict=True)]
        assert ring.decrypted(total, a, layout, secret) == expected
    sent = [ring.contribution(row, layout, seed) for row, seed in zip(words, seeds, strict=True)]
    return {
        "seeds": [seed.hex() for seed in seeds],
        "noise_keys": [key.hex() for key in noises],
        "contributions": [_shown(data) for data in sent],
        "answer": _shown(answer),
    }
