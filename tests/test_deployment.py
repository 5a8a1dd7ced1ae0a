"""docs/deployment.md: its commands are ones that there are, and its ceremony runs as it stands there."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from pages import resolved
from small_run import prepare

from securepfl.cli.main import cli
from securepfl.errors import ConfigError
from securepfl.storage.keys import read_passphrase

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "deployment.md").read_text()
COMMANDS = re.findall(r"^(\w*)\$ (?:sudo )?(?:spfl|securepfl) (.*)$", PAGE, re.MULTILINE)
UNITS = sorted((ROOT / "deploy").glob("*.service"))


@pytest.mark.parametrize(("machine", "line"), COMMANDS)
def test_a_command_of_the_page_is_one_that_there_is(machine, line):
    resolved(shlex.split(line))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_calls_a_command_that_there_is_as_nobody_and_hides_the_passphrase(unit):
    text = unit.read_text().replace("\\\n", " ")
    (line,) = re.findall(r"^ExecStart=/opt/securepfl/bin/securepfl (.*)$", text, re.MULTILINE)
    resolved(shlex.split(line))
    assert "User=securepfl\n" in text and "LoadCredential=passphrase:" in text and "%d/passphrase" in line
    for line in ("NoNewPrivileges=yes", "ProtectSystem=strict", "PrivateTmp=yes", "CapabilityBoundingSet=\n"):
        assert line in text
    assert "Restart=on-failure" in text and "RestartPreventExitStatus=2" in text


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_takes_the_unit(unit, tmp_path):
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/opt/securepfl/bin/securepfl", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == ""


def test_the_ceremony_of_the_page_runs_as_it_stands_there(tmp_path):
    prepare(tmp_path)
    config, machines = tmp_path / "federation.toml", ("hub", "north", "south", "west")
    text = re.sub(r'^"\S+" = \{ units = 40 \}\n', "", config.read_text(), flags=re.MULTILINE)
    sites = "".join(f"{name} = {{ units = 40 }}\n" for name in machines[1:])
    config.write_text(text.replace("[sites]\n", f"[sites]\n{sites}"))
    for name in machines:
        (tmp_path / name).mkdir()
        secret = tmp_path / name / "passphrase"
        secret.write_text(f"five words drawn at random for {name}\n")
        secret.chmod(0o600)

    def on(machine, line):
        for old, new in (("/var/lib/securepfl/exchange", "exchange"), ("/var/lib/securepfl", machine)):
            line = line.replace(old, str(tmp_path / new))
        done = CliRunner().invoke(cli, shlex.split(line.replace("/etc/securepfl", str(tmp_path))))
        assert done.exit_code == 0, (machine, line, done.output, done.exception)
        return done.output

    def of(start, machine):
        (line,) = {
            text for where, text in COMMANDS if text.startswith(start) and where == machine and "--renew" not in text
        }
        return line

    create, enrol = of("keys create north", "north"), of("keys enrol", "north")
    said = {"hub": on("hub", of("keys create hub", "hub"))}
    said |= {name: on(name, create.replace("create north", f"create {name}")) for name in machines[1:]}
    prints = {name: re.search(r"\w{4}(?:-\w{4}){7}", text)[0] for name, text in said.items()}
    steward = of("keys enrol", "south")
    told = " ".join(f"--fingerprint {name}={prints[name]}" for name in ("hub", "north", "west"))
    on("south", f"{steward} {told}")  # on the page they are read by phone, at a terminal
    enrol = re.sub(r"south=\S+", f"south={prints['south']}", enrol)
    for _ in range(2):
        last = {name: on(name, enrol) for name in ("north", "west")}
    assert all("complete" in text for text in last.values())
    on("hub", enrol.replace("/securepfl/hospital", "/securepfl/hub"))
    asks, at_hub = of("keys certificate", "north"), of("keys certificate", "hub")
    on("hub", at_hub)
    for _ in range(2):
        for name in machines[1:]:
            on(name, asks)
        on("hub", at_hub)
    assert (tmp_path / "north" / "hospital").is_dir()


def test_a_credential_of_systemd_is_taken_with_the_mode_that_it_has(tmp_path, monkeypatch):
    """For another user than root it is mode 440, where the 4 of the group is the mask of an access list."""
    path = tmp_path / "passphrase"
    path.write_text("five words drawn at random\n")
    path.chmod(0o440)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_passphrase(path)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_passphrase(path)
    path.chmod(0o444)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_passphrase(path)
