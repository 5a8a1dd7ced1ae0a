"""Settings fixed to hospitals and a model: the only module of settings that knows torch."""

import hashlib
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import rfc8785
import torch
from torch import nn

from securepfl.crypto.sums.parameters import MAX_BITS, top_level
from securepfl.data.declared import Declared
from securepfl.data.images.spec import ImageSpec
from securepfl.data.schema import DataSpec
from securepfl.errors import ConfigError, ExtraError, ModelError
from securepfl.learning.personal.adapters import with_adapters
from securepfl.learning.personal.freezing import freeze
from securepfl.learning.personal.partition import Partition, personal_names, unmatched
from securepfl.learning.personal.start import set_start
from securepfl.learning.sparse.support import most_coordinates
from securepfl.plugins import plugin_named
from securepfl.privacy.training.noise_plan import plan_shared_noise
from securepfl.privacy.training.shared_noise import SharedNoise
from securepfl.privacy.training.validation import check_sizes
from securepfl.settings.auto import chosen
from securepfl.settings.evaluation import histogram_of
from securepfl.settings.federation import Federation, ModelShape
from securepfl.settings.fixed import MODEL_SEED
from securepfl.settings.prevalence import start_of
from securepfl.settings.roster import check_declared, check_roster
from securepfl.settings.tables import ModelSettings, SharedNoiseSettings, SiteSettings
from securepfl.tasks.models import build_model
from securepfl.tasks.networks import build_network
from securepfl.tasks.registry import task_named
from securepfl.tasks.starts import fill


def bind(
    federation: Federation,
    sites: Iterable[str],
    build_model: Callable[[], nn.Module],
    personal: Callable[[str, nn.Parameter], bool] | None = None,
) -> Federation:
    """What `Federation.bound` promises."""
    names = sorted(sites)
    check_roster(names, federation.minimum)
    for name in federation.sites:
        if name not in names:
            raise ConfigError(f"[sites.{name}]: no such hospital among {', '.join(names)}; mend the name")
    roster = {name: federation.sites.get(name, SiteSettings()) for name in names}
    unknown = [] if federation.data is None else [name for name in names if name not in federation.sites]
    check_declared(roster, federation.privacy.unit, unknown)
    federation = chosen(msgspec.structs.replace(federation, sites=roster))
    model = initial_model(build_model, federation)
    if personal is not None:
        return bind(federation.changed("model", personal=personal_names(model, personal)), names, build_model)
    partition = Partition.of(model, federation.model.personal)
    _check_alpha(federation, partition)
    if partition.shared_size == 0:
        raise ConfigError("[model] personal: matches every parameter, so nothing is shared; narrow the patterns")
    if partition.personal_size == 0:
        _check_nothing_personal_is_used(federation)
    shape = ModelShape(
        shared=partition.shared_size,
        personal=partition.personal_size,
        digest=_model_digest(model, partition),
    )
    bound = msgspec.structs.replace(federation, shape=shape)
    shared = federation.shared_noise
    noise = None if shared is None else _planned_noise(bound, shared, shape.shared)
    return msgspec.structs.replace(bound, shape=msgspec.structs.replace(shape, noise=noise))


def _check_nothing_personal_is_used(federation: Federation) -> None:
    """Raise ConfigError where personal parameters are to be coupled: there are none."""
    if federation.lasso is not None:
        raise ConfigError(
            "[lasso] penalty: no parameter is personal, so there is nothing to couple; remove [lasso], or name "
            "parameters in [model] personal"
        )
    if federation.coupling.strength > 0:
        raise ConfigError(
            "[coupling] strength: no parameter is personal, so there is nothing to couple; set it to 0, or name "
            "parameters in [model] personal"
        )


def _check_alpha(federation: Federation, partition: Partition) -> None:
    """Raise ConfigError for a pattern of alpha that no parameter has."""
    names = partition.shared + partition.personal
    for pattern in federation.trajectory.patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(unmatched("[trajectory] alpha", pattern, names))


def _planned_noise(federation: Federation, shared: SharedNoiseSettings, shared_size: int) -> SharedNoise:
    """Each hospital's share of the noise. Fixed here, so that no two hospitals compute different ones."""
    hospitals = len(federation.roster)
    if 3 * shared.colluders >= hospitals:
        raise ConfigError(
            f"[shared_noise] colluders = {shared.colluders}: must be fewer than a third of {hospitals} hospitals; at "
            f"most {(hospitals - 1) // 3}"
        )
    if hospitals - shared.absent < federation.minimum:
        raise ConfigError(
            f"[shared_noise] dropouts = {shared.dropouts}: with colluders = {shared.colluders} that leaves "
            f"{hospitals - shared.absent} of {hospitals} hospitals, and {federation.minimum} must be left; at most "
            f"{max(0, hospitals - shared.colluders - federation.minimum)}"
        )
    return plan_shared_noise(
        epsilon=federation.privacy.epsilon,
        delta=federation.privacy.delta,
        steps=federation.run_steps,
        hospitals=hospitals,
        absent=shared.absent,
        dimension=max(
            most_coordinates(shared_size, federation.sparsity.density, federation.sparsity.block),
            histogram_of(federation).size if federation.release.metrics else 0,
        ),
        units=federation.all_units,
        limit=top_level(MAX_BITS) // 2,
    )


