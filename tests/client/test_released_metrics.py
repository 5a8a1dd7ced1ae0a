"""Metrics that leave: of whom, with which noise, at what cost, what reaches whom, and what is refused."""

import json
from dataclasses import replace
from functools import partial
from zlib import crc32

import msgspec
import numpy as np
import pytest
import torch
from https_parties import Authority, joined, served
from parties import Carried, close_all, exchange, parties
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.data import Subset, TensorDataset

from securepfl.client.client import Client
from securepfl.client.evaluating import Counting
from securepfl.client.finetuning import round_behind
from securepfl.client.records import TrainingSet
from securepfl.client.state import ClientState
from securepfl.crypto.messages.envelope import RUN_BYTES, Kind
from securepfl.errors import BudgetError, ConfigError, DataError, HospitalNote
from securepfl.privacy.accounting.accounting import epsilon
from securepfl.privacy.accounting.events import Release
from securepfl.privacy.training.units import Batch, PatientDataset
from securepfl.protocol.rounds import drive
from securepfl.randomness import derive_key
from securepfl.runtime.local import simulate
from securepfl.settings.evaluation import Evaluation, histogram_of
from securepfl.settings.federation import Federation
from securepfl.tasks.models import build_model
from securepfl.tasks.multiclass import Multiclass
from securepfl.tasks.multilabel import Multilabel

NAMES = ("alder", "birch", "cedar", "damson")
MODEL = partial(build_model, "logistic", 3)
KEY = bytes(32)
LOCAL = {"encryption": {"scheme": "none"}}
MASKED = {"encryption": {"scheme": "none", "masking": "pairwise"}}
SHARED = {"encryption": {"masking": "pairwise"}, "shared_noise": {"colluders": 1, "dropouts": 1}, "minimum": 2}


def federation_of(*, units=200, rounds=2, unit="record", build=MODEL, **tables):
    settings = {
        "rounds": rounds,
        "model": {"kind": "own", "personal": []},
        "privacy": {"epsilon": 8.0, "delta": 1e-3, "unit": unit},
        "training": {"learning_rate": 1.0},
        "similarity": {"every": 0},
        "coupling": {"strength": 0.0},
        "release": {"metrics": True},
    }
    return Federation.from_mapping(settings | LOCAL | tables).bound(NAMES, build, units=units)


def rows_of(name, count=200):
    generator = torch.Generator().manual_seed(crc32(name.encode()))
    x = torch.randn(count, 3, generator=generator)
    return TensorDataset(x, (torch.rand(count, generator=generator) < torch.sigmoid(2 * x[:, 0])).float())


TRAINED = {name: rows_of(name) for name in NAMES}
TESTED = {name: rows_of(f"{name}, held out", 120) for name in NAMES}
NOBODY = dict.fromkeys(NAMES, TensorDataset(torch.zeros(0, 3), torch.zeros(0)))


def opened(folder, *, tested=TESTED, trained=TRAINED, **tables):
    """(coordinator, clients), whose noise repeats."""
    return parties(federation_of(**tables), folder, KEY, KEY, rows=trained, tested=tested, model=MODEL)


def after_training(folder, **options):
    """The same after all rounds but the one in which metrics are summed."""
    coordinator, clients = opened(folder, **options)
    for _ in range(coordinator.rounds - 1):
        exchange(coordinator, clients)
    return coordinator, clients


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """A client of each kind of noise, with nobody held out: what it sends is noise alone."""
    made = {}
    for kind, tables in {"local": LOCAL, "shared": SHARED}.items():
        made[kind] = opened(tmp_path_factory.mktemp(kind), tested=NOBODY, **tables)[1]
    yield {kind: clients["alder"] for kind, clients in made.items()}
    for clients in made.values():
        close_all(clients)


def counted(client, seed, release, tested=None, model=None):
    """What a hospital would send of `tested`, in patients, drawn under a key of the test's own."""
    evaluator = client._parts.evaluator
    if tested is not None:
        evaluator = replace(evaluator, tested=tested)
    session = replace(client.session, noise_key=None).joining(bytes(RUN_BYTES))
    round_ = replace(round_behind(session, client.state), fresh=derive_key(KEY, "released metrics", seed))
    return evaluator.counted(round_, model or client.personal_model(), release) / evaluator.evaluation.scale


