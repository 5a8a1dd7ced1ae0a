"""From the key ceremony on the command line to a masked round, as hospitals would run it."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from parties import MODEL, federation_of, rows_of

from securepfl import Client, Coordinator, Federation, load_coordinator, load_keyring, write_result
from securepfl.cli.main import cli
from securepfl.client.run_kind import Simulation
from securepfl.crypto.keys import keystore
from securepfl.crypto.keys.identity import PublicIdentity
from securepfl.errors import ConfigError
from securepfl.report.evidence.verify_evidence import check

HOSPITALS, CONFIG = (
    ("alder", "birch", "cedar"),
    'rounds = 2\n[encryption]\nmasking = "pairwise"\n[sparsity]\ndensity = 0.5\n'
    + "".join(f"[sites.{name}]\nunits = 40\n" for name in ("alder", "birch", "cedar")),
)


def run(*arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keystore, "LOG_N", 14)  # what a passphrase costs is tested elsewhere
        done = CliRunner().invoke(cli, ["keys", *map(str, arguments)])
    assert done.exit_code == 0, done.exception
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
    return Federation.read(root / "federation.toml").bound(HOSPITALS, MODEL, units=40)


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


class AsDocumented:
    """Parties that run the blocks of docs/keys.md as they stand, in a folder of their own."""

    def __init__(self, run_folder: str = "run-1") -> None:
        text = (Path(__file__).resolve().parents[2] / "docs" / "keys.md").read_text().replace("run-1", run_folder)
        text = text.replace('["north", "south", "west"]', repr(HOSPITALS))
        hospital, self.hub = re.findall(r"```python[^\n]*\n(.*?)```", text, re.DOTALL)
        self.hospital = hospital[: hospital.index("reply = ")]
        self.clients = {name: self._run(self.hospital, name, loader=rows_of(name))["client"] for name in HOSPITALS}

    def _run(self, block, name, **given):
        names = {"Path": Path, "build_model": MODEL, "passphrase": 4 * name, **given}
        try:
            exec(compile(block.replace('"north', f'"{name}'), "docs/keys.md", "exec"), names)  # noqa: S102 (our own page)
        finally:
            if "coordinator" in names:
                names["coordinator"].stop()  # as the end of its process does
        return names

    def run_coordinator(self, replies=10**6):
        """The coordinator's program, killed after so many replies."""
        left = iter(range(replies))

        def send(name, message):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return self.clients[name].handle(message)

        self._run(self.hub, "hub", send=send)

    def close(self):
        """Spent by each hospital, as its ledger has it."""
        spent = {name: client.ledger.spent() for name, client in self.clients.items()}
        for client in self.clients.values():
            client.close()
        return spent


@pytest.fixture
def documented(ceremony, tmp_path, monkeypatch):
    shutil.copytree(ceremony, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return AsDocumented


@pytest.mark.parametrize(
    "replies", [1, 10, 23]
)  # in the first contributions; in the first answers; in the last answers
def test_the_documented_programs_survive_a_kill_and_the_next_run_starts_from_their_ledger(documented, replies):
    run = documented()
    with pytest.raises(KeyboardInterrupt):
        run.run_coordinator(replies)
    run.close()
    run = documented()
    run.run_coordinator()
    assert [client.round for client in run.clients.values()] == [2, 2, 2]
    spent = run.close()
    assert min(spent.values()) > 3.9
    assert documented("run-2").close() == spent


def test_a_documented_programs_record_becomes_evidence_under_the_hospitals_own_keys(documented):
    run = documented()
    run.run_coordinator()
    write_result(run.clients["alder"], rows_of("others"))
    run.close()
    words = ["evidence", "alder/run-1", "--out", "alder.zip"]
    assert "name the folder with its keys" in str(CliRunner().invoke(cli, words).exception)
    done = CliRunner().invoke(cli, [*words, "--folder", "alder", "--passphrase-file", "alder.pass"])
    assert done.exit_code == 0 and "simulation" not in done.stdout, done.output
    shown = CliRunner().invoke(cli, ["keys", "show", "--folder", "alder", "--passphrase-file", "alder.pass"]).stdout
    key = re.search(r"signs its ledger with: (\w+)", shown)[1]
    assert check(Path("alder.zip").read_bytes(), {key}, None).startswith("Signed by alder")
    assert "Run at alder, 2 rounds" in Path("alder/run-1/report.html").read_text()


def test_two_runs_on_one_ledger_take_turns_and_compose(documented):
    config = Path("federation.toml")
    config.write_text(config.read_text() + "[privacy]\nbudget = 20.0\n")
    spent = [0.0]
    for folder, replies in (("run-1", 12), ("run-2", 12), ("run-1", 11)):  # a round has four times three
        run = documented(folder)
        with pytest.raises(KeyboardInterrupt):
            run.run_coordinator(replies)
        spent.append(min(run.close().values()))
    assert spent == sorted(set(spent))
