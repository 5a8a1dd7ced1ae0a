"""What a pipeline's own client leaves of its run, and what is made of it: real rounds, the client's folder alone."""

import json

import pytest
import torch
from click.testing import CliRunner
from evidence_kit import Opened
from parties import parties, rows_of
from torch.utils.data import DataLoader, TensorDataset

import securepfl
from securepfl.cli.main import cli
from securepfl.errors import DataError
from securepfl.protocol.rounds import drive
from securepfl.settings.federation import Federation


def build_model():
    return torch.nn.Sequential(torch.nn.Linear(6, 1), torch.nn.Flatten(0))


@pytest.fixture(scope="module")
def clients(tmp_path_factory):
    """Of a run of one round that is over, by name, of models and records that no settings describe."""
    settings = {"rounds": 1, "model": {"kind": "own"}, "encryption": {"scheme": "none"}, "release": {"experts": True}}
    federation = Federation.from_mapping(settings).bound(("alder", "birch", "cedar"), build_model, units=40)
    coordinator, found = parties(federation, tmp_path_factory.mktemp("embedded"), model=build_model)

    class Carrier:
        def ask(self, name, message):
            return found[name].handle(message)

    assert not list(drive(coordinator, Carrier()))
    found["alder"].release("personal")
    yield found
    for client in found.values():
        client.close()


def invoke(*words):
    return CliRunner().invoke(cli, list(map(str, words)))


def test_before_it_wrote_its_result_the_commands_name_the_call(clients, tmp_path):
    folder = clients["birch"].folder
    for words in (("evidence", folder, "--out", tmp_path / "a.zip"), ("report", folder)):
        assert "securepfl.write_result(client)" in str(invoke(*words).exception)


def test_models_are_judged_on_the_records_that_are_handed_in(clients):
    client, test = clients["alder"], rows_of("others", 50)
    page = securepfl.write_result(client, DataLoader(test, batch_size=7))
    result = json.loads((client.folder / "result.json").read_text())
    (site,) = result["sites"].values()
    said = client.predict(test.tensors[0])
    right = float(((said > 0.5) == (test.tensors[1].numpy() > 0.5)).mean())
    assert site["metrics"]["personalised"]["accuracy"] == pytest.approx(right)
    assert (site["train"], site["test"], site["metrics"]["local"]["auroc"]) == (40, 50, None)
    assert site["metrics"]["majority"]["auroc"] == 0.5 and result["simulation"] and not result["seeded"]
    assert "Simulated run at alder, 1 round" in page.read_text() and "1 of 1 ledgers hold" in page.read_text()


def test_evidence_takes_in_what_the_folder_holds_and_says_what_it_does_not(clients, tmp_path):
    client = clients["alder"]
    securepfl.write_result(client, rows_of("others", 50))
    done = invoke("evidence", client.folder, "--site", "alder", "--out", tmp_path / "alder.zip")
    assert done.exit_code == 0, done.output
    files = Opened.of((tmp_path / "alder.zip").read_bytes()).files
    readme = files["README.md"].decode()
    assert f"had spent epsilon {client.ledger.spent():.6g}" in readme and "own pipeline does with records" in readme
    card = next(text.decode() for name, text in files.items() if name.startswith("models/"))
    assert "**not known**" in card and "mask" not in card and "declared ranges" not in card
    result = json.loads((client.folder / "result.json").read_text())["sites"]["alder"]["metrics"]["personalised"]
    assert not [value for value in result.values() if repr(value).encode() in b"".join(files.values())]


@pytest.mark.parametrize("test", [None, TensorDataset(torch.zeros(0, 6), torch.zeros(0))])
def test_without_test_records_it_says_so_and_nothing_is_measured(clients, test):
    client = clients["cedar"]
    securepfl.write_result(client, test)
    result = json.loads((client.folder / "result.json").read_text())
    assert result["notes"][0] == "cedar: nothing was measured: no test records were handed in"
    values = [v for metrics in result["sites"]["cedar"]["metrics"].values() for v in metrics.values()]
    assert values and set(values) == {None}


def test_a_test_record_that_cannot_be_used_is_left_out_and_a_set_of_them_refused(clients):
    client = clients["cedar"]
    x, y = rows_of("others", 6).tensors
    securepfl.write_result(client, TensorDataset(x, torch.where(torch.arange(6) == 2, 7.0, y)))
    result = json.loads((client.folder / "result.json").read_text())
    assert result["sites"]["cedar"]["test"] == 5
    assert "cedar: 1 of 6 test records could not be used and were left out" in result["notes"]
    with pytest.raises(DataError, match="no test record can be used"):
        securepfl.write_result(client, TensorDataset(x, torch.full((6,), 7.0)))
    with pytest.raises(DataError, match="the model fails on float32 features"):
        securepfl.write_result(client, TensorDataset(x[:, :2], y))
