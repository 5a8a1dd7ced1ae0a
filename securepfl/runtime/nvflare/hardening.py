"""What a party's kit allows: one job of one kind, of one submitter, and nothing else.

Each function gives the content of a file in a kit's `local/` folder. NVFlare reads `NAME` before `NAME.default`.
"""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

from securepfl.errors import ConfigError

SUPERVISOR: Final = "supervisor@securepfl.hub"
"""The one account that may submit a job. Its key lies at the hub."""
CONTROLLER: Final = "securepfl.runtime.nvflare.controller.SecurepflController"
EXECUTOR: Final = "securepfl.runtime.nvflare.executor.SecurepflExecutor"

_LOG_COMPONENTS: Final = ("site_log_streamer", "log_receiver")
_TALKATIVE: Final = (
    "nvflare.apis.impl.wf_comm_server",
    "nvflare.fuel.f3",
    "nvflare.private.aux_runner",
    "nvflare.private.fed.client.client_runner",
    "nvflare.private.fed.client.communicator",
    "nvflare.private.fed.client.fed_client_base",
    "nvflare.private.fed.server.server_commands",
    "nvflare.private.fed.server.server_runner",
)
"""Say a dozen lines for each task that goes well."""
_LOG_BYTES: Final = 20 * 2**20


def authorization() -> dict[str, Any]:
    """The supervisor submits jobs, ends its own and looks on. Nobody brings code, runs commands, reads files, or
    restarts a site.
    """
    nothing = ("clone_job", "download_job", "operate", "shell_commands", "byoc", "server-predeployed-flwr")
    rights = dict.fromkeys(("submit_job", "manage_job", "view"), f"n:{SUPERVISOR}")
    lead = {**rights, "manage_job": "n:submitter", **dict.fromkeys(nothing, "none")}
    others = dict.fromkeys(("project_admin", "org_admin", "member"), "none")
    return {"format_version": "1.0", "permissions": {**others, "lead": lead}}


def communication() -> dict[str, Any]:
    """Own job processes are met on loopback only, and no two sites ever connect to each other."""
    resources = {"host": "127.0.0.1", "listen_host": "127.0.0.1", "connection_security": "clear"}
    return {"allow_adhoc_conns": False, "internal": {"scheme": "tcp", "resources": resources}}


def logging() -> dict[str, Any]:
    """Lines on standard output, for the service manager, and in log.txt, which is kept small."""
    form = {
        "()": "nvflare.fuel.utils.log_utils.BaseFormatter",
        "fmt": "%(asctime)s %(levelname)s %(name)s %(fl_ctx)s %(message)s",
    }
    file = {"class": "logging.handlers.RotatingFileHandler", "filename": "log.txt", "mode": "a"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": form},
        "handlers": {
            "out": {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stdout"},
            "file": {**file, "formatter": "line", "maxBytes": _LOG_BYTES, "backupCount": 3},
        },
        "loggers": {
            "root": {"level": "INFO", "handlers": ["out", "file"]},
            **{name: {"level": "WARNING"} for name in _TALKATIVE},
        },
    }


def site_resources(default: Mapping[str, Any]) -> dict[str, Any]:
    """resources.json of a hospital, made of NVFlare's own. Raises ConfigError where that is not as expected."""
    return _restricted(default, EXECUTOR)


def server_resources(default: Mapping[str, Any], store: Path, hospitals: int) -> dict[str, Any]:
    """resources.json of the hub: one job at a time, all that NVFlare keeps in `store`, room for `hospitals`.

    Raises ConfigError where NVFlare's own is not as expected.
    """
    resources = _restricted(default, CONTROLLER)
    components = {component["id"]: component for component in resources["components"]}
    try:
        components["job_scheduler"]["args"] = {"max_jobs": 1, "min_schedule_interval": 1.0, "max_schedule_count": 1000}
        components["job_manager"]["args"]["uri_root"] = str(store / "jobs")
        resources["snapshot_persistor"]["args"]["storage"]["args"]["root_dir"] = str(store / "snapshots")
        # A site that went is forgotten after half a minute, not ten: then the supervisor sees it return.
        resources["servers"][0] |= {"max_num_clients": 2 * hospitals, "heart_beat_timeout": 30}
    except (KeyError, IndexError, TypeError):
        raise _unexpected() from None
    return resources


def _restricted(default: Mapping[str, Any], allowed: str) -> dict[str, Any]:
    resources: dict[str, Any] = deepcopy(dict(default))
    if "class_allow_list" not in resources or not isinstance(resources.get("components"), list):
        raise _unexpected()
    resources["components"] = [part for part in resources["components"] if part.get("id") not in _LOG_COMPONENTS]
    return resources | {
        "class_list_enforcement_mode": "enforce",
        "class_allow_list": [allowed],
        "allow_log_streaming": False,
    }


def _unexpected() -> ConfigError:
    return ConfigError("nvflare's resources.json.default is not that of 2.9.0; run: pip install 'securepfl[nvflare]'")