def again(client, tested, **changes):
    """The client after a restart; some fields of the state in its folder are set before."""
    client.close()
    path = client.folder / "state.safetensors"
    if changes:
        msgspec.structs.replace(ClientState.load(path, client.federation.digest.hex()), **changes).save(path)
    return Client(
        client.federation,
        client.name,
        MODEL,
        TRAINED[client.name],
        client.session.keyring,
        client.folder,
        testing=tested,
        device="cpu",
        simulation=client._simulation,
    )


def is_about(units, figures):
    """Within four deviations of the noise."""
    return abs(figures.units.value - units) < 4 / 1.96 * (figures.units.high - figures.units.low) / 2


def true_figures(clients):
    chances = np.concatenate([clients[name].predict(TESTED[name].tensors[0]) for name in NAMES])
    truth = np.concatenate([TESTED[name].tensors[1].numpy() for name in NAMES]) == 1
    yes = chances >= 0.5
    return roc_auc_score(truth, chances), yes[truth].mean(), (~yes)[~truth].mean()


# What is counted, and how far one patient moves it


def test_a_patient_with_many_records_moves_the_counts_by_one_at_most(ready):
    """By brute force: the whole release without noise, with and without each of some patients."""
    generator = torch.Generator().manual_seed(1)
    patients = [
        (torch.randn(count, 3, generator=generator), (torch.rand(count, generator=generator) < 0.5).float())
        for count in (1, 2, 300, 40, 7)
    ]
    hardly = Release(noise_multiplier=1e-4, sample_rate=1.0, steps=1, unit="patient")
    whole = counted(ready["local"], 0, hardly, TrainingSet(PatientDataset(patients), None, "patient"))
    for left_out in range(len(patients)):
        rest = PatientDataset(patients[:left_out] + patients[left_out + 1 :])
        moved = whole - counted(ready["local"], 0, hardly, TrainingSet(rest, None, "patient"))
        assert 0 < np.linalg.norm(moved) <= 1 + 0.05, "1, and what the grid of a 64th rounds"
    single = whole - counted(ready["local"], 0, hardly, TrainingSet(PatientDataset(patients[1:]), None, "patient"))
    assert np.linalg.norm(single) == pytest.approx(1, abs=0.05), "one record moves it by all of that"


class Rounding(nn.Module):
    """As kernels of matrix products do, by the place in a batch: real ones moved 1,277 of 1,280 patients whose scores
    were the operating point.
    """

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return self.bias + 1e-6 * (torch.arange(len(x)) % 2 - 0.5)


class Keeping(Rounding):
    """Something of what it sees, but not in training, where that is refused."""

    seen = 0

    def forward(self, x):
        self.seen += not self.training
        return self.bias + 1e-6 * (self.seen % 2 - 0.5) + 0 * x[:, 0]


@pytest.mark.parametrize(("unit", "made"), [("record", Rounding), ("patient", Rounding), ("record", Keeping)])
def test_no_patient_moves_anothers_score(ready, unit, made):
    x, y = torch.zeros(200, 3), torch.arange(200) % 2
    hardly = Release(noise_multiplier=1e-4, sample_rate=1.0, steps=1, unit=unit)

    def of(rows):
        data = PatientDataset([(x[i : i + 1], y[i : i + 1]) for i in rows])
        return TrainingSet(data if unit == "patient" else Subset(TensorDataset(x, y), rows), None, unit)

    whole, rest = (counted(ready["local"], 0, hardly, of(range(first, 200)), made().eval()) for first in (0, 1))
    assert np.linalg.norm(whole - rest) == pytest.approx(1, abs=0.05)


def test_under_shared_noise_a_patient_moves_a_sum_by_no_more_than_its_sensitivity(ready):
    """In the mean over many draws of rounding and noise."""
    noise, evaluation = ready["shared"].federation.shape.noise, ready["shared"]._parts.evaluator.evaluation
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(2))
    patient = TrainingSet(PatientDataset([(x, torch.ones(50))]), None, "patient")
    drawn = np.array([counted(ready["shared"], seed, None, patient) for seed in range(200)])
    moved = drawn.mean(axis=0) * evaluation.scale / evaluation.steps  # of each step's sum: the rest is noise
    error = 4 * noise.scale * (evaluation.histogram.size / len(drawn)) ** 0.5
    assert 0.3 * noise.grid < np.linalg.norm(moved) <= noise.sensitivity + error
    assert noise.dimension >= evaluation.histogram.size


