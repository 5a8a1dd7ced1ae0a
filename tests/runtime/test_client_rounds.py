"""An audit by a client's own rounds: a correct build passes, and what only the client could get wrong is caught."""

from functools import cached_property, partial

import pytest
import torch
from parties import NAMES, rows_of
from torch.utils.data import TensorDataset

from securepfl.client.round import Round
from securepfl.client.training import LocalTraining
from securepfl.errors import ConfigError
from securepfl.privacy.accounting.accounting import epsilon
from securepfl.privacy.audit.between import rounds_verdict
from securepfl.privacy.audit.contributions import contributions_verdict
from securepfl.privacy.audit.mechanism import mechanism_verdict
from securepfl.privacy.audit.rehearsal import audit, observe_contributions, observe_noise, observe_rounds
from securepfl.privacy.training import dpsgd
from securepfl.randomness import RandomStream, fresh_key
from securepfl.runtime.client_rounds import rehearsed
from securepfl.settings.federation import Federation
from securepfl.tasks.models import build_model

MODEL = partial(build_model, "mlp", 6, hidden=60)


def subject(units=40, rows=None, **tables):
    settings = {"rounds": 2, "model": {"hidden": 60, "personal": ["head.*"]}, "sparsity": {"density": 0.5}}
    federation = Federation.from_mapping(settings | tables).bound(NAMES, MODEL, units=units)
    return rehearsed(federation, "alder", MODEL, rows_of("alder") if rows is None else rows, device="cpu")


def report_of(training):
    spent = training.settings.release(training.unit, 2)
    return audit(training, epsilon=epsilon([spent], 1e-5), delta=1e-5, canaries=100, runs=4, rounds=2)


def keep(monkeypatch, *uses):
    """A client that keeps the keys of these streams from its first round on."""
    fresh, kept = Round.streams.func, {}

    def streams(self):
        return dict(fresh(self)) | {use: RandomStream(kept.setdefault(use, fresh_key())) for use in uses}

    property_ = cached_property(streams)
    property_.__set_name__(Round, "streams")
    monkeypatch.setattr(Round, "streams", property_)


@pytest.mark.parametrize(
    "tables",
    [
        {},
        {"training": {"steps": 3}},
        {"sparsity": {"kind": "select"}, "similarity": {"every": 1}},
        {"encryption": {"scheme": "none"}, "model": {"hidden": 60, "personal": []}},
    ],
    ids=["support", "steps", "select", "nothing personal"],
)
def test_a_clients_rounds_pass(tables):
    # A correct build is accused once in a hundred times; four times in a row is no chance.
    reports = (report_of(subject(**tables)) for _ in range(4))
    report = next((report for report in reports if not report.accused), None)
    assert report is not None, "accused four times"
    assert {verdict.test for verdict in report.verdicts} == {"mechanism", "rounds", "canaries", "runs", "contributions"}


def test_every_call_is_another_round_under_the_clients_own_streams(monkeypatch):
    seen, train = [], LocalTraining.train

    def noted(self, round_, state):
        trained = train(self, round_, state)
        seen.append((round_.number, round_.streams["noise"], round_.support.tobytes()))
        return trained

    monkeypatch.setattr(LocalTraining, "train", noted)
    observe_rounds(subject())
    numbers, streams, supports = zip(*seen, strict=True)
    assert numbers == (*range(1, 9),)
    assert len({id(stream) for stream in streams}) == 8 and len(set(supports)) == 1


def test_a_client_that_keeps_its_noise_key_over_rounds_is_accused(monkeypatch):
    keep(monkeypatch, "noise")
    report = report_of(subject())
    accused = {verdict.test: verdict.finding for verdict in report.verdicts if verdict.accused}
    assert {"mechanism", "rounds"} <= set(accused)
    assert "draw the same noise" in accused["rounds"]
    assert report.sentence.startswith("This build is less private")


def test_a_client_that_draws_the_same_units_in_every_round_is_accused(monkeypatch):
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(2_050, 6, generator=generator)
    rows = TensorDataset(x, (x[:, 0] > 0).float())
    poisson = {"privacy": {"sample_rate": 0.1}, "sparsity": {"density": 1.0}}
    training = subject(2_050, rows, **poisson)
    assert not contributions_verdict(observe_contributions(training), torch.ones(1).numpy(), 0.1).accused
    keep(monkeypatch, "sampling")
    verdict = contributions_verdict(observe_contributions(subject(2_050, rows, **poisson)), torch.ones(1).numpy(), 0.1)
    assert verdict.accused and ("depend on one another" in verdict.finding or "drawn" in verdict.finding)


def test_half_the_noise_in_one_layer_of_a_clients_training_is_accused(monkeypatch):
    add = dpsgd.add_noise

    def less(total, entries, settings, noise):
        before = total.clone()
        add(total, entries, settings, noise)
        total[-1] = before[-1] + (total[-1] - before[-1]) / 2

    monkeypatch.setattr(dpsgd, "add_noise", less)
    verdict = mechanism_verdict(*observe_noise(subject()))
    assert verdict.accused and "spread is too small" in verdict.finding


def test_a_client_whose_personal_part_takes_the_noise_of_the_shared_one_is_accused(monkeypatch):
    train = LocalTraining.train

    def alike(self, round_, state):
        before = state.personal.copy()
        trained = train(self, round_, state)
        state.personal = before - trained.gradient[round_.support][: before.size].astype("float32")
        return trained

    monkeypatch.setattr(LocalTraining, "train", alike)
    assert rounds_verdict(*observe_rounds(subject())).accused


def test_noise_that_all_make_is_refused():
    with pytest.raises(ConfigError, match="shared_noise"):
        subject(
            shared_noise={},
            encryption={"masking": "pairwise"},
            release={"experts": False},
            similarity={"every": 0},
            coupling={"strength": 0.0},
        )
