"""A hospital's state between messages: one file, replaced in one step, so a killed party starts again from it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from securepfl.errors import StorageError
from securepfl.runtime.storage import read_arrays, write_arrays

SCHEMA = 1
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


@dataclass
class Pending:
    """A contribution that was made and not yet answered: its bytes, and what applying the answer needs.

    `trained` is False for a refusal (Decline): nothing was sent. `answer` is the hash of the one answer that this
    hospital has begun to decrypt: others to the same round are refused.
    """

    message: bytes
    trained: bool
    sent: Doubles
    local_shared: Floats
    answer: str = ""


@dataclass
class ClientState:
    """Everything a hospital carries from round to round. Vectors: shared [d], personal [p], accumulated [d+p]."""

    federation: str
    run: str
    kind: str
    round: int
    shared: Floats
    personal: Floats
    residual: Doubles
    accumulated: Doubles
    aggregate: Doubles | None = None
    average_personal: Floats | None = None
    trajectory: dict[str, NDArray[Any]] = field(default_factory=dict)
    similarity: dict[str, float] = field(default_factory=dict)
    neighbours: list[str] = field(default_factory=list)
    pull: float = 0.0
    clipped: int = 0
    sat_out: list[int] = field(default_factory=list)
    pending: Pending | None = None

    def save(self, path: Path) -> None:
        """Write all of it to `path`, on disk when this returns. Raises StorageError."""
        arrays: dict[str, NDArray[Any]] = {f"trajectory.{name}": value for name, value in self.trajectory.items()}
        optional = {"aggregate": self.aggregate, "average_personal": self.average_personal}
        arrays |= {name: value for name, value in optional.items() if value is not None}
        for name in ("shared", "personal", "residual", "accumulated"):
            arrays[name] = getattr(self, name)
        if self.pending is not None:
            arrays["pending.message"] = np.frombuffer(self.pending.message, dtype=np.uint8)
            arrays["pending.sent"] = self.pending.sent
            arrays["pending.local_shared"] = self.pending.local_shared
        meta = {name: getattr(self, name) for name in _META}
        meta["schema"] = SCHEMA
        meta["pending"] = None if self.pending is None else [self.pending.trained, self.pending.answer]
        write_arrays(path, arrays, meta)

    @classmethod
    def load(cls, path: Path, federation: str) -> "ClientState":
        """Read what save wrote. Raises StorageError where it is damaged or belongs to another federation."""
        arrays, meta = read_arrays(path)
        try:
            if meta["schema"] != SCHEMA:
                raise StorageError(f"{path}: schema {meta['schema']}, but this securepfl reads {SCHEMA}; upgrade it")
            if meta["federation"] != federation:
                raise StorageError(f"{path}: belongs to a federation with other settings; name another folder")
            return cls._from(arrays, meta)
        except (KeyError, TypeError, ValueError):
            raise StorageError(f"{path}: not a whole hospital state; restore it from a copy") from None

    @classmethod
    def _from(cls, arrays: dict[str, NDArray[Any]], meta: dict[str, Any]) -> "ClientState":
        pending = None
        if meta["pending"] is not None:
            trained, answer = meta["pending"]
            message = arrays["pending.message"].tobytes()
            pending = Pending(message, trained, arrays["pending.sent"], arrays["pending.local_shared"], answer)
        prefix = "trajectory."
        return cls(
            shared=arrays["shared"],
            personal=arrays["personal"],
            residual=arrays["residual"],
            accumulated=arrays["accumulated"],
            aggregate=arrays.get("aggregate"),
            average_personal=arrays.get("average_personal"),
            trajectory={name[len(prefix) :]: value for name, value in arrays.items() if name.startswith(prefix)},
            pending=pending,
            **{name: meta[name] for name in _META},
        )


_META = ("federation", "run", "kind", "round", "similarity", "neighbours", "pull", "clipped", "sat_out")
