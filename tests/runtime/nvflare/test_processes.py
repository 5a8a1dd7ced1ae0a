"""A real server, real sites and real agents: who is refused, and a run in which each part is killed once."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from nvflare_lab import Lab, until, world_with_kits

from securepfl.protocol.hospital import exchange
from securepfl.protocol.loop import RoundLoop
from securepfl.runtime.nvflare.engine import FlareEngine, UnreachableError
from securepfl.runtime.nvflare.job import write_job
from securepfl.runtime.nvflare.kit import Kit
from securepfl.runtime.opening import STATE, open_client
from securepfl.runtime.opening_hub import open_coordinator
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


@pytest.fixture
def hub(world):
    """The server and alder's and birch's sites; the supervisor's account."""
    with Lab(world, world.root / "logs-refused") as lab:
        for name in ("hub", *world.names[:2]):
            lab.engine(name)
        engine = FlareEngine(Kit(world.folder("hub")).supervisor)
        assert until(lambda: connected(engine) == set(world.names[:2]), 120)
        yield lab, engine
        engine.close()


def connected(engine):
    try:
        return engine.connected()
    except UnreachableError:
        return set()


def over(engine, job):
    try:
        return job not in engine.running()
    except UnreachableError:
        return False


def intruder(world, name, of):
    """A site's folder that says `name` and has the keys of the party `of`."""
    folder = world.root / f"intruder-{name}"
    shutil.copytree(Kit(world.folder(of)).path, Kit(folder).path, ignore=shutil.ignore_patterns("*-*-*-*-*", "log*"))
    config = Kit(folder).path / "startup" / "fed_client.json"
    said = json.loads(config.read_text())
    said["client"]["fqsn"] = name
    config.write_text(json.dumps(said))
    return folder


def test_who_brings_code_or_another_name_is_refused(world, hub, tmp_path):
    lab, engine = hub
    # birch's certificate under cedar's name, and a certificate of another root: they try all the while.
    lab.start("other-name", "machines", "nvflare", "start", "--folder", intruder(world, "cedar", "birch"))
    foreign = intruder(world, "damson", "birch")
    another_root(foreign)
    lab.start("other-root", "machines", "nvflare", "start", "--folder", foreign)
    began = time.monotonic()
    # Code in a job: refused by the server before anybody gets it.
    marker = tmp_path / "ran"
    job = write_job(tmp_path / "code")
    (job / "app" / "custom").mkdir()
    (job / "app" / "custom" / "evil.py").write_text(f"open({str(marker)!r}, 'w')\n")
    number = engine.submit(job)
    assert until(lambda: over(engine, number), 120)
    assert "BYOC not permitted" in said_by(lab, "engine-hub") and not lab.job_processes("alder")
    # A class that is installed and not ours: refused by each site.
    job = write_job(tmp_path / "class")
    config = job / "app" / "config" / "config_fed_client.json"
    said = json.loads(config.read_text())
    args = {"args": ["touch", str(marker)]}
    said["components"] = [{"id": "other", "path": "subprocess.Popen", "args": args}]
    config.write_text(json.dumps(said))
    number = engine.submit(job)
    assert until(lambda: over(engine, number), 120)
    assert not marker.exists()
    log = Kit(world.folder("alder")).path / "log.txt"
    assert "is not in allow_list" in log.read_text() or "is not in allow_list" in said_by(lab, "engine-alder")
    time.sleep(max(0.0, began + 20 - time.monotonic()))
    assert connected(engine) == set(world.names[:2])


def said_by(lab, what):
    return (lab.logs / f"{what}.log").read_text()


def another_root(folder: Path) -> None:
    """Replace the certificate and key by self-made ones in the same name."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.x509.oid import NameOID

    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "damson")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    startup = Kit(folder).path / "startup"
    (startup / "client.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain, form = serialization.NoEncryption(), serialization.PrivateFormat.TraditionalOpenSSL
    (startup / "client.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))


@pytest.mark.long
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