def test_units_that_cannot_be_used_count_as_zero(ready):
    class Held(torch.utils.data.Dataset):
        items = (
            (torch.full((3,), torch.nan), torch.tensor(1.0)),
            (torch.ones(3), torch.tensor(7.0)),
            (torch.ones(5), torch.tensor(1.0)),
            None,
            (torch.ones(3), torch.tensor(1.0)),
        )

        def __len__(self):
            return len(self.items)

        def __getitem__(self, place):
            return self.items[place]

    hardly = Release(noise_multiplier=1e-4, sample_rate=1.0, steps=1)
    found = counted(ready["local"], 0, hardly, TrainingSet(Held(), None))
    assert np.linalg.norm(found) == pytest.approx(1, abs=0.05)


def test_each_outcome_of_several_is_counted():
    logits = torch.tensor([[4.0, 0.0, -4.0], [-4.0, 4.0, 0.0]])

    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return x + self.bias

    three = partial(build_model, "logistic", 3, outputs=3)
    declared = _declared(classes=["a", "b", "c"], label="y")
    classes = federation_of(build=three, model={"kind": "own", "task": "multiclass"}, data=declared)
    cells = Counting(histogram_of(classes), Multiclass(("a", "b", "c")), (), Fixed()).of_units(
        Batch(logits, torch.tensor([0.0, 2.0]), (0, 1))
    )
    histogram = histogram_of(classes)
    yes = histogram.decisions == 1
    assert cells.sum(axis=3).tolist() == [[[0, 1], [1, 0], [1, 0]], [[1, 0], [1, 0], [0, 1]]]
    assert cells[:, :, :, yes].sum(axis=(2, 3)).tolist() == [[1, 0, 0], [0, 1, 0]]
    declared = _declared(label=["a", "b", "c"])
    labels = federation_of(build=three, model={"kind": "own", "task": "multilabel"}, data=declared)
    cells = Counting(histogram_of(labels), Multilabel(("a", "b", "c")), (), Fixed()).of_units(
        Batch(logits, torch.tensor([[1.0, 1.0, 0.0], [0.0, 9.0, 0.0]]), (0, 1))
    )
    assert cells.sum(axis=3).tolist() == [[[0, 1], [0, 1], [1, 0]], [[0, 0]] * 3]


def _declared(**labels):
    return {"ranges": {name: {"centre": 0.0, "spread": 1.0} for name in ("u", "v", "w")}, **labels}


# Noise, and what it costs


def test_the_noise_is_what_the_ledger_is_charged_for(ready):
    """Each number's deviation over many draws, against the event that is charged and what intervals count on."""
    for kind, client in ready.items():
        federation, evaluation = client.federation, client._parts.evaluator.evaluation
        event = client.evaluation_release
        release = event if isinstance(event, Release) else None
        drawn = np.array([counted(client, seed, release) for seed in range(150)])
        if release is not None:
            wanted = release.noise_multiplier / release.steps**0.5
        else:
            wanted = event.scale * event.steps**0.5 / evaluation.scale
        assert drawn.std() == pytest.approx(wanted, rel=0.03), kind
        assert evaluation.deviation(federation, ["alder"]) == pytest.approx(wanted)
        assert event.steps == federation.evaluation_steps == 1


def test_where_units_are_drawn_counts_are_the_mean_of_as_many_draws(tmp_path):
    """Their mean and variance: noise over the rate, and a unit's own drawing."""
    _, clients = opened(tmp_path, tested=NOBODY, units=2500, rounds=12)
    client, everybody = clients["alder"], TrainingSet(TensorDataset(torch.ones(100, 3), torch.ones(100)), None)
    release, evaluation = client.evaluation_release, client._parts.evaluator.evaluation
    assert release.sample_rate < 1 and release.steps == 3
    drawn = np.array([counted(client, seed, release, everybody) for seed in range(80)])
    held = np.abs(drawn.mean(axis=0)) > 15
    noise = evaluation.deviation(client.federation, ["alder"])
    assert drawn[:, ~held].std() == pytest.approx(noise, rel=0.03)
    cells = np.array([evaluation.histogram.estimated(one)[0, 1] for one in drawn])
    assert cells.sum(axis=1).mean() == pytest.approx(100, rel=0.1)
    spread = evaluation.spread(client.federation, ["alder"]) - 1
    widest = drawn[:, held].var(axis=0).max() - noise**2
    assert widest == pytest.approx(0.4 * 100 * spread, rel=0.4), "0.4 is the squared weight of the widest sums"
    close_all(clients)


