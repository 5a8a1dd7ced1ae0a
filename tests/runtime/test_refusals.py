"""Files, words and data that stop a command before it does anything: one line that says what, where and the mend."""

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from enrolled import PASSPHRASE
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from securepfl import Federation
from securepfl.cli import asking
from securepfl.cli.main import cli
from securepfl.cli.options import extra
from securepfl.client.prior import Share
from securepfl.client.records import TrainingSet
from securepfl.crypto.keys import keystore
from securepfl.crypto.keys.identity import Identity
from securepfl.crypto.keys.keys import FederationKey
from securepfl.data.images.picture import UnfitError
from securepfl.data.images.tiff import read_tiff
from securepfl.data.prevalence import in_order
from securepfl.errors import ConfigError, DataError, StorageError
from securepfl.runtime.rehearsing import rehearsal_of
from securepfl.runtime.simulated_keys import SimulatedKeys
from securepfl.runtime.suggesting import suggest
from securepfl.storage.certificates import CertificateFile, Certificates, certificates_file
from securepfl.storage.unfinished import UNFINISHED, Asked, read_asked
from securepfl.tasks.device import resolve_device
from securepfl.tasks.own import OwnLoss

KEYS = SimulatedKeys(
    {"north": Identity.generate("north")},
    Identity.generate("coordinator"),
    FederationKey.generate(encrypted=False),
    bytes(32),
)
RANGES = "[data.ranges]\nage = { centre = 50.0, spread = 20.0 }\n"
ASKED = {"version": "1", "config": None, "data": None, "rounds": 3, "epsilon": None, "plaintext": False}
ASKED |= {"ledgers": None, "seed": 1, "device": "cpu", "settings": {}, "rows": {}}


def altered(**changes):
    return msgspec.msgpack.encode(msgspec.msgpack.decode(KEYS.to_bytes()) | changes)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (altered(mark="keys of a hospital"), "not the keys of a simulation; restore"),
        (altered(schema=1), "not the keys of a simulation; restore"),
        (altered(pairs=bytes(5)), "malformed keys of a simulation; restore"),
        (altered(key=bytes(7)), "malformed keys of a simulation; restore"),
        (altered(hospitals={"north": bytes(7)}), "malformed keys of a simulation; restore"),
        (KEYS.to_bytes()[:-1], "malformed keys of a simulation; restore"),
    ],
)
def test_other_keys_than_a_simulations_are_none(data, words):
    assert SimulatedKeys.from_bytes(KEYS.to_bytes()).key == KEYS.key
    with pytest.raises(StorageError, match=words):
        SimulatedKeys.from_bytes(data)


@pytest.mark.parametrize(
    ("wrong", "task", "names", "words"),
    [
        (0.5, "regression", (), r"no place in a regression; declare the number's centre in \[data\] label_range"),
        ({"a": 0.5}, "binary", (), "one number, the share of label 1"),
        ({"a": 0.5}, "segmentation", (), "one number, the share of the field of view"),
        (0.5, "multiclass", ("a", "b"), r'declare \{ "a" = \.\.\., "b" = \.\.\. \}'),
        ({"a": 0.5}, "multilabel", ("a", "b"), r'declare \{ "a" = \.\.\., "b" = \.\.\. \}'),
        ({"a": 0.5, "b": 0.7}, "multiclass", ("a", "b"), "shares sum to 1.2, not 1; correct them"),
    ],
)
def test_a_prevalence_of_another_form_says_which_one_is_wanted(wrong, task, names, words):
    with pytest.raises(ValueError, match=words):
        in_order(wrong, task, names)
    assert in_order({"b": 0.7, "a": 0.5}, "multilabel", ("a", "b")) == (0.5, 0.7)


def test_a_device_that_is_none_is_told():
    with pytest.raises(ConfigError, match="device 'gpu': must be auto, cpu or cuda"):
        resolve_device("gpu")


def told(task, **data):
    declared = {"label": "ill", "ranges": {"age": {"centre": 50.0, "spread": 20.0}}} | data
    return Federation.from_mapping({"model": {"task": task, "kind": "logistic"}, "data": declared})


