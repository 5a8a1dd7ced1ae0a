"""By what a hospital's data set is known again, so that its ledger is found whatever the data are called."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch

from securepfl.client.contents import Contents, contents_of
from securepfl.client.records import TrainingSet
from securepfl.errors import ConfigError
from securepfl.privacy.ledger.fingerprints import Identities

__all__ = ["KnownAs", "identities_of"]

_READ_AGAIN: Final = 8


@dataclass(frozen=True)
class KnownAs:
    """What tells a data set apart beside the features that train: its declared id, None for none, and further
    identities of its records, as the cells of a table's rows. earlier: ledgers that an earlier version kept of it.
    beside: by what it is known, beside that, whether a patient withdrew consent: identities of records that are held
    out, and other spellings of patients' ids. Nothing is charged for those.

    >>> KnownAs("biopsies", {"row": [b"a row's cells"]}).id
    'biopsies'
    """

    id: str | None = None
    by: Identities = field(default_factory=dict)
    earlier: tuple[Path, ...] = ()
    beside: Identities = field(default_factory=dict)

    @classmethod
    def of(cls, given: "str | KnownAs | None", declared: str | None) -> "KnownAs":
        """What a Client was given, with the federation's `declared` id where it names none."""
        known = given if isinstance(given, KnownAs) else cls(given)
        return known if known.id is not None else replace(known, id=declared)


def identities_of(
    records: TrainingSet, contents: Contents, known_as: KnownAs, site: str, tested: TrainingSet | None = None
) -> Identities:
    """Of all records that could be read: the features of each, a patient's too, and what `known_as` adds. `tested`:
    further records that are charged to the same ledger, for what is released about them.

    Nothing of the label, so that other labels over the same rows change nothing. Raises ConfigError where records
    cannot be told by what they hold, as items change each time they are read, and the data set has no declared id.
    """
    trained = [] if _changes(records, contents) else contents.all_features
    held_out = Contents() if tested is None else contents_of(tested, range(tested.found))
    stay = tested is None or not _changes(tested, held_out)
    identities = {**known_as.by, "features": trained + (held_out.all_features if stay else [])}
    if known_as.id is None and not (any(known_as.by.values()) or (trained and stay)):
        raise ConfigError(
            f"{site}: the data set's records cannot be known again: its items hold no numbers or texts, or other ones "
            "each time they are read; name the data set, data_set= or [data] id, so that its ledger is found"
        )
    return identities


def _changes(records: TrainingSet, contents: Contents) -> bool:
    """Whether some item holds something else when it is read again."""
    count = records.found
    places = sorted({int(place) for place in np.linspace(0, count - 1, min(count, _READ_AGAIN))})
    # Items may draw from torch's generator, which is the pipeline's own.
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        again = contents_of(records, places)
    return any(again.features.get(place) != contents.features.get(place) for place in places)