def built_in(settings: ModelSettings, spec: Declared) -> Callable[[], nn.Module]:
    """What builds the model that `[model]` names, for the features and the labels that `[data]` declares.

    Raises ConfigError for a model of the pipeline's own, one of images for tables or the reverse.
    """
    task = task_named(settings.task, **spec.label_options)
    match settings.kind:
        case "mlp" | "logistic" as kind if isinstance(spec, DataSpec):
            return partial(build_model, kind, len(spec.feature_names), settings.hidden, outputs=task.outputs)
        case "unet" | "cnn" as network if isinstance(spec, ImageSpec):
            return partial(build_network, network, spec.channels, settings.hidden, outputs=task.outputs)
        case kind if settings.plugged_in:
            return partial(_plugged_in, kind, _inputs(spec), settings.hidden, task.outputs)
        case "own":
            raise ConfigError('[model] kind = "own": the model is the pipeline\'s; run it there (docs/embedding.md)')
    known = '"unet" or "cnn"' if isinstance(spec, ImageSpec) else '"mlp" or "logistic"'
    raise ConfigError(f'[model] kind = "{settings.kind}" is not for what [data] declares; set {known}')


def _inputs(spec: Declared) -> int:
    """Features of a table, channels of an image."""
    return spec.channels if isinstance(spec, ImageSpec) else len(spec.feature_names)


def _plugged_in(kind: str, inputs: int, hidden: int, outputs: int) -> nn.Module:
    """A plug-in's model. Torch's generator is at a public seed meanwhile, so that all hospitals start alike; that they
    do is compared by the model's digest. Raises ConfigError where it is not installed, fails, or builds something else.
    """
    plugin = plugin_named("securepfl.models", kind)
    if plugin is None:
        raise ExtraError(f'[model] kind = "{kind}": no plug-in of that name is installed; install what plugins pins')
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(MODEL_SEED)
        model = plugin.call(inputs, hidden=hidden, outputs=outputs)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{plugin}: builds {type(model).__name__}, and no torch.nn.Module")
    return model


def initial_model(
    build_model: Callable[[], nn.Module], federation: Federation, site: str | None = None, *, alone: bool = False
) -> nn.Module:
    """The model at its public start, with its adapters; torch's generators are left as they were.

    Where a prevalence is declared, the output layer's bias starts at its log-odds: that over all hospitals, the same at
    every hospital, or halfway to that at `site` (all the way where it trains `alone`). Raises ModelError where the
    model has no such bias.
    """
    return _started(build_model, federation.model, start_of(federation, site, alone=alone))


def blank_model(build_model: Callable[[], nn.Module], settings: ModelSettings) -> nn.Module:
    """The model with its adapters, whose parameters are to be filled."""
    return _started(build_model, settings, None)


def _started(
    build_model: Callable[[], nn.Module], settings: ModelSettings, start: tuple[float, ...] | None
) -> nn.Module:
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        # torch.manual_seed also notes the call, with the stack, for each kind of device that there is not.
        seed = torch.manual_seed if torch.accelerator.is_available() else torch.default_generator.manual_seed
        seed(MODEL_SEED)
        model = build_model()
    if not isinstance(model, nn.Module):
        raise ModelError(f"build_model gave a {type(model).__name__}: return the torch module itself")
    check_sizes(model)
    if settings.start is not None:
        fill(model, Path(settings.start))
    if start is not None:
        set_start(model, start)
    freeze(model, settings.trained)
    return model if settings.adapters is None else with_adapters(model, settings.adapters)


def _model_digest(model: nn.Module, partition: Partition) -> str:
    """Of names, shapes, what is personal and frozen, and every number that hospitals must start from alike: frozen
    parameters and buffers too.
    """
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    shapes = {name: [str(tensor.dtype), *tensor.shape] for name, tensor in tensors.items()}
    told: dict[str, Any] = {"shapes": shapes, "personal": list(partition.personal)}
    if partition.frozen:
        told["frozen"] = list(partition.frozen)
    digest = hashlib.sha256(rfc8785.dumps(told))
    for name in sorted(tensors):
        digest.update(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
