"""Bad data and absent hospitals through whole runs: sensible results or one clear line, and no NaN in any release."""

import json
import math
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzz.mutator import fingerprint
from parties import FEATURES, MODEL, close_all, federation_of, scanned_once
from torch.utils.data import DataLoader, TensorDataset

from securepfl.cli.main import main
from securepfl.client.client import Client
from securepfl.client.comparing import Compared
from securepfl.client.run_kind import Simulation
from securepfl.client.training import dp_settings
from securepfl.crypto.similarity.precision import COARSE, FINE
from securepfl.crypto.similarity.scheme import Shape
from securepfl.errors import DataError, MessageError
from securepfl.learning.personal.signal import KnownNoise
from securepfl.privacy.accounting.accounting import epsilon
from securepfl.privacy.training.units import group_records
from securepfl.runtime.local import local_parties, simulate
from securepfl.settings.fixed import WEIGHT_BITS
from securepfl.tasks.binary import BINARY
from securepfl.tasks.prediction import predict

SEED = bytes(range(32))
CAP = 2**WEIGHT_BITS - 1
CLEAR = {"scheme": "none"}
"""Bad data meet the same encoding in clear; one mode is enough that they go on to ciphertexts."""
MODES = {
    "unit": {"similarity": {"every": 1}, "sparsity": {"density": 0.5}},
    "unit-soft": {"similarity": {"every": 1}, "sparsity": {"density": 0.5, "kind": "soft"}, "encryption": CLEAR},
    "lasso": {
        "encryption": CLEAR,
        "similarity": {"every": 1},
        "coupling": {"neighbours": 6},
        "lasso": {"penalty": 0.05},
        "sparsity": {"density": 0.5, "kind": "select"},
    },
}
VAGUE = {"epsilon": 1e-3}
SHARP = {"epsilon": 1e4}


@pytest.fixture(params=["unit", "unit-soft", "lasso"])
def mode(request):
    return request.param


def federation(names, mode, **tables):
    common = {"rounds": 4, "privacy": SHARP, "trajectory": {"alpha": 0.3}}
    return federation_of(names, **(common | MODES[mode] | tables))


def rows(seed, count=40):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, FEATURES, generator=generator)
    return x, (x[:, 0] + 0.3 * x[:, 1] > 0).float()


def good(names):
    return {name: TensorDataset(*rows(seed)) for seed, name in enumerate(names)}


def with_cell(value, row):
    x, y = rows(7)
    x[row, 1] = value
    return TensorDataset(x, y)


def with_column(values):
    x, y = rows(8)
    x[:, 2] = values
    return TensorDataset(x, y)


def last_third():
    """Nothing but NaN after the first 27 records."""
    x, y = rows(9)
    x[27:] = math.nan
    return TensorDataset(x, y)


BAD = {
    "five-rows": lambda: TensorDataset(*rows(1, 5)),
    "one-row": lambda: TensorDataset(*rows(2, 1)),
    "one-class": lambda: TensorDataset(rows(3)[0], torch.ones(40)),
    "constant": lambda: with_column(7.0),
    "zeros": lambda: TensorDataset(torch.zeros(40, FEATURES), rows(4)[1]),
    "outlier-1e30": lambda: with_cell(1e30, 0),
    "outlier-1e38": lambda: with_cell(-1e38, 20),
    "all-1e38": lambda: with_column(1e38),
    "infinity": lambda: with_cell(math.inf, 5),
    "nan": lambda: with_cell(math.nan, 0),
    "nan-label": lambda: TensorDataset(rows(5)[0], torch.cat([torch.tensor([math.nan]), rows(5)[1][1:]])),
    "last-third": last_third,
}


def parties(bound, folder, data, noise_key=None):
    keyrings, coordinator = local_parties(bound, noise_key)
    options = {"device": "cpu", "simulation": Simulation(noise_key), "ledgers": folder / "ledgers"}
    with scanned_once(MODEL):
        clients = {
            name: Client(bound, name, MODEL, data[name], keyring, folder / name, **options)
            for name, keyring in keyrings.items()
        }
    return coordinator, clients


