"""A hospital's side of masked rounds: what masks its updates, what it signs, what it reveals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from securepfl.crypto.keys.keys import Keyring
from securepfl.crypto.masks.masking import SIGNATURE_CONTEXT, Masking, PairwiseMasker, survivor_statement
from securepfl.errors import ConfigError, MessageError
from securepfl.protocol.channels import Masker, masking_of
from securepfl.protocol.messages import Unmask
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
        return cls(federation, keyring, masking, PairwiseMasker(roster.index(keyring.identity.name), secrets, masking))

    def under(self, context: bytes) -> Masker | None:
        """What masks this round's update, once; None where updates are not masked."""
        masker = self.masker
        return None if masker is None else lambda slots, modulus: masker.mask(slots, modulus, context)

    def sign(self, survivors: Sequence[str], context: bytes) -> bytes:
        """A signature over a survivor list. Raises MessageError for a list that cannot be one."""
        if self.masking is None:
            raise MessageError("this federation does not mask updates; nothing was signed")
        if len(survivors) < self.federation.least_in_sum:
            raise MessageError(
                f"a sum over {len(survivors)} hospitals, {self.federation.least_in_sum} are needed; nothing was signed"
            )
        statement = survivor_statement(self.masking, context, self._indexes(survivors))
        return self.keyring.identity.sign(statement, SIGNATURE_CONTEXT)

    def shares(self, agreed: Sequence[str], context: bytes, request: Unmask) -> bytes:
        """This hospital's shares for the list it signed. Raises MessageError as PairwiseMasker.reveal does."""
        if self.masker is None:
            raise MessageError("this federation does not mask updates; nothing was revealed")
        roster = [self.keyring.hospitals[name] for name in self.federation.roster]
        signatures, blobs = self._by_index(request.signatures), self._by_index(request.blobs)
        return self.masker.reveal(context, self._indexes(agreed), signatures, roster, blobs)

    def _indexes(self, names: Sequence[str]) -> list[int]:
        roster = self.federation.roster
        if tuple(names) != tuple(sorted(set(names) & set(roster))):
            raise MessageError("a list of hospitals that is not part of the roster, in order; refused")
        return [roster.index(name) for name in names]

    def _by_index(self, named: Mapping[str, bytes]) -> dict[int, bytes]:
        return {index: named[name] for index, name in enumerate(self.federation.roster) if name in named}
