import pytest

from securepfl.crypto.keys.identity import Identity
from securepfl.errors import MessageError, StorageError
from securepfl.runtime.nvflare.vouched import MAX_BYTES, read_vouched, write_vouched

HUB, OTHER = Identity.generate("hub"), Identity.generate("other")


@pytest.fixture
def path(tmp_path):
    write_vouched(tmp_path / "nvflare" / "root", b"payload", HUB, b"root", b"1")
    return tmp_path / "nvflare" / "root"


def test_what_was_signed_is_read(path):
    assert read_vouched(path, HUB.public, b"root", b"1") == b"payload"


@pytest.mark.parametrize("use", [(b"root",), (b"root", b"2"), (b"request", b"1"), (b"root1",), (b"root", b"1", b"")])
def test_a_file_for_another_use_is_refused(path, use):
    with pytest.raises(MessageError, match=r"root: is not signed by 'hub' for this use"):
        read_vouched(path, HUB.public, *use)


def test_another_signer_is_refused(path):
    with pytest.raises(MessageError, match="not signed by 'other'"):
        read_vouched(path, OTHER.public, b"root", b"1")


@pytest.mark.parametrize("place", [0, 100, -1])
def test_an_altered_file_is_refused(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(MessageError, match="ask hub for it"):
        read_vouched(path, HUB.public, b"root", b"1")


def test_a_short_or_empty_file_is_refused(path):
    path.write_bytes(b"")
    with pytest.raises(MessageError):
        read_vouched(path, HUB.public, b"root", b"1")


def test_a_huge_file_is_not_read(path):
    path.write_bytes(bytes(MAX_BYTES + 1))
    with pytest.raises(StorageError, match="at most"):
        read_vouched(path, HUB.public, b"root", b"1")


def test_a_newer_file_takes_the_place_of_an_older_one(path):
    write_vouched(path, b"newer", HUB, b"root", b"1")
    assert read_vouched(path, HUB.public, b"root", b"1") == b"newer"


def test_a_folder_that_is_a_link_leads_nobody_elsewhere(tmp_path):
    elsewhere, exchange = tmp_path / "elsewhere", tmp_path / "exchange"
    elsewhere.mkdir()
    exchange.mkdir()
    (elsewhere / "root").write_bytes(b"another's")
    (exchange / "nvflare").symlink_to(elsewhere)
    with pytest.raises(StorageError, match="is a link"):
        write_vouched(exchange / "nvflare" / "root", b"certificate", Identity.generate("hub"), b"root")
    assert (elsewhere / "root").read_bytes() == b"another's"
