"""The notes of a run: what result.json, the page and the terminal say beside the figures."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from securepfl.learning.personal.partition import Partition
from securepfl.report.coupling import never_coupled
from securepfl.report.outcome import Outcome, SiteOutcome
from securepfl.report.overall import NO_PRIVACY_NOTE
from securepfl.settings.federation import Federation
from securepfl.settings.idle import idle_settings
from securepfl.settings.presets import preset_notes

_NAMED = 3
"""Of the personal parameters, how many a note names; result.json names all."""


Weight = Literal["forbids", "limits", "detail"]
"""What a note weighs: it forbids to publish the run, it limits what the run shows, or it is for who looks closer."""


@dataclass(frozen=True)
class Notes:
    """A run's notes by what they weigh, the gravest first."""

    forbids: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    detail: tuple[str, ...] = ()

    @property
    def all(self) -> list[str]:
        """The lines."""
        return [*self.forbids, *self.limits, *self.detail]

    @property
    def weights(self) -> list[Weight]:
        """What each of `all` weighs.

        >>> Notes(("not private",), (), ("by hooks",)).weights
        ['forbids', 'detail']
        """
        counted: Iterable[tuple[Weight, int]] = (
            ("forbids", len(self.forbids)),
            ("limits", len(self.limits)),
            ("detail", len(self.detail)),
        )
        return [weight for weight, count in counted for _ in range(count)]


def notes_of(
    federation: Federation, partition: Partition, outcome: Outcome, seed: int | None, about_data: Sequence[str] = ()
) -> Notes:
    """What a reader must know about a run before believing or passing on its figures.

    `about_data`: where the rows come from and how they were split. Hospitals' own notes come last of each weight.
    """
    return Notes(
        tuple(_forbidding(federation, seed)),
        (*_limiting(federation, outcome, seed, about_data), *_grouped(outcome, lambda site: site.notes)),
        (*_detailed(federation, partition), *_grouped(outcome, lambda site: site.details)),
    )


def _forbidding(federation: Federation, seed: int | None) -> list[str]:
    notes = [
        "simulation: all parties ran in one process; the metrics are exact functions of private rows, "
        "not covered by epsilon, and not for publication"
    ]
    if not federation.privacy.protects:
        notes.append(f"{NO_PRIVACY_NOTE[0].lower()}{NO_PRIVACY_NOTE[1:].removesuffix('.')}")
    if seed is not None:
        notes.append(_seeded(federation, seed))
    return notes


def _limiting(federation: Federation, outcome: Outcome, seed: int | None, about_data: Sequence[str]) -> list[str]:
    notes = list(about_data)
    if not federation.scheme.encrypted:
        seen = "hidden by masks alone" if federation.masked else "which could read each of them"
        notes.append(f"--plaintext: updates travelled unencrypted to the coordinator, {seen}")
    if (common := federation.shared_noise) is not None:
        notes.append(
            f"shared noise: epsilon holds while at most {common.colluders} hospital(s) give their share of it away "
            f"and at most {common.dropouts} are missing from a sum; it is an RDP bound, and covers no single update"
        )
    if all(value is None for value in outcome.mean()["shared"].values()):
        notes.append("no shared model: the last round formed no sum, so nobody has the average personal part")
    if (seed is None or not federation.privacy.protects) and not federation.release.experts:
        notes.append("no expert is released, so `securepfl route` has nothing to use: set [release] experts = true")
    return notes + idle_settings(federation) + never_coupled(federation, outcome.sites)


def _detailed(federation: Federation, partition: Partition) -> list[str]:
    notes = list(preset_notes(federation))
    if isinstance(rule := federation.model.personal, str):
        notes.append(f'[model] personal = "{rule}" is {_in_words(partition)}')
    shared = [name for name in partition.shared if ".adapter." in name]
    if federation.model.adapters is not None and shared:
        notes.append(
            f"[model] adapters: {len(shared)} of their parameters are shared, as [model] personal leaves them out; set "
            'personal = "adapters", or "auto"'
        )
    return notes


def _seeded(federation: Federation, seed: int) -> str:
    if not federation.privacy.protects:
        return f"seeded (--seed {seed}): it can be repeated"
    return (
        f"seeded (--seed {seed}): whoever knows the seed can subtract the noise, so this run protects nobody; "
        "no expert is released, and its ledgers stay in its folder"
    )


def _in_words(partition: Partition) -> str:
    names, size = partition.personal, partition.personal_size
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{rest}: {size:,} of {size + partition.shared_size:,} parameters"


def _grouped(outcome: Outcome, which: Callable[[SiteOutcome], Sequence[str]]) -> list[str]:
    """The hospitals' notes, each said once for all hospitals that it is about."""
    about: dict[str, list[str]] = {}
    for name, site in outcome.sites.items():
        for note in which(site):
            about.setdefault(note, []).append(name)
    every = len(outcome.sites)
    return [f"{_whose(names, every)}: {note}" for note, names in about.items()]


def _whose(names: list[str], every: int) -> str:
    return f"all {every} hospitals" if len(names) == every > 1 else ", ".join(names)
