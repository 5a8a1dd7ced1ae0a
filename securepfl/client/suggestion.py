"""Which parameters should be personal, asked on one hospital's own data: charged as repeat-and-select.

The default is the public rule of learning/personal/rule.py, which costs nothing. Here a hospital trains the personal
part of a random number of candidates on half of its units, scores each on the other half, and learns the best one's
name.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import DataLoader, Dataset

from securepfl.client.candidates import Candidate, Choice, candidates_for
from securepfl.client.charging import Books
from securepfl.client.contents import contents_of
from securepfl.client.identities import KnownAs
from securepfl.client.labels import task_and_loss
from securepfl.client.parts import BuildModel
from securepfl.client.records import Loss, TrainingSet
from securepfl.client.run_kind import Simulation, kind_of, ledger_terms
from securepfl.client.scanning import scan_units
from securepfl.client.training import PHYSICAL_BATCH, dp_settings
from securepfl.client.trial import Trial
from securepfl.crypto.keys.identity import Identity
from securepfl.crypto.keys.signing import LedgerSigner
from securepfl.errors import ConfigError
from securepfl.privacy.accounting.accounting import epsilon as epsilon_of
from securepfl.privacy.accounting.calibration import selection_noise_for
from securepfl.privacy.accounting.events import AnyRelease, Release, Selection, Unit
from securepfl.privacy.accounting.selection import candidate_count
from securepfl.privacy.ledger.ledger import Ledger, Terms
from securepfl.randomness import RandomStream, derive_key, fresh_key
from securepfl.settings.federation import Federation
from securepfl.settings.roster import lacks_units
from securepfl.tasks.device import resolve_device
from securepfl.tasks.task import Task

_LEAST_GAIN = 0.02
"""By how much of gain_clip the mean loss must fall for each size up: .01 nats by default."""


@dataclass(frozen=True)
class Suggestion:
    """What a hospital learned: a name, and what it cost. Neither scores nor the number of trials are told.

    personal: for `[model] personal`; "adapters" needs `[model] adapters`, the other choices are for a model without.
    epsilon: of this suggestion alone at `delta`, zero-out, whatever was chosen. resolution: parts whose mean loss
    differs by less cannot be told apart: the noise's standard deviation, public. release: the ledger's event.

    >>> one = Release(noise_multiplier=9.0, sample_rate=1.0, steps=20)
    >>> event = Selection(candidate=(one,), mean=4.0, shape=1.0)
    >>> Suggestion("head", ("2.*",), 1.0, 1e-5, 0.02, event, "Keep the last layer personal.").personal
    ('2.*',)
    """

    choice: Choice
    personal: tuple[str, ...]
    epsilon: float
    delta: float
    resolution: float
    release: Selection
    sentence: str


def suggest_partition(
    federation: Federation,
    name: str,
    build_model: BuildModel,
    training: DataLoader[Any] | Dataset[Any],
    identity: Identity,
    *,
    epsilon: float,
    ledgers: Path | None = None,
    start: nn.Module | None = None,
    mean: float = 5.0,
    steps: int = 10,
    gain_clip: float = 0.5,
    data_set: str | KnownAs | None = None,
    loss: Loss | None = None,
    task: str | Task | None = None,
    device: str = "auto",
    simulation: Simulation | None = None,
) -> Suggestion:
    """The personal part that helps `name` most on its own data, for at most `epsilon` at the federation's delta.

    Candidates are "intercept", "head" and, where `[model] adapters` is set, "adapters"; "none" is the answer where none
    helps. federation: bound or not, with this hospital's `[sites.NAME] units`. training, ledgers, data_set, loss, task,
    device: as in Client, which must be closed. identity: a keyring's, which signs the ledger's lines. simulation: a
    securepfl.Simulation where the Client has one, None for a real hospital. start: the model from which personal parts
    are trained, with or without its adapters: one that was released, as Client.shared_model(). None is the public
    start, for pretrained models only: from random weights, what every hospital needs would pass for what this one
    needs. mean: candidates on average. steps: full-batch steps of each. gain_clip: most that one unit adds to a score,
    in units of the loss.

    The budget is checked before any record trains, and charged in full before the first trial. Model and loss are
    tried on the data set before that, and what comes of it is thrown away: its errors cost nothing and must stay in the
    hospital. What is refused leaves no line in the ledger, unless another process spends at the same time; a crash
    gives nothing back. Asking again costs again. What the run time shows (how many candidates there were) must stay in
    the hospital, like `Suggestion` until somebody decides to tell it.

    Raises BudgetError where the budget does not cover it, ConfigError for settings that cannot be met or an argument of
    another kind, ModelError or DataError where model, start and data do not fit, ValueError for another argument out of
    range, LedgerError and StorageError as Ledger.open: also where a Client or another process has the ledger open.

    >>> import torch
    >>> from tempfile import TemporaryDirectory
    >>> from torch.utils.data import TensorDataset
    >>> settings = {"model": {"kind": "own"}, "privacy": {"epsilon": 1.0, "budget": 2.0}}
    >>> settings["sites"] = {"north": {"units": 4}}
    >>> rows = TensorDataset(torch.eye(4), torch.tensor([0.0, 1.0, 0.0, 1.0]))
    >>> with TemporaryDirectory() as folder:
    ...     found = suggest_partition(
    ...         Federation.from_mapping(settings), "north", lambda: nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), rows,
    ...         Identity.generate("north"), epsilon=0.5, ledgers=Path(folder),
    ...     )
    >>> found.choice in ("none", "intercept", "head"), found.epsilon <= 0.5
    (True, True)
    """
    _check_kinds(name, federation, build_model, start, identity, ledgers, simulation)
    _check(federation, name, identity, gain_clip)
    chosen_task, own_loss = task_and_loss(federation, task, loss)
    records, units = TrainingSet.of(training, name, federation.privacy.unit), _units(federation, name)
    delta = federation.privacy.delta
    noise = selection_noise_for(epsilon, delta, mean, "poisson", steps)
    one = Release(noise_multiplier=noise, sample_rate=1.0, steps=steps, unit=records.unit)
    selection = Selection(candidate=(one,), mean=mean, shape="poisson")
    streams = _Streams(name, simulation)
    place = resolve_device(device)
    parts = candidates_for(federation, build_model, start, place)

    def terms_of(named: str) -> Terms:
        return ledger_terms(federation, name, named, kind_of(simulation), units)

    def opened_at(path: Path, named: str, earlier: frozenset[bytes]) -> Ledger:
        return Ledger.open(path, terms_of(named), LedgerSigner(identity, simulation is not None, earlier))

    books = Books.of(ledgers, name, simulation)
    rows = books.rows_of(records, contents_of(records, range(records.found)), data_set, federation)
    path, named = books.ledger_of(rows)
    signer = LedgerSigner(identity, simulation is not None, books.registry.signers())
    Ledger.check(path, terms_of(named), signer, selection)
    for model in {id(part.model): part.model for part in parts}.values():
        records = scan_units(records, units, chosen_task, model, own_loss, place, name, PHYSICAL_BATCH).records
    trial = Trial.of(federation, records, units, one, gain_clip, own_loss, place)
    charged = books.charged(rows, opened_at)
    with charged.ledger as opened:
        _reserve(opened, selection, federation)
        books.remember(charged)
        chosen = _best(parts, trial, selection, streams)
        spent = _left(opened, name, _run_of(federation, records.unit, units))
    choice: Choice = "none" if chosen is None else chosen.choice
    suggestion = Suggestion(
        choice=choice,
        personal=() if chosen is None else chosen.personal,
        epsilon=epsilon_of([selection], delta),
        delta=delta,
        resolution=trial.resolution,
        release=selection,
        sentence="",
    )
    words, asked = _in_words(choice, federation), _asked(parts, trial)
    return replace(suggestion, sentence=f"{name}: {words}. {asked} {_cost(suggestion)}; {spent}.")


def _run_of(federation: Federation, unit: Unit, units: int) -> AnyRelease | None:
    """What a whole run under `federation` releases of so many units; None where only a bound federation knows."""
    rounds, steps = federation.rounds, federation.training.steps
    if not federation.shares_noise:
        return dp_settings(federation, units, federation.run_steps).release(unit)
    noise = None if federation.shape is None else federation.shape.noise
    return None if noise is None else noise.release(unit, rounds * steps, rounds)


def _left(ledger: Ledger, name: str, run: AnyRelease | None) -> str:
    """What the ledger holds now, and what it must hold so that a whole run fits beside it, composed as it composes."""
    spent, budget = f"its ledger now stands at epsilon {ledger.spent():.4g}", ledger.budget
    if run is None:
        return spent
    if not ledger.would_exceed(run):
        return spent
    total = ledger.least_budget_for(run)
    return (
        f"{spent} of {budget.epsilon:g}, and a whole run under these settings beside it comes to {total:.4g}: declare "
        f"[sites.{name}] budget = {total:g}"
    )


def _cost(suggestion: Suggestion) -> str:
    selection = suggestion.release
    return (
        f"Parts whose mean loss differs by less than {suggestion.resolution:.2g} could not be told apart. This was "
        f"charged as repeat-and-select (a random number of candidates, {selection.mean:g} on average): epsilon "
        f"{suggestion.epsilon:.4g} at delta {suggestion.delta:g} per {selection.unit}, whatever was chosen; asking "
        "again costs again"
    )


@dataclass(frozen=True)
class _Streams:
    """Where a trial's randomness comes from: the operating system, or a seeded simulation's key."""

    name: str
    simulation: Simulation | None

    def stream(self, label: str, trial: int) -> RandomStream:
        key = None if self.simulation is None else self.simulation.noise_key
        return RandomStream(fresh_key() if key is None else derive_key(key, self.name, "suggestion", label, trial))


def _asked(parts: tuple[Candidate, ...], trial: Trial) -> str:
    """Which candidates there were, and whether any answer could mean something."""
    told = f"Candidates were {', '.join(part.choice for part in parts)}, drawn at random: one may not have been tried."
    if trial.resolution < trial.gain_clip:
        return told
    return f"{told} The noise is as large as a gain can be ({trial.gain_clip:g}), so this answer tells nothing."


def _best(parts: tuple[Candidate, ...], trial: Trial, selection: Selection, streams: _Streams) -> Candidate | None:
    """The part with the best score of a random number of trials, None where no score passes its bar.

    Each size up must gain a bit more, and more than the noise's standard deviation: a larger part costs noise in every
    round, and must not win by luck. Those bars are public, so they change what a score is, not what it costs. The
    answer to no trial is fixed, as Theorem 6 has it.
    """
    bar = trial.resolution + _LEAST_GAIN * trial.gain_clip
    best, found = 0.0, None
    for number in range(candidate_count(selection)):
        place = int(streams.stream("candidate", number).integers(1, len(parts))[0])
        scored = trial.score(parts[place], streams.stream("noise", number), streams.stream("sampling", number))
        above = scored - (place + 1) * bar
        if above > best:
            best, found = above, parts[place]
    return found


def _reserve(ledger: Ledger, selection: Selection, federation: Federation) -> None:
    """Charge `selection` in full.

    It is settled here, before the first trial, and not at the end: what is released is then fixed, and the time
    between the two lines would tell how many trials there were, which voids the guarantee.
    """
    ledger.settle(ledger.reserve(selection, federation=federation.digest.hex(), round=0, attempt=0), selection)


def _check(federation: Federation, name: str, identity: Identity, gain_clip: float) -> None:
    if federation.shape is not None and name not in federation.roster:
        raise ConfigError(f"{name}: not in the roster {', '.join(federation.roster)}; mend the name")
    if not federation.privacy.protects:
        raise ConfigError(f'{name}: [privacy] protection = "none": a suggestion is for runs under privacy; set "dp"')
    if identity.name != name:
        raise ConfigError(
            f"{name}: the identity is {identity.name}'s; load this hospital's own, which signs its ledger"
        )
    if not 0 < gain_clip < math.inf:
        raise ValueError(f"gain_clip must be positive and finite, not {gain_clip!r}")


def _check_kinds(
    name: str,
    federation: object,
    build_model: object,
    start: object,
    identity: object,
    ledgers: object,
    simulation: object,
) -> None:
    """Raises ConfigError for a keyring, an open Ledger or a key in the place of what is theirs."""
    if not isinstance(federation, Federation):
        raise ConfigError(f"{name}: federation must be a securepfl.Federation, not {type(federation).__name__}")
    if isinstance(build_model, nn.Module) or not callable(build_model):
        raise ConfigError(f"{name}: build_model must be the function that makes the model, not a model")
    if not isinstance(start, nn.Module | None):
        raise ConfigError(f"{name}: start must be a model, as client.shared_model(), not {type(start).__name__}")
    if not isinstance(identity, Identity):
        raise ConfigError(f"{name}: identity must be a keyring's `identity`, not {type(identity).__name__}")
    if not isinstance(ledgers, Path | None):
        raise ConfigError(
            f"{name}: ledgers must be the Path of the folder with the hospitals' registries, not "
            f"{type(ledgers).__name__}"
        )
    if not isinstance(simulation, Simulation | None):
        raise ConfigError(
            f"{name}: simulation must be a securepfl.Simulation, or None for a real hospital, not "
            f"{type(simulation).__name__}"
        )


def _units(federation: Federation, name: str) -> int:
    """The units that `name` counts as: at least two. Raises ConfigError."""
    declared = federation.sites[name].units if name in federation.sites else None
    if declared is None:
        raise ConfigError(lacks_units(name, unit=federation.privacy.unit))
    if declared < 2:
        raise ConfigError(f"[sites.{name}] units = {declared}: one half trains and one scores; declare at least 2")
    return declared


def _in_words(choice: Choice, federation: Federation) -> str:
    """What to write into the settings."""
    if choice == "none":
        return "no personal part was seen to help ([model] personal = [])"
    if choice == "adapters":
        return f'adapters of rank {federation.model.adapters} helped most ([model] personal = "adapters")'
    part = "the output layer's bias" if choice == "intercept" else "the whole output layer"
    alone = "" if federation.model.adapters is None else ", without adapters"
    return f'{part} helped most ([model] personal = "{choice}"{alone})'
