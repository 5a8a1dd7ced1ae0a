"""The settings that all parties of a federation share: frozen, validated, read from TOML.

Every party computes `Federation.digest` over all of them; a message made under other settings is refused.
"""

import hashlib
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import msgspec
import rfc8785
import torch
from torch import nn

from securepfl.crypto.sums.parameters import MAX_BITS, top_level
from securepfl.data.schema import DataSpec
from securepfl.errors import ConfigError, ModelError
from securepfl.learning.personal.adapters import with_adapters
from securepfl.learning.personal.partition import Partition, personal_names
from securepfl.learning.personal.trajectory import check_patterns
from securepfl.learning.sparse.support import most_coordinates
from securepfl.privacy.training.shared_noise import SharedNoise, plan_shared_noise
from securepfl.settings.tables import (
    CouplingSettings,
    EncryptionSettings,
    ModelSettings,
    PrivacySettings,
    ReleaseSettings,
    Settings,
    SimilaritySettings,
    SiteSettings,
    SparsitySettings,
    TrainingSettings,
    TrajectorySettings,
    require,
)

__all__ = ["Federation", "ModelSettings", "ModelShape", "SiteSettings", "check_roster", "initial_model"]


class ModelShape(Settings, frozen=True):
    """What every party must agree on about the model: sizes, a hash of names, shapes and shared start, and each
    hospital's share of shared noise.
    """

    shared: int
    personal: int
    digest: str
    noise: SharedNoise | None = None


