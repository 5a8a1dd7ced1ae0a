"""A hospital's state between messages: one file, replaced in one step, so a killed party starts again from it.

The file is safetensors: arrays under their field's name (of `pending`, `trajectory` and `moments`, behind
"pending." and so on), all else as JSON in its metadata. A field of another name or meaning needs another SCHEMA.
"""

import secrets
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from securepfl.errors import StorageError
from securepfl.protocol.messages import Part
from securepfl.storage.folder import read_arrays, write_arrays

SCHEMA = 7
_READ = (6, SCHEMA)
"""6 had no moments."""
_PARTS = ("trajectory", "moments")
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


class Pending(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A contribution that was made and not yet answered: its bytes, and what applying the answer needs.

    `personal` [p] is the personal component that it stands by, None for a refusal. `trained` is False for a refusal
    (Decline): nothing was sent. `nonces` and `salt` (hexadecimal) are the invitation's. `agreed` is the one survivor
    list that this hospital signed, `revealed` the hash of the one set of sealed shares that it opened, `answer` that of
    the one answer that it has begun to decrypt in this `attempt`: others are refused. `own_mask` (hexadecimal) is the
    secret of its self-mask, where it may be asked to open it.

    A disputed round: `refused` are the parts of the answer that failed, `survivors` those in its sum, `judged` the
    hospitals that this one has judged since, with the parts of each that broke the rules.
    """

    message: bytes
    trained: bool
    sent: Doubles
    local_shared: Floats
    personal: Floats | None = None
    nonces: dict[str, str] = {}
    salt: str = ""
    agreed: tuple[str, ...] = ()
    revealed: str = ""
    answer: str = ""
    own_mask: str = ""
    attempt: int = 0
    refused: tuple[Part, ...] = ()
    survivors: tuple[str, ...] = ()
    judged: dict[str, tuple[Part, ...]] = {}

    @classmethod
    def nothing(cls, state: "ClientState") -> "Pending":
        """What a hospital that sent nothing in a round keeps of it."""
        return cls(message=b"", trained=False, sent=np.zeros_like(state.residual), local_shared=state.shared)


class ClientState(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Everything a hospital carries from round to round. Vectors: shared and residual [d], personal [p].

    `compared` is what it compares with others: its accumulated updates [d+p], or its personal parameters less their
    start [p]; `noise_energy` and `noise_peak` are the known noise in it, `signal` what stood out of that last.
    `neighbours` are the chosen ones with their integer weights, each worth that many `weight_unit`, in a graph chosen
    in round `graph_round`. `run` is what the ledger calls this folder's run, `joined` (hexadecimal) the
    identifier of the federation's run that it takes part in, empty before the first message. `epoch` is that of the
    keys in use; `nonce` (hexadecimal) went out with the last contribution. `named` is what the coordinator last said of
    each hospital that did something wrong. `ended` says why the run is over before its last round, or is empty.
    `moments` are what Adam knows where nothing protects (unprotected.py).
    `shortened` has, for each round in which the clip counted, the fraction of units that it shortened: exact, and so
    for the hospital's own eyes. In `coupled` rounds it was drawn to neighbours.
    """

    federation: str
    epoch: int
    run: str
    joined: str = ""
    kind: str
    round: int
    shared: Floats
    personal: Floats
    residual: Doubles
    compared: Doubles
    aggregate: Doubles | None = None
    average_personal: Floats | None = None
    trajectory: dict[str, NDArray[Any]] = {}
    moments: dict[str, Floats] = {}
    nonce: str = ""
    similarity: dict[str, float] = {}
    distances: dict[str, float] = {}
    noise_energy: float = 0.0
    noise_peak: float = 0.0
    signal: float | None = None
    neighbours: dict[str, int] = {}
    graph_round: int = 0
    weight_unit: float = 1.0
    pull: float = 0.0
    clipped: int = 0
    shortened: list[float] = []
    coupled: int = 0
    sat_out: list[int] = []
    named: dict[str, str] = {}
    ended: str = ""
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

    def copied(self) -> "ClientState":
        """One of the same content. What a round changes in place is its own; `pending` is never changed."""
        return ClientState(**{name: _own(getattr(self, name)) for name in self.__struct_fields__})

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

    def save(self, path: Path, *, lasting: bool = True) -> None:
        """Write all of it to `path`, on disk when this returns; `lasting`: see write_bytes. Raises StorageError."""
        arrays, meta = _split(self)
        write_arrays(path, arrays, {"schema": SCHEMA, **meta}, lasting=lasting)

    @staticmethod
    def belongs_to(path: Path, federation: str) -> bool:
        """Whether the state at `path` is of this federation. Raises StorageError where it is damaged."""
        return bool(read_arrays(path)[1].get("federation") == federation)

    @classmethod
    def load(cls, path: Path, federation: str) -> "ClientState":
        """Read what save wrote. Raises StorageError where it is damaged or belongs to another federation."""
        arrays, meta = read_arrays(path)
        try:
            if (schema := meta.pop("schema")) not in _READ:
                raise StorageError(f"{path}: schema {schema}, but this securepfl reads {SCHEMA}; upgrade it")
            if meta["federation"] != federation:
                raise StorageError(
                    f"{path}: belongs to a federation with other settings; name another, or move_to after a rotation"
                )
            fields = _joined(arrays, meta)
            return msgspec.convert(fields, type=cls, dec_hook=_array)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise StorageError(f"{path}: not a whole hospital state; restore it from a copy") from None


def _own(value: Any) -> Any:
    """`value` as an own copy where it can be changed in place."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {key: _own(part) for key, part in value.items()}
    return list(value) if isinstance(value, list) else value


def _split(state: ClientState) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The arrays of a state by their name in the file, and all else."""
    fields = msgspec.structs.asdict(state)
    parts, pending = {name: fields.pop(name) for name in _PARTS}, fields.pop("pending")
    arrays, meta = _arrays_apart(fields)
    arrays |= {f"{name}.{part}": array for name, held in parts.items() for part, array in held.items()}
    meta["pending"] = None
    if pending is not None:
        bytes_, rest = np.frombuffer(pending.message, dtype=np.uint8), msgspec.structs.asdict(pending)
        found, meta["pending"] = _arrays_apart(rest | {"message": bytes_})
        arrays |= {f"pending.{name}": array for name, array in found.items()}
    return arrays, meta


def _arrays_apart(fields: dict[str, Any]) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    arrays = {name: value for name, value in fields.items() if isinstance(value, np.ndarray)}
    return arrays, {name: value for name, value in fields.items() if name not in arrays}


def _joined(arrays: dict[str, NDArray[Any]], meta: dict[str, Any]) -> dict[str, Any]:
    """The inverse of _split: fields by name."""
    fields: dict[str, Any] = meta | {name: {} for name in _PARTS}
    for name, array in arrays.items():
        place, _, part = name.partition(".")
        if not part:
            fields[place] = array
        else:
            fields[place][part] = array.tobytes() if name == "pending.message" else array
    return fields


def _array(kind: type, value: object) -> object:
    """What msgspec asks about a field of a type that it doesn't know: here an array, of the field's own precision."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{type(value).__name__} where an array belongs")
    wanted = get_args(get_args(kind)[1])[0]
    if wanted is not Any and value.dtype != wanted:
        raise TypeError(f"{value.dtype} where {wanted.__name__} belongs")
    return value