@pytest.mark.parametrize("tables", [LOCAL, SHARED])
def test_training_and_metrics_together_cost_the_planned_epsilon_in_one_ledger(tmp_path, tables):
    coordinator, clients = after_training(tmp_path, **tables)
    before = {name: client.ledger.spent() for name, client in clients.items()}
    assert all(client.spent_after_run == pytest.approx(8.0, abs=0.01) for client in clients.values())
    exchange(coordinator, clients)
    for name, client in clients.items():
        releases = client.ledger.releases()
        assert sum(each.steps for each in releases) == client.federation.run_steps == 3
        assert before[name] < 6.9 and client.ledger.spent() == pytest.approx(8.0, abs=0.01)
        assert client.ledger.spent() == pytest.approx(epsilon(releases, 1e-3), rel=1e-6)
    close_all(clients)


def test_a_budget_that_cannot_carry_them_is_refused_before_anything_is_spent(tmp_path):
    """It would hold the training alone."""
    tables = {"privacy": {"epsilon": 8.0, "delta": 1e-3, "budget": 7.9}}
    with (
        pytest.raises(BudgetError, match="0 of 4 hospitals have budget left for all 2 rounds and the released metrics"),
        simulate(
            federation_of(**tables), TRAINED, MODEL, tmp_path / "run", testing=TESTED, ledgers=tmp_path / "ledgers"
        ),
    ):
        pass
    assert not any(b"gaussian" in path.read_bytes() for path in (tmp_path / "ledgers").rglob("*.jsonl"))


# What reaches whom


@pytest.mark.parametrize("tables", [LOCAL, SHARED])
def test_all_hospitals_hold_the_same_figures_and_their_own_where_noise_is_theirs(tmp_path, tables):
    """Under shared noise over real ciphertexts."""
    coordinator, clients = after_training(tmp_path, **tables)
    models = {name: client.state.shared for name, client in clients.items()}
    assert all(client.released_metrics is None for client in clients.values())
    exchange(coordinator, clients)
    assert coordinator.over and all(client.round == 3 for client in clients.values())
    found = [client.released_metrics for client in clients.values()]
    assert all(one == found[0] for one in found) and clients["alder"].released_by == NAMES
    for name, client in clients.items():
        np.testing.assert_array_equal(client.state.shared, models[name])
    outcome = found[0].outcomes["outcome"]
    figures = outcome.auroc, outcome.sensitivity, outcome.specificity
    for figure, value in zip(figures, true_figures(clients), strict=True):
        assert figure.low - 0.02 < value < figure.high + 0.02
    assert is_about(480, found[0])
    own = clients["alder"].own_released_metrics
    if tables is SHARED:
        assert own is None
    else:
        assert is_about(120, own) and own != found[0]
    close_all(clients)


@pytest.mark.parametrize("tables", [LOCAL, MASKED, SHARED])
def test_a_hospital_that_is_away_is_not_in_the_figures(tmp_path, tables):
    coordinator, clients = after_training(tmp_path, **tables)
    assert drive(coordinator, Carried(clients, away=("damson",))) == ()
    figures = clients["alder"].released_metrics
    assert clients["alder"].released_by == NAMES[:3] and is_about(360, figures)
    evaluation = coordinator.federation.once(Evaluation.of)
    assert figures.noise == evaluation.deviation(coordinator.federation, NAMES[:3])
    assert clients["damson"].ledger.spent() < 6.9
    close_all(clients)


def test_too_few_hospitals_give_no_figures_and_no_error(tmp_path):
    coordinator, clients = after_training(tmp_path)
    assert drive(coordinator, Carried(clients, away=NAMES[1:])) == ()
    assert coordinator.closed == 3 and clients["alder"].round == 3
    assert clients["alder"].released_metrics is None and clients["alder"].released_by == ()
    close_all(clients)


def test_a_hospital_that_starts_again_sends_the_same_counts(tmp_path):
    coordinator, clients = after_training(tmp_path)
    invitations = coordinator.invite()
    sent = clients["alder"].contribute(invitations["alder"])
    spent, own = clients["alder"].ledger.spent(), clients["alder"].own_released_metrics
    clients["alder"] = again(clients["alder"], TESTED["alder"])
    assert clients["alder"].contribute(invitations["alder"]) == sent
    assert clients["alder"].ledger.spent() == spent and clients["alder"].own_released_metrics == own
    close_all(clients)


class Killed(BaseException):
    """As by the operating system."""


class Deadly(torch.utils.data.Dataset):
    """Its reader is killed once it has read `left` items."""

    left = 10**6

    def __len__(self):
        return len(TESTED["alder"])

    def __getitem__(self, place):
        self.left -= 1
        if self.left < 0:
            raise Killed
        return TESTED["alder"][place]


