"""`securepfl keys certificate`: what passes through the exchange folder is checked, and each key stays where it is."""

import os
from datetime import UTC, datetime, timedelta

import pytest
from enrolled import NAMES, PASSPHRASE, enrol_all

from securepfl.cli import certificate as command
from securepfl.cli.identity import show
from securepfl.crypto.keys import keystore
from securepfl.crypto.keys.certificates import (
    Approval,
    CertificateRequest,
    Holder,
    begins,
    check_leaf,
    ends,
    make_leaf,
    make_root,
    new_key,
    public_key_of,
)
from securepfl.crypto.keys.identity import Identity
from securepfl.errors import ConfigError, MessageError, StorageError
from securepfl.storage.certificates import CertificateFile, certificates_file, load_credentials

NOW = datetime.now(UTC)


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr(keystore, "LOG_N", 14)  # what a passphrase costs is tested elsewhere
    its = enrol_all(tmp_path)
    (tmp_path / "exchange").mkdir()
    return its


def run(world, name, *hosts, renew=False):
    return command.certificate(
        world.folder(name), world.root / "exchange", hosts=hosts, renew=renew, passphrase_file=world.secret
    )


def request_of(world, name):
    return command.request_file(world.root / "exchange", name)


def answer_of(world, name):
    return command.certificate_file(world.root / "exchange", name)


def certified(world, *names):
    for name in names:
        run(world, name)
    run(world, "hub", "hub.example.org")
    for name in names:
        run(world, name)


def held(world, name):
    return CertificateFile.open(world.folder(name), PASSPHRASE).held


def test_request_approval_and_installation(world):
    assert run(world, "alder") == ["waiting for hub's approval: run this again when hub has run it"]
    lines = run(world, "hub", "hub.example.org", "10.0.0.5")
    assert lines[0].startswith("certificate of hub (10.0.0.5, hub.example.org): valid until")
    assert lines[2].startswith("alder: approved until")
    assert "waiting for birch's request: run this again when it is there" in lines
    installed = run(world, "alder")
    assert installed[0].startswith("certificate of alder: valid until") and installed[1] == lines[1]
    alder, hub = (load_credentials(world.folder(name), PASSPHRASE) for name in ("alder", "hub"))
    assert alder.root == hub.root and alder.holder.name == "alder"
    assert begins(alder.certificate) < NOW < ends(alder.certificate) < NOW + timedelta(days=366)


def test_run_again_nothing_changes(world):
    certified(world, *NAMES)
    before = [held(world, name).certificate for name in (*NAMES, "hub")]
    for name in (*NAMES, "hub"):
        run(world, name)
    assert [held(world, name).certificate for name in (*NAMES, "hub")] == before


def test_no_private_key_passes_or_lies_in_the_open(world):
    certified(world, "alder")
    keys = [held(world, name).key for name in ("alder", "hub")] + [held(world, "hub").root_key]
    files = [path.read_bytes() for path in world.root.rglob("*") if path.is_file()]
    assert not any(key in data or b"PRIVATE KEY" in data for key in keys for data in files)
    assert certificates_file(world.folder("alder")).stat().st_mode & 0o077 == 0


def test_a_renewal_replaces_the_certificate_and_both_are_valid_meanwhile(world):
    certified(world, "alder")
    old = held(world, "alder")
    assert run(world, "alder", renew=True)[-1].startswith("waiting for hub's approval")
    assert load_credentials(world.folder("alder"), PASSPHRASE).certificate == old.certificate
    run(world, "hub")
    run(world, "alder")
    new = held(world, "alder")
    assert new.certificate != old.certificate and new.key != old.key and new.root == old.root
    assert min(ends(old.certificate), ends(new.certificate)) > NOW


def test_a_renewal_is_seen_by_who_has_the_old_one(world):
    certified(world, "alder")
    credentials = load_credentials(world.folder("alder"), PASSPHRASE)
    assert credentials.renewed() is None
    run(world, "alder", renew=True)
    run(world, "hub")
    run(world, "alder")
    renewed = credentials.renewed()
    assert renewed.certificate == held(world, "alder").certificate != credentials.certificate


def test_other_hosts_make_another_certificate_of_the_same_root(world):
    certified(world, "alder")
    before = held(world, "hub")
    run(world, "hub", "hub.example.org", "10.0.0.5")
    after = held(world, "hub")
    assert after.root == before.root and after.certificate != before.certificate
    assert after.hosts == ["10.0.0.5", "hub.example.org"]


def test_an_altered_request_is_named_and_the_others_are_approved(world):
    run(world, "alder")
    run(world, "birch")
    path = request_of(world, "alder")
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    lines = run(world, "hub", "hub.example.org")
    note = next(line for line in lines if line.startswith("note: alder"))
    assert str(path) in note and "does not verify" in note
    assert any(line.startswith("birch: approved") for line in lines) and not answer_of(world, "alder").exists()


def test_anothers_request_under_a_hospitals_name_is_refused(world):
    run(world, "birch")
    request_of(world, "birch").rename(request_of(world, "alder"))
    lines = run(world, "hub", "hub.example.org")
    assert any(line.startswith("note: alder: no certificate") for line in lines)


def test_an_older_request_that_comes_back_is_refused(world):
    run(world, "alder")
    old = request_of(world, "alder").read_bytes()
    run(world, "hub", "hub.example.org")
    run(world, "alder")
    run(world, "alder", renew=True)
    run(world, "hub")
    run(world, "alder")
    request_of(world, "alder").write_bytes(old)
    assert any("older than the last one" in line for line in run(world, "hub"))


