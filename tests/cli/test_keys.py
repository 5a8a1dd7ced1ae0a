"""The key ceremony as its parties run it, and what happens when somebody meddles with the exchange folder."""

import base64
import contextlib
import io
import os
import pty
import re
import shutil
import stat
import subprocess
import sys
import traceback

import numpy as np
import pytest
from forked import python

from securepfl.cli import enrol as enrolment
from securepfl.cli import identity as key_commands
from securepfl.cli.main import cli, main
from securepfl.crypto.keys import holdings, keystore
from securepfl.crypto.keys.card import IdentityCard
from securepfl.crypto.keys.grant import Grant, Notice
from securepfl.crypto.keys.keys import FederationKey, Identity
from securepfl.crypto.keys.pair import open_pair
from securepfl.crypto.keys.place import HEADER_BYTES
from securepfl.crypto.keys.roster import Roster
from securepfl.crypto.keys.secret import Secret
from securepfl.crypto.sums.parameters import choose_layout
from securepfl.crypto.sums.scheme import find_scheme
from securepfl.errors import AggregateError, ConfigError, MessageError, SecurePFLError, StorageError
from securepfl.settings.roster import check_roster
from securepfl.storage import keys as keyfolder
from securepfl.storage.ceremony_folder import check_name
from securepfl.storage.keys import load_coordinator, load_holdings, load_keyring

CONFIG = 'name = "pump"\nrounds = 5\n[sites]\nnorth.units = 200\nsouth.units = 100\nwest.units = 100\n'
HOSPITALS, STEWARD, SERVER = ("north", "south", "west"), "south", "hub"
PARTIES = (*HOSPITALS, SERVER)


class World:
    """A folder with the configuration, the exchange folder, and each party's folder and passphrase."""

    def __init__(self, path):
        self.path, self.exchange = path, path / "exchange"

    def passphrase(self, name):
        return f"correct horse battery {name}"

    def passphrase_file(self, name):
        path = self.path / f"{name}.pass"
        path.write_text(self.passphrase(name) + "\n")
        path.chmod(0o600)
        return path

    def arguments(self, name, command, *options, config="federation.toml"):
        words = ["keys", command]
        words += [name] if command == "create" else []
        words += [self.path / config] if command in ("enrol", "rotate") else []
        words += ["--folder", self.path / name]
        words += ["--exchange", self.exchange] if command != "show" else []
        words += ["--steward", STEWARD] if command == "enrol" else []
        words += ["--passphrase-file", self.passphrase_file(name)]
        return [str(word) for word in (*words, *options)]

    def run(self, name, command, *options, **kwargs):
        """What the command prints; it must succeed."""
        output = io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdout", output)
            cli.main(self.arguments(name, command, *options, **kwargs), standalone_mode=False)
        return output.getvalue()

    def create(self, name):
        return self.run(name, "create", *(["--coordinator"] if name == SERVER else []))

    def fingerprint(self, name):
        return re.search("^fingerprint: (.*)$", (self.exchange / f"{name}.identity").read_text(), re.MULTILINE)[1]

    def by_phone(self, *names):
        return [word for name in names for word in ("--fingerprint", f"{name}={self.fingerprint(name)}")]

    def enrol(self, name, **kwargs):
        others = [other for other in PARTIES if other != name] if name == STEWARD else [STEWARD]
        return self.run(name, "enrol", *self.by_phone(*others), **kwargs)

    def keyring(self, name, **kwargs):
        return load_keyring(self.path / name, self.passphrase(name), **kwargs)

    def holdings(self, name):
        return load_holdings(self.path / name, self.passphrase(name).encode())

    def files(self):
        """Every file's bytes; locks left out."""
        found = [path for path in self.path.rglob("*") if path.is_file() and path.name != "lock"]
        return {path.relative_to(self.path): path.read_bytes() for path in found if path.suffix != ".pass"}


@pytest.fixture(autouse=True)
def cheap_scrypt(monkeypatch):
    """In this process scrypt costs next to nothing; the subprocess tests take the full cost and the real bounds."""
    cheapen(monkeypatch)


def cheapen(patch):
    patch.setattr(keystore, "LOG_N", 4)
    patch.setattr(keystore, "_LOG_N_BOUNDS", range(4, 21))


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """The ceremony after each step: identities created; steward enrolled; all complete."""
    world = World(tmp_path_factory.mktemp("ceremony"))
    (world.path / "federation.toml").write_text(CONFIG)
    copies = tmp_path_factory.mktemp("stages")
    with pytest.MonkeyPatch.context() as patch:
        cheapen(patch)
        for name in PARTIES:
            world.create(name)
        shutil.copytree(world.path, copies / "created")
        world.enrol(STEWARD)
        shutil.copytree(world.path, copies / "granted")
        for name in ("north", "west", "hub", "south"):
            world.enrol(name)
        shutil.copytree(world.path, copies / "complete")
    return copies


@pytest.fixture
def at(stages, tmp_path):
    """A private copy of the ceremony at a stage."""

    def copy(stage, name="world"):
        shutil.copytree(stages / stage, tmp_path / name)
        return World(tmp_path / name)

    return copy


