"""Credentials without a ceremony: for tests, rehearsals and examples, where all parties are in one process."""

from collections.abc import Sequence
from datetime import UTC, datetime

from securepfl.coordinator.coordinator import Coordinator
from securepfl.crypto.keys.certificates import (
    COORDINATOR,
    HOSPITAL,
    Holder,
    make_leaf,
    make_root,
    new_key,
    public_key_of,
)
from securepfl.crypto.keys.identity import PublicIdentity
from securepfl.storage.certificates import Credentials


def local_credentials(
    coordinator: Coordinator, hosts: Sequence[str] = ("localhost", "127.0.0.1")
) -> tuple[Credentials, dict[str, Credentials]]:
    """The hub's credentials under `hosts`, and each hospital's by name, under a root that nobody keeps.

    In the field each makes its own key where it is used: `securepfl keys certificate`, then `load_credentials`.

    >>> from torch import nn
    >>> from securepfl import Federation, local_parties
    >>> settings = {"model": {"kind": "own"}, "encryption": {"scheme": "none"}}
    >>> bound = Federation.from_mapping(settings).bound(("north", "south", "west"), lambda: nn.Linear(4, 1), units=4)
    >>> hub, hospitals = local_credentials(local_parties(bound)[1])
    >>> hub, sorted(hospitals)
    (Credentials('coordinator'), ['north', 'south', 'west'])
    """
    root_key, now = new_key(), datetime.now(UTC)
    root = make_root(coordinator.identity.name, root_key, now)

    def of(role: str, public: PublicIdentity, named: Sequence[str] = ()) -> Credentials:
        holder, key = Holder(role, public.name, public.fingerprint), new_key()
        return Credentials(holder, root, make_leaf(root, root_key, public_key_of(key), holder, named, now), key)

    hospitals = {name: of(HOSPITAL, public) for name, public in coordinator.hospitals.items()}
    return of(COORDINATOR, coordinator.identity.public, hosts), hospitals