def test_an_altered_approval_is_refused_by_name_and_nothing_is_installed(world):
    run(world, "alder")
    run(world, "hub", "hub.example.org")
    path = answer_of(world, "alder")
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    with pytest.raises(MessageError, match=r"alder\.certificate: a signature of 'hub' does not verify"):
        run(world, "alder")
    assert not held(world, "alder").certificate


def test_anothers_approval_is_refused(world):
    run(world, "alder")
    run(world, "birch")
    run(world, "hub", "hub.example.org")
    answer_of(world, "birch").replace(answer_of(world, "alder"))
    with pytest.raises(MessageError, match="does not verify"):
        run(world, "alder")


def test_a_root_that_the_hub_did_not_sign_is_refused(world):
    run(world, "alder")
    run(world, "hub", "hub.example.org")
    mallory = Identity.generate("hub")
    alder = world.holdings("alder").identity.public
    forged = Approval(b"root", b"leaf").to_bytes(mallory, alder)
    answer_of(world, "alder").write_bytes(forged)
    with pytest.raises(MessageError, match="does not verify"):
        run(world, "alder")


@pytest.mark.parametrize("host", ["", "a b", "-x", "https://hub", "x" * 300, "1.2.3", "*.example.org"])
def test_a_host_that_is_none_is_told(world, host):
    with pytest.raises(ConfigError, match="--host"):
        run(world, "hub", host)


def test_what_is_missing_is_told_with_what_to_run(world):
    with pytest.raises(ConfigError, match="--host is missing"):
        run(world, "hub")
    with pytest.raises(ConfigError, match="a hospital needs none"):
        run(world, "alder", "alder.example.org")
    with pytest.raises(StorageError, match="no certificate of alder yet; run `securepfl keys certificate`"):
        load_credentials(world.folder("alder"), PASSPHRASE)


def test_show_warns_before_the_end(world):
    certified(world, "alder")
    assert not any("note" in line for line in show(world.folder("alder"), passphrase_file=world.secret))
    file = CertificateFile.open(world.folder("alder"), PASSPHRASE)
    hub, then = held(world, "hub"), NOW - timedelta(days=340)
    holder = load_credentials(world.folder("alder"), PASSPHRASE).holder
    leaf = make_leaf(hub.root, hub.root_key, public_key_of(file.held.key), holder, (), then)
    file.save(type(file.held)(issuer=file.held.issuer, root=hub.root, key=file.held.key, certificate=leaf))
    lines = show(world.folder("alder"), passphrase_file=world.secret)
    assert any(line.startswith("note: certificate ends on") for line in lines)
    assert run(world, "alder")[-2].startswith("waiting for hub's approval"), "near its end it is renewed"


def test_a_leaf_of_another_key_holder_or_root_is_refused():
    key, root_key = new_key(), new_key()
    root, holder = make_root("hub", root_key, NOW), Holder("hospital", "alder", "AAAA" + "-AAAA" * 7)
    leaf = make_leaf(root, root_key, public_key_of(key), holder, (), NOW)
    check_leaf(leaf, root, key, holder)
    other = Holder("hospital", "birch", holder.fingerprint)
    for arguments in ((leaf, root, new_key(), holder), (leaf, root, key, other)):
        with pytest.raises(MessageError, match="not for this party's key"):
            check_leaf(*arguments)
    with pytest.raises(MessageError, match="not of the hub's root"):
        check_leaf(leaf, make_root("hub", new_key(), NOW), key, holder)


def test_a_name_beyond_ascii_stands_whole_in_a_certificate():
    holder = Holder("hospital", "São Paulo: 1/2", "AAAA" + "-AAAA" * 7)
    key, root_key = new_key(), new_key()
    root = make_root("hub", root_key, NOW)
    check_leaf(make_leaf(root, root_key, public_key_of(key), holder, (), NOW), root, key, holder)


def test_a_request_for_another_hub_is_refused():
    alder, hub, other = (Identity.generate(name) for name in ("alder", "hub", "other"))
    data = CertificateRequest.make(new_key(), 1).to_bytes(alder, hub.public)
    with pytest.raises(MessageError, match="does not verify"):
        CertificateRequest.from_bytes(data, alder.public, other.public)


def test_a_folder_that_is_a_link_leads_nobody_elsewhere(world):
    elsewhere = world.root / "elsewhere"
    elsewhere.mkdir()
    for name in ("alder.request", "alder.certificate"):
        (elsewhere / name).write_text("another's")
    (world.root / "exchange" / "certificates").symlink_to(elsewhere)
    with pytest.raises(StorageError, match="is a link"):
        run(world, "alder")
    assert any("alder" in line and "is a link" in line for line in run(world, "hub", "hub.example.org"))
    assert [path.read_text() for path in elsewhere.iterdir()] == ["another's"] * 2


@pytest.mark.parametrize("what", ["pipe", "link", "folder", "huge", "empty"])
def test_what_is_no_request_is_named_and_the_others_are_approved(world, what):
    run(world, "birch")
    path = request_of(world, "alder")
    match what:
        case "pipe":
            os.mkfifo(path)
        case "link":
            path.symlink_to(world.secret)
        case "folder":
            path.mkdir()
        case "huge":
            with path.open("wb") as file:
                file.truncate(2**40)
        case "empty":
            path.touch()
    lines = run(world, "hub", "hub.example.org")
    assert any(line.startswith("note: alder: no certificate") for line in lines)
    assert any(line.startswith("birch: approved") for line in lines)
