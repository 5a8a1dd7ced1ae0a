"""What a hospital puts into a sum, packed and tagged, and the check of the sum that comes back.

levels -> pack -> tag -> [encrypt, add, decrypt] -> check the tag -> unpack -> sums of levels
"""

import hmac
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from securepfl.crypto.sums.packing import digits_to_slots, pack, unpack
from securepfl.crypto.sums.parameters import Layout, top_level
from securepfl.crypto.sums.tags import expected_tag
from securepfl.errors import AggregateError

_REFUSED = "the sum failed its check: a contribution was altered, dropped or doubled on the way; nothing was applied"


def prepare(
    levels: NDArray[np.uint64], layout: Layout, client_index: int, tag_key: bytes, context: bytes
) -> NDArray[np.uint64]:
    """Packed levels, shape (values,) in, followed by this contribution's tag: shape (layout.slots,).

    `context` must name the federation, round, attempt and purpose; two different messages of one client must
    never share it. Raises ValueError for a wrong shape, levels off the grid or an index outside the roster.

    >>> from securepfl.crypto.sums.parameters import choose_layout
    >>> layout = choose_layout(values=4, bits=6, clients=3)
    >>> slots = prepare(np.array([1, 2, 3, 60], dtype=np.uint64), layout, 0, bytes(32), b"round 1")
    >>> slots.shape == (layout.slots,)
    True
    """
    if not 0 <= client_index < layout.clients:
        raise ValueError(f"client_index must be in [0, {layout.clients}), not {client_index}")
    values = pack(levels, layout)
    return np.concatenate([values, expected_tag(values, layout, {client_index: 1}, tag_key, context)])


def check_and_unpack(
    slot_sum: NDArray[np.uint64],
    layout: Layout,
    expected_weights: Mapping[int, int],
    tag_key: bytes,
    context: bytes,
) -> NDArray[np.uint64]:
    """Sums of levels, shape (values,), of exactly the clients in `expected_weights` (index: weight).

    | the sum holds                                               | what happens                               |
    |-------------------------------------------------------------|--------------------------------------------|
    | each client of `expected_weights`, its weight, nothing else | the exact sums                             |
    | a contribution altered, dropped, doubled or weighed anew    | AggregateError but with chance 2^-64       |
    | contributions of another round, purpose or federation       | AggregateError: `context` is in the tag    |
    | levels that sum beyond what the grid allows, or anything    | AggregateError, though the tag be right    |
    | where no level belongs                                      |                                            |
    | nothing: `expected_weights` is empty                        | AggregateError                             |
    | any of these                                                | one message, whatever failed               |
    | a false value by a hospital, tagged by itself               | is not noticed: it holds the key           |

    Raises AggregateError, always the same, and ValueError for slots of another shape than the layout's.

    >>> from securepfl.crypto.sums.parameters import choose_layout
    >>> layout, key, context = choose_layout(values=2, bits=6, clients=3), bytes(32), b"round 1"
    >>> slots = [prepare(np.array([5, n], dtype=np.uint64), layout, n, key, context) for n in (0, 1, 2)]
    >>> total = sum(slots) % np.uint64(layout.parameters.plain_modulus)
    >>> check_and_unpack(total, layout, {0: 1, 1: 1, 2: 1}, key, context).tolist()
    [15, 3]
    >>> check_and_unpack(total, layout, {0: 1, 1: 2}, key, context)
    Traceback (most recent call last):
    securepfl.errors.AggregateError: the sum failed its check: a contribution was altered, dropped or doubled on \
the way; nothing was applied
    """
    values, tag = slot_sum[: layout.value_slots], slot_sum[layout.value_slots :]
    weights = dict(expected_weights)
    levels_sum = unpack(values, layout)
    expected = expected_tag(values, layout, weights, tag_key, context)
    genuine = hmac.compare_digest(expected.tobytes(), tag.astype(np.uint64).tobytes())
    within = int(levels_sum.max()) <= sum(weights.values()) * top_level(layout.bits)
    whole = np.array_equal(digits_to_slots(levels_sum, layout), values)
    if not (genuine and within and whole):
        raise AggregateError(_REFUSED)
    return levels_sum