@pytest.mark.parametrize("changed", ["a patient", "the model"])
def test_a_hospital_that_was_killed_while_counting_lays_its_noise_over_no_other_counts(tmp_path, changed):
    """Of two counts under one noise the difference is exact. The model that is scored is the average over rounds."""
    tested = Deadly()
    coordinator, clients = after_training(tmp_path, tested=TESTED | {"alder": tested}, rounds=1)
    invitation, alder = coordinator.invite()["alder"], clients["alder"]
    tested.left = len(tested) + 30  # all are read once before noise is reserved
    with pytest.raises(Killed):
        alder.contribute(invitation)
    others, rows = {}, TESTED["alder"]
    if changed == "the model":
        others = {"trajectory": {name: part + 1 for name, part in alder.state.trajectory.items()}}
    else:
        rows = Subset(rows, range(119))
    clients["alder"] = alder = again(alder, rows, **others)
    alder.contribute(invitation)
    assert alder.sat_out == (2,) and alder.own_released_metrics is None
    assert alder.ledger.spent() == pytest.approx(8.0, abs=0.01), "what was reserved stays charged"
    close_all(clients)


def test_over_https_they_are_those_of_one_process(tmp_path):
    coordinator, clients = opened(tmp_path / "local", rounds=1)
    exchange(coordinator, clients)
    exchange(coordinator, clients)
    want = clients["alder"].released_metrics
    close_all(clients)
    coordinator, clients = opened(tmp_path / "https", rounds=1)
    authority = Authority(coordinator.identity)
    with served(coordinator, authority.hub(), tmp_path / "hub") as its:
        parts = [
            joined(client, its.url, authority.hospital(coordinator.hospitals[name])) for name, client in clients.items()
        ]
        assert [(part.wait(60).over, part.error) for part in parts] == [(True, None)] * 4
    assert want is not None and all(client.released_metrics == want for client in clients.values())
    close_all(clients)


def test_the_coordinator_is_sent_bytes_of_the_size_of_any_round(tmp_path):
    coordinator, clients = opened(tmp_path, encryption={"scheme": "tenseal"})
    sizes = []
    for _ in range(coordinator.rounds):
        carried = Carried(clients)
        drive(coordinator, carried)
        sizes.append({len(reply) for reply in carried.replies(Kind.INVITATION).values()})
    assert len(set(map(frozenset, sizes))) == 1 and len(sizes[0]) == 1
    close_all(clients)


# What is charged to which ledger, and what is refused


def test_patients_held_out_are_known_to_the_ledger_that_paid_for_them(tmp_path):
    coordinator, clients = after_training(tmp_path)
    exchange(coordinator, clients)
    path = clients["alder"].ledger.path
    close_all(clients)
    later = federation_of(release={}, privacy={"epsilon": 1.0, "delta": 1e-3, "budget": 20.0})
    _, again = parties(later, tmp_path / "later", KEY, KEY, rows=TESTED, model=MODEL, ledgers=path.parent.parent)
    assert again["alder"].ledger.path == path and again["alder"].ledger.spent() == pytest.approx(8.0, abs=0.01)
    close_all(again)


class Augmented(torch.utils.data.Dataset):
    """Other numbers each time it is read."""

    def __len__(self):
        return 200

    def __getitem__(self, place):
        return torch.randn(3), torch.tensor(float(place % 2))


def test_held_out_patients_are_known_where_those_who_train_can_only_be_named(tmp_path):
    named = {"rows": TRAINED | {"alder": Augmented()}, "model": MODEL, "data_set": "scans"}
    _, clients = parties(federation_of(), tmp_path / "one", KEY, None, tested=TESTED, **named)
    path = clients["alder"].ledger.path
    close_all(clients)
    later = federation_of(release={})
    _, clients = parties(later, tmp_path / "two", KEY, None, rows=TESTED, model=MODEL, ledgers=path.parent.parent)
    assert clients["alder"].ledger.path == path
    close_all(clients)
    with pytest.raises(ConfigError, match="cannot be known again"):
        opened(tmp_path / "three", tested=TESTED | {"alder": Augmented()})


def test_a_hospital_is_told_that_more_are_held_out_than_are_counted(tmp_path):
    with pytest.warns(HospitalNote) as told:
        _, clients = opened(tmp_path, units=10, trained={name: rows_of(name, 10) for name in NAMES})
    notes = [str(note.message) for note in told]
    assert sum(": [release] metrics: more than 40 held-out records" in note for note in notes) == len(NAMES)
    assert not any("120" in note for note in notes)
    close_all(clients)


