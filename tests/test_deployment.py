"""docs/deployment.md: its commands are ones that there are, and run as they stand there, from empty machines on."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
from enrolled import SETTINGS, write_table
from forked import python
from page_machines import Machines, cheap_keys, shows
from pages import DOCS, blocks_of, resolved
from ports import free_port
from proxies import Proxy
from served import until

from securepfl.errors import ConfigError
from securepfl.storage.keys import read_passphrase

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "deployment.md").read_text()
COMMANDS = re.findall(r"^(\w*)\$ (?:sudo )?(?:spfl|securepfl) (.*)$", PAGE, re.MULTILINE)
HERE = "tests/test_deployment.py"
HOSPITALS = ("north", "south", "west")
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


class Systemd:
    """Starts installed units as their files say, each in a process of its own; its journal is a file."""

    def __init__(self, machines: Machines) -> None:
        self.machines = machines
        self.running: dict[tuple[str, str], subprocess.Popen] = {}

    def log(self, machine, unit):
        return self.machines.root / f"{machine}-{unit}.log"

    def start(self, machine, unit, words, environment):
        ours = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        with self.log(machine, unit).open("a") as log:
            self.running[machine, unit] = subprocess.Popen(
                [*python(), "-m", "securepfl", *words],
                stderr=log,
                env=ours | {"OMP_NUM_THREADS": "1"} | environment,
            )

    def enable(self, machine, unit):
        """`systemctl enable --now`: the passphrase is a copy that the service alone can read."""
        at = self.machines.at
        text = at(machine, f"/etc/systemd/system/{unit}.service").read_text().replace("\\\n", " ")
        (command,) = re.findall(r"^ExecStart=\S+/securepfl (.*)$", text, re.MULTILINE)
        credentials = at(machine, "/run/credentials")
        credentials.mkdir(parents=True)
        for name, file in re.findall(r"^LoadCredential=(\w+):(\S+)$", text, re.MULTILINE):
            shutil.copy(at(machine, file), credentials / name)
        told = {"CREDENTIALS_DIRECTORY": str(credentials)}
        for file in re.findall(r"^EnvironmentFile=(\S+)$", text, re.MULTILINE):
            told |= dict(line.split("=", 1) for line in at(machine, file).read_text().splitlines())
        command = command.replace("%d", str(credentials))
        command = re.sub(r"\$\{(\w+)\}", lambda found: told[found[1]], command)
        self.start(machine, unit, shlex.split(self.machines.here(machine, command)), told)

    def run(self, machine, line):
        """A line of the page: what it prints."""
        words = shlex.split(re.sub("^sudo ", "", line))
        if words[:3] == ["systemctl", "enable", "--now"]:
            return self.enable(machine, words[3]) or ""
        if words[:2] == ["systemctl", "disable"]:
            assert self.running[machine, words[2]].wait(60) == 0, self.log(machine, words[2]).read_text()
            return ""
        if words[0] == "journalctl":
            return self.log(machine, words[2]).read_text()
        if words == ["systemctl", "daemon-reload"]:
            return ""
        if words[0] == "curl" and not shutil.which("curl"):
            return urlopen(self.machines.here(machine, words[-1]), timeout=30).read().decode()  # noqa: S310
        assert words[0] != "systemctl", line
        return self.machines.run(machine, line)

    def block(self, block, machines=()):
        """As of `Machines`."""
        return "".join(
            self.run(machine, line)
            for name, line in block.lines()
            for machine in (machines if name == "north" else (name,))
        )

    def says(self, machine, unit, text):
        """Wait for a line of a journal."""
        until(lambda: text in self.log(machine, unit).read_text(), what=f"{machine}: {text}")

    def end(self):
        for process in self.running.values():
            process.kill()
            process.wait()


@pytest.fixture
def machines(tmp_path, monkeypatch):
    """Empty machines with what is unpacked or handed in: the release, the settings, each hospital's rows."""
    cheap_keys(monkeypatch)
    ports = {"8443": str(free_port()), "9464": str(free_port())}
    made = Machines(tmp_path / "machines", changed={"hub.example.org": "127.0.0.1"} | ports)
    sites = "".join(f"{name} = {{ units = 40 }}\n" for name in HOSPITALS)
    for name in ("hub", *HOSPITALS):
        for folder in ("etc/systemd/system", "opt", "srv", "var/lib"):
            (made.at(name) / folder).mkdir(parents=True)
        (made.at(name) / "deploy").symlink_to(ROOT / "deploy")
        settings = SETTINGS.format(rounds=2, masking="none", declared="", released="experts = true")
        (made.at(name) / "federation.toml").write_text(settings + sites)
        if name != "hub":
            write_table(made.at(name) / "rows.csv", name)
    return made


