"""A hospital's state between messages: one file, replaced in one step, so a killed party starts again from it."""

import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from securepfl.errors import StorageError
from securepfl.storage.folder import read_arrays, write_arrays

SCHEMA = 4
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


@dataclass
class Pending:
    """A contribution that was made and not yet answered: its bytes, and what applying the answer needs.

    `personal` [p] is the personal component that it stands by, None for a refusal.
    `trained` is False for a refusal (Decline): nothing was sent. `nonces` and `salt` (hexadecimal) are the
    invitation's. `agreed` is the one
    survivor list that this hospital signed, `revealed` the hash of the one set of sealed shares that it opened.
    `answer` is the hash of the one answer that this hospital has begun to decrypt: others to the round are refused.
    """

    message: bytes
    trained: bool
    sent: Doubles
    local_shared: Floats
    personal: Floats | None = None
    nonces: dict[str, str] = field(default_factory=dict)
    salt: str = ""
    agreed: tuple[str, ...] = ()
    revealed: str = ""
    answer: str = ""


@dataclass
class ClientState:
    """Everything a hospital carries from round to round. Vectors: shared and residual [d], personal [p].

    `compared` is what it compares with others: its accumulated updates [d+p], or its personal parameters less their
    start [p]; `noise_energy` and `noise_peak` are the known noise in it, `signal` what stood out of that last.
    `neighbours` are the chosen ones with their integer weights, each worth that many `weight_unit`, in a graph chosen
    in round `graph_round`; `previous` [p] and `momentum_steps` are the network lasso's momentum. `epoch` is that of the
    keys in use; `nonce` (hexadecimal) went out with the last contribution.
    """

    federation: str
    epoch: int
    run: str
    kind: str
    round: int
    shared: Floats
    personal: Floats
    residual: Doubles
    compared: Doubles
    aggregate: Doubles | None = None
    average_personal: Floats | None = None
    previous: Doubles | None = None
    trajectory: dict[str, NDArray[Any]] = field(default_factory=dict)
    nonce: str = ""
    similarity: dict[str, float] = field(default_factory=dict)
    distances: dict[str, float] = field(default_factory=dict)
    noise_energy: float = 0.0
    noise_peak: float = 0.0
    signal: float | None = None
    neighbours: dict[str, int] = field(default_factory=dict)
    graph_round: int = 0
    weight_unit: float = 1.0
    momentum_steps: int = 0
    pull: float = 0.0
    clipped: int = 0
    sat_out: list[int] = field(default_factory=list)
    pending: Pending | None = None

    @classmethod
    def fresh(
        cls, federation: str, epoch: int, kind: str, shared: Floats, personal: Floats, *, compared: int
    ) -> "ClientState":
        """Before the first round, from the public start. `compared` is how many coordinates are compared."""
        return cls(
            federation=federation,
            epoch=epoch,
            run=secrets.token_hex(8),
            kind=kind,
            round=0,
            shared=shared,
            personal=personal.copy(),
            residual=np.zeros(shared.size),
            compared=np.zeros(compared),
        )

    def going_on_as(self, fresh: "ClientState", path: Path) -> "ClientState":
        """This stored state in a run that would begin as `fresh`. Raises StorageError where it can't go on as that."""
        if self.kind != fresh.kind:
            raise StorageError(f"{path}: of a {self.kind} run, this is a {fresh.kind} one; name another folder")
        if any(
            getattr(self, name).shape != getattr(fresh, name).shape
            for name in ("shared", "residual", "personal", "compared")
        ):
            raise StorageError(f"{path}: sizes of another model; restore it from a copy")
        if self.pending is not None and self.epoch != fresh.epoch:
            raise StorageError(
                f"{path}: round {self.round + 1} is open under the keys of epoch {self.epoch}, these are of "
                f"{fresh.epoch}; finish it with the old keys first"
            )
        if self.epoch > fresh.epoch:
            raise StorageError(f"{path}: went on to epoch {self.epoch}, these keys are of {fresh.epoch}; load newer")
        self.epoch = fresh.epoch
        return self

    def save(self, path: Path) -> None:
        """Write all of it to `path`, on disk when this returns. Raises StorageError."""
        arrays: dict[str, NDArray[Any]] = {f"trajectory.{name}": value for name, value in self.trajectory.items()}
        optional = {name: getattr(self, name) for name in ("aggregate", "average_personal", "previous")}
        arrays |= {name: value for name, value in optional.items() if value is not None}
        for name in ("shared", "personal", "residual", "compared"):
            arrays[name] = getattr(self, name)
        if self.pending is not None:
            arrays["pending.message"] = np.frombuffer(self.pending.message, dtype=np.uint8)
            arrays["pending.sent"] = self.pending.sent
            arrays["pending.local_shared"] = self.pending.local_shared
            if self.pending.personal is not None:
                arrays["pending.personal"] = self.pending.personal
        meta = {name: getattr(self, name) for name in _META}
        meta["schema"] = SCHEMA
        meta["pending"] = None if self.pending is None else {name: getattr(self.pending, name) for name in _PENDING}
        write_arrays(path, arrays, meta)

    @staticmethod
    def belongs_to(path: Path, federation: str) -> bool:
        """Whether the state at `path` is of this federation. Raises StorageError where it is damaged."""
        return bool(read_arrays(path)[1].get("federation") == federation)

    @classmethod
    def load(cls, path: Path, federation: str) -> "ClientState":
        """Read what save wrote. Raises StorageError where it is damaged or belongs to another federation."""
        arrays, meta = read_arrays(path)
        try:
            if meta["schema"] != SCHEMA:
                raise StorageError(f"{path}: schema {meta['schema']}, but this securepfl reads {SCHEMA}; upgrade it")
            if meta["federation"] != federation:
                raise StorageError(
                    f"{path}: belongs to a federation with other settings; name another, or move_to after a rotation"
                )
            return cls._from(arrays, meta)
        except (KeyError, TypeError, ValueError):
            raise StorageError(f"{path}: not a whole hospital state; restore it from a copy") from None

    @classmethod
    def _from(cls, arrays: dict[str, NDArray[Any]], meta: dict[str, Any]) -> "ClientState":
        pending = None
        if meta["pending"] is not None:
            known = {name: meta["pending"][name] for name in _PENDING} | {"agreed": tuple(meta["pending"]["agreed"])}
            pending = Pending(
                message=arrays["pending.message"].tobytes(),
                sent=arrays["pending.sent"],
                local_shared=arrays["pending.local_shared"],
                personal=arrays.get("pending.personal"),
                **known,
            )
        prefix = "trajectory."
        return cls(
            shared=arrays["shared"],
            personal=arrays["personal"],
            residual=arrays["residual"],
            compared=arrays["compared"],
            aggregate=arrays.get("aggregate"),
            average_personal=arrays.get("average_personal"),
            previous=arrays.get("previous"),
            trajectory={name[len(prefix) :]: value for name, value in arrays.items() if name.startswith(prefix)},
            pending=pending,
            **{name: meta[name] for name in _META},
        )


_META = (
    "federation",
    "epoch",
    "run",
    "kind",
    "round",
    "nonce",
    "similarity",
    "distances",
    "noise_energy",
    "noise_peak",
    "signal",
    "neighbours",
    "graph_round",
    "weight_unit",
    "momentum_steps",
    "pull",
    "clipped",
    "sat_out",
)
_PENDING = ("trained", "nonces", "salt", "agreed", "revealed", "answer")