def finished(bound, folder, data, seed=None):
    """A whole run's clients, closed."""
    options = {"ledgers": folder / "ledgers", "seed": seed, "device": "cpu"}
    with scanned_once(MODEL), simulate(bound, data, MODEL, folder, **options) as run:
        return dict(run.clients)


def shared(client):
    return client.state.shared


def check_finite(client):
    """Of everything that a hospital keeps, shows or releases."""
    state = client.state
    vectors = [state.shared, state.personal, state.residual, state.compared, state.aggregate, state.average_personal]
    models = [client.personal_model(), client.shared_model()]
    vectors += [p.detach().numpy() for model in models if model is not None for p in model.parameters()]
    vectors += list(state.trajectory.values())
    assert all(np.isfinite(vector).all() for vector in vectors if vector is not None)
    figures = [*client.similarity.values(), *client.distances.values(), client.ledger.spent(), client.signal or 0.0]
    assert np.isfinite(figures).all() and client.ledger.spent() > 0
    assert all(-1 <= cosine <= 1 for cosine in client.similarity.values())
    assert all(distance >= 0 for distance in client.distances.values())
    assert np.isfinite(client.predict(rows(99)[0])).all()


def check_agreement(clients):
    """All hold the same shared state, and what two know of each other is the same number."""
    first = next(iter(clients.values()))
    for name, client in clients.items():
        assert np.array_equal(shared(client), shared(first)), name
        for other in client.similarity:
            assert client.similarity[other] == clients[other].similarity[name]
            assert client.distances[other] == clients[other].distances[name]


def check_weights(clients):
    """Both ends of an edge give it the same weight, on the grid; or it has but one end, and carries nothing."""
    for name, client in clients.items():
        assert not client.neighbours or len(client.neighbours) >= 3
        for other, weight in client.neighbours.items():
            assert 1 <= weight <= CAP and other != name
            assert clients[other].neighbours.get(name, weight) == weight


# Bad data, straight from a DataLoader: the SDK's users bypass the tables and their declared ranges.


def test_bad_data_of_every_kind_in_one_run(tmp_path, mode):
    sound = ("alder", "birch", "cedar", "damson")
    data = good(sound) | {name: DataLoader(make(), batch_size=8, shuffle=True) for name, make in BAD.items()}
    clients = finished(federation(tuple(data), mode, rounds=5), tmp_path, data, seed=5)
    check_agreement(clients)
    check_weights(clients)
    for client in clients.values():
        check_finite(client)
        assert client.round == 5 and client.shared_model() is not None
        assert client.ledger.spent() == pytest.approx(1e4, rel=1e-6), "every hospital took part in every round"
    x, y = rows(50, 500)
    right = [((clients[name].predict(x) > 0.5) == (y.numpy() > 0.5)).mean() for name in sound]
    # Twelve of sixteen hospitals teach little, and five rounds are few: above chance.
    assert np.mean(right) > 0.65, right


def test_one_outlier_moves_the_sum_no_further_than_the_clip(tmp_path):
    """Same noise with and without the record: the step differs by one unit's share, however large the record."""
    names, states = ("alder", "birch", "cedar", "damson"), []
    bound = federation(names, "unit", rounds=1, sparsity={"density": 1.0}, encryption={"bits": 16})
    for value in (0.0, 1e38):
        data = good(names) | {"damson": with_cell(value, 3)}
        clients = finished(bound, tmp_path / str(value), data, seed=1)
        states.append(shared(clients["alder"]))
    moved = np.linalg.norm(states[0] - states[1])
    # Two gradients of at most the clip, over 40 units and four hospitals; and rounding to the grid.
    assert 0 < moved <= 2 / 40 / 4 + 1e-3


