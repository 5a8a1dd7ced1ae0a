"""Which ledger a Client is charged to: the one that knows its records, whatever the run, the folder or their name."""

import hashlib
import shutil
from pathlib import Path

import msgspec
import pytest
import torch
from parties import MODEL, close_all, exchange, federation_of, parties, rows_of
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from securepfl import Client, Simulation, group_records, local_parties
from securepfl.client.charging import Books
from securepfl.client.contents import contents_of
from securepfl.client.identities import KnownAs, identities_of
from securepfl.client.records import TrainingSet
from securepfl.crypto.keys.signing import LedgerSigner
from securepfl.errors import ConfigError, HospitalNote, LedgerError, StorageError
from securepfl.privacy.accounting.accounting import epsilon
from securepfl.privacy.ledger.ledger import Budget, Ledger, Terms
from securepfl.storage.registry import Registry, ledgers_place

NAMES = ("alder", "birch", "cedar")
PLAIN = {"rounds": 2, "encryption": {"scheme": "none"}, "similarity": {"every": 0}, "coupling": {"strength": 0.0}}


def bound(**tables):
    return federation_of(names=NAMES, **PLAIN | {"model": {"personal": []}, "release": {"experts": False}} | tables)


def hospitals(federation, folder, **options):
    """(coordinator, real hospitals' clients), each at the default place of ledgers."""
    keyrings, coordinator = local_parties(federation)
    return coordinator, {
        name: Client(federation, name, MODEL, rows_of(name), keyring, folder / name, device="cpu", **options)
        for name, keyring in keyrings.items()
    }


def test_three_federations_on_the_same_rows_state_one_truth(tmp_path):
    """Before there was a registry each of them said 4.0 of 4.0, where 7.6 was spent."""
    releases, said = [], []
    for name in ("sepsis 2026", "stroke 2026", "icu 2026"):
        federation = bound(name=name, privacy={"budget": 10.0})
        coordinator, clients = hospitals(federation, tmp_path / name)
        for _ in range(2):
            exchange(coordinator, clients)
        said.append(clients["alder"].ledger.spent())
        releases = clients["alder"].ledger.releases()
        close_all(clients)
    assert len(releases) == 6 and said[0] < 4 < said[1] < said[2]
    assert said[2] == pytest.approx(epsilon(releases, 1e-5), rel=1e-4) and said[2] > 7.5
    assert [path.name for path in ledgers_place().glob("*/*.jsonl")].count("alder.jsonl") == 1


def test_by_default_a_second_federation_on_the_same_rows_has_nothing_left(tmp_path):
    for name, trained in (("one", 2), ("two", 0)):
        coordinator, clients = hospitals(bound(name=name), tmp_path / name)
        for _ in range(trained):
            exchange(coordinator, clients)
        assert clients["alder"].affords_run == bool(trained)
        assert clients["alder"].ledger.spent() <= 4.0
        close_all(clients)


X, Y = rows_of("alder").tensors


class Pairs(Dataset):
    """The same rows, handed out one by one in another form."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, place):
        return self.rows[place]


def looked_at(training, unit="record", site="alder"):
    """The records, and the digests of all of them."""
    records = TrainingSet.of(training, site, unit)
    return records, contents_of(records, range(records.found))


def claim_of(training, *, unit="record", data_set=None, site="alder"):
    """What a Client with this data set would be charged to."""
    books = Books.of(None, site, None)
    rows = books.rows_of(*looked_at(training, unit, site), data_set, bound())
    return books.registry.find(rows.identities, rows.declared, "real")


@pytest.fixture
def spent(tmp_path):
    """alder's rows are known, as data set "biopsies"."""
    keyring = local_parties(bound())[0]["alder"]
    Client(bound(), "alder", MODEL, rows_of("alder"), keyring, tmp_path / "run", data_set="biopsies").close()


