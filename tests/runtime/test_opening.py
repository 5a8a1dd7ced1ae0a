"""From files to parties: what a hub's or a hospital's operator must mend is one line each."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from enrolled import PASSPHRASE, enrol_all, write_table

from securepfl.data.tables import load_sites, split_table
from securepfl.errors import BudgetError, ConfigError, DataError, StorageError
from securepfl.runtime.opening import open_client
from securepfl.runtime.opening_hub import open_coordinator


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return enrol_all(tmp_path_factory.mktemp("world"))


def hub(world, tmp_path, config=None, folder="hub"):
    return open_coordinator(config or world.config, world.folder(folder), PASSPHRASE, tmp_path)


def hospital(world, tmp_path, config=None, data=None, folder="alder", **options):
    options.setdefault("ledgers", None if "seed" in options else tmp_path / "ledgers")
    data = data or world.data("alder")
    return open_client(
        config or world.config, data, world.folder(folder), PASSPHRASE, tmp_path / "out", device="cpu", **options
    )


def changed(world, tmp_path, old, new):
    path = tmp_path / "federation.toml"
    text = world.config.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def test_a_hub_reads_no_row_and_binds_what_a_hospital_binds(world, tmp_path):
    coordinator, opened = hub(world, tmp_path / "hub"), hospital(world, tmp_path)
    assert coordinator.federation.digest == opened.client.federation.digest
    assert coordinator.rules.base == opened.client.session.base
    assert coordinator.federation.privacy.budget is None
    coordinator.stop()
    opened.client.close()


def test_a_hospitals_rows_are_those_that_run_would_give_it(world, tmp_path):
    opened = hospital(world, tmp_path)
    spec = opened.client.federation.data_spec
    everybody = tmp_path / "all"
    everybody.mkdir()
    for name in world.names:
        write_table(everybody / f"{name}.csv", name)
    train, test = split_table(load_sites(everybody, spec)["alder"], spec.split)
    assert (opened.hospital.train.features == train.features).all() and len(opened.hospital.train) == len(train)
    assert (opened.hospital.test.features == test.features).all() and len(opened.hospital.test) == len(test) > 0
    opened.client.close()


def test_of_a_folder_only_its_own_file_is_read(world, tmp_path):
    folder = tmp_path / "all"
    write_table(folder / "alder.csv", "alder")
    (folder / "birch.csv").write_text("not,a\ntable")
    opened = hospital(world, tmp_path, data=folder)
    assert len(opened.hospital.train) + len(opened.hospital.test) == 60
    opened.client.close()


def test_of_a_file_with_a_site_column_only_its_own_rows_are_taken(tmp_path):
    world = enrol_all(tmp_path / "world", declared='site = "place"\n')
    rows = {name: world.data(name).read_text().splitlines() for name in world.names}
    together = tmp_path / "together.csv"
    lines = [f"{row},{name}" for name, its in rows.items() for row in its[1:]]
    together.write_text("\n".join(["age,dose,ill,place", *lines]) + "\n")
    opened = hospital(world, tmp_path, data=together)
    assert len(opened.hospital.train) + len(opened.hospital.test) == 60
    opened.client.close()
    together.write_text("\n".join(["age,dose,ill,place", *(row for row in lines if "alder" not in row)]) + "\n")
    with pytest.raises(DataError, match="has no row of alder in column `place`"):
        hospital(world, tmp_path, data=together)


@pytest.mark.parametrize("which", [hub, hospital])
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("epsilon = 8.0", "epsilon = 9.0", "other settings than those enrolled in epoch 0"),
        ("cedar = { units = 40 }\n", "", "[sites.cedar] units: must be declared"),
        ("[sites]\n", "[sites]\nzeder = { units = 40 }\n", "no such hospital"),
        ('kind = "logistic"', 'kind = "own"', "in your own pipeline"),
        ("rounds = 2", "rounds = two", "federation.toml"),
    ],
)
def test_settings_that_do_not_fit_are_one_line_with_the_file(world, tmp_path, which, old, new, said):
    with pytest.raises(ConfigError) as caught:
        which(world, tmp_path, config=changed(world, tmp_path, old, new))
    line = str(caught.value)
    assert said in line and "federation.toml" in line and "\n" not in line


def test_keys_of_the_other_role_and_keys_that_are_missing(world, tmp_path):
    with pytest.raises(StorageError, match=r"keys of hospital alder, not the hub's; name the hub's folder"):
        hub(world, tmp_path, folder="alder")
    with pytest.raises(StorageError, match=r"keys of the hub hub, not a hospital's; name the hospital's folder"):
        hospital(world, tmp_path, folder="hub")
    for which in (hub, hospital):
        with pytest.raises(StorageError, match="no keys here"):
            which(world, tmp_path, folder="nobody")


def test_a_wrong_passphrase_is_one_line(world, tmp_path):
    with pytest.raises(StorageError) as caught:
        open_coordinator(world.config, world.folder("hub"), b"another passphrase", tmp_path)
    assert "passphrase" in str(caught.value) and "another" not in str(caught.value)


def test_a_seed_takes_no_ledgers_and_marks_the_run(world, tmp_path):
    with pytest.raises(ConfigError, match="--seed and --ledgers"):
        hospital(world, tmp_path, seed=1, ledgers=tmp_path)
    opened = hospital(world, tmp_path, seed=1)
    assert opened.client.session.noise_key is not None
    opened.client.close()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "cannot be read (No such file or directory)"),
        (lambda path: path.mkdir(), "has no .csv or .parquet file"),
        (lambda path: write_table(path / "birch.csv", "birch"), "has no table of alder, only of birch"),
        (lambda path: path.write_text("age,dose\n1,2\n"), "ill"),
        (lambda path: path.write_bytes(os.urandom(500)), str),
    ],
)
def test_data_that_are_not_there_or_not_its_own(world, tmp_path, make, said):
    path = tmp_path / "data"
    make(path)
    with pytest.raises(DataError) as caught:
        hospital(world, tmp_path, data=path)
    assert said is str or said in str(caught.value)
    assert "\n" not in str(caught.value)


READS_AS = """
import os, pathlib, sys
from securepfl.data.schema import DataSpec
from securepfl.data.tables import load_site
from securepfl.errors import DataError
spec = DataSpec.from_mapping({"label": "ill", "ranges": {"age": {"centre": 1.0, "spread": 1.0}}}, where="x")
os.setgroups([])
os.setuid(65534)
for path in sys.argv[1:]:
    try:
        load_site(pathlib.Path(path), spec, "alder")
    except DataError as error:
        print(error)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="needs another user, which only root can be")
