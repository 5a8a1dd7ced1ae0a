"""From files to a coordinator, on the hub's own machine, without torch.

What decides lies in DIR/coordinator; a killed hub goes on from there.
"""

from pathlib import Path
from typing import Final

from securepfl.coordinator.coordinator import Coordinator
from securepfl.errors import StorageError
from securepfl.runtime.enrolled import bind_for_hub, check_enrolled, epoch_of
from securepfl.storage.keys import load_holdings, private_file

COORDINATOR: Final = "coordinator"


def open_coordinator(config: Path, folder: Path, passphrase: bytes, out: Path) -> Coordinator:
    """The coordinator of the federation in `config`, with the keys in `folder`; what it keeps lies in `out`.

    From declarations alone: no row is read. How long a step waits is the loop's business (Patience), so the
    coordinator takes a step's messages for as long as the step lasts. Raises ConfigError where settings and keys don't
    fit, StorageError where keys or folder can't be used.
    """
    holdings = load_holdings(folder, passphrase)
    if not holdings.is_coordinator:
        raise StorageError(
            f"{private_file(folder)}: keys of hospital {holdings.identity.name}, not the hub's; name the hub's folder "
            "with --folder, or use `securepfl join` at a hospital"
        )
    epoch = epoch_of(folder, holdings)
    federation = bind_for_hub(config, epoch.hospitals)
    check_enrolled(config, federation, epoch)
    return Coordinator(
        federation.without_budgets(),
        holdings.identity,
        epoch.hospitals,
        key_commitment=epoch.commitment,
        folder=out / COORDINATOR,
    )
