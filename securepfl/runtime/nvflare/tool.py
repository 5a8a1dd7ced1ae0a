"""NVFlare's own command line, run in a process of its own."""

import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from securepfl.errors import ConfigError, first_line

VERSION: Final = "2.9.0"
_SECONDS: Final = 120.0


def require_nvflare() -> None:
    """Raises ConfigError unless the NVFlare that this adapter was built for is installed: its kits, class names and
    messages change between versions.
    """
    try:
        found = version("nvflare")
    except PackageNotFoundError:
        raise ConfigError("nvflare is not installed; run: pip install 'securepfl[nvflare]'") from None
    if found != VERSION:
        raise ConfigError(f"nvflare {found} is installed, {VERSION} is needed; run: pip install 'securepfl[nvflare]'")


def nvflare(*arguments: str | Path, home: Path) -> dict[str, Any]:
    """What `nvflare ARGUMENTS` answers. It keeps its own records under `home`. Raises ConfigError with its reason."""
    require_nvflare()
    command = [sys.executable, "-m", "nvflare.cli", "--format", "json", *map(str, arguments)]
    environment = {**os.environ, "HOME": str(home.resolve())}
    what = " ".join(str(part) for part in arguments[:2] if isinstance(part, str))
    try:
        # The command is ours, without a shell; what stands in it are paths, and names that were checked.
        done = subprocess.run(  # noqa: S603
            command, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        answer = json.loads(done.stdout.strip().splitlines()[-1])
    except (subprocess.TimeoutExpired, IndexError, ValueError, OSError) as error:
        raise ConfigError(f"nvflare {what}: gave no answer ({first_line(error)}); try it again") from None
    if answer.get("status") != "ok":
        raise ConfigError(f"nvflare {what}: {answer.get('message', 'failed')}")
    data: dict[str, Any] = answer["data"]
    return data