class Federation(Settings, frozen=True):
    """All shared settings. Read them with `Federation.read`, fix them to parties with `bound`.

    Raises ConfigError (from the readers) for a value out of range, an unknown key, too few hospitals.
    """

    name: str = "federation"
    rounds: int = 20
    minimum: int = 3
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    privacy: PrivacySettings = PrivacySettings()
    sparsity: SparsitySettings = SparsitySettings()
    encryption: EncryptionSettings = EncryptionSettings()
    similarity: SimilaritySettings = SimilaritySettings()
    coupling: CouplingSettings = CouplingSettings()
    trajectory: TrajectorySettings = TrajectorySettings()
    release: ReleaseSettings = ReleaseSettings()
    sites: dict[str, SiteSettings] = msgspec.field(default_factory=dict)
    data: dict[str, Any] | None = None
    shape: ModelShape | None = None

    def __post_init__(self) -> None:
        require(self.rounds >= 1, f"rounds = {self.rounds}: must be at least 1")
        require(self.minimum >= 2, f"minimum = {self.minimum}: a sum needs at least 2 hospitals")
        require(
            not self.coupling.on or self.similarity.every > 0,
            f"[coupling] {self.coupling.switch} is above 0 and needs similarity: set [similarity] every",
        )
        if self.coupling.kind == "lasso":
            compared = self.similarity.of == "personal" and self.similarity.every == 1
            require(
                compared or not self.coupling.on,
                'kind = "lasso" needs the distances of personal parameters in every round: set [similarity] every = 1 '
                'and of = "personal"',
            )
            require(
                self.privacy.epsilon >= 1e3 or not self.coupling.momentum,
                "momentum amplifies noise, and the gate does not count that: below epsilon 1,000 set [coupling] "
                "momentum = false",
            )
        if self.shares_noise:
            self._require_shared_noise_fits()
        require(
            not (self.masked and self.similarity.every > 0) or self.similarity.beside_masks,
            'masking = "pairwise" with similarity: sketches would show what masks hide to a coordinator that has a '
            "hospital's keys; set [similarity] every = 0, or beside_masks = true to accept that",
        )

    def _require_shared_noise_fits(self) -> None:
        """A hospital's own update carries a fraction of the noise, so only the masked sum may be seen or used."""
        noise = '[privacy] noise = "shared"'
        require(self.masked, f'{noise} needs masks: set [encryption] masking = "pairwise"')
        require(
            not self.coupling.on and self.similarity.every == 0,
            f"{noise}: similarity and coupling read one hospital's update; set [similarity] every = 0 and [coupling] "
            "strength and penalty = 0",
        )
        require(self.trains_support, f'{noise}: the noise is on what is sent; set [sparsity] kind = "support"')
        require(not self.release.experts, f"{noise}: no expert can be released at this epsilon; set experts = false")
        require(self.training.steps == 1, f"{noise}: every step is a sum of all hospitals; set [training] steps = 1")
        weighted = any(site.weight != 1 for site in self.sites.values())
        require(not weighted, f"{noise}: sums are over units, and weights do not apply; remove [sites] weight")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a TOML file. Raises ConfigError naming the file and the key."""
        try:
            mapping = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror}); name an existing TOML file") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not valid TOML ({error}); mend that line") from None
        return cls.from_mapping(mapping, where=str(path))

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], where: str = "federation") -> Self:
        """Build from nested mappings named like the TOML tables. Raises ConfigError naming `where` and the key."""
        if "shape" in mapping:
            raise ConfigError(f"{where}: key `shape` is computed from the model, not declared; remove it")
        try:
            federation = msgspec.convert(mapping, type=cls)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{where}: {_readable(str(error))}") from None
        if federation.data is None:
            return federation
        # In full, so that a default spelled out and one left out give the same digest.
        spec = DataSpec.from_mapping(federation.data, where=where)
        return msgspec.structs.replace(federation, data=spec.to_mapping())

    def replace(self, **changes: Any) -> Self:
        """A checked copy with some settings changed. Raises ConfigError where a value is out of range."""
        try:
            return msgspec.structs.replace(self, **changes)
        except ValueError as error:
            raise ConfigError(str(error)) from None

    def changed(self, table: str, **changes: Any) -> Self:
        """A checked copy with some settings of one table changed. Raises ConfigError where one is out of range."""
        try:
            return self.replace(**{table: msgspec.structs.replace(getattr(self, table), **changes)})
        except ValueError as error:
            raise ConfigError(f"[{table}] {error}") from None

    def bound(
        self,
        sites: Iterable[str],
        build_model: Callable[[], nn.Module],
        personal: Callable[[str, nn.Parameter], bool] | None = None,
    ) -> Self:
        """Fix the roster and the model: what parties compare before the first round.

        `sites` are all hospitals' names. `[sites.NAME]` of an absent hospital is an error. `personal` (name, parameter)
        picks the personal parameters in place of `[model] personal`, where their exact names then stand: keys must be
        made for those settings. Raises ConfigError or ModelError where settings don't fit the hospitals or the model.
        """
        names = sorted(sites)
        for name in self.sites:
            if name not in names:
                raise ConfigError(f"[sites.{name}]: no such hospital among {', '.join(names)}; mend the name")
        check_roster(names, self.minimum)
        model = initial_model(build_model, self.model)
        if personal is not None:
            return self.changed("model", personal=personal_names(model, personal)).bound(sites, build_model)
        partition = Partition.of(model, self.model.personal)
        if partition.shared_size == 0:
            raise ConfigError("[model] personal: matches every parameter, so nothing is shared; narrow the patterns")
        if partition.personal_size == 0:
            self._check_nothing_personal_is_used()
        check_patterns(partition, self.trajectory.layers)
        shape = ModelShape(
            shared=partition.shared_size,
            personal=partition.personal_size,
            digest=_model_digest(model, partition),
        )
        roster = {name: self.sites.get(name, SiteSettings()) for name in names}
        bound = msgspec.structs.replace(self, sites=roster, shape=shape)
        noise = bound._planned_noise(shape.shared) if self.shares_noise else None
        return msgspec.structs.replace(bound, shape=msgspec.structs.replace(shape, noise=noise))

    def _check_nothing_personal_is_used(self) -> None:
        """Raise ConfigError where personal parameters are to be coupled or compared: there are none."""
        if self.coupling.on:
            raise ConfigError(
                f"[coupling] {self.coupling.switch}: no parameter is personal, so there is nothing to couple; set it "
                "to 0, or name parameters in [model] personal"
            )
        if self.similarity.every > 0 and self.similarity.of == "personal":
            raise ConfigError(
                '[similarity] of = "personal": no parameter is personal, so there is nothing to compare; set of = '
                '"updates", or name parameters in [model] personal'
            )

    def _planned_noise(self, shared_size: int) -> SharedNoise:
        """Each hospital's share of the noise. Fixed here, so that no two hospitals compute different ones."""
        privacy, hospitals = self.privacy, len(self.roster)
        absent = privacy.colluders + privacy.dropouts
        if 3 * privacy.colluders >= hospitals:
            raise ConfigError(
                f"[privacy] colluders = {privacy.colluders}: must be fewer than a third of {hospitals} hospitals; at "
                f"most {(hospitals - 1) // 3}"
            )
        if hospitals - absent < self.minimum:
            raise ConfigError(
                f"[privacy] dropouts = {privacy.dropouts}: with colluders = {privacy.colluders} that leaves "
                f"{hospitals - absent} of {hospitals} hospitals, and {self.minimum} must be left; at most "
                f"{max(0, hospitals - privacy.colluders - self.minimum)}"
            )
        return plan_shared_noise(
            epsilon=privacy.epsilon,
            delta=privacy.delta,
            steps=self.rounds,
            hospitals=hospitals,
            absent=absent,
            dimension=most_coordinates(shared_size, self.sparsity.density, self.sparsity.block),
            units=privacy.normaliser or 1,
            limit=top_level(MAX_BITS) // 2,
        )

    @property
    def roster(self) -> tuple[str, ...]:
        """The hospitals' names, sorted; a hospital's index here is its index in sums."""
        return tuple(sorted(self.sites))

    @property
    def digest(self) -> bytes:
        """SHA-256 over all settings as canonical JSON (RFC 8785). 32 bytes.

        Budgets are left out: each hospital keeps its own to itself.
        """
        plain = msgspec.to_builtins(self)
        plain["privacy"].pop("budget")
        for site in plain["sites"].values():
            site.pop("budget")
        return hashlib.sha256(rfc8785.dumps(plain)).digest()

    @property
    def data_spec(self) -> DataSpec | None:
        """What `[data]` declares about the tables, or None."""
        return None if self.data is None else DataSpec.from_mapping(self.data, where="federation")

    @property
    def masked(self) -> bool:
        """Whether updates are masked against collusion."""
        return self.encryption.masking == "pairwise"

    @property
    def shares_noise(self) -> bool:
        """Whether each sum is protected by all hospitals' noise together, and no update by its own."""
        return self.privacy.noise == "shared"

    @property
    def least_in_sum(self) -> int:
        """The fewest hospitals that a sum may be over: with shared noise, as many as the accounting counts on."""
        return max(self.minimum, len(self.roster) - self.privacy.dropouts) if self.shares_noise else self.minimum

    @property
    def encrypted(self) -> bool:
        """Whether sums are encrypted; False only under `--plaintext`."""
        return self.encryption.scheme == "bfv"

    @property
    def ceremony_digest(self) -> bytes:
        """What the key ceremony is bound to: the settings and the roster, without the model's shape. 32 bytes."""
        return self.replace(shape=None).digest

    def session_digest(self, key_commitment: bytes) -> bytes:
        """What messages, tags, masks and pads are bound to: these settings under one federation key. 32 bytes.

        `key_commitment` (FederationKey.commitment, 32 bytes) fixes the key and its epoch, and is public.
        """
        return hashlib.sha256(b"securepfl session 1" + self.digest + key_commitment).digest()

    def without_budgets(self) -> Self:
        """A copy for the coordinator: budgets are each hospital's own business. The digest is the same."""
        sites = {name: msgspec.structs.replace(site, budget=None) for name, site in self.sites.items()}
        return msgspec.structs.replace(self, sites=sites, privacy=msgspec.structs.replace(self.privacy, budget=None))

    @property
    def trains_support(self) -> bool:
        """Whether a round trains only the coordinates that it sends: so does "auto", which measured best."""
        return self.sparsity.kind in ("auto", "support")

    def similarity_due(self, round_: int) -> bool:
        """Whether sketches travel in `round_`: every few rounds; not in the first, in which no hospital knows others'
        nonces yet, nor in the last, after which no round could use them.
        """
        every = self.similarity.every
        return every > 0 and round_ % every == 0 and 1 < round_ < self.rounds

    @property
    def most_edge_weight(self) -> int:
        """The largest integer weight of a hospital in another's neighbourhood sum."""
        return 2**self.coupling.weight_bits - 1 if self.coupling.kind == "lasso" and self.coupling.on else 1

    def coupling_due(self, round_: int) -> bool:
        """Whether personal components travel in `round_` for neighbourhood sums: once similarities are known."""
        return self.coupling.on and round_ > max(self.similarity.every, 2)

    @property
    def coupling_rounds(self) -> tuple[int, ...]:
        """The rounds in which hospitals can be drawn to neighbours. Empty where no round compares them first."""
        rounds = range(1, self.rounds + 1)
        return tuple(round_ for round_ in rounds if self.coupling_due(round_) and not self.average_due(round_))

    def average_due(self, round_: int) -> bool:
        """Whether the average of all personal components is formed in `round_`, for the shared model: in the last, or,
        where these are coupled, in the one before, so that the last ends with the neighbourhood's.
        """
        return round_ == (self.rounds - 1 if self.coupling_due(self.rounds) else self.rounds)

    def personal_due(self, round_: int) -> bool:
        """Whether personal components travel in `round_`, for neighbourhood sums or for the average over all."""
        return self.coupling_due(round_) or self.average_due(round_)

    def budget_of(self, site: str) -> float:
        """The most epsilon that `site` may ever spend on its data, at this federation's delta."""
        own = self.sites[site].budget
        return next(value for value in (own, self.privacy.budget, self.privacy.epsilon) if value is not None)

    def budget_is_explicit(self, site: str) -> bool:
        """Whether somebody declared a budget for `site`, rather than leaving it at this run's epsilon."""
        return self.sites[site].budget is not None or self.privacy.budget is not None

    def weight_share(self, site: str) -> float:
        """The declared weight of `site` over the largest one: in (0, 1]."""
        return self.sites[site].weight / max(settings.weight for settings in self.sites.values())


