"""The words of an answer about one other hospital, and what they say: an inner product and a norm."""

from securepfl.crypto.similarity.field import BITS, MODULUS
from securepfl.crypto.similarity.norms import NORM_LEVELS, decode_norm
from securepfl.crypto.similarity.precision import Precision
from securepfl.crypto.similarity.scheme import Similarity
from securepfl.crypto.sums.words import Words, packed_bytes, unpack_words
from securepfl.errors import AggregateError, MessageError


def answer_bytes(lanes: int) -> int:
    """Bytes of an answer: `lanes` copies of the product and of the norm, packed."""
    return packed_bytes(2 * lanes, BITS)


def unpack_answer(answer: bytes, lanes: int) -> Words:
    """An answer's words [2, lanes]: inner product, norm. Raises MessageError for a wrong length or range."""
    if len(answer) != answer_bytes(lanes):
        raise MessageError(f"similarity answer of {len(answer)} bytes where {answer_bytes(lanes)} belong; ask again")
    return unpack_words(answer, 2 * lanes, BITS, MODULUS).reshape(2, lanes)


def refused() -> AggregateError:
    """The one error for whatever does not hold, always the same."""
    return AggregateError("an encrypted similarity failed its check; ask the coordinator to repeat it")


def similarity_of(product: int, level: int, precision: Precision) -> Similarity:
    """From an inner product and a norm's level. Raises AggregateError for what no two sketches lead to."""
    if abs(product) > precision.largest or level > NORM_LEVELS:
        raise refused()
    return Similarity(max(-1.0, min(1.0, product / precision.norm**2)), decode_norm(level))
