"""A party's NVFlare kit: where it lies, and how its process is started.

FOLDER/nvflare/ (mode 700) holds `kit` (the site's or the server's), and at the hub `supervisor`, `root` and `store`.
Nothing in it opens a message or a ledger: those keys are in FOLDER/keys.
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from securepfl.errors import ConfigError, StorageError
from securepfl.storage.folder import write_json

_LOCAL: Final = "securepfl.json"
_HEARTBEAT: Final = 5
"""Seconds between a site's signs of life: a server forgets it after six."""


@dataclass(frozen=True)
class Kit:
    """The kit under a party's `folder`.

    >>> Kit(Path("north")).path.as_posix()
    'north/nvflare/kit'
    """

    folder: Path

    @property
    def home(self) -> Path:
        """All that NVFlare keeps for this party."""
        return self.folder / "nvflare"

    @property
    def path(self) -> Path:
        """The workspace of the server's or the site's process."""
        return self.home / "kit"

    @property
    def supervisor(self) -> Path:
        """The workspace of the hub's one account."""
        return self.home / "supervisor"

    @property
    def root(self) -> Path:
        """The root certificate and its key, at the hub."""
        return self.home / "root"

    @property
    def store(self) -> Path:
        """NVFlare's jobs and snapshots, at the hub."""
        return self.home / "store"

    def require(self) -> None:
        """Raises ConfigError where no kit is installed."""
        if not (self.path / "startup").is_dir():
            raise ConfigError(f"{self.path}: no kit here; run `securepfl machines nvflare init` (hub) or `install`")

    def configure(self, **settings: object) -> None:
        """Write what the controller or the executor reads when a job starts. Raises ConfigError, StorageError."""
        self.require()
        write_json(self.path / "local" / _LOCAL, settings)

    def command(self) -> list[str]:
        """The process of this party, in the foreground: the server's or the site's. Raises ConfigError."""
        self.require()
        startup = self.path / "startup"
        if (startup / "fed_server.json").is_file():
            what, config, own = "server.server_train", "fed_server.json", ["org=hub"]
        else:
            name = _read(startup / "fed_client.json")["client"]["fqsn"]
            what, config = "client.client_train", "fed_client.json"
            own = [f"uid={name}", "org=hospital", f"heart_beat_interval={_HEARTBEAT}"]
        module = f"nvflare.private.fed.app.{what}"
        workspace = str(self.path.resolve())
        start = [sys.executable, "-u", "-m", module, "-m", workspace, "-s", config, "--set", "secure_train=true"]
        return [*start, *own, "config_folder=config"]

    def become(self) -> None:
        """Replace this process by the party's: it reads no secret and writes for its owner only."""
        command = self.command()
        for name in ("pid.fl", "daemon_pid.fl", "shutdown.fl", "restart.fl"):
            (self.path / name).unlink(missing_ok=True)
        (self.path / "transfer").mkdir(mode=0o700, exist_ok=True)
        os.umask(0o077)
        # NVFlare's threads would each take an arena of their own.
        environment = {"MALLOC_ARENA_MAX": "4", **os.environ, "HOME": str(self.home.resolve())}
        os.execve(command[0], command, environment)  # noqa: S606 - no shell: our own interpreter and arguments


def local_settings(folder: Path) -> dict[str, Any]:
    """What `Kit.configure` wrote, read in a job's process from the kit's `local/`. Raises StorageError."""
    return _read(folder / _LOCAL)


def _read(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        raise StorageError(f"{path}: missing or damaged; install the kit again") from None
    return value
