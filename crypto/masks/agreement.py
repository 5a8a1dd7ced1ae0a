"""The list of survivors on which all must agree before anybody reveals a share: what is signed, and who signed it."""

import contextlib
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from securepfl.crypto.keys.identity import PublicIdentity
from securepfl.crypto.masks.graph import Masking
from securepfl.errors import MessageError

SIGNATURE_CONTEXT: Final = b"mask survivors"
"""The `context` with which Identity.sign signs a survivor statement."""

_NUMBER_BYTES: Final = 4


def survivor_statement(masking: Masking, context: bytes, survivors: Collection[int]) -> bytes:
    """What a client signs, under SIGNATURE_CONTEXT and once for a context, before anybody reveals anything.

    Raises MessageError for a list that cannot be one. What may never change: these bytes.

    >>> survivor_statement(Masking(3, 2), b"round 1", {2, 0, 1}).hex()
    '000000030000000200000007000000000000000100000002726f756e642031'
    """
    numbers = (masking.clients, masking.degree, len(context), *masking.survivors(survivors))
    return b"".join(number.to_bytes(_NUMBER_BYTES, "big") for number in numbers) + context


def check_agreement(
    masking: Masking,
    context: bytes,
    survivors: Collection[int],
    signatures: Mapping[int, bytes],
    roster: Sequence[PublicIdentity],
) -> frozenset[int]:
    """The clients whose signature over exactly this list verifies; `roster` is by client index.

    Raises MessageError where they are fewer than the threshold or the list cannot be one; ValueError for a roster of
    another size.
    """
    if len(roster) != masking.clients:
        raise ValueError(f"roster must have {masking.clients} identities, not {len(roster)}")
    statement = survivor_statement(masking, context, survivors)
    signers: set[int] = set()
    for index, identity in enumerate(roster):
        with contextlib.suppress(MessageError):
            identity.verify(signatures.get(index, b""), statement, SIGNATURE_CONTEXT)
            signers.add(index)
    if len(signers) < masking.threshold:
        raise MessageError(
            f"{len(signers)} valid signatures on the survivor list, {masking.threshold} are needed; "
            "nothing was revealed; ask more hospitals to sign"
        )
    return frozenset(signers)