PATIENTS = group_records(X, Y, [place // 3 for place in range(40)])


@pytest.mark.parametrize(
    ("training", "options"),
    [
        (TensorDataset(X.flip(0), Y.flip(0)), {}),
        (TensorDataset(X, 1 - Y), {"data_set": "stroke"}),
        (TensorDataset(X.double(), Y), {}),
        (TensorDataset(X.reshape(40, 2, 3), Y), {}),
        (Subset(rows_of("alder"), [3]), {}),
        (DataLoader(rows_of("alder"), batch_size=8, shuffle=True), {}),
        (Pairs([(x.numpy(), float(y)) for x, y in zip(X, Y, strict=True)]), {}),
        (Pairs([(x.tolist(), int(y)) for x, y in zip(X, Y, strict=True)]), {}),
        (PATIENTS, {"unit": "patient", "data_set": "by patient"}),
        (TensorDataset(torch.cat([torch.randn(500, 6), X[7:8]]), torch.zeros(501)), {"data_set": "others"}),
    ],
    ids=["order", "label", "double", "shape", "one", "loader", "numpy", "lists", "patients", "among others"],
)
@pytest.mark.usefixtures("spent")
def test_rows_are_known_in_any_form(training, options):
    assert (claim_of(training, **options).id, claim_of(training, **options).new) == ("biopsies", False)


@pytest.mark.usefixtures("spent")
def test_records_are_known_where_their_patients_were_seen():
    other = group_records(*rows_of("birch").tensors, [place // 3 for place in range(40)])
    books = Books.of(None, "alder", None)
    rows = books.rows_of(*looked_at(other, "patient"), "stroke", bound())
    signer = LedgerSigner(local_parties(bound())[0]["alder"].identity, trusting=False)
    terms = Terms("alder", "stroke", Budget(1.0, 1e-5), simulation=False, seeded=False)
    books.charged(rows, lambda path, *_: Ledger.open(path, terms, signer)).ledger.close()
    assert claim_of(TensorDataset(rows_of("birch").tensors[0][5:6], torch.zeros(1))).id == "stroke"
    assert claim_of(TensorDataset(X[5:6], torch.zeros(1))).id == "biopsies"


@pytest.mark.parametrize(
    "items",
    [
        [({"text": "ann", "age": torch.tensor(3.0)}, 1), ({"age": torch.tensor(3.0), "text": "bo"}, 0)],
        [("a discharge letter", 1), ("another", 0)],
        [((torch.zeros(2), [1, 2]), 1), ((torch.ones(2), [1, 2]), 0)],
        [(torch.ones(3, dtype=torch.bfloat16), 1), (torch.zeros(3, dtype=torch.complex64), 0)],
    ],
    ids=["mappings", "texts", "tuples", "types"],
)
def test_records_of_any_kind_are_told_apart(items):
    found = identities_of(*looked_at(Pairs(items)), KnownAs(), "alder")["features"]
    assert len(set(found)) == 2 and all(len(text) == 32 for text in found)
    again = identities_of(*looked_at(Pairs(items[::-1])), KnownAs(), "alder")["features"]
    assert set(again) == set(found)


class Augmented(Pairs):
    def __getitem__(self, place):
        x, y = self.rows[place]
        return x + torch.randn(6), y


def test_items_that_change_need_a_name_and_have_a_ledger_by_it(tmp_path):
    federation, data = bound(), Augmented(rows_of("alder"))
    keyring = local_parties(federation)[0]["alder"]
    before = torch.get_rng_state()
    with pytest.raises(ConfigError, match=r"alder: .*other ones each time they are read; name the data set, data_set="):
        Client(federation, "alder", MODEL, data, keyring, tmp_path / "one")
    torch.set_rng_state(before)
    for folder in ("two", "three"):
        client = Client(federation, "alder", MODEL, data, keyring, tmp_path / folder, data_set="augmented")
        assert client.ledger.path.name == "augmented.jsonl"
        client.close()
    assert claim_of(rows_of("alder")).new  # nothing is known of other data sets by that


class Broken(Pairs):
    def __getitem__(self, place):
        if place == 4:
            raise OSError("no such file")
        return self.rows[place]


def test_a_record_that_cannot_be_read_is_left_out():
    found = identities_of(*looked_at(Broken(rows_of("alder"))), KnownAs(), "alder")
    assert len(found["features"]) == 39


def test_what_the_hospital_must_know_is_warned_of_and_kept(tmp_path, spent):
    keyring = local_parties(bound())[0]["alder"]
    with pytest.warns(HospitalNote, match=r"alder: 100% of the records are those of data set biopsies"):
        client = Client(bound(), "alder", MODEL, rows_of("alder"), keyring, tmp_path / "again", data_set="stroke")
    assert len(client.ledger_notes) == 1 and client.ledger.path.name == "biopsies.jsonl"
    client.close()


# A run goes on with the ledger that it began with, or not at all.


@pytest.fixture
def run(tmp_path):
    """(federation, keyring, place of ledgers, folder) of alder after a round."""
    federation, place = bound(), tmp_path / "ledgers"
    coordinator, clients = hospitals(federation, tmp_path, ledgers=place)
    exchange(coordinator, clients)
    keyring = clients["alder"].session.keyring
    close_all(clients)
    return federation, keyring, place, tmp_path / "alder"


def reopen(run, *, rows=None, **options):
    federation, keyring, place, folder = run
    options = {"ledgers": place} | options
    data = rows_of("alder") if rows is None else rows
    return Client(federation, "alder", MODEL, data, keyring, folder, device="cpu", **options)


def test_a_run_goes_on_with_its_ledger(run):
    client = reopen(run)
    assert client.round == 1 and len(client.ledger.releases()) == 1
    client.close()


def test_a_registry_that_is_missing_is_told_and_no_other_is_begun(run, tmp_path):
    shutil.move(run[2], tmp_path / "elsewhere")
    with pytest.raises(LedgerError, match=r"this run's ledger is .*alder.jsonl, and .* is no registry; restore"):
        reopen(run)
    assert not run[2].exists()
    reopen(run, ledgers=tmp_path / "elsewhere").close()


def test_another_registry_is_refused(run, tmp_path):
    other = bound(name="other")
    Client(other, "alder", MODEL, rows_of("alder"), run[1], tmp_path / "n", ledgers=tmp_path / "new").close()
    with pytest.raises(LedgerError, match="is another registry; restore that one"):
        reopen(run, ledgers=tmp_path / "new")


def put_back(run):
    """The registry as a backup from before the first round had it, in the registry's place."""
    path, listed = run[2] / "alder" / "alder.jsonl", run[2] / "alder" / "registry.json"
    session = path.read_bytes().splitlines()[0]
    path.write_bytes(session + b"\n")
    listing = msgspec.json.decode(listed.read_bytes())
    listing["data_sets"][0] |= {"head": hashlib.sha256(session).hexdigest(), "lines": 1}
    listed.write_bytes(msgspec.json.encode(listing))


@pytest.mark.parametrize("lost", [None, "ledger.json"])
def test_a_whole_registry_of_a_backup_is_refused_by_what_the_run_knows(run, lost):
    """By the run's pointer, and where that is gone too, by what the hospital stated."""
    put_back(run)
    if lost is not None:
        (run[3] / lost).unlink()
    told = "ledger.json" if lost is None else "statements.json"
    with pytest.raises(LedgerError, match=rf"lacks the line that .*{told} knows of: an older copy"):
        reopen(run)


def test_other_records_in_the_same_run_are_refused(run):
    with pytest.raises(LedgerError, match=r"charged to data set alder, and these records are of data set alder-2"):
        reopen(run, rows=rows_of("birch"))
    assert [one.id for one in Registry(run[2], "alder").data_sets()] == ["alder"]


def test_a_damaged_pointer_is_told(run):
    (run[3] / "ledger.json").write_bytes(b"{")
    with pytest.raises(StorageError, match=r"ledger.json: not a file that securepfl wrote whole"):
        reopen(run)


@pytest.mark.parametrize("place", ["in the run's folder", "in the place of the registries"])
def test_a_ledger_of_before_is_taken_over_with_what_it_counts(run, tmp_path, place):
    """As an earlier version kept it: by default with the state, or one file a hospital."""
    _, keyring, ledgers, folder = run
    old = folder / "ledger.jsonl" if place == "in the run's folder" else tmp_path / "place" / "alder.jsonl"
    old.parent.mkdir(exist_ok=True)
    shutil.copy2(ledgers / "alder" / "alder.jsonl", old)
    (folder / "ledger.json").unlink()
    with pytest.warns(HospitalNote, match=r"kept by an earlier version, goes on as .*alder.jsonl; the old file stays"):
        client = reopen(run, ledgers=tmp_path / "place")
    assert client.round == 1 and len(client.ledger.releases()) == 1 and old.exists()
    client.close()
    fresh = bound(name="next")
    keyring = local_parties(fresh)[0]["alder"]
    again = Client(fresh, "alder", MODEL, rows_of("alder"), keyring, tmp_path / "next", ledgers=tmp_path / "place")
    assert len(again.ledger.releases()) == 1 and again.ledger_notes == ()
    again.close()


def test_a_seeded_client_keeps_its_ledger_in_its_folder(tmp_path):
    keyring = local_parties(bound())[0]["alder"]
    client = Client(
        bound(), "alder", MODEL, rows_of("alder"), keyring, tmp_path / "run", simulation=Simulation(bytes(32))
    )
    client.close()
    assert client.ledger.path == tmp_path / "run" / "ledgers" / "alder" / "alder.seeded.jsonl"
    assert not list(ledgers_place().iterdir())


def test_a_simulation_never_spends_a_real_hospitals_ledger(tmp_path, spent):
    _, clients = parties(bound(), tmp_path / "simulation", ledgers=ledgers_place())
    assert clients["alder"].ledger.path.name == "alder.simulated.jsonl"
    close_all(clients)
    found = sorted(path.name for path in Path(ledgers_place(), "alder").glob("*.jsonl"))
    assert found == ["alder.simulated.jsonl", "biopsies.jsonl"]