@pytest.mark.parametrize("part", ["features", "labels", "overflow"])
@pytest.mark.parametrize("unit", ["record", "patient"])
def test_data_that_would_train_nothing_are_refused_before_anything_is_spent(tmp_path, part, unit):
    names = ("alder", "birch", "cedar")
    x, y = rows(1)
    x, y = (x, y * math.nan) if part == "labels" else (x * (1e39 if part == "overflow" else math.nan), y)
    data = TensorDataset(x, y) if unit == "record" else group_records(x, y, torch.arange(40) // 2)
    bound = federation(names, "unit", privacy=SHARP | {"unit": unit})
    keyrings, _ = local_parties(bound)
    with pytest.raises(DataError, match=rf"alder: {unit} 0 \(from 0\) holds NaN or infinity.*gradients do") as caught:
        Client(bound, "alder", MODEL, data, keyrings["alder"], tmp_path / "alder", device="cpu")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "alder").exists()


def test_a_patients_bad_record(tmp_path):
    """The patient counts as zero, others as ever; one patient with 1e30 is clipped."""
    names = ("alder", "birch", "cedar", "damson")
    patients = torch.arange(40) // 4
    data = {name: group_records(*rows(seed), patients) for seed, name in enumerate(names)}
    for name, value in {"cedar": math.nan, "damson": 1e30}.items():
        data[name] = group_records(*with_cell(value, 6).tensors, patients)
    clients = finished(federation(names, "unit", privacy=SHARP | {"unit": "patient"}), tmp_path, data)
    found = {name: [(one.reason, one.units) for one in client.scan.unusable] for name, client in clients.items()}
    assert found == {"alder": [], "birch": [], "cedar": [("not finite", 1)], "damson": []}
    check_agreement(clients)
    for client in clients.values():
        check_finite(client)


def test_bad_data_under_shared_noise(tmp_path):
    names = ("alder", "birch", "cedar", "damson", "elm")
    bound = federation_of(
        names,
        privacy={"epsilon": 50.0},
        shared_noise={},
        encryption={"masking": "pairwise"},
        similarity={"every": 0},
        coupling={"strength": 0.0},
        release={"experts": False},
    )
    data = good(names) | {name: BAD[kind]() for name, kind in (("cedar", "five-rows"), ("damson", "nan"))}
    data["elm"] = BAD["all-1e38"]()
    clients = finished(bound, tmp_path, data)
    check_agreement(clients)
    for client in clients.values():
        check_finite(client)


def test_a_prediction_for_an_outlier_is_no_nan(tmp_path):
    names = ("alder", "birch", "cedar")
    clients = finished(federation(names, "unit", rounds=1), tmp_path, good(names))
    x = torch.tensor([[1e38] * FEATURES, [-1e38] * FEATURES, [0.0] * FEATURES])
    probabilities = clients["alder"].predict(x)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    steep = torch.nn.Linear(FEATURES, 1)
    torch.nn.init.constant_(steep.weight, 10.0)  # logits of +- infinity
    assert predict(steep, x[:2], BINARY).tolist() == [1.0, 0.0]


# What is compared, where there is nothing to compare, too little, or the same.


@pytest.mark.parametrize("privacy", [VAGUE, {"epsilon": 1e6}], ids=["epsilon-1e-3", "epsilon-1e6"])
def test_epsilons_at_both_ends(tmp_path, mode, privacy):
    names = ("alder", "birch", "cedar", "damson", "elm")
    clients = finished(federation(names, mode, privacy=privacy), tmp_path, good(names))
    check_agreement(clients)
    check_weights(clients)
    for client in clients.values():
        check_finite(client)
        assert client.ledger.spent() == pytest.approx(privacy["epsilon"], rel=1e-6)
        assert (len(client.neighbours) >= 3) == (privacy["epsilon"] > 1)
        assert client.coupled_rounds == (
            len(client.federation.schedule.coupling_rounds) if privacy["epsilon"] > 1 else 0
        )


@pytest.mark.parametrize("why", ["below the gate", "two others"])
def test_who_has_no_neighbours_trains_as_without_coupling(tmp_path, mode, why):
    names = ("alder", "birch", "cedar", "damson")[: 4 if why == "below the gate" else 3]
    coupled = federation(names, mode, privacy=VAGUE if why == "below the gate" else SHARP)
    alone = coupled.replace(lasso=None).changed("coupling", strength=0.0)
    clients, others = (
        finished(bound.bound(names, MODEL, units=40), tmp_path / str(index), good(names), seed=1)
        for index, bound in enumerate((coupled, alone))
    )
    check_agreement(clients)
    for name, client in clients.items():
        check_finite(client)
        assert client.neighbours == {} and client.coupled_rounds == 0
        assert bool(client.similarity) == (why == "two others")
        assert np.array_equal(shared(client), shared(others[name]))
        assert np.array_equal(client.state.personal, others[name].state.personal)


