"""A homomorphic tag: which contributions are in a sum, with which weights, and that nothing else is.

An affine linear MAC over the integers modulo the prime t (after Agrawal and Boneh, Homomorphic MACs, ACNS
2009): tag_j = sum_k alpha_jk m_k + beta_ij. alpha and beta are uniform modulo t, derived from a key that
only hospitals hold and from the context, so a tag made in another round or for another purpose fails. The
tag of a weighted sum is known in advance up to its values: sum_k alpha_jk M_k + sum_i w_i beta_ij. A sum
that was altered, or that holds a contribution dropped, doubled or weighted otherwise, passes with
probability 1/t a slot.
"""

import numpy as np

from securepfl.crypto.sums.parameters import Layout
from securepfl.crypto.sums.uniform import uniform_words
from securepfl.crypto.sums.words import Words, dot
from securepfl.randomness import derive_key


def _alpha(layout: Layout, tag_key: bytes, context: bytes, slot: int) -> Words:
    modulus = layout.parameters.plain_modulus
    key = derive_key(tag_key, "tag alpha", context.hex(), modulus, slot)
    return uniform_words(key, layout.value_slots, modulus)


def _betas(layout: Layout, tag_key: bytes, context: bytes, clients: int) -> Words:
    """Those of the first `clients` clients, [clients, tag slots]: one stream, as a sum's tag needs those of all."""
    modulus = layout.parameters.plain_modulus
    key = derive_key(tag_key, "tag betas", context.hex(), modulus)
    return uniform_words(key, clients * layout.tag_slots, modulus).reshape(clients, layout.tag_slots)


def expected_tag(values: Words, layout: Layout, weights: dict[int, int], tag_key: bytes, context: bytes) -> Words:
    """The `layout.tag_slots` tag slots of value slots `values` contributed by client indexes with weights.

    One contribution's tag is that with weights {index: 1}.

    | what the sum holds                                     | what its tag slots are                             |
    |--------------------------------------------------------|----------------------------------------------------|
    | the values and members that are expected               | these words, exactly                               |
    | any other values or members, made without the key      | these words with chance 1/t a slot, 2^-64 in all   |
    | values and members by who holds the key                | what they please: every hospital can               |
    | a sum under another context, key or parameter set      | as good as other members: chance 2^-64             |

    What may never change: the labels of alpha and beta, and how uniform_words expands their keys.

    >>> from securepfl.crypto.sums.parameters import choose_layout
    >>> layout = choose_layout(values=2, bits=4, clients=3)
    >>> slots = np.arange(layout.value_slots, dtype=np.uint64)
    >>> expected_tag(slots, layout, {0: 1, 2: 1}, bytes(32), b"round 1").shape == (layout.tag_slots,)
    True
    """
    modulus = layout.parameters.plain_modulus
    totals = [dot(_alpha(layout, tag_key, context, slot), values, modulus) for slot in range(layout.tag_slots)]
    if weights:
        betas, factors = _betas(layout, tag_key, context, max(weights) + 1), np.array(list(weights.values()), np.uint64)
        present = betas[list(weights)]
        sums = [dot(factors, np.ascontiguousarray(present[:, slot]), modulus) for slot in range(layout.tag_slots)]
        totals = [(total + its) % modulus for total, its in zip(totals, sums, strict=True)]
    return np.array(totals, dtype=np.uint64)
