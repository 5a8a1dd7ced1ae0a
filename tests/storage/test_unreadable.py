"""A folder, or half a file, where a file of securepfl's should lie: the file is named, and nothing is taken from it."""

from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save as safetensors

from securepfl.client import draft
from securepfl.client.pinning import PIN, Pin, with_pin
from securepfl.client.released import FILE, Released
from securepfl.crypto.keys.identity import Identity
from securepfl.data.images.opening import read_file
from securepfl.data.images.picture import UnfitError
from securepfl.errors import ConfigError, MessageError, StorageError
from securepfl.outside import signed_file
from securepfl.outside.experts import MOST_EXPERTS, read_experts
from securepfl.outside.prior import checked_prior
from securepfl.outside.signed_file import opened_bytes, signed_bytes
from securepfl.runtime.doctor.finding import Finding, found
from securepfl.runtime.doctor.models import model_of
from securepfl.runtime.https.wire import MOST_ITEMS, Item, Told, encode, read_told
from securepfl.storage.folder import lock_folder, new_folder, read_arrays, read_behind
from securepfl.tasks.multiclass import Multiclass
from securepfl.tasks.regression import Regression

SESSION = SimpleNamespace(digest=b"d" * 32)
NORTH = Identity.generate("north")
SIGNED = signed_bytes({"weight": np.ones(3)}, {"record": 1}, NORTH)


@pytest.mark.parametrize(
    ("name", "read", "remedy"),
    [
        (draft.DRAFT, lambda folder: draft.Draft.left(folder, SESSION, 1, b""), "mend its rights"),
        (PIN, lambda folder: with_pin(None, folder), "mend its rights"),
        (FILE, lambda folder: Released.load(folder, SESSION), "mend its rights"),
        ("arrays", lambda folder: read_arrays(folder / "arrays"), "name an existing run"),
        ("body", lambda folder: read_behind(b"", folder / "body"), "restore its folder from a copy"),
    ],
)
def test_a_folder_in_the_place_of_a_file_is_told_with_its_path(tmp_path, name, read, remedy):
    (tmp_path / name).mkdir()
    with pytest.raises(StorageError, match=rf"{name}: cannot be read \(Is a directory\); {remedy}"):
        read(tmp_path)


def test_what_cannot_be_written_or_removed_is_told_with_its_path(tmp_path):
    for name in (draft.DRAFT, PIN):
        (tmp_path / name).mkdir()
    with pytest.raises(StorageError, match=draft.DRAFT):
        draft.discard(tmp_path)
    with pytest.raises(StorageError, match=PIN):
        Pin(run="ab", round=1, attempt=0, answer="cd").save(tmp_path)
    file = tmp_path / "file"
    file.write_bytes(b"no folder")
    with pytest.raises(StorageError, match="file"):
        lock_folder(file / "within")
    with pytest.raises(StorageError, match="run"), new_folder(tmp_path / "run"):
        raise OSError(28, "No space left on device")
    assert not (tmp_path / "run").exists() and file.read_bytes() == b"no folder"


def test_half_a_file_of_released_metrics_is_told_and_half_a_draft_counts_as_none(tmp_path):
    (tmp_path / FILE).write_bytes(msgspec.json.encode(Released(run=SESSION.digest.hex()))[:-1])
    with pytest.raises(StorageError, match=rf"{FILE}: not a file that securepfl wrote whole; restore it from a copy"):
        Released.load(tmp_path, SESSION)
    (tmp_path / draft.DRAFT).write_bytes(b"half")
    assert draft.Draft.left(tmp_path, SESSION, 1, b"") is None


def test_images_that_cannot_be_read_say_so_without_their_names(tmp_path):
    (tmp_path / "scan.png").mkdir()
    with pytest.raises(UnfitError, match=r"^cannot be read \(Is a directory\); make it readable$"):
        read_file(tmp_path / "scan.png")
    with (tmp_path / "large.png").open("wb") as large:
        large.truncate(2**30 + 1)
    with pytest.raises(UnfitError, match="larger than a gigabyte; scale it down"):
        read_file(tmp_path / "large.png")