@pytest.mark.parametrize("alike", [2, 5])
def test_hospitals_with_the_same_rows(tmp_path, mode, alike):
    """Cosine 1, distance 0, the largest weight; their noise is their own all the same, also under one seed."""
    names = ("alder", "birch", "cedar", "damson", "elm")
    data = good(names) | dict.fromkeys(names[:alike], TensorDataset(*rows(0)))
    coordinator, clients = parties(federation(names, mode), tmp_path, data, noise_key=SEED)
    for _ in range(4):
        take_round(coordinator, clients)
    check_agreement(clients)
    check_weights(clients)
    alder, birch = clients["alder"], clients["birch"]
    check_finite(alder)
    # Entries of updates are rounded at random, each hospital's otherwise; not the lasso's, which weighs by distances.
    near, largest = (0.02, CAP) if mode == "lasso" else (0.1, 1)
    assert alder.similarity["birch"] > (0.999 if mode == "lasso" else 0.99)
    if alike == 2:
        assert alder.distances["birch"] < near and max(alder.distances.values()) > 0.1
        assert alder.neighbours["birch"] == birch.neighbours["alder"] == largest
    else:
        assert max(alder.distances.values()) < near
        assert set(alder.neighbours.values()) == {largest}
    assert not np.array_equal(alder.state.personal, birch.state.personal)
    close_all(clients)


def test_a_penalty_beyond_what_fuses_stays_finite(tmp_path):
    names = ("alder", "birch", "cedar", "damson", "elm")
    strong = federation(names, "lasso", rounds=6, lasso={"penalty": 1e9})
    clients = finished(strong, tmp_path, good(names))
    check_agreement(clients)
    for client in clients.values():
        check_finite(client)
    personal = [client.state.personal for client in clients.values()]
    assert np.abs(personal - np.mean(personal, axis=0)).max() < 1.0


@pytest.mark.parametrize("noise", [KnownNoise(), KnownNoise(1e-6, 1e-7), KnownNoise(1e12, 1e11)], ids=repr)
@pytest.mark.parametrize("size", [0.0, 1e-320, 1e-160, 1e-30, 1.0, 3e38])
def test_what_is_compared_has_finite_figures_at_every_size(noise, size):
    compared = Compared(np.full(9, size), noise, 3.0)
    assert math.isfinite(compared.signal.norm) and math.isfinite(compared.norm) and compared.norm >= 0
    for precision in (COARSE, FINE):
        sketched = compared.sketch(Shape(5, 16, precision), SEED, SEED)
        assert np.abs(sketched).max() <= precision.norm + 1 and (sketched.any() or not compared.visible)


def test_noise_alone_passes_the_gate_as_rarely_where_the_lasso_compares(tmp_path):
    """All noise in what is compared is known, also in the round that averages what was trained."""
    names = ("alder", "birch", "cedar", "damson", "elm")
    # Gate 3 of 9 coordinates: noise passes it 35 times in 1000; with one of three rounds' noise forgotten, 250 times.
    bound = federation(names, "lasso", privacy=VAGUE)
    passed = []
    for seed in range(6):
        clients = finished(bound, tmp_path / str(seed), good(names), seed=seed)
        passed += [client.signal >= 3 for client in clients.values()]
    assert sum(passed) <= 3


# Hospitals that come late, or miss rounds.


def take_round(coordinator, clients, absent=(), newcomer=None):
    """One round in which `absent` are not asked; the answers of all, applied by those who were there."""
    invitations = coordinator.invite()
    there = [name for name in clients if name not in absent]
    for name in there:
        if name != newcomer:
            coordinator.receive(clients[name].contribute(invitations[name]))
    if newcomer is not None:
        clients[newcomer].join(clients[there[0]].snapshot(), coordinator.states)
        coordinator.receive(clients[newcomer].contribute(invitations[newcomer]))
    answers = coordinator.close()
    for name in there:
        clients[name].apply(answers[name])
    return invitations, answers


