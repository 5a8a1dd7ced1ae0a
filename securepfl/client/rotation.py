"""Going on with a run after a key rotation that changed the roster.

Where the roster stays as it was, nothing is needed: a Client opens its folder with the new epoch's keyring.
"""

from pathlib import Path

import msgspec

from securepfl.client.pinning import with_pin
from securepfl.client.state import ClientState
from securepfl.errors import ConfigError, StorageError
from securepfl.settings.federation import Federation
from securepfl.storage.folder import lock_folder


def move_to(folder: Path, before: Federation, after: Federation) -> None:
    """Let a hospital's `folder` of the bound federation `before` go on under `after`, at a round boundary.

    The two may differ in the hospitals and their declared weights alone. What was known of a hospital that left, as a
    neighbour or by similarity, is dropped. Done again, it changes nothing. Raises ConfigError where other settings
    differ, StorageError where a round is open or the folder can't be read or written.

    >>> move_to(Path("north"), Federation(rounds=20), Federation(rounds=30))
    Traceback (most recent call last):
    securepfl.errors.ConfigError: the federations differ in more than their hospitals; a run ...
    """
    if msgspec.structs.replace(before, sites={}).digest != msgspec.structs.replace(after, sites={}).digest:
        raise ConfigError("the federations differ in more than their hospitals; a run goes on under the same settings")
    path = folder / "state.safetensors"
    with lock_folder(folder):
        if ClientState.belongs_to(path, after.digest.hex()):
            return
        state = with_pin(ClientState.load(path, before.digest.hex()), folder)
        if state.pending is not None:
            raise StorageError(f"{path}: round {state.round + 1} is open; finish it with the old keys first")
        state.federation = after.digest.hex()
        known = set(after.roster)
        if not set(state.neighbours) <= known:
            # A neighbourhood is at least three others: one that lost somebody is chosen anew.
            state.neighbours, state.pull = {}, 0.0
        state.similarity = {name: value for name, value in state.similarity.items() if name in known}
        state.distances = {name: value for name, value in state.distances.items() if name in known}
        state.save(path)
