"""How common the outcome is at the hospitals of a run, or how much of an image the structure covers: `priors.json`.

Each hospital releases its own share with differential privacy, charged in its ledger and signed like its expert. An
unseen hospital takes the mean, where the noise leaves anything of it.
"""

import base64
import binascii
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import rfc8785

from securepfl.crypto.keys.identity import SIGNATURE_BYTES, Identity, PublicIdentity
from securepfl.errors import MessageError, StorageError
from securepfl.outside.experts import Experts, same_keys
from securepfl.outside.signed_file import bounded_bytes
from securepfl.storage.folder import write_json

PRIORS: Final = "priors.json"
"""File of a run's `experts`; a hospital that writes for itself alone puts its name and a point before it."""
FORMAT: Final = 1
_CONTEXT: Final = b"released prior 1"
_MOST_BYTES: Final = 2**26
_MOST: Final = 4096
_NOISY: Final = 0.5
"""Where the mean's deviation is more than this part of its distance from 0 or 1, it says too little to be used."""


@dataclass(frozen=True)
class Prior:
    """One hospital's released shares, in (0, 1): of the structure, of label 1, or of each label or class.

    `deviation` is the standard deviation of the noise in each, public; `record` the audit record that it was signed
    with; `units` those that the hospital declares.
    """

    shares: tuple[float, ...]
    deviation: float
    units: int
    record: Mapping[str, Any]
    signer: PublicIdentity

    @classmethod
    def of(cls, record: Mapping[str, Any], signer: PublicIdentity) -> Self:
        """From a record whose signature holds. Raises ValueError, KeyError or TypeError for another form."""
        shares = tuple(float(share) for share in record["shares"])
        deviation, units = float(record["deviation"]), int(record["units"])
        inside = bool(shares) and all(math.isfinite(share) and 0 < share < 1 for share in shares)
        if not inside or not (math.isfinite(deviation) and deviation >= 0) or not 1 <= units <= 10**9:
            raise ValueError("shares in (0, 1), with a deviation and units")
        return cls(shares, deviation, units, record, signer)


@dataclass(frozen=True)
class Priors:
    """What a run's hospitals released."""

    each: tuple[Prior, ...]

    @property
    def mean(self) -> tuple[float, ...]:
        """Their mean, weighing as their declared units do; () where its noise leaves too little of it."""
        total = sum(one.units for one in self.each)
        weights = [one.units / total for one in self.each]
        columns = zip(*(one.shares for one in self.each), strict=True)
        shares = [math.fsum(w * s for w, s in zip(weights, column, strict=True)) for column in columns]
        noise = self.deviation
        if any(noise > _NOISY * min(share, 1 - share) for share in shares):
            return ()
        whole = math.fsum(shares) if len(shares) > 1 and _is_classes(self.each) else 1.0
        return tuple(share / whole for share in shares)

    @property
    def deviation(self) -> float:
        """Of the noise in the mean: the largest of its shares'."""
        total = sum(one.units for one in self.each)
        return math.sqrt(math.fsum((one.units / total * one.deviation) ** 2 for one in self.each))

    @property
    def said(self) -> str:
        """Whose word it is."""
        return f"released by {len(self.each)} hospitals, with noise of {self.deviation:.2g} in the mean"


def signed_prior(record: Mapping[str, Any], signer: Identity) -> dict[str, Any]:
    """A record with its signature, JSON-able. Under one _CONTEXT what is signed may never change."""
    return {
        "record": dict(record),
        "signer": base64.b64encode(signer.public.to_bytes()).decode(),
        "signature": signer.sign(rfc8785.dumps(dict(record)), _CONTEXT).hex(),
    }


def write_priors(path: Path, signed: Sequence[Mapping[str, Any]]) -> None:
    """Write what `signed_prior` made of each hospital. Raises StorageError."""
    write_json(path, {"format": FORMAT, "priors": list(signed)})


def read_priors(folder: Path, experts: Experts, trusted: Collection[bytes] | None = None) -> Priors | None:
    """The priors of a run's `experts` folder, None where none was released. `trusted`: as in read_signed.

    Raises StorageError where one is not signed as it stands, of another run than the experts or of a hospital's other
    keys, and for a file that is none.
    """
    found: dict[str, Prior] = {}
    for path in sorted(path for path in folder.glob(f"*{PRIORS}") if not path.name.startswith(".")):
        for prior in _read(path, trusted):
            _check(path, prior, experts, found)
            found[prior.signer.name] = prior
    return Priors(tuple(found[name] for name in sorted(found))) if found else None


def _read(path: Path, trusted: Collection[bytes] | None) -> list[Prior]:
    data = bounded_bytes(path, _MOST_BYTES)
    try:
        told = json.loads(data)
        if told["format"] != FORMAT or not 1 <= len(told["priors"]) <= _MOST:
            raise ValueError("another format")
        return [_verified(path, entry, trusted) for entry in told["priors"]]
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error):
        raise StorageError(f"{path}: not a file of priors that securepfl released; restore it from a copy") from None


def _verified(path: Path, entry: Mapping[str, Any], trusted: Collection[bytes] | None) -> Prior:
    try:
        signer = PublicIdentity.from_bytes(base64.b64decode(entry["signer"], validate=True))
        signature = bytes.fromhex(entry["signature"])
        if len(signature) != SIGNATURE_BYTES:
            raise MessageError("no signature")
        signer.verify(signature, rfc8785.dumps(entry["record"]), _CONTEXT)
    except (MessageError, ValueError, binascii.Error):
        raise StorageError(
            f"{path}: a signature does not hold, so a prior was changed since its hospital released it, and none was "
            "used; ask for the file again, or remove it"
        ) from None
    if trusted is not None and signer.to_bytes() not in trusted:
        raise StorageError(f"{path}: a prior is signed by keys that are none of the given identities; remove the file")
    return Prior.of(entry["record"], signer)


def _check(path: Path, prior: Prior, experts: Experts, found: Mapping[str, Prior]) -> None:
    name, record = prior.signer.name, prior.record
    runs = {its["federation"] for its in experts.records.values()}
    if record.get("expert") != "prior" or record.get("site") != name or name in found:
        raise StorageError(f"{path}: a prior of {record.get('site')!r}, signed by {name!r}; remove the file")
    if record.get("federation") not in runs:
        raise StorageError(f"{path}: a prior of another run than the experts; keep one run's files in the folder")
    if not same_keys(prior.signer, experts.signers.values()):
        raise StorageError(f"{path}: signed by other keys of {name!r} than its expert; ask it which are its own")
    outputs = 1 if experts.task.name in ("binary", "segmentation") else experts.task.outputs
    if len(prior.shares) != outputs:
        raise StorageError(f"{path}: {len(prior.shares)} shares of {name}, and the task has {outputs}; remove the file")


def _is_classes(each: Sequence[Prior]) -> bool:
    return all(one.record.get("task") == "multiclass" for one in each)