def test_held_out_patients_must_be_handed_in_and_only_where_they_are_used(tmp_path):
    with pytest.raises(ConfigError, match="hand in testing=, a data set like that which trains"):
        opened(tmp_path / "none", tested=None)
    with pytest.raises(ConfigError, match=r"testing= goes with \[release\] metrics = true"):
        opened(tmp_path / "off", release={})
    twice = torch.utils.data.ConcatDataset([TESTED["alder"], TESTED["alder"]])
    with pytest.raises(DataError, match="are the same one"):
        opened(tmp_path / "twice", tested=TESTED | {"alder": twice})


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"model": {"task": "segmentation", "kind": "unet"}}, "a segmentation has no scores of a yes or no to count"),
        ({"privacy": {"protection": "none"}}, "metrics are released with noise, and there is none"),
        ({"model": {"task": "multiclass", "kind": "own"}}, "declare what a multiclass tells apart"),
    ],
)
def test_what_cannot_be_counted_is_refused_in_one_line(tables, words):
    with pytest.raises(ConfigError, match=words) as refusal:
        Evaluation.of(federation_of(**tables))
    assert "\n" not in str(refusal.value)


def test_without_them_nothing_of_a_federation_changes():
    """Its digest, noise and messages: the values that version before had."""
    bare = federation_of(release={})
    assert bare.digest == federation_of(release={"metrics": False}).digest != federation_of().digest
    assert bare.run_steps == bare.exchanges == 2 and not bare.evaluates(2)


@pytest.mark.parametrize(("bits", "levels"), [(4, 7), (10, 511), (16, 2**15 - 1)])
def test_integers_come_back_out_of_summed_digits(bits, levels):
    evaluation = federation_of(encryption={"scheme": "none", "bits": bits}).once(Evaluation.of)
    assert evaluation.levels == levels
    reach, size = evaluation.reach, evaluation.histogram.size
    integers = np.random.default_rng(bits).integers(-reach, reach + 1, (5, size))
    digits = np.array([evaluation.digits_of(one) for one in integers])
    assert np.abs(digits).max() <= levels and digits.shape[1] == evaluation.values
    np.testing.assert_array_equal(evaluation.integers_of(digits.sum(axis=0)), integers.sum(axis=0))
    assert (evaluation.integers_of(evaluation.digits_of(np.full(size, 10 * reach))) == reach).all()


class Failing(torch.utils.data.Dataset):
    """Nobody of it can be read, and its length is that of none; or not told either, once it is `lost`."""

    lost = False

    def __len__(self):
        if self.lost:
            raise OSError("a disk that is gone")
        return 5

    def __getitem__(self, place):
        raise OSError("a disk that is gone")


def test_who_is_held_out_shows_in_noisy_counts_alone(tmp_path):
    """One hospital's held-out patients are others, none, or not to be read: messages, states and ledgers look alike."""
    unusable = TensorDataset(torch.full((7, 3), torch.nan), torch.full((7,), 9.0))
    worlds = {"plain": TESTED["alder"], "nobody": NOBODY["alder"], "gone": Failing(), "unusable": unusable}
    worlds["lost"] = Failing()
    found, counts = {}, {}
    for world, tested in worlds.items():
        coordinator, clients = opened(tmp_path / world, rounds=1, tested=TESTED | {"alder": tested})
        tested.lost, seen = world == "lost", []
        for _ in range(coordinator.rounds):
            carried = Carried(clients)
            assert drive(coordinator, carried) == ()
            seen += [(name, len(message), len(reply)) for name, message, reply in carried.asked]
        for client in clients.values():
            lines = client.ledger.path.read_text().splitlines()
            seen += [client.state.shared.tobytes(), client.round, client.sat_out, client.spent_after_run, len(lines)]
            seen += [{key: json.loads(line).get(key) for key in ("kind", "release", "round")} for line in lines]
        found[world], counts[world] = seen, clients["birch"].released_metrics.units.value
        close_all(clients)
    for world, seen in found.items():
        assert [pair for pair in zip(seen, found["plain"], strict=True) if pair[0] != pair[1]] == [], world
    assert len({counts[world] for world in ("nobody", "gone", "lost", "unusable")}) == 1
    assert counts["nobody"] == pytest.approx(counts["plain"] - 120, abs=0.5)