@pytest.fixture
def refused(monkeypatch, capsys):
    """The command line must exit with 2 and one line holding all words, and write nothing."""

    def check(world, arguments, *words):
        before = world.files()
        monkeypatch.setattr(sys, "argv", ["securepfl", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        assert stop.value.code == 2, err
        assert out == "" and len(err.strip().splitlines()) == 1, (out, err)
        assert all(word in err for word in words), err
        assert world.files() == before
        return err

    return check


# The whole ceremony


def command(world, *arguments):
    return subprocess.Popen(
        [*python(), "-m", "securepfl", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process, code=0):
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    return out


def test_the_whole_ceremony_on_the_command_line(tmp_path):
    world = World(tmp_path)
    (tmp_path / "federation.toml").write_text(CONFIG)
    created = [
        command(world, *world.arguments(name, "create", *(["--coordinator"] if name == SERVER else [])))
        for name in PARTIES
    ]
    for name, process in zip(PARTIES, created, strict=True):
        out = finish(process)
        assert world.fingerprint(name) in out and "phone" in out
        private = tmp_path / name / "keys" / "private"
        assert stat.S_IMODE(private.stat().st_mode) == 0o600
        assert private.read_bytes()[5:8] == bytes((17, 8, 1))
    phone = world.by_phone(*(name for name in PARTIES if name != STEWARD))
    out = finish(command(world, *world.arguments(STEWARD, "enrol", *phone)))
    assert "waiting for pair secrets from north: run this again" in out
    others = [command(world, *world.arguments(name, "enrol", *world.by_phone(STEWARD))) for name in ("north", "hub")]
    assert all("complete" in finish(process) for process in others)
    others = [command(world, *world.arguments(name, "enrol", *world.by_phone(STEWARD))) for name in ("west", "south")]
    assert all("complete" in finish(process) for process in others)
    rings = {name: world.keyring(name) for name in HOSPITALS}
    check_rings(rings)
    held = load_coordinator(tmp_path / SERVER, world.passphrase(SERVER))
    assert held.identity.public == rings["north"].coordinator
    assert held.hospitals == dict(rings["north"].hospitals)


def check_rings(rings):
    """All hold one federation key and roster; each pair shares one secret; every secret differs from the others."""
    names = sorted(rings)
    for name, ring in rings.items():
        assert ring.identity.name == name and ring.missing_pairs == () and ring.roster == tuple(names)
        assert ring.federation_key == rings[names[0]].federation_key
        assert ring.hospitals == rings[names[0]].hospitals and ring.coordinator == rings[names[0]].coordinator
        for other in names:
            assert ring.pair_secrets[other] == rings[other].pair_secrets[name]
    count = len(names) * (len(names) + 1) // 2
    assert len({secret for ring in rings.values() for secret in ring.pair_secrets.values()}) == count


def test_a_passphrase_typed_twice_on_a_terminal_makes_the_keys(tmp_path):
    words = ["keys", "create", "north", "--folder", str(tmp_path / "north"), "--exchange", str(tmp_path / "exchange")]
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-m", "securepfl", *words])  # noqa: S606
    shown = b""
    try:
        for prompt in (b"Passphrase of", b"Repeat"):
            while prompt not in shown or not shown.endswith(b": "):
                shown += os.read(terminal, 1024)
            os.write(terminal, b"typed on a terminal\n")
            shown += b"|"
        while chunk := os.read(terminal, 1024):
            shown += chunk
    except OSError:  # the terminal is gone with the child
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, shown
    assert b"typed on" not in shown
    assert load_holdings(tmp_path / "north", b"typed on a terminal").identity.name == "north"


def test_the_staged_ceremony_is_complete(at):
    world = at("complete")
    check_rings({name: world.keyring(name) for name in HOSPITALS})
    out = world.run("north", "show")
    assert all(world.fingerprint(name) in out for name in PARTIES)
    assert "epoch 0: steward south, key commitment" in out
    assert out.count("pair secret held") == 2 and out.count("self secret held") == 1
    assert "not enrolled" in at("created", "early").run("north", "show")
    assert "pair secret missing" in at("granted", "later").run("south", "show")


def test_enrolling_again_changes_no_secret_and_sends_nothing_new(at):
    world = at("complete")
    sent = {path: data for path, data in world.files().items() if "exchange" in path.parts}
    before = {name: world.keyring(name) for name in HOSPITALS}
    for name in PARTIES:
        assert "complete" in world.enrol(name)
    assert {path: data for path, data in world.files().items() if "exchange" in path.parts} == sent
    for name, ring in before.items():
        assert world.keyring(name).pair_secrets == ring.pair_secrets
        assert world.keyring(name).federation_key == ring.federation_key


def test_a_lost_file_is_sent_again_with_the_same_secret(at):
    world = at("complete")
    before = world.keyring("north").pair_secrets["west"]
    folder = world.exchange / "epoch-0"
    for name in ("north--west.pair", "west.grant", "roster"):
        (folder / name).unlink()
    (world.exchange / "north.identity").unlink()
    world.run("north", "enrol")
    world.enrol("south")
    west, north = (world.holdings(name).identity for name in ("west", "north"))
    digest = world.holdings("west").latest.federation_digest
    sealed = (folder / "north--west.pair").read_bytes()
    assert open_pair(sealed, west, north.public, federation_digest=digest, epoch=0) == before
    assert (folder / "roster").exists() and (folder / "west.grant").exists()


def test_who_comes_before_the_steward_waits_and_is_not_asked_for_a_fingerprint(at):
    world = at("created")
    for name in ("north", "west", "hub"):
        assert world.run(name, "enrol") == "waiting for south's grant: run this again when south has enrolled\n"


def test_the_steward_can_confirm_on_a_terminal(at, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    world = at("created")
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setattr(sys, "stdin", Terminal("y\nn\n"))
    before = world.files()
    with pytest.raises(SecurePFLError, match=r"north\.identity: not confirmed, nothing was written"):
        world.run(STEWARD, "enrol")
    assert world.files() == before
    monkeypatch.setattr(sys, "stdin", Terminal("y\ny\ny\n"))
    assert "epoch 0" in world.run(STEWARD, "enrol")
    for name in ("north", "west", "hub"):
        assert world.fingerprint(name) in shown.getvalue()
    assert "hub (coordinator)" in shown.getvalue() and "north (hospital)" in shown.getvalue()


def test_the_steward_cannot_open_the_others_pairs_and_nobody_opens_what_is_not_theirs(at):
    world = at("complete")
    identities = {name: world.holdings(name).identity for name in PARTIES}
    head = HEADER_BYTES
    for path in (world.exchange / "epoch-0").iterdir():
        data = path.read_bytes()
        if path.name == "roster":
            continue
        receiver = path.stem.split("--")[-1]
        for name, identity in identities.items():
            if name == receiver:
                assert identity.open(data[head:], info=data[:head])
            else:
                with pytest.raises(MessageError):
                    identity.open(data[head:], info=data[:head])
    between = world.keyring("north").pair_secrets["west"]
    assert between not in world.holdings(STEWARD).to_bytes()
    assert all(between not in data for data in world.files().values())
    coordinator = world.holdings(SERVER).to_bytes()
    key = world.keyring("north").federation_key
    assert key.root_key not in coordinator and key.he_key[:32] not in coordinator


# Fingerprints


def test_a_wrong_fingerprint_stops_the_steward_and_a_hospital(at, refused):
    for stage, name, other in (("created", STEWARD, "west"), ("granted", "north", STEWARD)):
        world = at(stage, stage)
        wrong = ["--fingerprint", f"{other}={world.fingerprint('hub')}"]
        refused(world, world.arguments(name, "enrol", *wrong), f"{other}.identity", "do not use it")


def test_without_a_terminal_every_missing_fingerprint_is_named_and_none_is_shown(at, refused):
    world = at("created")
    arguments = world.arguments(STEWARD, "enrol", *world.by_phone("west"))
    err = refused(world, arguments, "not confirmed of: hub, north;", "--fingerprint hub=")
    assert world.fingerprint("hub") not in err
    world = at("granted", "granted")
    refused(world, world.arguments("north", "enrol"), "not confirmed of: south;")


@pytest.mark.parametrize("text", ["west", "west=ABCD", "=", "west=0189-" + "-".join(["AAAA"] * 7)])
def test_a_fingerprint_that_is_none_is_refused(at, refused, text):
    world = at("created")
    refused(world, world.arguments(STEWARD, "enrol", "--fingerprint", text), "8 groups of 4")


def test_a_fingerprint_may_be_typed_in_small_letters(at):
    world = at("granted")
    assert "complete" in world.run("north", "enrol", "--fingerprint", f"south={world.fingerprint('south').lower()}")


# Meddling with the exchange folder


def stranger(at, name, coordinator=False):
    """The card of somebody else under this name."""
    return IdentityCard.make(Identity.generate(name), coordinator=coordinator).to_text().encode()


def test_an_identity_swapped_in_the_exchange_is_named(at, refused):
    world = at("granted")
    (world.exchange / "west.identity").write_bytes(stranger(at, "west"))
    refused(world, world.arguments("north", "enrol", *world.by_phone(STEWARD)), "west.identity", "the roster holds")
    refused(world, world.arguments("hub", "enrol", *world.by_phone(STEWARD)), "west.identity")
    refused(world, world.arguments(STEWARD, "enrol"), "west.identity")
    refused(world, world.arguments("west", "enrol", *world.by_phone(STEWARD)), "west.identity", "not this folder's")


def test_an_identity_under_another_name_or_role_is_refused(at, refused):
    world = at("created")
    shutil.copy(world.exchange / "west.identity", world.exchange / "east.identity")
    everyone = world.by_phone("north", "west", "hub")
    refused(world, world.arguments(STEWARD, "enrol", *everyone), "east.identity", "'west'")
    (world.exchange / "east.identity").write_bytes(stranger(at, "east", coordinator=True))
    refused(world, world.arguments(STEWARD, "enrol", *everyone), "one coordinator is needed, found: east, hub")
    text = (world.exchange / "hub.identity").read_text().replace("role: coordinator", "role: hospital")
    (world.exchange / "hub.identity").write_text(text)
    refused(world, world.arguments(STEWARD, "enrol"), "hub.identity", "readable lines differ")


def test_a_stranger_who_drops_an_identity_is_not_enrolled_unconfirmed(at, refused):
    world = at("created")
    (world.exchange / "east.identity").write_bytes(stranger(at, "east"))
    arguments = world.arguments(STEWARD, "enrol", *world.by_phone("north", "west", "hub"))
    refused(world, arguments, "east.identity", "[sites.east]", "take")
    declare(world, "north", "south", "west", "east")
    refused(world, arguments, "not confirmed of: east;")


@pytest.mark.parametrize("name", ["x--y", "a\x1b[2J", "n" * 101])
def test_names_that_cannot_be_file_names_or_garble_a_terminal_are_refused(at, refused, name):
    world = at("created")
    err = refused(world, [*world.arguments("new", "create")[:2], name, *world.arguments("new", "create")[3:]], "name")
    assert "\x1b" not in err
    if len(name) < 50:
        (world.exchange / f"{name}.identity").write_bytes(stranger(at, name))
        assert "\x1b" not in refused(world, world.arguments(STEWARD, "enrol"), "name")


@pytest.mark.parametrize("name", ["", " a", "a ", ".a", "a/b", "a\\b", "a:b", 'a"b', "a\0b", "a\nb", "shared"])
def test_a_name_that_a_federation_refuses_is_refused_when_keys_are_made(name):
    with pytest.raises(ConfigError):
        check_roster([name], 1)
    with pytest.raises(ConfigError):
        check_name(name)


@pytest.mark.parametrize("position", [4, 9, 60, 1500, -1])
def test_a_tampered_grant_is_refused(at, refused, position):
    world = at("granted")
    path = world.exchange / "epoch-0" / "north.grant"
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    refused(world, world.arguments("north", "enrol", *world.by_phone(STEWARD)), "north.grant")


def test_another_hospitals_grant_is_refused(at, refused):
    world = at("granted")
    folder = world.exchange / "epoch-0"
    shutil.copy(folder / "west.grant", folder / "north.grant")
    refused(world, world.arguments("north", "enrol", *world.by_phone(STEWARD)), "north.grant", "made for")


def test_a_grant_or_roster_of_another_federation_is_refused(at, refused):
    world, other = at("granted"), at("created", "other")
    (other.path / "federation.toml").write_text(CONFIG.replace("rounds = 5", "rounds = 6"))
    other.enrol(STEWARD)
    for name, file in (("north", "north.grant"), ("hub", "roster")):
        shutil.copy(other.exchange / "epoch-0" / file, world.exchange / "epoch-0" / file)
        refused(world, world.arguments(name, "enrol", *world.by_phone(STEWARD)), file, "other settings")


def test_another_configuration_than_the_one_enrolled_under_is_refused(at, refused):
    world = at("complete")
    (world.path / "other.toml").write_text(CONFIG.replace("units = 200", "units = 300"))
    for name in (STEWARD, "north", "hub"):
        refused(world, world.arguments(name, "enrol", config="other.toml"), "other settings")


def test_sites_that_are_not_in_the_roster_are_named(at, refused):
    world = at("created")
    (world.path / "federation.toml").write_text(CONFIG + "[sites.east]\nunits = 100\n")
    refused(world, world.arguments(STEWARD, "enrol"), "[sites.east]", "north, south, west")


def test_too_few_hospitals_are_refused(at, refused):
    world = at("created")
    (world.exchange / "west.identity").unlink()
    refused(world, world.arguments(STEWARD, "enrol"), "2 hospital(s)", "needs 3")


def test_a_swapped_or_altered_pair_file_is_named(at, refused):
    world = at("granted")
    world.enrol("north")
    folder = world.exchange / "epoch-0"
    good = (folder / "north--west.pair").read_bytes()
    for bad, words in (
        ((folder / "north--south.pair").read_bytes(), "made for"),
        (good[:-1] + bytes((good[-1] ^ 1,)), "does not open"),
        (good[:100], "does not open"),
        (good[:20], "copy the file again"),
        (good + b"\0", "copy the file again"),
        (b"", "copy the file again"),
    ):
        (folder / "north--west.pair").write_bytes(bad)
        refused(world, world.arguments("west", "enrol", *world.by_phone(STEWARD)), "north--west.pair", words)
    # And a good file again mends it.
    (folder / "north--west.pair").unlink()
    world.run("north", "enrol")
    assert "complete" not in world.enrol("west") or world.keyring("west").missing_pairs == ()
    assert world.keyring("west").pair_secrets["north"] == world.keyring("north").pair_secrets["west"]


def test_a_secret_that_was_sent_is_never_made_anew_from_an_old_copy(at, refused):
    world = at("granted")
    old = (world.path / "north" / "keys" / "private").read_bytes()
    world.enrol("north")
    (world.path / "north" / "keys" / "private").write_bytes(old)
    arguments = world.arguments("north", "enrol", *world.by_phone(STEWARD))
    refused(world, arguments, "north--south.pair", "old copy", "rotate")


@pytest.mark.parametrize("file", ["south.identity", "west.identity", "epoch-0/north.grant"])
def test_truncated_oversized_and_strange_files_are_named_without_reading_on(at, refused, file):
    world = at("granted")
    path, arguments = world.exchange / file, world.arguments("north", "enrol", *world.by_phone(STEWARD))
    good = path.read_bytes()
    for bad in (b"", good[:3], good[: len(good) // 2]):
        path.write_bytes(bad)
        refused(world, arguments, path.name)
    with path.open("r+b") as sparse:
        sparse.truncate(2**40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(World, "files", lambda self: None)
        refused(world, arguments, path.name, "at most")
        path.unlink()
        os.mkfifo(path)
        refused(world, arguments, path.name, "not a plain file")
        path.unlink()
        path.symlink_to("/dev/zero")
        refused(world, arguments, path.name)


# Rotation


def declare(world, *names, rounds=5):
    """The settings of a federation of these hospitals."""
    sites = "".join(f"{name}.units = {200 if name == 'north' else 100}\n" for name in names)
    (world.path / "federation.toml").write_text(f'name = "pump"\nrounds = {rounds}\n[sites]\n{sites}')


def rotated(at):
    """The ceremony after west was removed and east admitted, everybody enrolled in epoch 1."""
    world = at("complete")
    assert "note: " not in world.create("east")
    assert "east.identity is not in this epoch" in world.run("north", "enrol")
    declare(world, "north", "south", "east")
    out = world.run(STEWARD, "rotate", "--remove", "west", *world.by_phone("east"))
    assert "epoch 1: 3 hospitals" in out and "enrol" in out
    world.run("east", "enrol", *world.by_phone(STEWARD))
    for name in ("north", STEWARD, "hub"):
        out = world.run(name, "enrol")
        assert "epoch 1" in out and "complete" in out
    return world


def test_rotation_renews_everything_and_leaves_the_removed_hospital_out(at):
    world = rotated(at)
    rings = {name: world.keyring(name) for name in ("east", "north", "south")}
    check_rings(rings)
    old, new = world.keyring("north", epoch=0), rings["north"]
    assert (old.federation_key.epoch, new.federation_key.epoch) == (0, 1)
    assert old.federation_key.root_key != new.federation_key.root_key
    assert old.federation_key.he_key != new.federation_key.he_key
    assert old.pair_secrets["south"] != new.pair_secrets["south"]
    assert old.pair_secrets["north"] != new.pair_secrets["north"]
    assert sorted(load_coordinator(world.path / SERVER, world.passphrase(SERVER)).hospitals) == sorted(rings)
    with pytest.raises(StorageError, match=r"east.*epoch 0 is not held"):
        world.keyring("east", epoch=0)
    before, after = (epoch for epoch in world.holdings("north").epochs)
    assert after.predecessor == before.federation_digest
    assert "epoch 0" in world.run("north", "show").splitlines()[-1]


def test_a_removed_hospital_opens_no_new_grant_and_no_sum_under_the_new_key(at):
    world = rotated(at)
    assert "epoch 1 holds no grant for west" in world.run("west", "enrol")
    west, south = world.holdings("west").identity, world.holdings(STEWARD).identity.public
    head = HEADER_BYTES
    for path in (world.exchange / "epoch-1").iterdir():
        data = path.read_bytes()
        with pytest.raises(MessageError):
            Grant.open(data, west, south, data[10:42])
        with pytest.raises(MessageError):
            west.open(data[head:], info=data[:head])
    layout = choose_layout(50, 8, 3)
    slots = np.arange(layout.slots, dtype=np.uint64)
    tenseal = find_scheme("tenseal")
    aggregate = tenseal.total(layout)

    def cipher(name):
        return tenseal.cipher(world.keyring(name).federation_key.he_key, layout)

    aggregate.add(cipher("north").encrypt(slots, layout))

    def decrypted(name):
        return cipher(name).decrypt(aggregate.answer(), layout)

    assert (decrypted("east") == slots).all() and (decrypted("south") == slots).all()
    with contextlib.suppress(AggregateError, MessageError):
        assert (decrypted("west") == slots).mean() < 0.01


def test_a_replayed_grant_of_an_old_epoch_is_refused(at, refused):
    world = at("complete")
    (world.exchange / "epoch-1").mkdir()
    shutil.copy(world.exchange / "epoch-0" / "north.grant", world.exchange / "epoch-1" / "north.grant")
    refused(world, world.arguments("north", "enrol"), "epoch-1", "of epoch 0, though it lies in epoch-1")
    world = rotated(lambda stage: at(stage, "rotated"))
    (world.exchange / "epoch-2").mkdir()
    for name, file in (("north", "north.grant"), ("hub", "roster")):
        shutil.copy(world.exchange / "epoch-0" / file, world.exchange / "epoch-2" / file)
        refused(world, world.arguments(name, "enrol"), file, "epoch 1 is already held")


def test_an_exchange_set_back_to_an_old_epoch_changes_nothing(at):
    world = rotated(at)
    shutil.rmtree(world.exchange / "epoch-1")
    assert "epoch 1" in world.run("north", "enrol")
    assert world.keyring("north").federation_key.epoch == 1


def test_an_epoch_that_does_not_follow_the_one_held_is_refused(at, refused):
    world = at("complete")
    held = world.holdings(STEWARD)
    key = FederationKey.generate(encrypted=True, epoch=1)
    roster = Roster.of(STEWARD, held.latest.coordinator, held.latest.hospitals.values())
    grant = Grant(key, roster, predecessor=bytes(32))
    digest = held.latest.federation_digest
    (world.exchange / "epoch-1").mkdir()
    sealed = grant.seal_for(held.latest.hospitals["north"], held.identity, digest)
    (world.exchange / "epoch-1" / "north.grant").write_bytes(sealed)
    refused(world, world.arguments("north", "enrol"), "north.grant", "does not follow the epoch 0")
    assert isinstance(grant.notice(digest), Notice)


def test_rotation_is_the_stewards_alone_and_refuses_what_cannot_be(at, refused):
    world = at("complete")
    refused(world, world.arguments("north", "rotate"), "north is not the steward")
    refused(world, world.arguments("hub", "rotate"), "hub is not the steward")
    refused(world, world.arguments(STEWARD, "rotate", "--remove", "west"), "2 hospital(s)", "needs 3")
    refused(world, world.arguments(STEWARD, "rotate", "--remove", "east"), "--remove east", "no such party")
    refused(world, world.arguments(STEWARD, "rotate", "--remove", STEWARD), "the steward stays")
    (world.exchange / "east.identity").write_bytes(stranger(at, "east"))
    declare(world, "north", "south", "west", "east")
    refused(world, world.arguments(STEWARD, "rotate"), "not confirmed of: east;")


def newcomer(world, name="east", **settings):
    world.create(name)
    declare(world, "north", "south", "west", name, **settings)
    return world.by_phone(name)


def test_a_steward_restored_from_an_old_copy_cannot_make_the_same_epoch_twice(at, refused):
    """Else a removal could silently not happen: the others hold the first epoch of that number."""
    world = at("complete")
    old = (world.path / STEWARD / "keys" / "private").read_bytes()
    world.run(STEWARD, "rotate", *newcomer(world))
    (world.path / STEWARD / "keys" / "private").write_bytes(old)
    declare(world, "north", "south", "east")
    refused(
        world, world.arguments(STEWARD, "rotate", "--remove", "west", *world.by_phone("east")), "newer than epoch 0"
    )


def test_a_roster_that_is_not_the_stewards_is_named(at):
    world = at("granted")
    (world.exchange / "epoch-0" / "roster").write_bytes(b"junk")
    with pytest.raises(MessageError, match="roster"):
        world.enrol(STEWARD)


def test_a_coordinator_cannot_make_itself_a_hospital_at_a_rotation(at, refused):
    world = at("complete")
    hub = world.holdings(SERVER).identity
    (world.exchange / f"{SERVER}.identity").write_text(IdentityCard.make(hub, coordinator=False).to_text())
    world.run("hub2", "create", "--coordinator")
    refused(world, world.arguments(STEWARD, "rotate", *world.by_phone("hub2")), "hub.identity", "keeps its role")


def test_an_identity_that_changes_while_it_is_read_is_refused(at, monkeypatch):
    """The fingerprint that was given must be that of the very card which is used."""
    world, elsewhere = at("created"), at("created", "elsewhere")
    elsewhere.exchange.joinpath("west.identity").unlink()
    shutil.rmtree(elsewhere.path / "west")
    elsewhere.create("west")
    false = (elsewhere.exchange / "west.identity").read_bytes()
    reads, honest = [], keyfolder.read_bounded

    def lying(path, most):
        if path.name == "west.identity":
            reads.append(path)
            if len(reads) > 1:
                return false
        return honest(path, most)

    monkeypatch.setattr("securepfl.storage.ceremony_folder.read_bounded", lying)
    with pytest.raises(MessageError, match="not the identity whose fingerprint was given"):
        world.enrol(STEWARD)
    assert len(reads) > 1
    assert not (world.exchange / "epoch-0").exists()


def test_an_epochs_folder_that_is_a_link_is_refused(at, tmp_path):
    world, elsewhere = at("created"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (world.exchange / "epoch-0").symlink_to(elsewhere)
    with pytest.raises(StorageError, match="is a link"):
        world.enrol(STEWARD)
    assert list(elsewhere.iterdir()) == []


def test_a_rotation_under_other_settings_says_that_a_run_cannot_go_on(at):
    world = at("complete")
    same = world.run(STEWARD, "rotate", *newcomer(world))
    assert "these settings" not in same
    other = at("complete", "other")
    said = other.run(STEWARD, "rotate", *newcomer(other, rounds=6))
    assert "these settings, or some weights, are not those of epoch 0" in said


def test_a_fingerprint_of_nobody_names_those_who_are_there(at, refused):
    world = at("created")
    print_ = world.fingerprint("north")
    refused(world, world.arguments(STEWARD, "enrol", "--fingerprint", f"nort={print_}"), "nort", "hub, north")


def test_a_fingerprint_may_be_given_without_dashes_and_in_small_letters(at):
    world = at("created")
    options = [
        word.replace("-", "").lower() if "=" in word else word for word in world.by_phone("north", "west", "hub")
    ]
    assert "epoch 0" in world.run(STEWARD, "enrol", *options)


def test_who_was_removed_stays_out_at_the_next_rotation_until_confirmed_again(at):
    world = rotated(at)
    assert "epoch 2: 3 hospitals" in world.run(STEWARD, "rotate")
    assert [epoch.number for epoch in world.holdings(STEWARD).epochs] == [1, 2]
    declare(world, "north", "south", "east", "west")
    assert "epoch 3: 4 hospitals" in world.run(STEWARD, "rotate", *world.by_phone("west"))
    assert "epoch 3" in world.run("west", "enrol")
    assert world.keyring("west").federation_key == world.keyring(STEWARD).federation_key


def test_a_hospital_that_lost_its_passphrase_comes_back_under_a_new_identity(at, refused):
    world = at("complete")
    shutil.rmtree(world.path / "west")
    (world.exchange / "west.identity").unlink()
    world.create("west")
    refused(world, world.arguments(STEWARD, "enrol"), "west.identity")
    refused(world, world.arguments(STEWARD, "rotate"), "not confirmed of: west;")
    world.run(STEWARD, "rotate", *world.by_phone("west"))
    world.run("north", "enrol")
    world.run("west", "enrol", *world.by_phone(STEWARD))
    for name in (STEWARD, "north"):
        world.run(name, "enrol")
    check_rings({name: world.keyring(name) for name in HOSPITALS})


# Files and passphrases


def test_create_overwrites_nothing(at, refused):
    world = at("created")
    refused(world, world.arguments("north", "create"), "north.identity", "there already")
    (world.exchange / "north.identity").unlink()
    refused(world, world.arguments("north", "create"), "private", "there already")


def test_a_wrong_passphrase_is_one_line(at, refused):
    world = at("complete")
    for text in ("another passphrase altogether", "x"):
        wrong = world.path / "wrong.pass"
        wrong.write_text(text)
        wrong.chmod(0o600)
        for name in ("enrol", "show"):
            arguments = [*world.arguments("north", name), "--passphrase-file", str(wrong)]
            err = refused(world, arguments, "private", "wrong passphrase")
            assert text not in err or text == "x"
    with pytest.raises(StorageError, match="wrong passphrase"):
        load_keyring(world.path / "north", "another passphrase altogether")


def test_passphrase_files_that_will_not_do(at, refused):
    world = at("created")
    arguments = world.arguments("new", "create")
    file = world.path / "new.pass"
    for content, mode, words in (
        (b"a good long passphrase", 0o640, "chmod 600"),
        (b"a good long passphrase", 0o604, "chmod 600"),
        (b"tooshort", 0o600, "12 characters"),
        (b"\nsecond line is long enough", 0o600, "empty"),
        (b"\xff\xfe but long enough", 0o600, "UTF-8"),
        (b"x" * 5000, 0o600, "longer"),
    ):
        file.write_bytes(content)
        file.chmod(mode)
        err = refused(world, arguments, words)
        assert not (world.path / "new").exists()
        assert "tooshort" not in err and "long enough" not in err
    file.unlink()
    refused(world, arguments, "new.pass", "cannot be read")
    refused(world, arguments[:-2], "--passphrase-file")


def test_a_folder_without_keys_is_named(at, refused):
    world = at("created")
    refused(world, world.arguments("nowhere", "show"), "nowhere", "keys create")
    with pytest.raises(StorageError, match="not enrolled yet"):
        world.keyring("north")
    with pytest.raises(StorageError, match="of a hospital"):
        load_coordinator(world.path / "north", world.passphrase("north"))


def test_a_mistyped_exchange_folder_is_not_made(at, refused):
    world = at("created")
    for name, what in (("north", "enrol"), (STEWARD, "rotate")):
        arguments = [*world.arguments(name, what), "--exchange", str(world.path / "exchnage")]
        refused(world, arguments, "exchnage", "no such folder")
        assert not (world.path / "exchnage").exists()


def test_the_coordinator_cannot_be_the_steward(at, refused):
    world = at("created")
    arguments = ["hub" if word == STEWARD else word for word in world.arguments("hub", "enrol")]
    refused(world, arguments, "coordinator cannot be the steward")


# Nothing half-written, nothing said


class Recorder:
    """Every secret that the commands make, also those that reach no file."""

    def __init__(self, patch):
        self.secrets = []
        for holder, name, parts in (
            (Identity, "generate", self._identity),
            (FederationKey, "generate", lambda key: [key.root_key, key.he_key[:64], key.tag_key, key.support_key]),
            (enrolment, "fresh_key", lambda secret: [secret]),
            (keystore, "stretch", lambda secret: [secret]),
        ):
            self._wrap(patch, holder, name, parts)

    def _wrap(self, patch, holder, name, parts):
        real = getattr(holder, name)

        def recorded(*arguments, **keywords):
            made = real(*arguments, **keywords)
            self.secrets += [bytes(part) for part in parts(made)]
            return made

        patch.setattr(holder, name, recorded)

    @staticmethod
    def _identity(identity):
        data = identity.to_private_bytes()
        return [data[start : start + 32] for start in range(0, 160, 32)]

    def add(self, holdings):
        self.secrets += [bytes(part) for part in self._identity(holdings.identity)]
        for epoch in holdings.epochs:
            self.secrets += [bytes(secret) for secret in epoch.pair_secrets.values()]
            if epoch.key is not None:
                self.secrets += [bytes(epoch.key.root_key), bytes(epoch.key.he_key[:64])]

    def found_in(self, text):
        """The forms in which a secret is in `text`."""
        forms = set()
        for secret in self.secrets:
            for window in (secret[:12], secret[-12:]):
                forms |= {window.hex(), window.hex().upper(), repr(window)[2:-1], str(list(window))[1:-1]}
            forms |= {base64.b64encode(secret).decode()[:16], base64.b64encode(secret).decode()[:16].replace("+", "-")}
        return [form for form in forms if form in text]


def everything_said(world, arguments, capsys):
    """Output, exception, causes and traceback with all locals of a command that must fail."""
    capsys.readouterr()
    try:
        cli.main(arguments, standalone_mode=False)
    except Exception as error:  # noqa: BLE001 - whatever it is
        chain, one = [], error
        while one is not None:
            chain += [
                repr(one),
                "".join(traceback.TracebackException.from_exception(one, capture_locals=True).format()),
            ]
            one = one.__cause__ or one.__context__
        return "".join([*capsys.readouterr(), *chain])
    pytest.fail("the command did not fail")


def break_at(patch, point, what):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    def die(*_, **__):
        raise RuntimeError("a defect")

    places = {
        "write": (keyfolder, "write_bytes", die),
        "disk": (keyfolder.os, "fsync", fail),
        "publish": (key_commands if what == "create" else enrolment, "publish", die),
        "encrypt": (keystore.AESGCM, "encrypt", die),
        "decode": (holdings.Identity, "from_private_bytes", die),
        "epoch": (holdings, "read_epoch", die),
        "key": (holdings.FederationKey, "from_bytes", die),
        "sign": (Identity, "sign", die),
        "grant": (Notice, "read", die),
        "state": (enrolment, "standing", die),
        "scrypt": (keystore, "Scrypt", die),
    }
    holder, name, replacement = places[point]
    if point == "encrypt":
        patch.setattr(keystore, "AESGCM", lambda key: die())
    elif point == "grant":
        patch.setattr(holder, name, classmethod(die))
    else:
        patch.setattr(holder, name, replacement)


@pytest.mark.parametrize(
    ("stage", "name", "what", "point"),
    [
        *(("created", "new", "create", point) for point in ("write", "disk", "publish", "encrypt", "sign", "scrypt")),
        *(("created", "south", "enrol", point) for point in ("write", "publish", "encrypt", "decode", "state")),
        *(("granted", "north", "enrol", point) for point in ("write", "disk", "publish", "grant", "key")),
        *(("complete", "north", "enrol", point) for point in ("epoch", "decode", "key", "write", "scrypt")),
        *(("complete", "south", "rotate", point) for point in ("write", "publish", "state", "encrypt")),
        ("complete", "west", "show", "epoch"),
    ],
)
def test_no_failure_shows_a_secret_and_none_leaves_half_a_file(at, capsys, stage, name, what, point):
    world = at(stage)
    phone = {"enrol": [n for n in PARTIES if n != name] if name == STEWARD else [STEWARD]}.get(what, [])
    arguments = world.arguments(name, what, *world.by_phone(*phone))
    private = world.path / name / "keys" / "private"
    before = private.read_bytes() if private.exists() else None
    with pytest.MonkeyPatch.context() as patch:
        recorder = Recorder(patch)
        break_at(patch, point, what)
        said = everything_said(world, arguments, capsys)
    for party in PARTIES:
        recorder.add(world.holdings(party))
    recorder.secrets.append(world.passphrase(name).encode())
    assert len(said) > 500
    assert recorder.found_in(said) == []
    assert world.passphrase(name) not in said
    assert not list(world.path.rglob("*.partial"))
    if point in ("write", "disk", "encrypt") or what == "create":
        assert (private.read_bytes() if private.exists() else None) == before
    # Run again without the failure, it goes through.
    world.run(*([name, what] if what in ("create", "show") else [name, what, *world.by_phone(*phone)]))


@pytest.mark.parametrize(
    ("stage", "what", "point"),
    [("granted", "enrol", "key"), ("complete", "show", "decode"), ("complete", "show", "scrypt")],
)
def test_the_same_search_finds_secrets_where_they_do_show(at, capsys, monkeypatch, stage, what, point):
    world = at(stage)
    recorder = Recorder(monkeypatch)
    recorder.add(world.holdings("north"))
    recorder.add(world.holdings(STEWARD))
    recorder.secrets.append(world.passphrase("north").encode())
    arguments = world.arguments("north", what, *(world.by_phone(STEWARD) if what == "enrol" else []))
    break_at(monkeypatch, point, what)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Secret, "__repr__", bytes.__repr__)
        assert recorder.found_in(everything_said(world, arguments, capsys))
    assert not recorder.found_in(everything_said(world, arguments, capsys))


def test_the_search_for_secrets_finds_one_in_each_form(at):
    world = at("complete")
    with pytest.MonkeyPatch.context() as patch:
        recorder = Recorder(patch)
    recorder.add(world.holdings("north"))
    secret = bytes(world.keyring("north").pair_secrets["west"])
    for shown in (repr({"x": secret}), secret.hex(), base64.b64encode(secret).decode(), str(list(secret))):
        assert recorder.found_in(f"local = {shown}")