def test_a_folder_of_more_experts_than_a_federation_has_is_read_no_further(tmp_path):
    for number in range(MOST_EXPERTS + 1):
        (tmp_path / f"{number}.safetensors").touch()
    with pytest.raises(StorageError, match=f"holds {MOST_EXPERTS + 1} experts, and at most {MOST_EXPERTS} are read"):
        read_experts(tmp_path)


def resigned(meta):
    """A file whose signature holds and whose `meta` is this text."""
    blank = "0" * signed_file._DIGITS
    told = {"meta": meta, "signer": signer_text(), "signature": blank}
    data = safetensors({"weight": np.ones(3)}, metadata=told)
    signature = NORTH.sign(signed_file._signed(data), signed_file._CONTEXT).hex()
    return data.replace(blank.encode(), signature.encode(), 1)


def signer_text():
    return signed_file._told(SIGNED, "north")["signer"]


def test_signed_files_that_are_none_of_ours_are_refused():
    assert opened_bytes(SIGNED, "north").meta == {"record": 1} and opened_bytes(resigned("2"), "north").meta == 2
    with pytest.raises(StorageError, match="north: signed, but no file that securepfl writes; ask its hospital"):
        opened_bytes(resigned("{"), "north")
    digits = signed_file._told(SIGNED, "north")["signature"].encode()
    short = safetensors({"w": np.ones(1)}, metadata={"meta": "1", "signer": signer_text(), "signature": "ab"})
    for data in (SIGNED.replace(digits, b"z" * len(digits)), short):
        with pytest.raises(StorageError, match="north: its signature does not hold"):
            opened_bytes(data, "north")
    for data in (b"", SIGNED[:20], b"\xff" * 40, (40).to_bytes(8, "little") + b'{"__metadata__":[]}'.ljust(40)):
        with pytest.raises(StorageError, match="north: not a file that securepfl wrote whole; restore"):
            opened_bytes(data, "north")


def test_a_declared_share_of_classes_fits_the_task():
    with pytest.raises(ConfigError, match="a regression has no classes whose share could be declared: leave it out"):
        checked_prior(0.5, Regression())
    task = Multiclass(classes=("a", "b"))
    assert checked_prior((0.25, 0.75), task) == (0.25, 0.75)
    with pytest.raises(ConfigError, match=r"the classes' shares sum to 0\.9, not 1; correct them"):
        checked_prior((0.3, 0.6), task)


def test_exchanges_that_no_hub_sends_are_refused():
    def read(*items):
        return read_told(encode(Told(bytes(16), list(items), over=False)), 100)

    one = Item(0, 3, b"", b"abc")
    assert len(read(one).items) == 1 and "abc" not in repr(one)
    for items, words in [
        ([one] * (MOST_ITEMS + 1), f"{MOST_ITEMS + 1} messages in one exchange, at most {MOST_ITEMS} belong there"),
        ([Item(0, 4, b"", b"abc")], "malformed exchange"),
        ([Item(0, 3, b"d", b"")], "malformed exchange"),
        ([Item(0, 101, b"d" * 32, b"")], "a message of 101 bytes, at most 100 can be; check the settings"),
        ([Item(0, -1, b"d" * 32, b"")], "a message of -1 bytes"),
    ]:
        with pytest.raises(MessageError, match=words):
            read(*items)


def test_a_doctor_goes_on_where_a_check_itself_fails(tmp_path):
    def broken():
        raise RuntimeError("no such driver")

    (one,) = found("device", broken)
    assert (one.state, one.told) == ("failed", "RuntimeError: no such driver") and one.remedy
    with pytest.raises(ValueError, match="what fails needs a remedy"):
        Finding("device", "failed", "gone", "")
    with pytest.raises(ConfigError, match=r"nowhere\.py: no such file"):
        model_of(None, f"{tmp_path / 'nowhere.py'}:Net")
    assert type(model_of(None, "torch.nn:Identity")).__name__ == "Identity"