def spent_on(client, rounds):
    federation = client.federation
    settings = dp_settings(federation, client.units, federation.training.steps)
    return epsilon([settings.release(federation.privacy.unit, rounds)], federation.privacy.delta)


SEVEN = ("alder", "birch", "cedar", "damson", "elm", "fir", "gorse")


MISSED = [("unit", "late"), ("unit-soft", "lost"), ("lasso", "late"), ("lasso", "in time"), ("lasso", "lost")]


@pytest.mark.parametrize(("mode", "answers"), MISSED)
def test_three_rounds_missed_and_one_hospital_that_joins_at_round_seven(tmp_path, mode, answers):
    # A graph is kept for five rounds: chosen in round 2, then in 7, then in 12 with who came back.
    last = 13 if mode == "lasso" else 9
    bound = federation(SEVEN, mode, rounds=last)
    coordinator, clients = parties(bound, tmp_path, good(SEVEN))
    missing, newcomer, kept = clients["fir"], clients["gorse"], []
    for _ in range(3):
        take_round(coordinator, clients, absent=("gorse",))
    assert all("fir" in clients[name].similarity for name in SEVEN[:5])
    for number in (4, 5, 6):
        invitations, given = take_round(coordinator, clients, absent=("fir", "gorse"))
        if answers == "lost" and number == 4:
            missing.contribute(invitations["fir"])  # trained and charged, but it never arrives
        kept.append(given["fir"])
        if answers == "in time":
            missing.apply(kept[-1])
        assert all("fir" not in clients[name].similarity for name in SEVEN[:5])
        assert all("fir" not in clients[name].neighbours for name in SEVEN[:5])
    if answers != "in time":
        before = fingerprint(missing.state)
        with pytest.raises(MessageError):
            missing.apply(kept[1])
        assert fingerprint(missing.state) == before
        for answer in kept:
            missing.apply(answer)
    assert missing.round == 6 and newcomer.round == 0
    take_round(coordinator, clients, newcomer="gorse")
    check_agreement({name: clients[name] for name in SEVEN[:5]})
    assert np.array_equal(shared(missing), shared(clients["alder"]))
    for _ in range(last - 7):
        take_round(coordinator, clients)
    check_agreement(clients)
    check_weights(clients)
    for name, client in clients.items():
        check_finite(client)
        assert client.round == last and set(client.similarity) == set(SEVEN) - {name}
        if mode == "lasso":  # the graph is complete, and both ends of each edge know it
            assert set(client.neighbours) == set(SEVEN) - {name}
    released = {"fir": last - 3 + (answers == "lost"), "gorse": last - 6}
    for name, client in clients.items():
        assert client.ledger.spent() == pytest.approx(spent_on(client, released.get(name, last)), rel=1e-9)
    close_all(clients)


@pytest.mark.parametrize("of", ["local", "mixture"])
def test_a_hospital_that_missed_the_first_round_reopens_its_folder(tmp_path, of):
    """It applied the answer and spent nothing: its ledger need not know the run yet."""
    names = ("alder", "birch", "cedar", "damson")
    bound = federation(names, "unit", trajectory={"of": of})
    coordinator, clients = parties(bound, tmp_path, good(names))
    _, answers = take_round(coordinator, clients, absent=("damson",))
    damson = clients["damson"]
    damson.apply(answers["damson"])
    damson.close()
    clients["damson"] = Client(
        bound,
        "damson",
        MODEL,
        good(names)["damson"],
        damson.session.keyring,
        damson.folder,
        ledgers=tmp_path / "ledgers",
        simulation=Simulation(),
    )
    assert clients["damson"].round == 1 and clients["damson"].ledger.spent() == 0
    for _ in range(3):
        take_round(coordinator, clients)
    check_agreement(clients)
    check_finite(clients["damson"])
    close_all(clients)


