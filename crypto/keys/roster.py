"""Whom the steward of a federation approves."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Self

from securepfl.crypto.keys.identity import PublicIdentity, fingerprint_bytes
from securepfl.errors import MessageError


@dataclass(frozen=True)
class Roster:
    """Whom the steward approves: every hospital's and the coordinator's fingerprint by name.

    Raises ValueError where the steward is no hospital, the coordinator is missing or text is no fingerprint.

    >>> from securepfl.crypto.keys.identity import Identity
    >>> alder, birch, server = (Identity.generate(name).public for name in ("alder", "birch", "server"))
    >>> roster = Roster.of("alder", server, [alder, birch])
    >>> roster.hospitals
    ('alder', 'birch')
    >>> roster.check(birch)
    """

    steward: str
    coordinator: str
    fingerprints: Mapping[str, str]

    def __post_init__(self) -> None:
        if self.coordinator not in self.fingerprints:
            raise ValueError(f"the roster lacks the coordinator {self.coordinator!r}")
        if self.steward not in self.hospitals:
            raise ValueError(f"the steward {self.steward!r} must be a hospital of the roster")
        for text in self.fingerprints.values():
            fingerprint_bytes(text)
        object.__setattr__(self, "fingerprints", MappingProxyType(dict(self.fingerprints)))

    @classmethod
    def of(cls, steward: str, coordinator: PublicIdentity, hospitals: Iterable[PublicIdentity]) -> Self:
        """The roster of these parties."""
        people = {public.name: public.fingerprint for public in hospitals}
        if coordinator.name in people:
            raise ValueError(f"the coordinator {coordinator.name!r} must not be a hospital")
        return cls(steward, coordinator.name, people | {coordinator.name: coordinator.fingerprint})

    @property
    def hospitals(self) -> tuple[str, ...]:
        """The hospitals' names, sorted."""
        return tuple(sorted(name for name in self.fingerprints if name != self.coordinator))

    def check(self, public: PublicIdentity) -> None:
        """Raise MessageError where `public` is not the identity that this roster approves under its name."""
        approved = self.fingerprints.get(public.name)
        if approved != public.fingerprint:
            known = "nobody of that name" if approved is None else approved
            raise MessageError(f"{public.name!r} has fingerprint {public.fingerprint}, the roster holds {known}")
