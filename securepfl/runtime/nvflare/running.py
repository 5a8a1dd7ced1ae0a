"""The hub's part of a run over NVFlare, from files: what `securepfl machines nvflare run` does."""

import logging
import threading
from pathlib import Path
from typing import TextIO

from securepfl.errors import ConfigError
from securepfl.protocol.loop import Patience
from securepfl.runtime.logs import open_log
from securepfl.runtime.nvflare.engine import FlareEngine
from securepfl.runtime.nvflare.job import write_job
from securepfl.runtime.nvflare.kit import Kit
from securepfl.runtime.nvflare.supervisor import LOOK, Supervisor
from securepfl.runtime.nvflare.tool import require_nvflare
from securepfl.settings.federation import Federation
from securepfl.storage.folder import lock_folder
from securepfl.storage.keys import load_coordinator, read_passphrase


def supervise(
    config: Path,
    folder: Path,
    out: Path,
    passphrase_file: Path,
    *,
    patience: Patience,
    poll: float,
    console: TextIO | None = None,
) -> None:
    """Have NVFlare carry the run in `out` until it is over; the hub's server and the sites run on their own.

    `out` is written by the server's job process, which opens the coordinator from `folder` with the passphrase in
    `passphrase_file`. `poll` is the seconds after which an idle site asks again. Stopped by an exception, it ends the
    job that runs; the same call goes on. Raises ConfigError, StorageError.
    """
    require_nvflare()
    kit = Kit(folder)
    if not kit.supervisor.is_dir():
        raise ConfigError(f"{kit.supervisor}: no account here; run `securepfl machines nvflare init` at the hub")
    federation = Federation.read(config)
    keys = load_coordinator(folder, read_passphrase(passphrase_file).decode())
    paths = {"config": config, "folder": folder, "out": out, "passphrase_file": passphrase_file}
    places = {name: str(path.resolve()) for name, path in paths.items()}
    kit.configure(deadline=patience.seconds, **places)
    log = open_log(out / "nvflare", keys.identity.name, console)
    logging.getLogger("nvflare").setLevel(logging.CRITICAL)  # what fails is a line of ours
    engine = FlareEngine(kit.supervisor)
    with lock_folder(out / "nvflare"):
        supervisor = Supervisor(
            engine, write_job(out / "nvflare", poll=poll), out, tuple(keys.hospitals), federation.minimum, log
        )
        try:
            while not supervisor.step():
                threading.Event().wait(LOOK)
        except BaseException:
            supervisor.stop()
            raise
        finally:
            engine.close()
