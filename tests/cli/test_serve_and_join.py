"""`keys certificate`, `serve` and `join` as operators run them: four processes on loopback."""

import json
import re
import signal
import subprocess
import time

import pytest
from enrolled import NAMES, enrol_all
from forked import python


def securepfl(*words):
    return [*python(), "-m", "securepfl", *map(str, words)]


class Machines:
    """The processes of one federation; each is ended by its id."""

    def __init__(self, root, **options):
        self.world = enrol_all(root, **options)
        self.exchange = root / "exchange"
        self.exchange.mkdir()
        self.running = []

    def certificate(self, name, *options):
        words = ["keys", "certificate", "--folder", self.world.folder(name), "--exchange", self.exchange]
        words += ["--passphrase-file", self.world.secret, *options]
        done = subprocess.run(securepfl(*words), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def certify(self):
        for name in NAMES:
            self.certificate(name)
        self.certificate("hub", "--host", "127.0.0.1")
        for name in NAMES:
            assert "waiting" not in self.certificate(name)

    def examined(self, name, url):
        """What `doctor` finds at a hospital."""
        words = ["doctor", self.world.config, "--folder", self.world.folder(name), "--hub", url, "--json"]
        words += ["--passphrase-file", self.world.secret]
        done = subprocess.run(securepfl(*words), capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)["result"]["findings"]

    def start(self, *words):
        process = subprocess.Popen(securepfl(*words), stderr=subprocess.PIPE, text=True)
        self.running.append(process)
        return process

    def serve(self, *options):
        folder = self.world.folder("hub")
        words = ("serve", self.world.config, "--folder", folder, "--host", "127.0.0.1", "--port", 0)
        process = self.start(*words, "--passphrase-file", self.world.secret, *options)
        heard = []
        while found := process.stderr.readline():
            heard.append(found)
            if match := re.search(r"serves \(address ([\d.:]+)", found):
                return process, f"https://{match[1]}"
        raise AssertionError("".join(heard))

    def join(self, name, url, *options):
        world = self.world
        words = ("join", world.config, "--data", world.data(name), "--folder", world.folder(name), "--hub", url)
        words += ("--passphrase-file", world.secret, "--ledgers", world.root / f"{name}-ledgers", "--device", "cpu")
        return self.start(*words, *options)


@pytest.fixture
def machines(tmp_path):
    made = []

    def make(**options):
        made.append(Machines(tmp_path, **options))
        return made[-1]

    yield make
    for process in made[0].running:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=30)


def ended(process, seconds=120):
    errors = process.communicate(timeout=seconds)[1]
    return process.returncode, errors


def test_hospitals_join_a_hub_and_the_run_ends_everywhere(machines):
    its = machines(rounds=2)
    its.certify()
    hub, url = its.serve()
    found = {entry["what"]: entry for entry in its.examined(NAMES[0], url)}
    assert "serves" in found["hub"]["told"] and found["clock"]["told"] == "as the hub's, to a minute"
    parts = {name: its.join(name, url) for name in NAMES}
    for name, process in parts.items():
        code, errors = ended(process)
        assert code == 0, errors
        assert json.loads((its.world.out(name) / "result.json").read_text())
    code, errors = ended(hub)
    assert code == 0 and "all rounds are over (2 of 2)" in errors, errors
    code, errors = ended(its.join(NAMES[0], url))  # as after a reboot: nothing is left to do, and no hub to ask
    assert code == 0 and "cannot be reached" not in errors, errors


def test_a_hub_that_sigterm_stopped_goes_on_with_the_same_command(machines):
    its = machines(rounds=2)
    its.certify()
    hub, url = its.serve()
    port = url.rsplit(":", 1)[1]
    first = its.join(NAMES[0], url)
    time.sleep(4)
    hub.send_signal(signal.SIGTERM)
    code, errors = ended(hub)
    assert code == 0 and "the same command goes on" in errors, errors
    hub, _ = its.serve("--port", port)
    others = [its.join(name, url) for name in NAMES[1:]]
    for process in (first, *others, hub):
        code, errors = ended(process)
        assert code == 0, errors
