"""A hospital's side of masked rounds: what masks its updates, what it signs, what it reveals."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from securepfl.client.round import Round
from securepfl.client.state import Pending
from securepfl.crypto.keys.keys import Keyring
from securepfl.crypto.masks.agreement import SIGNATURE_CONTEXT, survivor_statement
from securepfl.crypto.masks.graph import Masking
from securepfl.crypto.masks.masking import PairwiseMasker
from securepfl.errors import ConfigError, MessageError
from securepfl.protocol.channels import Masker, masking_of
from securepfl.protocol.messages import Survivors, Unmask, encode
from securepfl.settings.federation import Federation


@dataclass(frozen=True)
class Masks:
    """`masking` and `masker` are None where the federation does not mask."""

    federation: Federation
    keyring: Keyring
    masking: Masking | None
    masker: PairwiseMasker | None

    @classmethod
    def of(cls, federation: Federation, keyring: Keyring) -> "Masks":
        """Raises ConfigError where too few hospitals mask, or pair secrets are missing."""
        masking, roster = masking_of(federation), federation.roster
        if masking is None:
            return cls(federation, keyring, None, None)
        if missing := sorted(set(roster) - set(keyring.pair_secrets)):
            raise ConfigError(
                f"[encryption] masking = 'pairwise': no pair secret with {', '.join(missing)}; "
                "finish `securepfl keys enrol`"
            )
        secrets = {index: keyring.pair_secrets[name] for index, name in enumerate(roster)}
        masker = PairwiseMasker(federation.places[keyring.identity.name], secrets, masking)
        return cls(federation, keyring, masking, masker)

    def under(self, round_: Round) -> Masker | None:
        """What masks the round's update, once; None where updates are not masked."""
        masker, context = self.masker, round_.mask_context
        return None if masker is None else lambda slots, modulus: masker.mask(slots, modulus, context)

    def sign(self, round_: Round, pending: Pending, body: Survivors) -> tuple[bytes, Pending]:
        """A signature over the round's survivor list, and what is kept so that no other list is ever signed.

        Raises MessageError for a list that can't be one, is too short, or comes after another.
        """
        listed, salt, number = body.survivors, body.salt.hex(), round_.number
        if pending.agreed not in ((), listed) or pending.salt not in ("", salt):
            raise MessageError(f"{self.name}: another survivor list or salt came for round {number}; refused")
        if self.masking is None:
            raise MessageError("this federation does not mask updates; nothing was signed")
        if len(listed) < self.federation.least_in_sum:
            raise MessageError(
                f"a sum over {len(listed)} hospitals, {self.federation.least_in_sum} are needed; nothing was signed"
            )
        statement = survivor_statement(self.masking, round_.mask_context, self._indexes(listed))
        signature = self.keyring.identity.sign(statement, SIGNATURE_CONTEXT)
        return signature, msgspec.structs.replace(pending, agreed=listed, salt=salt)

    def shares(self, round_: Round, pending: Pending | None, request: Unmask) -> tuple[bytes, Pending]:
        """This hospital's shares for the list that it signed, and what is kept so that it never reveals others.

        Raises MessageError where it signed no list or revealed other shares, and as PairwiseMasker.reveal does.
        """
        number = round_.number
        if pending is None or not pending.agreed:
            raise MessageError(f"{self.name}: asked to reveal in round {number} before it signed a survivor list")
        blobs = hashlib.sha256(encode(Unmask(signatures={}, blobs=request.blobs))).hexdigest()
        if pending.revealed not in ("", blobs):
            raise MessageError(f"{self.name}: revealed other shares in round {number} before; refused")
        if self.masker is None:
            raise MessageError("this federation does not mask updates; nothing was revealed")
        shares = self.masker.reveal(
            replace(round_, salt=bytes.fromhex(pending.salt)).mask_context,
            self._indexes(pending.agreed),
            self._by_index(request.signatures),
            [self.keyring.hospitals[name] for name in self.federation.roster],
            self._by_index(request.blobs),
        )
        return shares, msgspec.structs.replace(pending, revealed=blobs)

    def opened(self, round_: Round, pending: Pending) -> bytes:
        """The secrets of this hospital's masks in a round whose sum it refused. Raises MessageError where it sent no
        masked update.
        """
        if self.masker is None or not pending.own_mask:
            raise MessageError(f"{self.name}: masked nothing that may be opened in round {round_.number}; refused")
        context = replace(round_, salt=bytes.fromhex(pending.salt)).mask_context
        return self.masker.opened(context, bytes.fromhex(pending.own_mask))

    @property
    def name(self) -> str:
        """The hospital's."""
        return self.keyring.identity.name

    def _indexes(self, names: Sequence[str]) -> list[int]:
        roster = self.federation.roster
        if tuple(names) != tuple(sorted(set(names) & set(roster))):
            raise MessageError("a list of hospitals that is not part of the roster, in order; refused")
        return [self.federation.places[name] for name in names]

    def _by_index(self, named: Mapping[str, bytes]) -> dict[int, bytes]:
        return {index: named[name] for index, name in enumerate(self.federation.roster) if name in named}
