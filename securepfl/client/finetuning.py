"""The shared model after a few more steps on one hospital's own records: an expert that differs.

It is trained once, behind the last round, and takes the place of a round of its own in the ledger: reserved before the
first step, settled once it lies in the hospital's folder. A process that is killed in between leaves its draft, and the
next draws the same noise again.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from torch import nn

from securepfl.client.round import Round, Session
from securepfl.client.state import ClientState, Floats
from securepfl.client.training import as_floats
from securepfl.crypto.messages.envelope import Header, Kind
from securepfl.errors import StorageError
from securepfl.learning.personal.partition import Partition
from securepfl.storage.folder import read_arrays, write_arrays

FILE: Final = "finetuned.safetensors"
_SCHEMA: Final = 1


@dataclass(frozen=True)
class Finetuned:
    """The parameters that fine-tuning gave: shared [d] and personal [p]."""

    shared: Floats
    personal: Floats

    @classmethod
    def of(cls, partition: Partition, model: nn.Module) -> "Finetuned":
        """Of a model that was fine-tuned."""
        return cls(as_floats(partition.flatten_shared(model)), as_floats(partition.flatten_personal(model)))

    def save(self, folder: Path, session: Session) -> None:
        """In the run's `folder`, on disk when this returns. Raises StorageError."""
        meta = {"schema": _SCHEMA, "run": session.digest.hex()}
        write_arrays(folder / FILE, {"shared": self.shared, "personal": self.personal}, meta)

    @classmethod
    def load(cls, folder: Path, session: Session, partition: Partition) -> "Finetuned | None":
        """The one of this run in its `folder`, None where there is none yet. Raises StorageError for another's."""
        path = folder / FILE
        if not path.exists():
            return None
        arrays, meta = read_arrays(path)
        sizes = {"shared": (partition.shared_size,), "personal": (partition.personal_size,)}
        found = {name: array.shape for name, array in arrays.items() if array.dtype == np.float32}
        if found != sizes or meta.get("schema") != _SCHEMA or meta.get("run") != session.digest.hex():
            raise StorageError(f"{path}: not what this run wrote; restore it from a copy")
        return cls(arrays["shared"], arrays["personal"])


def round_behind(session: Session, state: ClientState) -> Round:
    """The place behind the last round, from which fine-tuning draws and in which the ledger counts it."""
    header = Header(
        kind=Kind.INVITATION,
        federation_digest=session.base,
        run=session.run,
        round=session.federation.exchanges + 1,
        attempt=0,
        sender=session.keyring.coordinator.fingerprint,
        receiver=session.keyring.identity.public.fingerprint,
    )
    return Round(session, header, state.shared.size, state.aggregate)