def test_shares_start_in_the_middle_of_what_can_be():
    several = {"label": ["one", "two", "three", "four"]}
    assert Share.of(told("multilabel", **several)).centre == (0.5,) * 4
    assert Share.of(told("multilabel", **several)).limit == 1.0
    classes = Share.of(told("multiclass", classes=["a", "b", "c", "d"]))
    assert classes.centre == (0.25,) * 4 and classes.limit == pytest.approx(0.75**0.5)
    with pytest.raises(ConfigError, match=r"a regression has no outcomes to count; set prior = false"):
        Share.of(told("regression", label_range={"centre": 1.0, "spread": 1.0}))


class Stream(IterableDataset):
    def __iter__(self):
        return iter([])


def test_data_that_no_unit_can_be_drawn_from_are_refused_by_name():
    for stream in (Stream(), DataLoader(Stream())):
        with pytest.raises(DataError, match=r"north: Stream cannot be indexed.*hand in a map-style data set"):
            TrainingSet.of(stream, "north")
    pairs = TensorDataset(torch.zeros(4, 2), torch.zeros(4))
    loader = DataLoader(pairs, batch_size=4, collate_fn=lambda items: items)
    with pytest.raises(DataError, match=r"north: the DataLoader's collate function is not used.*leave it out"):
        TrainingSet.of(loader, "north", "patient")
    assert TrainingSet.of(DataLoader(pairs, batch_size=4), "north", "patient").collate is None


def test_a_loss_of_ones_own_leaves_outputs_as_they_are():
    own, outputs = OwnLoss(), np.arange(6.0).reshape(3, 2)
    with pytest.raises(ValueError, match="hand it in"):
        own.loss(torch.zeros(2), torch.zeros(2))
    assert own.choices(torch.zeros(2)) is None and own.decide(outputs) is outputs
    assert own.measure(outputs, outputs, outputs[:, 0], outputs) == {} and own.lacking(outputs[:, 0]) == ""
    assert own.baseline(outputs[:, 0], 3).size == 0
    assert {name: list(column) for name, column in own.columns(outputs).items()} == {
        "output 0": [0.0, 2.0, 4.0],
        "output 1": [1.0, 3.0, 5.0],
    }


def asked(place, data):
    (place / UNFINISHED).mkdir(parents=True, exist_ok=True)
    (place / UNFINISHED / "asked.json").write_bytes(data)
    return place


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:-1], "not a file that securepfl wrote whole; restore it from a copy"),
        (lambda data: b"\xff" + data, "not a file that securepfl wrote whole; restore it from a copy"),
        (lambda data: data.replace(b'"schema":1', b'"schema":2'), "schema 2, but this securepfl reads 1; upgrade it"),
    ],
)
def test_a_stopped_run_whose_file_is_damaged_is_told_with_the_file(tmp_path, change, words):
    data = msgspec.json.encode(Asked(**ASKED))
    assert read_asked(asked(tmp_path, data)).device == "cpu"
    with pytest.raises(StorageError, match=rf"asked\.json: {words}"):
        read_asked(asked(tmp_path, change(data)))


def test_a_stopped_run_whose_file_is_too_long_or_no_file_is_told(tmp_path):
    file = asked(tmp_path, b"") / UNFINISHED / "asked.json"
    with file.open("r+b") as long:
        long.truncate(2**28 + 1)
    with pytest.raises(StorageError, match=r"asked\.json: longer than 268435456 bytes; restore"):
        read_asked(tmp_path)
    file.unlink()
    file.mkdir()
    with pytest.raises(StorageError, match=r"asked\.json: cannot be read \(Is a directory\); restore"):
        read_asked(tmp_path)


def test_certificates_that_are_damaged_are_told_with_their_file(tmp_path, monkeypatch):
    monkeypatch.setattr(keystore, "LOG_N", 14)
    (tmp_path / "keys").mkdir()
    file = CertificateFile.open(tmp_path, PASSPHRASE)
    file.save(Certificates())
    again = CertificateFile.open(tmp_path, PASSPHRASE)
    assert not again.reread()
    for content, words in ((b"\xc1", "malformed certificates; restore"), (Certificates(schema=9), "install the newer")):
        data = content if isinstance(content, bytes) else msgspec.msgpack.encode(content, enc_hook=bytes)
        certificates_file(tmp_path).write_bytes(file._key.seal(data))
        for read in (again.reread, lambda: CertificateFile.open(tmp_path, PASSPHRASE)):
            with pytest.raises(StorageError, match=rf"keys/certificates: .*{words}"):
                read()
    assert repr(Certificates(key=b"secret")) == "Certificates(...)"


