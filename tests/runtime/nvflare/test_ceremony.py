"""The four steps, with NVFlare's real tools, and what does not fit in each."""

import json
import shutil
from pathlib import Path

import pytest
from enrolled import enrol_all

from securepfl.crypto.keys.identity import Identity
from securepfl.errors import ConfigError, MessageError
from securepfl.runtime.nvflare import ceremony, hardening
from securepfl.runtime.nvflare.kit import Kit
from securepfl.runtime.nvflare.vouched import write_vouched

pytestmark = pytest.mark.machines
NAMES = ("alder", "birch", "cedar")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """After `init`, and after alder's and birch's `request`."""
    pytest.importorskip("nvflare")
    made = enrol_all(tmp_path_factory.mktemp("kits"), names=NAMES)
    (made.root / "exchange").mkdir()
    said = init(made)
    assert any(line.startswith("root certificate: SHA256 ") for line in said)
    for name in NAMES[:2]:
        ask(made, name)
    return made


def init(world):
    return ceremony.init(world.holdings("hub"), world.folder("hub"), exchange(world), "localhost", 8443, "tcp")


def exchange(world):
    return world.root / "exchange"


def ask(world, name):
    return ceremony.request(world.holdings(name), world.folder(name), exchange(world))


def approve(world):
    return ceremony.approve(world.holdings("hub"), world.folder("hub"), exchange(world))


def install(world, name):
    return ceremony.install(world.holdings(name), world.folder(name), exchange(world), Path("agent.sock"))


def passed(world, name):
    return exchange(world) / "nvflare" / name


def test_four_steps_lead_to_a_kit_that_allows_one_class_and_no_other_account(world):
    assert install(world, "alder") == ["waiting for hub's approval: run this again when hub has run `approve`"]
    said = approve(world)
    assert said[0].startswith("alder: approved, wrote ") and said[-1] == "waiting for requests from: cedar"
    assert "connects to tcp://localhost:8443" in install(world, "alder")[0]
    assert approve(world)[0].startswith("alder: approved before")
    kit = Kit(world.folder("alder"))
    resources = json.loads((kit.path / "local" / "resources.json").read_text())
    assert resources["class_allow_list"] == [hardening.EXECUTOR]
    assert json.loads((kit.path / "local" / "authorization.json").read_text()) == hardening.authorization()
    assert not list(kit.path.rglob("*.sh")) and "uid=alder" in kit.command()


def test_no_private_key_leaves_a_party_or_lies_open(world):
    keys = list(world.root.rglob("*.key"))
    assert {path.relative_to(world.root).parts[0] for path in keys} == {"hub", "alder", "birch"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in keys)
    for path in exchange(world).rglob("*"):
        assert not path.is_file() or b"PRIVATE KEY" not in path.read_bytes()


def test_a_request_under_anothers_name_is_refused_and_the_others_go_on(world):
    shutil.copy(passed(world, "birch.request"), passed(world, "cedar.request"))
    said = approve(world)
    passed(world, "cedar.request").unlink()
    assert "refused" in said[-2] and "not signed by 'cedar'" in said[-2] and said[0].startswith("alder: approved")
    assert not passed(world, "cedar.approval").exists()


def test_a_hospital_gets_no_certificate_in_anothers_name(world):
    """cedar itself signs a request that asks for birch's name."""
    root = ceremony._read_root(world.holdings("hub"), exchange(world))
    stolen = (Kit(world.folder("birch")).home / "request" / "birch.request.zip").read_bytes()
    path, cedar = passed(world, "cedar.request"), world.holdings("cedar").identity
    write_vouched(path, stolen, cedar, ceremony._REQUEST, root.fingerprint.encode())
    said = approve(world)
    path.unlink()
    assert "refused" in said[-2] and "birch" in said[-2]
    assert not passed(world, "cedar.approval").exists()


def test_another_hubs_root_is_refused(world):
    path = passed(world, "root")
    kept = path.read_bytes()
    root = ceremony._read_root(world.holdings("hub"), exchange(world))
    write_vouched(path, root.to_bytes(), Identity.generate("hub"), ceremony._ROOT)
    with pytest.raises(MessageError, match="not signed by 'hub'"):
        ask(world, "cedar")
    path.write_bytes(kept)


def test_an_approval_of_another_request_is_refused(world):
    approve(world)
    shutil.copy(passed(world, "alder.approval"), passed(world, "birch.approval"))
    with pytest.raises(MessageError, match="not signed by 'hub' for this use"):
        install(world, "birch")
    assert approve(world)[1].startswith("birch: approved, wrote")
    assert "installed" in install(world, "birch")[0]


def test_a_hospital_cannot_be_the_hub_and_no_kit_is_overwritten(world):
    with pytest.raises(ConfigError, match="the coordinator runs `init`"):
        ceremony.init(world.holdings("alder"), world.folder("alder"), exchange(world), "localhost", 8443, "tcp")
    with pytest.raises(ConfigError, match="holds a kit already"):
        init(world)


def test_names_that_nvflare_cannot_carry_are_refused_before_anything_is_made():
    for name in ("Köln", "a b", "server", "x" * 65, "-a", "a.b"):
        with pytest.raises(ConfigError, match="NVFlare takes names"):
            ceremony._check_name(name)
