"""From the key ceremony on the command line to a masked round, as hospitals would run it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from parties import MODEL, federation_of, rows_of

from securepfl import Client, Coordinator, Federation, load_coordinator, load_keyring
from securepfl.client.run_kind import Simulation
from securepfl.crypto.keys.identity import PublicIdentity
from securepfl.errors import ConfigError

HOSPITALS, CONFIG = (
    ("alder", "birch", "cedar"),
    'rounds = 2\n[encryption]\nmasking = "pairwise"\n[sparsity]\ndensity = 0.5\n',
)


def run(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "securepfl", "keys", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def ceremony(tmp_path_factory):
    """Folders after all have enrolled; each party's passphrase is its name, repeated."""
    root = tmp_path_factory.mktemp("ceremony")
    (root / "federation.toml").write_text(CONFIG)
    prints = {}
    for name in (*HOSPITALS, "hub"):
        secret = root / f"{name}.pass"
        secret.write_text(4 * name)
        secret.chmod(0o600)
        extra = ["--coordinator"] if name == "hub" else []
        words = ["--folder", root / name, "--exchange", root / "exchange", "--passphrase-file", secret]
        prints[name] = run("create", name, *words, *extra).split(": ")[1].split("\n")[0]
    for name in (*HOSPITALS, "hub", *HOSPITALS):
        known = [f"--fingerprint={other}={text}" for other, text in prints.items() if other != name]
        given = known if name == "alder" else [f"--fingerprint=alder={prints['alder']}"]
        words = ["--folder", root / name, "--exchange", root / "exchange", "--passphrase-file", root / f"{name}.pass"]
        shown = run("enrol", root / "federation.toml", *words, "--steward", "alder", *given)
    assert "complete" in shown
    return root


def bound(root: Path):
    return Federation.read(root / "federation.toml").bound(HOSPITALS, MODEL)


def test_enrolled_hospitals_and_coordinator_run_masked_rounds(ceremony, tmp_path):
    federation, keys = bound(ceremony), load_coordinator(ceremony / "hub", 4 * "hub")
    coordinator = Coordinator(federation, keys.identity, keys.hospitals, key_commitment=keys.key_commitment)
    clients = {
        name: Client(
            federation,
            name,
            MODEL,
            rows_of(name),
            load_keyring(ceremony / name, 4 * name),
            tmp_path / name,
            device="cpu",
            simulation=Simulation(),
        )
        for name in HOSPITALS
    }
    for _ in range(2):
        for messages, reply in (
            (coordinator.invite, Client.contribute),
            (coordinator.fix_survivors, Client.sign_survivors),
            (coordinator.unmask, Client.reveal),
        ):
            for name, message in messages().items():
                coordinator.receive(reply(clients[name], message))
        for name, answer in coordinator.close().items():
            clients[name].apply(answer)
    states = [client.state for client in clients.values()]
    assert all(np.array_equal(state.shared, states[0].shared) for state in states)
    assert all(state.aggregate is not None and state.round == 2 for state in states)
    for client in clients.values():
        client.close()


def test_keys_of_the_ceremony_serve_no_other_settings(ceremony, tmp_path):
    with pytest.raises(ConfigError, match="other settings"):
        Client(
            federation_of(names=HOSPITALS),
            "alder",
            MODEL,
            rows_of("alder"),
            load_keyring(ceremony / "alder", "alder" * 4),
            tmp_path,
            device="cpu",
            simulation=Simulation(),
        )


def test_the_coordinators_keys_hold_public_identities_alone(ceremony):
    keys = load_coordinator(ceremony / "hub", 4 * "hub")
    assert set(keys.hospitals) == set(HOSPITALS) and len(keys.key_commitment) == 32
    assert all(isinstance(public, PublicIdentity) for public in keys.hospitals.values())