@pytest.fixture
def systemd(machines):
    its = Systemd(machines)
    yield its
    its.end()


def test_the_page_runs_from_empty_machines_to_the_end(machines, systemd):
    """docs/deployment.md, each block as it stands there, in its order: three hospitals and a hub over HTTPS."""
    everybody = ("hub", *HOSPITALS)
    ours = [block for block in blocks_of(DOCS / "deployment.md") if block.elsewhere == HERE]
    shown = [block.text.splitlines() for block in blocks_of(DOCS / "deployment.md") if block.language == "text"]
    folders, rows, secret, copy, *ceremony, hub, hospital, by_hand, watching, renew, end = ours
    machines.block(folders, everybody)
    machines.block(rows, HOSPITALS)
    machines.block(secret, everybody)
    machines.block(copy, everybody)
    hold_ceremony(machines, *ceremony, shown[0], shown[1])
    (away,) = re.findall(r"`sudo (rm /var/lib/securepfl/passphrase)`", PAGE)
    for machine in everybody:
        machines.run(machine, away)

    with Proxy() as proxy:
        machines.changed["http://proxy.example.org:3128"] = proxy.url
        systemd.block(hub)
        systemd.block(hospital, ("south", "west"))
        systemd.says("hub", "securepfl-hub", "west: here")
        for machine in ("hub", "north", "south"):
            machines.block(copy, (machine,))
        stopped = systemd.running["hub", "securepfl-hub"]
        stopped.send_signal(signal.SIGTERM)
        assert stopped.wait(60) == 0, "it stops in order"
        serve, join = (machines.words(name, line) for name, line in by_hand.lines())
        systemd.start("hub", "securepfl-hub", serve, {})
        status = watching.lines()[0][1]
        until(lambda: systemd.log("hub", "securepfl-hub").read_text().count(": here") == 4)
        until(lambda: time.sleep(0.3) or "2 of 3 are here" in machines.run("hub", status))
        printed = systemd.block(watching, ("south",))
        shows(printed, [line for line in shown[3] if line.startswith("hospital ")])
        assert "a round needs 3" in printed and "securepfl_rounds_closed 0" in printed
        assert json.loads(re.search(r"^\{\n.*?^\}$", printed, re.MULTILINE | re.DOTALL)[0])["error"] is None
        assert "waiting for hub's approval" in machines.block(renew, ("south",))
        (certify,) = (line for name, line in ceremony[-1].lines() if name == "hub")
        assert "south: approved" in machines.run("hub", f"{certify} --renew")
        assert "certificate of south: valid" in machines.block(renew, ("south",))
        systemd.start("north", "securepfl-hospital", join, {"HTTPS_PROXY": proxy.url})
        systemd.block(end, HOSPITALS)
    assert set(proxy.asked) == {("CONNECT", f"127.0.0.1:{machines.changed['8443']}")}
    shows(systemd.log("hub", "securepfl-hub").read_text(), [line[9:] for line in shown[2]])
    for name in HOSPITALS:
        assert json.loads((machines.at(name, "/var/lib/securepfl/hospital") / "run" / "result.json").read_text())
        (asked,) = re.findall(r"`(spfl audit ledgers .*)` at a hospital", PAGE)
        assert name in machines.run(name, asked)


def hold_ceremony(machines, create, enrol, others, certificates, created, certified):
    """Steps 2 and 3 of the page."""
    shows(machines.block(create, HOSPITALS), created)
    south = machines.block(enrol)
    assert "waiting for pair secrets" in south
    for _ in range(2):
        last = [machines.block(others, (name,)) for name in ("north", "west")]
    (line,) = (line for _, line in others.lines())
    last.append(machines.run("hub", line.replace("/securepfl/hospital", "/securepfl/hub")))
    (line,) = (line for _, line in enrol.lines())
    last.append(machines.run("south", line))
    assert all("complete" in text for text in last), last
    assert len({re.search("key commitment (.*)", text)[1] for text in last}) == 1
    for _ in range(2):
        told = machines.block(certificates, HOSPITALS)
    shows(told, certified)
    assert len(set(re.findall("^root: (.*)$", told, re.MULTILINE))) == 1


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
