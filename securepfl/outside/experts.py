"""Released experts: models that left their hospitals, each with its audit record, signed, and its inputs' ranges.

| file of a run's `experts` | what |
|---|---|
| SITE.safetensors | a hospital's own model |
| SITE.finetuned.safetensors | the shared model after a few more steps on that hospital's patients |
| cluster-K.safetensors | shared parameters with the mean personal ones of at least three hospitals alike |
| shared.safetensors | shared parameters with all hospitals' mean personal ones |
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import torch
from torch import nn

from securepfl.crypto.keys.identity import Identity, PublicIdentity
from securepfl.data.declared import Declared, spec_of
from securepfl.data.images.spec import MOST_PIXELS
from securepfl.data.prevalence import in_order
from securepfl.errors import ConfigError, ExtraError, StorageError
from securepfl.learning.personal.adapters import folded
from securepfl.learning.personal.graph import LEAST_NEIGHBOURS
from securepfl.outside.audit_record import check_record
from securepfl.outside.signed_file import SignedFile, read_signed, write_signed
from securepfl.settings.binding import blank_model, built_in
from securepfl.settings.tables import ModelSettings
from securepfl.storage.folder import write_arrays
from securepfl.tasks.registry import task_named
from securepfl.tasks.task import OperatingPoint, Task

SHARED: Final = "shared"
"""The name of the expert made of the shared parameters and the hospitals' average personal ones."""
CLUSTER: Final = "cluster"
FINETUNED: Final = "finetuned"
FORMAT: Final = 2
"""Of an expert's JSON. 1 had no signature."""
MOST_EXPERTS: Final = 4096
_CLUSTER_NAME: Final = re.compile(rf"{CLUSTER}-[1-9][0-9]{{0,3}}")
_WIDE: Final = ("unet", "cnn")


@dataclass(frozen=True)
class Experts:
    """Models of one architecture by name, how their inputs were scaled, and what their outputs mean.

    `records` are their audit records, `signers` whose keys signed them, each by the model's name.
    """

    models: Mapping[str, nn.Module]
    spec: Declared
    task: Task
    records: Mapping[str, Mapping[str, Any]]
    signers: Mapping[str, PublicIdentity] = field(default_factory=dict)

    @property
    def point(self) -> OperatingPoint:
        """Where probabilities become decisions: the declared threshold, else the declared prevalence; else empty."""
        spec, options = self.spec, self.spec.label_options
        if spec.threshold is not None or spec.prevalence is None or self.task.name == "segmentation":
            return () if spec.threshold is None else (spec.threshold,)
        return in_order(spec.prevalence, self.task.name, tuple(options.get("classes") or options.get("labels") or ()))


def expert_name(record: Mapping[str, Any]) -> str:
    """What an expert is called, and its file without the ending, after its audit record.

    >>> expert_name({"expert": "finetuned", "site": "north"})
    'north.finetuned'
    """
    kind, site = record["expert"], record["site"]
    names = {SHARED: SHARED, FINETUNED: f"{site}.{FINETUNED}", CLUSTER: f"{CLUSTER}-{record.get('number')}"}
    return names.get(kind, str(site))


def write_expert(
    path: Path,
    model: nn.Module,
    record: Mapping[str, Any],
    settings: ModelSettings,
    spec: Declared,
    signer: Identity,
) -> None:
    """Write one expert as safetensors: parameters, audit record, architecture, declared ranges; signed by `signer`.

    Raises StorageError.
    """
    write_signed(path, *_parts(model, record, settings, spec), signer)


def write_unreleased(
    path: Path, model: nn.Module, record: Mapping[str, Any], settings: ModelSettings, spec: Declared
) -> None:
    """The same for a model that stays in its hospital: unsigned, so that no other takes it for a released one."""
    write_arrays(path, *_parts(model, record, settings, spec))


def read_experts(folder: Path, trusted: Collection[bytes] | None = None) -> Experts:
    """Read all experts of a run's `experts` folder. `trusted`: as in read_signed.

    An expert is decoded only once its signature holds. Raises StorageError where there are none, one is not signed
    or was changed, they are of different runs, networks or ranges, of a run with shared noise, or hold NaN.
    """
    paths = sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("."))
    if not paths:
        raise StorageError(_none_in(folder))
    if len(paths) > MOST_EXPERTS:
        raise StorageError(f"{folder}: holds {len(paths)} experts, and at most {MOST_EXPERTS} are read; keep fewer")
    models, records, signers = dict[str, nn.Module](), dict[str, Mapping[str, Any]](), dict[str, PublicIdentity]()
    first: SignedFile | None = None
    for path in paths:
        found = read_signed(path, trusted)
        try:
            record = _checked(path, found)
            first = first or found
            _check_same_run(path, found, paths[0], first)
            _check_signers(path, found.signer, signers.values())
            name = path.stem
            models[name], records[name], signers[name] = _model(found), record, found.signer
        except ExtraError:
            raise  # nothing is wrong with the file
        except (AttributeError, KeyError, TypeError, RuntimeError, ValueError, ConfigError):
            raise StorageError(f"{path}: not an expert that securepfl released; restore it from a copy") from None
    meta = {} if first is None else first.meta
    spec, settings = _spec_of(meta, str(paths[0])), _settings_of(meta)
    return Experts(models, spec, task_named(settings.task, **spec.label_options), records, signers)