def test_questions_that_get_no_answer_write_nothing(monkeypatch):
    fingerprint = KEYS.hospitals["north"].public.fingerprint
    other = KEYS.coordinator.public.fingerprint
    assert asking.parse_fingerprints([f"north={fingerprint}"] * 2) == {"north": fingerprint}
    with pytest.raises(
        ConfigError, match="--fingerprint north: given twice, and different; give the one read by phone"
    ):
        asking.parse_fingerprints([f"north={fingerprint}", f"north={other}"])
    monkeypatch.setattr(asking, "_at_terminal", lambda: True)
    for typed, words in (("n\n", "not confirmed; nothing was written"), ("", "interrupted; nothing was written")):
        with CliRunner().isolation(input=typed), pytest.raises(ConfigError, match=words):
            asking.confirm_for_good("Remove it?")
    with CliRunner().isolation(input="y\n"):
        asking.confirm_for_good("Remove it?")


def test_packages_that_are_not_installed_are_named_with_the_extra_that_has_them():
    told = r"nowhere_at_all is not installed; run: pip install 'securepfl\[https\]'"
    with pytest.raises(ConfigError, match=told), extra("https"):
        import nowhere_at_all  # noqa: F401
    with pytest.raises(ModuleNotFoundError), extra("https"):
        import securepfl.nowhere_at_all  # noqa: F401


def test_private_metrics_go_to_no_tracker_that_nobody_named():
    done = CliRunner().invoke(cli, ["run", "--track-private"])
    assert done.exit_code == 2 and "none is named: add --track NAME:PLACE" in done.output


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("", r"federation\.toml: no \[data\] table; declare label, ranges and categories there"),
        (f'[model]\nkind = "own"\n[data]\nlabel = "ill"\n{RANGES}', "ask with securepfl.suggest_partition"),
    ],
)
def test_a_suggestion_needs_tables_that_are_declared(tmp_path, settings, words):
    config = tmp_path / "federation.toml"
    config.write_text(settings)
    with pytest.raises(ConfigError, match=words):
        suggest(config, tmp_path, "north", tmp_path, 1.0, tmp_path / "ledgers", "cpu")
    assert not (tmp_path / "ledgers").exists()


def test_an_attack_on_ones_own_training_needs_a_hospital_that_there_is(tmp_path):
    with pytest.raises(ConfigError, match=r"no \[data\] table: declare label, ranges and categories there"):
        rehearsal_of(Federation(), tmp_path, None, "cpu")
    with pytest.raises(ConfigError, match="--site 'nowhere': the data have "):
        rehearsal_of(Federation(), None, "nowhere", "cpu")


def tiff(place, values, **options):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(place / "one.tif", values, **options)
    return (place / "one.tif").read_bytes()


def test_tiffs_whose_values_are_not_what_is_seen_are_refused(tmp_path):
    wide = np.zeros((8, 8), dtype=np.float32)
    for values, options, words in [
        (np.zeros((8, 8, 5), np.uint8), {"photometric": "minisblack", "planarconfig": "contig"}, "neither grey nor"),
        (np.zeros((8, 8, 3), np.uint8), {"photometric": "cielab"}, "colour space or compression that may change"),
        (wide, {"photometric": "miniswhite"}, "white as its smallest value in no whole numbers; save it with black"),
    ]:
        with pytest.raises(UnfitError, match=words):
            read_tiff(tiff(tmp_path, values, **options))
    bits = np.eye(8, dtype=bool)
    assert (read_tiff(tiff(tmp_path, bits, photometric="minisblack")).values[:, :, 0] == 255 * np.eye(8)).all()
    colours = np.arange(768, dtype=np.uint16).reshape(3, 256) * 80
    indices = np.arange(64, dtype=np.uint8).reshape(8, 8)
    seen = read_tiff(tiff(tmp_path, indices, photometric="palette", colormap=colours)).values
    assert (seen == np.moveaxis(colours, 0, -1)[indices] >> 8).all()
