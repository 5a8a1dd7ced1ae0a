"""An unseen hospital's rows or images through a run's released experts: read, checked, routed."""

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from securepfl.data.images.spec import ImageSpec
from securepfl.data.loading import load_unlabelled
from securepfl.data.prevalence import require_shares
from securepfl.data.table import Table
from securepfl.errors import ConfigError, DataError
from securepfl.outside.answered import Answered
from securepfl.outside.experts import Experts, read_experts
from securepfl.outside.gates import AdaptSettings
from securepfl.outside.once import each_once
from securepfl.outside.priors import Priors, read_priors
from securepfl.outside.recipe import Recipe, default_recipe
from securepfl.outside.routed import routed
from securepfl.storage.ceremony_folder import card_names, read_card

EXPERTS: Final = "experts"
"""Folder of a run."""
LAYERS: Final = "layers"
"""Names the recipe of gates that are trained in each layer (gates.py)."""
_MOST_RECIPE: Final = 2**16


@dataclass(frozen=True)
class Asked:
    """What an unseen hospital asks for: the rows or images at `data`, through the experts of the run in `run`.

    `prior`: the share that it declares, None to take what the run released. `recipe`: a JSON file, "layers", or None
    for the task's own. `id_column` holds the rows' names in a table. `trusted`: as in read_signed.
    """

    run: Path
    data: Path
    prior: float | None = None
    recipe: str | None = None
    id_column: str | None = None
    trusted: Collection[bytes] | None = None


def route_unseen(asked: Asked) -> Answered:
    """Read experts, prior, recipe and rows, in this order, and route.

    Raises StorageError where `run` is no run's folder or holds no expert that may be used (read_experts), ConfigError
    for a prior outside (0, 1) or a recipe that doesn't fit, DataError where the rows don't fit what the experts were
    trained on.
    """
    check_prior(asked.prior)
    experts = read_experts(asked.run / EXPERTS, asked.trusted)
    released = read_priors(asked.run / EXPERTS, experts, asked.trusted)
    experts, same = each_once(experts)
    recipe = recipe_of(asked.recipe, experts)
    table = load_unlabelled(asked.data, experts.spec, asked.id_column)
    if not len(table):
        raise DataError(f"{asked.data}: no rows to predict; name data with at least one")
    prior, said = _prior_of(asked, released, experts)
    found = routed(experts, table, recipe, prior or None)
    return Answered(table, experts, found, prior, said, (*same, *_notes(table)))


def trusted_identities(folder: Path) -> frozenset[bytes]:
    """The public identities that lie in `folder` as hospitals sent them (NAME.identity), for read_signed.

    Raises ConfigError where there is none, MessageError or StorageError for a file that is none.
    """
    names = card_names(folder)
    if not names:
        raise ConfigError(f"--identities {folder}: holds no NAME.identity; ask the hospitals for theirs")
    return frozenset(read_card(folder, name).public.to_bytes() for name in names)


def check_prior(prior: float | None) -> None:
    """Raises ConfigError for a share outside (0, 1)."""
    try:
        require_shares(prior)
    except ValueError as error:
        raise ConfigError(f"--prior: {str(error).removeprefix('prevalence = ')}") from None


def recipe_of(given: str | None, experts: Experts) -> Recipe:
    """The recipe that is named: the task's own (None), "layers", or that of a JSON file. Raises ConfigError."""
    images = isinstance(experts.spec, ImageSpec)
    if given is None:
        return default_recipe(experts.task.name, images)
    if given == LAYERS:
        return Recipe(granularity="layer", criterion="entropy", layers=AdaptSettings())
    path = Path(given)
    try:
        if path.stat().st_size > _MOST_RECIPE:
            raise ConfigError(f"{path}: too long for a recipe; write one with Recipe.to_mapping")
        mapping = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"--recipe {given}: cannot be read ({error.strerror}); name a JSON file, or {LAYERS}"
        ) from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{path}: not JSON; write one with Recipe.to_mapping") from None
    if not isinstance(mapping, dict):
        raise ConfigError(f"{path}: not a recipe; write one with Recipe.to_mapping")
    return Recipe.from_mapping(mapping, str(path))


def _prior_of(asked: Asked, released: Priors | None, experts: Experts) -> tuple[tuple[float, ...], str]:
    """The shares that the threshold moves to, and whose word they are; () for none."""
    if asked.prior is not None:
        return (asked.prior,), "declared with --prior"
    if released is None or experts.task.name == "regression":
        return (), ""
    return released.mean, released.said


def _notes(table: Table) -> tuple[str, ...]:
    flat = np.ptp(table.features.reshape(len(table), -1), axis=1) == 0
    if table.features.ndim == 4 and flat.any():
        return (f"{int(flat.sum())} of {len(table)} images hold one value throughout: nothing can be seen in them.",)
    return ()


def summary(answered: Answered) -> list[str]:
    """Lines for a reader: experts, mean weights, guard, prior, certainty. No row's name stands in them."""
    found, experts = answered.routed, answered.experts
    lines = [f"experts: {', '.join(experts.models)}"]
    simulated = any(record.get("simulation") for record in experts.records.values())
    lines.append(
        f"signatures hold: {len(experts.signers)} of {len(experts.records)}"
        + (", by a simulation's own keys" if simulated else "; compare the fingerprints in card.md by phone")
    )
    lines.append(f"mean weights: {_weights(map(str, found.candidates), found.gates.mean(axis=0).tolist())}")
    lines += [
        f"mean weights in layer {name}: {_weights(experts.models, gates)}" for name, gates in found.layers.items()
    ]
    lines.append(f"guard: {found.why}" + (": the shared model answered all" if found.fell_back else ""))
    if answered.prior:
        lines.append(f"prior {', '.join(f'{share:.4g}' for share in answered.prior)}, {answered.prior_from}")
    if np.isfinite(found.certainty).any():
        lines.append(f"mean certainty: {float(np.nanmean(found.certainty)):.3f}")
    return [*lines, *answered.notes]


def _weights(names: Iterable[str], gates: Iterable[float]) -> str:
    """Weights by name; those that round to nothing are counted, as every zoom of every expert is a candidate."""
    pairs = list(zip(names, gates, strict=True))
    shown = [f"{name} {gate:.2f}" for name, gate in pairs if gate >= 0.005]
    rest = len(pairs) - len(shown)
    return ", ".join([*shown, f"{rest} other(s) 0.00"] if rest else shown)