def test_data_without_rights_say_whose_rights(tmp_path):
    """For a user who may enter the way there, but not the folder, not list it, or not read the file."""
    with tempfile.TemporaryDirectory(dir="/tmp") as root:
        Path(root).chmod(0o755)
        paths = []
        for name, mode, inside in (("closed", 0o600, 0o644), ("unlisted", 0o711, 0o644), ("file", 0o755, 0o600)):
            folder = Path(root, name)
            write_table(folder / "alder.csv", "alder")
            (folder / "alder.csv").chmod(inside)
            folder.chmod(mode)
            paths.append(folder if name == "unlisted" else folder / "alder.csv")
        done = subprocess.run(
            [sys.executable, "-c", READS_AS, *map(str, paths)], capture_output=True, text=True, check=True
        )
    closed, unlisted, unread = done.stdout.splitlines()
    assert "closed/alder.csv: cannot be read (Permission denied); let the user" in closed
    assert "unlisted: cannot be listed (Permission denied); make it readable" in unlisted
    assert "file/alder.csv: cannot be read (Permission denied)" in unread


def test_a_budget_that_cannot_carry_the_run_and_its_released_metrics_is_refused_before_the_first_round(tmp_path):
    world = enrol_all(tmp_path / "world", released="metrics = true")
    poor = changed(world, tmp_path, "budget = 40.0", "budget = 7.0")
    with pytest.raises(BudgetError, match=r"would bring epsilon to 8.000, and the budget is 7: declare a larger one"):
        hospital(world, tmp_path, poor)
    opened = hospital(world, tmp_path)
    assert opened.client.ledger.spent() == 0
    opened.client.close()