def check_roster(names: list[str], minimum: int) -> None:
    """Raise ConfigError for too few hospitals or names that cannot be file names."""
    if len(names) < minimum:
        raise ConfigError(
            f"{len(names)} hospital(s) found, but a sum needs {minimum}: add hospitals to the data; with two, each "
            "would read off the other's update, unless you set minimum = 2 to accept that"
        )
    for name in names:
        if name == "shared":
            raise ConfigError("hospital name 'shared': taken by the model that all hospitals share; rename the site")
        printable = name.isprintable() and name == name.strip()
        if not name or not printable or name.startswith(".") or set(name) & set('/\\:"'):
            raise ConfigError(f"hospital name {name!r}: cannot be a file name; rename the site")


def initial_model(build_model: Callable[[], nn.Module], settings: ModelSettings) -> nn.Module:
    """The model at its public start, with its adapters, the same at every hospital; torch's generators are left as they
    were.
    """
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(settings.seed)
        model = build_model()
    if not isinstance(model, nn.Module):
        raise ModelError(f"build_model gave a {type(model).__name__}: return the torch module itself")
    return model if settings.adapters is None else with_adapters(model, settings.adapters)


def _model_digest(model: nn.Module, partition: Partition) -> str:
    """Of names, shapes, what is personal, and every number that hospitals must start from alike, buffers included."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    shapes = {name: [str(tensor.dtype), *tensor.shape] for name, tensor in tensors.items()}
    digest = hashlib.sha256(rfc8785.dumps({"shapes": shapes, "personal": list(partition.personal)}))
    for name in sorted(tensors):
        digest.update(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


_CHOICES = {
    "trajectory.of": "local and mixture",
    "sparsity.kind": "auto, support, select, soft and difference",
    "similarity.of": "updates and personal",
    "coupling.kind": "unit and lasso",
    "coupling.graph": "knn, threshold and complete",
    "model.kind": "mlp, logistic and own",
    "model.personal": "auto, intercept, head and adapters; patterns stand in a list",
    "encryption.scheme": "bfv and none",
    "encryption.masking": "none and pairwise",
    "privacy.unit": "record and patient",
    "privacy.noise": "local and shared",
}


def _readable(message: str) -> str:
    """msgspec's words in ours: the key's place first, as it stands in the TOML."""
    text, _, place = message.partition(" - at `$")
    key = place.rstrip("`").lstrip(".")
    if text.startswith("Object contains unknown field"):
        field = text.split("`")[1]
        return f"unknown key `{field}` in {f'[{key}]' if key else 'the top level'}; remove it or mend its spelling"
    if text.startswith("Invalid enum value"):
        text += f"; known are {_CHOICES.get(key, 'those in docs/configuration.md')}"
    if text.startswith("Expected"):
        text += "; mend its type (numbers stand without quotes)"
    return f"[{key}] {text}" if key else text
