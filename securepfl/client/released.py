"""What a hospital holds of released metrics: the noisy counts over all hospitals, and its own.

The sum is what every hospital of the run gets. A hospital's own noisy counts stay with it: where noise is its own they
are private by themselves, and charged already, so it may hand them out; under shared noise they are not kept.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from securepfl.client.round import Session
from securepfl.errors import StorageError
from securepfl.learning.released.figures import Figures, figures_of
from securepfl.settings.evaluation import Evaluation, outcomes_of
from securepfl.settings.federation import Federation
from securepfl.storage.folder import write_bytes

FILE: Final = "released.json"
SCHEMA: Final = 1


class Released(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of one run (`run`, hexadecimal): noisy counts in integers (settings/evaluation.py). `own` is the hospital's, None
    under shared noise; `total` the sum over the `survivors`, None before it came.

    It is the file `released.json`: its names and meaning may not change under one schema.
    """

    schema: int = SCHEMA
    run: str
    own: tuple[int, ...] | None = None
    total: tuple[int, ...] | None = None
    survivors: tuple[str, ...] = ()

    @classmethod
    def load(cls, folder: Path, session: Session) -> "Released":
        """The run's in its `folder`, empty where there is none yet. Raises StorageError where it is damaged."""
        path, run = folder / FILE, session.digest.hex()
        try:
            found = msgspec.json.decode(path.read_bytes(), type=cls)
        except FileNotFoundError:
            return cls(run=run)
        except OSError as error:
            raise StorageError(f"{path}: cannot be read ({error.strerror}); mend its rights") from None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise StorageError(f"{path}: not a file that securepfl wrote whole; restore it from a copy") from None
        return found if found.run == run else cls(run=run)

    def save(self, folder: Path) -> None:
        """On disk when this returns. Raises StorageError."""
        write_bytes(folder / FILE, msgspec.json.encode(self) + b"\n")

    def with_total(
        self, federation: Federation, digits: NDArray[np.float64] | None, survivors: Collection[str]
    ) -> "Released":
        """With the sum that an answer held in `digits` [values], None where there was none."""
        if digits is None:
            return self
        integers = federation.once(Evaluation.of).integers_of(np.rint(digits).astype(np.int64))
        return msgspec.structs.replace(self, total=tuple(integers.tolist()), survivors=tuple(sorted(survivors)))

    def figures(self, federation: Federation) -> Figures | None:
        """Over all hospitals whose counts are in the sum; None where there is none."""
        return None if self.total is None else _figures(federation, self.total, self.survivors)

    def own_figures(self, federation: Federation, name: str) -> Figures | None:
        """Of hospital `name` alone; None where its own counts are not private, or it added none."""
        return None if self.own is None else _figures(federation, self.own, (name,))


def _figures(federation: Federation, integers: Collection[int], names: Collection[str]) -> Figures:
    evaluation = federation.once(Evaluation.of)
    return figures_of(
        evaluation.histogram,
        np.array(integers, dtype=np.float64) / evaluation.scale,
        deviation=evaluation.deviation(federation, names),
        spread=evaluation.spread(federation, names),
        names=outcomes_of(federation),
    )
