"""A hospital's agent as its own process: asked, killed, started again, asked by the wrong ones."""

import json
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from enrolled import PASSPHRASE, enrol_all
from served import Served, until

from securepfl.errors import AgentError
from securepfl.protocol.loop import Patience
from securepfl.runtime.agent.asking import ask, told
from securepfl.runtime.hub import HubSession


def words(world, name, *more):
    return (
        "agent",
        world.config,
        *("--data", world.data(name)),
        *("--folder", world.folder(name)),
        *("--socket", world.root / f"{name}.sock"),
        *("--passphrase-file", world.secret),
        *("--ledgers", world.root / f"{name}-ledgers"),
        *("--device", "cpu"),
        *more,
    )


def agent_of(world, name, *more):
    return Served(words(world, name, *more)).ready(world.root / f"{name}.sock")


def hub_of(world):
    return HubSession.open(
        world.config, world.folder("hub"), PASSPHRASE, world.out("hub"), patience=Patience(600.0), linger=0.0
    )


def asked(hub, world, name):
    """One visit of a hospital by its agent."""
    path = world.root / f"{name}.sock"
    work = hub.visit(name, ask(path, ()).at)
    done = ask(path, [message for _, message in work])
    hub.took(name, done.at, done.replies, told=work)
    return work


@pytest.fixture
def world(tmp_path):
    return enrol_all(tmp_path)


def test_a_run_over_agents_of_which_one_is_killed_and_comes_back(world):
    with agent_of(world, "alder") as alder, agent_of(world, "birch"), agent_of(world, "cedar"), hub_of(world) as hub:
        path = world.root / "alder.sock"
        for name in world.names:
            hub.visit(name, ask(world.root / f"{name}.sock", ()).at)
        ((_, invitation),) = hub.visit("alder", 0)
        first = ask(path, [invitation])
        alder.kill().end()
        with pytest.raises(AgentError, match="no agent serves there"):
            ask(path, ())
        assert path.exists()  # the stale socket of a killed agent is no obstacle
        again = Served(words(world, "alder"))
        with again:
            until(lambda: _answers(path))
            assert ask(path, [invitation]) == first
            for _ in range(20):
                for name in world.names:
                    asked(hub, world, name)
                if hub.finished:
                    break
            assert hub.hub.closed == 2 and told(path, ()).finished
            until((world.out("alder") / "result.json").exists)
            code, _, err = again.kill(signal.SIGTERM).end()
            assert code == 143 and err.splitlines()[-1] == "securepfl: interrupted; the same command goes on"
            assert not path.exists()
    result = json.loads((world.out("alder") / "result.json").read_text())
    # Killed after its first contribution: it spent on two rounds, as the others did.
    other = json.loads((world.out("birch") / "result.json").read_text())
    spent = [its["sites"][name]["privacy"]["epsilon"] for name, its in (("alder", result), ("birch", other))]
    assert spent[0] == spent[1]


def _answers(path):
    try:
        return ask(path, ()) is not None
    except AgentError:
        return False


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    """A world in which alder's agent serves."""
    world = enrol_all(tmp_path_factory.mktemp("serving"))
    with agent_of(world, "alder"):
        yield world


def test_a_message_that_cannot_be_taken_is_one_error_and_the_agent_serves_on(serving):
    path = serving.root / "alder.sock"
    done = ask(path, [b"garbage"])
    assert done.replies == () and isinstance(done.failed, AgentError)
    assert "own log" in str(done.failed) and str(serving.root) not in str(done.failed)
    assert ask(path, ()).at == 0
    status = json.loads((serving.out("alder") / "status.json").read_text())
    assert "truncated" in status["error"]["line"]


@pytest.mark.parametrize(
    "sent", [b"", b"SPAQ", struct.pack(">4sBIQ", b"SPAQ", 1, 1, 2**60), b"GET / HTTP/1.1\r\n\r\n" * 3]
)
def test_what_is_no_request_is_refused_and_the_agent_serves_on(serving, sent):
    path = serving.root / "alder.sock"
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(path))
        raw.sendall(sent)
        raw.shutdown(socket.SHUT_WR)
        assert raw.recv(4) == b"SPAR"
    assert ask(path, ()).at == 0


def test_two_agents_on_one_folder_or_one_socket_are_one_too_many(serving):
    code, _, err = Served(words(serving, "alder")).end()
    assert code == 2 and "in use by another process" in err.splitlines()[-1]
    code, _, err = Served(words(serving, "birch", "--socket", serving.root / "alder.sock")).end()
    assert code == 2 and "an agent serves there" in err.splitlines()[-1]
    assert ask(serving.root / "alder.sock", ()).at == 0


def test_a_file_that_is_no_socket_is_left_alone(world):
    (world.root / "alder.sock").write_text("precious")
    code, _, err = Served(words(world, "alder")).end()
    assert code == 2 and "is there, and no socket" in err.splitlines()[-1]
    assert (world.root / "alder.sock").read_text() == "precious"


ASKS_AS = """
import os, pathlib, sys
from securepfl.runtime.agent.asking import ask
os.setuid(int(sys.argv[2]))
try:
    print(ask(pathlib.Path(sys.argv[1]), ()).at)
except Exception as error:
    print(error)
"""


def asked_by(user, path):
    words = [sys.executable, "-c", ASKS_AS, str(path), str(user)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(os.getuid() != 0, reason="needs another user, which only root can be")
def test_the_kernel_tells_who_asks(world):
    other = 65534
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        Path(short).chmod(0o755)
        path = Path(short, "s")
        with Served(words(world, "alder", "--socket", path)).ready(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert "may not be opened by this user" in asked_by(other, path)
            path.chmod(0o666)  # as if somebody mended its rights wrongly: the kernel's word still counts
            assert f"user {other} may not ask" in asked_by(other, path)
            assert asked_by(0, path) == "0"
        path.unlink(missing_ok=True)
        with Served(words(world, "alder", "--socket", path, "--user", other, "--group", "nogroup")).ready(path):
            until(lambda: stat.S_IMODE(path.stat().st_mode) == 0o660)
            path.chmod(0o666)
            assert asked_by(other, path) == "0"
            assert "user 0 may not ask" in asked_by(0, path)


def test_a_user_who_may_not_ask_takes_neither_time_nor_the_log(world):
    other = str(os.getuid() + 1)
    with agent_of(world, "alder", "--user", other):
        path, started = world.root / "alder.sock", time.monotonic()
        for _ in range(500):
            with socket.socket(socket.AF_UNIX) as stranger:
                stranger.settimeout(20)
                stranger.connect(str(path))
                assert stranger.recv(4) == b"SPAR"
        took = time.monotonic() - started
    lines = (world.out("alder") / "log.jsonl").read_text().splitlines()
    assert sum("may not ask" in line for line in lines) <= 1 + took / 10
