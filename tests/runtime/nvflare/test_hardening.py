import importlib
from pathlib import Path

import pytest

from securepfl.errors import ConfigError
from securepfl.runtime.nvflare import hardening

DEFAULT = {
    "class_allow_list": ["nvflare.app_common.executors."],
    "allow_log_streaming": True,
    "components": [
        {"id": "job_scheduler", "args": {"max_jobs": 4}},
        {"id": "job_manager", "args": {"uri_root": "/anybody/jobs-storage"}},
        {"id": "log_receiver"},
        {"id": "site_log_streamer"},
    ],
    "servers": [{"max_num_clients": 100, "heart_beat_timeout": 600}],
    "snapshot_persistor": {"args": {"storage": {"args": {"root_dir": "/anybody/snapshot-storage"}}}},
}


@pytest.mark.parametrize("path", [hardening.CONTROLLER, hardening.EXECUTOR])
def test_the_classes_that_are_allowed_are_installed(path):
    pytest.importorskip("nvflare")
    module, name = path.rsplit(".", 1)
    assert isinstance(getattr(importlib.import_module(module), name), type)


def test_the_server_runs_one_job_of_one_class_and_keeps_it_in_the_hubs_folder():
    made = hardening.server_resources(DEFAULT, Path("/srv/hub/nvflare/store"), 3)
    components = {part["id"]: part for part in made["components"]}
    assert made["class_allow_list"] == [hardening.CONTROLLER] and made["class_list_enforcement_mode"] == "enforce"
    assert components["job_scheduler"]["args"]["max_jobs"] == 1
    assert made["allow_log_streaming"] is False and "log_receiver" not in components
    assert "/anybody" not in str(made)
    assert DEFAULT["class_allow_list"] == ["nvflare.app_common.executors."]


def test_a_site_takes_no_other_class_and_sends_no_log():
    made = hardening.site_resources(DEFAULT)
    assert made["class_allow_list"] == [hardening.EXECUTOR] and made["allow_log_streaming"] is False
    assert not {"site_log_streamer", "log_receiver"} & {part["id"] for part in made["components"]}


@pytest.mark.parametrize("missing", ["class_allow_list", "components", "servers"])
def test_what_nvflare_no_longer_writes_as_expected_is_refused(missing):
    default = {key: value for key, value in DEFAULT.items() if key != missing}
    with pytest.raises(ConfigError, match=r"not that of 2\.9\.0"):
        hardening.server_resources(default, Path("store"), 3)


@pytest.mark.parametrize("role", ["lead", "project_admin", "org_admin", "member"])
@pytest.mark.parametrize(
    "right", ["byoc", "shell_commands", "operate", "download_job", "clone_job", "server-predeployed-flwr"]
)
def test_nobody_brings_code_or_runs_commands(role, right):
    assert permitted(role, right, name=hardening.SUPERVISOR) is False


def test_the_supervisor_alone_submits_and_looks_on():
    assert permitted("lead", "submit_job", name=hardening.SUPERVISOR)
    assert permitted("lead", "view", name=hardening.SUPERVISOR)
    assert permitted("lead", "manage_job", name=hardening.SUPERVISOR)
    for role in ("lead", "project_admin", "org_admin", "member"):
        for right in ("submit_job", "view", "manage_job"):
            assert permitted(role, right, name="somebody@north.org") is False


def permitted(role, right, *, name):
    """What NVFlare itself makes of the file."""
    authz = pytest.importorskip("nvflare.fuel.sec.authz")
    security = pytest.importorskip("nvflare.security.security")
    authorizer = security.FLAuthorizer("hospital", hardening.authorization())
    person = authz.Person(name, "hub", role)
    submitter = authz.Person(hardening.SUPERVISOR, "hub", "lead")
    return authorizer.authorize(authz.AuthzContext(user=person, submitter=submitter, right=right))[0]