# Tables, through the command line.

CONFIG = """
name = "tiny"
rounds = 4
[model]
kind = "mlp"
personal = "head"
[privacy]
epsilon = 8.0
[similarity]
every = 1
[sparsity]
density = 0.5
[coupling]
strength = 0.5
[encryption]
scheme = "none"
[sites]
"alder" = { units = 20 }
"birch" = { units = 20 }
"damson" = { units = 20 }
"elm" = { units = 20 }
"fir" = { units = 20 }
cedar = { units = 3 }
[data]
label = "sick"
site = "hospital"
[data.ranges]
age = { centre = 50, spread = 15, limit = 3 }
bp = { centre = 120, spread = 20 }
constant = { centre = 0, spread = 1 }
"""


def table_rows(outlier, other):
    """By hospital: sound, of five rows, of one class, without a spread, with an outlier in each of two columns."""
    wide = [(20 + 7 * i % 60, 90 + 13 * i % 70, i % 5, (i % 3 + i % 2) % 2) for i in range(30)]
    hospitals = {
        "alder": wide,
        "birch": [(1 + row[0], *row[1:]) for row in wide],
        "cedar": wide[:5],
        "damson": [(*row[:3], 1) for row in wide],
        "elm": [(*row[:2], 4, row[3]) for row in wide],
        "fir": [(outlier, *wide[0][1:]), (wide[1][0], other, *wide[1][2:]), *wide[2:]],
    }
    return [(name, *row) for name, own in hospitals.items() for row in own]


def run(folder, lines, monkeypatch, capsys, out="out", config=CONFIG):
    """(exit code, stderr) of `securepfl run`."""
    monkeypatch.chdir(folder)
    Path("federation.toml").write_text(config)
    text = ["hospital,age,bp,constant,sick", *(",".join(map(str, row)) for row in lines)]
    Path("rows.csv").write_text("\n".join(text) + "\n")
    arguments = ["run", "federation.toml", "--data", "rows.csv", "--out", out, "--seed", "1"]
    monkeypatch.setattr(sys, "argv", ["securepfl", *arguments])
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code
    return code, capsys.readouterr().err


def refuse(constant):
    pytest.fail(f"result.json holds {constant}")


read_strictly = partial(json.loads, parse_constant=refuse)


def test_bad_tables_give_a_whole_result_without_nan(tmp_path, monkeypatch, capsys):
    sites = []
    # 95 and 180 are where the declared ranges end: what is beyond them is as if it were there.
    for outlier, other in (("95", "180"), ("1e30", "1e999")):
        code, err = run(tmp_path, table_rows(outlier, other), monkeypatch, capsys, outlier)
        assert code == 0, err
        result = read_strictly(Path(outlier, "result.json").read_text())
        assert "nan" not in Path(outlier, "report.html").read_text().lower().replace("nano", "")
        sites.append(result["sites"])
    assert sites[0] == sites[1]
    damson, cedar = sites[0]["damson"], sites[0]["cedar"]
    assert damson["metrics"]["personalised"]["auroc"] is None
    assert damson["metrics"]["personalised"]["balanced_accuracy"] is None
    assert 0 <= damson["metrics"]["personalised"]["accuracy"] <= 1
    assert any("one class" in note for note in damson["notes"])
    assert cedar["train"] + cedar["test"] == 5
    assert all(site["privacy"]["epsilon"] == pytest.approx(8.0) for site in sites[0].values())


def test_a_hospital_of_one_row_takes_part_and_has_no_metrics(tmp_path, monkeypatch, capsys):
    config = CONFIG.replace("[sites]\n", "[sites]\ngorse = { units = 1 }\n")
    code, err = run(tmp_path, [*table_rows("60", "110"), ("gorse", 40, 110, 1, 0)], monkeypatch, capsys, config=config)
    assert code == 0, err
    gorse = json.loads(Path("out/result.json").read_text())["sites"]["gorse"]
    assert (gorse["train"], gorse["test"]) == (1, 0)
    assert set(gorse["metrics"]["personalised"].values()) == {None}
