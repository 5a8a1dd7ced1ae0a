"""The job that the supervisor submits: it names two installed classes, and brings neither code nor settings."""

from pathlib import Path
from typing import Any, Final

from securepfl.runtime.nvflare.hardening import CONTROLLER, EXECUTOR
from securepfl.storage.folder import write_json

NAME: Final = "securepfl"
TASK: Final = "exchange"
"""The one kind of task: messages there, replies back."""
POLL: Final = 0.2
"""Seconds after which a hospital's job process asks again for something to do."""
HEARTBEAT: Final = 3.0
"""Seconds between a hospital's job process's signs of life."""


def write_job(folder: Path, *, poll: float = POLL) -> Path:
    """The job's folder under `folder`, written anew. Raises StorageError.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     job = write_job(Path(folder))
    ...     sorted(path.name for path in job.rglob("*.json"))
    ['config_fed_client.json', 'config_fed_server.json', 'meta.json']
    """
    job = folder / NAME
    nothing: dict[str, Any] = {"components": [], "task_data_filters": [], "task_result_filters": []}
    # One hospital's silence never ends the job of the others: NVFlare is told to go on with one.
    meta = {"name": NAME, "resource_spec": {}, "min_clients": 1, "deploy_map": {"app": ["@ALL"]}}
    server: dict[str, Any] = {
        "format_version": 2,
        # Seconds after which a site that got nothing asks again: 2 unless told.
        "server": {"heart_beat_timeout": 600, "task_request_interval": poll},
        "workflows": [{"id": "rounds", "path": CONTROLLER, "args": {}}],
        # Seconds that a hospital's job may be dead before NVFlare itself gives its task up.
        "dead_client_grace_period": 10.0,
        "dead_client_check_lead_time": 10.0,
        **nothing,
    }
    client = {
        "format_version": 2,
        "default_task_fetch_interval": poll,
        "job_heartbeat_interval": HEARTBEAT,
        "executors": [{"tasks": [TASK], "executor": {"path": EXECUTOR, "args": {}}}],
        **nothing,
    }
    write_json(job / "meta.json", meta)
    write_json(job / "app" / "config" / "config_fed_server.json", server)
    write_json(job / "app" / "config" / "config_fed_client.json", client)
    return job