def _none_in(folder: Path) -> str:
    run = folder.parent
    if not run.is_dir() or not ((run / "result.json").exists() or (run / "sites").is_dir() or folder.is_dir()):
        return f"{run}: is no run's folder; name one that `securepfl run` wrote"
    return f"{folder}: holds no released expert; run without --seed and with [release] experts = true"


def _parts(
    model: nn.Module, record: Mapping[str, Any], settings: ModelSettings, spec: Declared
) -> tuple[dict[str, Any], dict[str, Any]]:
    arrays = {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}
    # Where the file of a start lies is the hospital's business; what it held is in the parameters.
    plain = msgspec.to_builtins(settings.without_start())
    return arrays, {"format": FORMAT, "record": dict(record), "model": plain, "data": spec.to_mapping()}


def _checked(path: Path, found: SignedFile) -> Mapping[str, Any]:
    """The audit record of an expert that may be used. Raises StorageError, and what a meta of another form raises."""
    meta = found.meta
    record: Mapping[str, Any] = meta["record"]
    if meta["format"] != FORMAT:
        raise StorageError(f"{path}: format {meta['format']}, and this securepfl reads {FORMAT}; upgrade it")
    check_record(record)
    if math.prod(meta["data"].get("size", ())) > MOST_PIXELS:
        raise StorageError(
            f"{path}: declares images of more than {MOST_PIXELS:,} pixels, which are not routed; remove it, and ask "
            "for a run on smaller ones"
        )
    if record["noise"] not in ("local", "none"):
        raise StorageError(
            f"{path}: of a run with shared noise, whose epsilon holds for all hospitals' sum and not for one model; "
            "remove it, and ask for a run without [shared_noise]"
        )
    named = _CLUSTER_NAME.fullmatch(path.stem) is not None if record["expert"] == CLUSTER else True
    if not named or expert_name(record) != path.stem:
        raise StorageError(f"{path}: its record names {expert_name(record)!r}; give the file back that name")
    if record["expert"] == CLUSTER and len(set(record["hospitals"])) < LEAST_NEIGHBOURS:
        raise StorageError(f"{path}: a mean over fewer than {LEAST_NEIGHBOURS} hospitals; remove it")
    if record["expert"] not in (SHARED, CLUSTER) and found.signer.name != record["site"]:
        raise StorageError(f"{path}: of {record['site']!r}, signed by {found.signer.name!r}; remove it")
    return record


def _check_same_run(path: Path, found: SignedFile, first_path: Path, first: SignedFile) -> None:
    meta, other = found.meta, first.meta
    if meta["model"] != other["model"]:
        raise StorageError(f"{path}: another network than {first_path.name}'s (they differ); keep one run's experts")
    if meta["data"] != other["data"]:
        raise StorageError(f"{path}: ranges or images differ from {first_path.name}'s; keep one run's experts")
    if meta["record"]["federation"] != other["record"]["federation"]:
        raise StorageError(f"{path}: of another run than {first_path.name}; keep one run's experts in the folder")


def same_keys(signer: PublicIdentity, others: Collection[PublicIdentity]) -> bool:
    """Whether none of `others` has this signer's name and other keys."""
    return all(other.name != signer.name or other == signer for other in others)


def _check_signers(path: Path, signer: PublicIdentity, others: Collection[PublicIdentity]) -> None:
    if not same_keys(signer, others):
        raise StorageError(f"{path}: signed by other keys of {signer.name!r} than before; ask it which are its own")


def _settings_of(meta: Mapping[str, Any]) -> ModelSettings:
    try:
        settings = msgspec.convert(meta["model"], type=ModelSettings)
    except msgspec.ValidationError as error:
        if meta["model"].get("plugins"):  # nothing is wrong with the file
            raise ExtraError(f"the experts need a plug-in: {error}") from None
        raise
    if settings != settings.without_start():
        # Nobody who signs a file has the say over which of the reader's own files are opened.
        raise ValueError("the file of a start")
    return settings


def _spec_of(meta: Mapping[str, Any], where: str) -> Declared:
    return spec_of(meta["data"], where)


def _model(found: SignedFile) -> nn.Module:
    arrays, settings = found.arrays, _settings_of(found.meta)
    if settings.kind == "own":
        raise StorageError("the experts are of the pipeline's own model; route them with securepfl.RoutedModel")
    # Before a model is made: a small file must not ask for a large one, nor numbers that no training leaves.
    most = sum(array.size for array in arrays.values())
    flat = settings.kind == "logistic" or (settings.plugged_in and settings.hidden == ModelSettings().hidden)
    if not flat and settings.hidden ** (1 + (settings.kind in _WIDE)) > most:
        raise ValueError("more hidden units than numbers")
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ValueError("NaN or infinity among the parameters")
    model = blank_model(built_in(settings, _spec_of(found.meta, "expert")), settings)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    # Whole layers are mixed: a correction apart from its layer would meet another expert's.
    return folded(model).eval()
