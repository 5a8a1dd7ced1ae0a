"""A run over a real server, real sites and real agents, each of which is killed once: no round is lost."""

import shutil

import numpy as np
import pytest
from nvflare_lab import Lab, world_with_kits

from securepfl.protocol.hospital import exchange
from securepfl.protocol.loop import RoundLoop
from securepfl.runtime.opening import STATE, open_client, open_coordinator
from securepfl.storage.folder import read_arrays

pytestmark = pytest.mark.machines
ROUNDS = 30
SEED = 7


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    pytest.importorskip("nvflare")
    return world_with_kits(tmp_path_factory.mktemp("nvflare"), rounds=ROUNDS)


def run_here(world):
    """The same keys, rows and seed in this process: each hospital's final state."""
    out = world.root / "here"
    hub = open_coordinator(world.config, world.folder("hub"), world.secret.read_bytes().strip(), out / "hub")
    clients = {
        name: open_client(
            world.config,
            world.data(name),
            world.folder(name),
            world.secret.read_bytes().strip(),
            out / name,
            device="cpu",
            seed=SEED,
        ).client
        for name in world.names
    }
    loop = RoundLoop(hub)
    for name, client in clients.items():
        loop.here(name, client.round)
    while not loop.finished:
        loop.tick(0.0)
        for name, client in clients.items():
            if work := loop.next(name):
                done = exchange(client, [message for _, message in work])
                loop.took(name, done.at, done.replies, told=work)
    for client in clients.values():
        client.close()
    return {name: state_of(out / name) for name in world.names}


def state_of(out):
    (path,) = (out / STATE).glob("*.safetensors")
    return read_arrays(path)


def test_a_run_goes_on_through_the_death_of_each_part(world, capsys):
    took = {}
    with Lab(world, world.root / "logs", seed=SEED) as lab:
        lab.everything("--poll", "0.1")
        took["first round"] = lab.reach(2)
        kills = {
            "an agent": lambda: (lab.kill("agent-birch"), lab.agent("birch")),
            "a site's job process": lambda: lab.kill_job_process("cedar"),
            "a site": lambda: (lab.kill("engine-cedar"), lab.engine("cedar")),
            "the server's job process": lambda: lab.kill_job_process("hub"),
            "the server": lambda: (lab.kill("engine-hub"), lab.engine("hub")),
            "the supervisor": lambda: (lab.kill("supervisor"), lab.supervisor("--poll", "0.1")),
        }
        for what, kill in kills.items():
            kill()
            took[what] = lab.reach(lab.closed() + 2)
        lab.reach(ROUNDS)
        assert lab.running["supervisor"].wait(120) == 0
    with capsys.disabled():
        print({what: round(seconds, 1) for what, seconds in took.items()})
    for name, (arrays, meta) in run_here(world).items():
        over, over_meta = state_of(world.out(name))
        assert over_meta["round"] == meta["round"] == ROUNDS
        assert over.keys() == arrays.keys()
        for key, array in arrays.items():
            np.testing.assert_array_equal(over[key], array, err_msg=f"{name}: {key}")
    shutil.rmtree(world.root / "here")
