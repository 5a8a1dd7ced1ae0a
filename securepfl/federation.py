"""The settings that all parties of a federation share: frozen, validated, read from TOML.

Every party computes `Federation.digest` over all of them; a message made under other settings is refused.
"""

import hashlib
import math
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import msgspec
import rfc8785
import torch
from torch import nn

from securepfl.crypto.parameters import MAX_BITS, top_level
from securepfl.data.schema import DataSpec
from securepfl.errors import ConfigError, ModelError
from securepfl.learning.adapters import with_adapters
from securepfl.learning.default_partition import Rule
from securepfl.learning.partition import Partition, personal_names
from securepfl.learning.sparsity import most_coordinates
from securepfl.privacy.events import Unit
from securepfl.privacy.shared_noise import SharedNoise, plan_shared_noise

FULL_BATCH_UNITS = 2000
"""Up to this many training records a hospital takes the full batch: least noise, exact accounting."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of one TOML table: frozen, typed, no unknown keys."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _require_positive(settings: "Settings", *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        positive = value is None or (math.isfinite(value) and value > 0)
        _require(positive, f"{name} = {value}: must be positive and finite")
        _require(value is None or 1e-9 <= value <= 1e9, f"{name} = {value}: must be in [1e-9, 1e9]")


class ModelSettings(Settings, frozen=True):
    """`[model]`: the architecture and which parameters are personal.

    `kind` is "mlp" (Linear-ReLU-Linear, parameters body.* and head.*), "logistic" (parameters linear.*), or
    "own" where the pipeline brings its own torch module. `personal` are fnmatch patterns of parameter names, or a rule:
    the output layer's bias ("intercept"), all of it ("head"), the "adapters", or the smallest of these that the model
    has ("auto", default_partition.py). `adapters` gives every Linear and Conv layer a correction of that rank (0: a
    bias), which "auto" makes personal.
    """

    kind: Literal["mlp", "logistic", "own"] = "mlp"
    hidden: int = 8
    personal: tuple[str, ...] | Rule = "auto"
    adapters: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.hidden >= 1, f"hidden = {self.hidden}: must be at least 1")
        _require(self.adapters is None or self.adapters >= 0, f"adapters = {self.adapters}: a rank, 0 or more")
        _require(0 <= self.seed < 2**53, f"seed = {self.seed}: must be in [0, 2^53)")


class TrainingSettings(Settings, frozen=True):
    """`[training]`: local steps of a round, and SGD's learning rate on the mean clipped gradient."""

    steps: int = 1
    learning_rate: float = 1.0
    physical_batch: int = 256

    def __post_init__(self) -> None:
        _require(self.steps >= 1, f"steps = {self.steps}: must be at least 1")
        _require_positive(self, "learning_rate")
        _require(self.physical_batch >= 1, f"physical_batch = {self.physical_batch}: must be at least 1")


class PrivacySettings(Settings, frozen=True):
    """`[privacy]`: what each hospital spends on all rounds together, and the most it may ever spend.

    `epsilon` is the cost of the whole run at `delta` for zero-out adjacency; `budget` (default: epsilon) is
    the ceiling that a hospital's ledger enforces over all runs on its data. `unit` is what the clip bounds: one
    record, or all records of a patient together. `sample_rate` is the declared Poisson rate of hospitals with more
    than 2,000 training units; smaller ones take the full batch.

    `noise` = "shared": all hospitals' noise together protects each sum, always over full batches. Of the hospitals,
    `colluders` (at least 1: each knows its own share) may hand theirs to somebody and `dropouts` may be missing from a
    sum. `normaliser` is the declared number of training units of all hospitals together.
    """

    epsilon: float = 4.0
    delta: float = 1e-5
    clip: float = 1.0
    unit: Unit = "record"
    sample_rate: float = 0.1
    budget: float | None = None
    noise: Literal["local", "shared"] = "local"
    colluders: int = 1
    dropouts: int = 0
    normaliser: int | None = None

    def __post_init__(self) -> None:
        _require_positive(self, "epsilon", "clip", "budget")
        _require(0 < self.delta < 1, f"delta = {self.delta}: must be between 0 and 1 (try 1e-5)")
        _require(0 < self.sample_rate <= 1, f"sample_rate = {self.sample_rate}: must be in (0, 1]")
        _require(self.colluders >= 1, f"colluders = {self.colluders}: at least 1, every hospital knows its own noise")
        _require(self.dropouts >= 0, f"dropouts = {self.dropouts}: must be 0 or more")
        _require(self.normaliser is None or self.normaliser >= 1, f"normaliser = {self.normaliser}: must be at least 1")
        _require(
            self.noise == "local" or self.normaliser is not None,
            'noise = "shared" needs normaliser: declare how many training units all hospitals have together',
        )
        unused = self.normaliser is None and (self.colluders, self.dropouts) == (1, 0)
        _require(
            self.noise == "shared" or unused, 'normaliser, colluders and dropouts need noise = "shared"; remove them'
        )

    def rate_for(self, units: int) -> float:
        """The declared sample rate of a hospital with `units` training records or patients."""
        return 1.0 if units <= FULL_BATCH_UNITS or self.noise == "shared" else self.sample_rate


SparsityKind = Literal["auto", "support", "select", "soft", "difference"]


class SparsitySettings(Settings, frozen=True):
    """`[sparsity]`: the share of shared coordinates that a round sends, in blocks, and how they come about.

    `kind` = "support" trains only those; "select" trains all and sends those; "soft" and "difference" do as "select",
    after a soft threshold or the exact difference-sparse step of `strength`, in units of the update's root mean
    square. "auto" is "support", which measured best under privacy. `feedback` keeps what is not sent for later rounds.
    """

    density: float = 1.0
    block: int = 8
    exploration: float = 0.25
    kind: SparsityKind = "auto"
    strength: float = 1.0
    feedback: bool = True

    def __post_init__(self) -> None:
        _require_positive(self, "strength")
        _require(0 < self.density <= 1, f"density = {self.density}: must be in (0, 1]")
        _require(self.block >= 1, f"block = {self.block}: must be at least 1")
        _require(0 <= self.exploration <= 1, f"exploration = {self.exploration}: must be in [0, 1]")


class EncryptionSettings(Settings, frozen=True):
    """`[encryption]`: the scheme, and the grid on which values travel.

    Shared updates are clipped to +-`limit`, personal parameters to +-`personal_limit` around their start;
    what is clipped is counted, and stays in the error feedback of the update. `masking` = "pairwise" hides each
    update even from a coordinator that has some hospital's keys; each hospital shares masks with `mask_degree` others
    (default: 2 ceil(log2 n) + 2, or all).
    """

    scheme: Literal["bfv", "none"] = "bfv"
    bits: int = 10
    limit: float = 0.5
    personal_limit: float = 4.0
    masking: Literal["none", "pairwise"] = "none"
    mask_degree: int | None = None

    def __post_init__(self) -> None:
        _require(4 <= self.bits <= 16, f"bits = {self.bits}: must be 4 to 16")
        _require(self.mask_degree is None or self.mask_degree >= 2, f"mask_degree = {self.mask_degree}: at least 2")
        _require_positive(self, "limit", "personal_limit")


class SimilaritySettings(Settings, frozen=True):
    """`[similarity]`: an encrypted sketch travels every `every` rounds (0: never), from the second on.

    `of` is what is compared: each hospital's accumulated "updates", or its "personal" parameters less their start. The
    known noise is taken off; a hospital whose squared signal is then below `gate` times sqrt(d) s^2, for noise of
    variance s^2 on d coordinates, compares itself with nobody. `beside_masks` accepts that a coordinator with a
    hospital's keys learns from sketches what masks would hide from it.
    """

    every: int = 0
    dimensions: int = 4096
    of: Literal["updates", "personal"] = "updates"
    gate: float = 3.0
    beside_masks: bool = False

    def __post_init__(self) -> None:
        _require(self.every >= 0, f"every = {self.every}: must be 0 (never) or more")
        _require(2 <= self.dimensions <= 8192, f"dimensions = {self.dimensions}: must be 2 to 8192")
        _require(0.1 <= self.gate <= 1000, f"gate = {self.gate}: must be 0.1 to 1000")


class CouplingSettings(Settings, frozen=True):
    """`[coupling]`: how personal parameters are drawn to those of similar hospitals.

    `kind` = "unit" pulls them by `strength` (0 is off, at most 1) to the mean of the neighbourhood. "lasso" solves the
    network lasso, `penalty` ||z_i - z_j|| on every edge of the graph, with integer weights of `weight_bits`; `scale` is
    the declared typical distance of two hospitals, under which distances are floored (annealed), and `momentum` speeds
    it up where there is hardly any noise, which it amplifies. `graph`:
    the `neighbours` most similar hospitals, all that are at least `threshold` similar (a cosine), or all. The graph is
    kept for `hold` rounds.
    """

    kind: Literal["unit", "lasso"] = "unit"
    strength: float = 0.0
    penalty: float = 0.0
    weight_bits: int = 12
    scale: float = 1.0
    momentum: bool = False
    graph: Literal["knn", "threshold", "complete"] = "knn"
    neighbours: int = 3
    threshold: float = 0.5
    hold: int = 5

    def __post_init__(self) -> None:
        _require(0 <= self.strength <= 1, f"strength = {self.strength}: must be in [0, 1]")
        _require(0 <= self.penalty <= 1e9, f"penalty = {self.penalty}: must be 0 to 1e9")
        _require_positive(self, "scale")
        _require(4 <= self.weight_bits <= 12, f"weight_bits = {self.weight_bits}: must be 4 to 12")
        _require(self.neighbours >= 3, f"neighbours = {self.neighbours}: at least 3, or a sum shows too few")
        _require(-1 <= self.threshold <= 1, f"threshold = {self.threshold}: a cosine, must be in [-1, 1]")
        _require(self.hold >= 1, f"hold = {self.hold}: must be at least 1 round")
        unused = "strength" if self.kind == "lasso" else "penalty"
        _require(getattr(self, unused) == 0, f'{unused} has no place in kind = "{self.kind}"; remove it')
        _require(self.kind == "lasso" or not self.momentum, 'momentum has no place in kind = "unit"; remove it')

    @property
    def on(self) -> bool:
        """Whether personal parameters are coupled at all."""
        return self.strength > 0 or self.penalty > 0


class TrajectorySettings(Settings, frozen=True):
    """`[trajectory]`: alpha weighs history in the personal model's average over rounds, in [0, 1).

    `of`: that average is over the hospital's "local" models, as it trained them (inside personalisation), or over its
    "mixture" of shared and personal parameters at the end of each round, whose last step all hospitals' noise shared.
    `layers` gives other alphas to the parameters whose names match a pattern; the longest match counts.
    """

    alpha: float = 0.1
    of: Literal["local", "mixture"] = "local"
    layers: dict[str, float] = {}

    def __post_init__(self) -> None:
        for name, alpha in [("alpha", self.alpha), *self.layers.items()]:
            _require(0 <= alpha < 1, f"{name} = {alpha}: must be in [0, 1)")


class ReleaseSettings(Settings, frozen=True):
    """`[release]`: whether hospitals release their personal models as experts for hospitals outside."""

    experts: bool = False


class SiteSettings(Settings, frozen=True):
    """`[sites.NAME]`: a hospital's declared weight (a public constant, no sample count) and its budget."""

    weight: int = 1
    budget: float | None = None

    def __post_init__(self) -> None:
        _require(1 <= self.weight <= 1000, f"weight = {self.weight}: must be 1 to 1000")
        _require_positive(self, "budget")


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
    sites: dict[str, SiteSettings] = {}
    data: dict[str, Any] | None = None
    shape: ModelShape | None = None

    def __post_init__(self) -> None:
        _require(self.rounds >= 1, f"rounds = {self.rounds}: must be at least 1")
        _require(self.minimum >= 2, f"minimum = {self.minimum}: a sum needs at least 2 hospitals")
        _require(not self.coupling.on or self.similarity.every > 0, "coupling needs similarity: set [similarity] every")
        if self.coupling.kind == "lasso":
            compared = self.similarity.of == "personal" and self.similarity.every == 1
            _require(
                compared or not self.coupling.on,
                'kind = "lasso" needs the distances of personal parameters in every round: set [similarity] every = 1 '
                'and of = "personal"',
            )
            _require(
                self.privacy.epsilon >= 1e3 or not self.coupling.momentum,
                "momentum amplifies noise, and the gate does not count that; set [coupling] momentum = false",
            )
        if self.shares_noise:
            self._require_shared_noise_fits()
        _require(
            not (self.masked and self.similarity.every > 0) or self.similarity.beside_masks,
            'masking = "pairwise" with similarity: sketches would show what masks hide to a coordinator that has a '
            "hospital's keys; set [similarity] every = 0, or beside_masks = true to accept that",
        )

    def _require_shared_noise_fits(self) -> None:
        """A hospital's own update carries a fraction of the noise, so only the masked sum may be seen or used."""
        noise = '[privacy] noise = "shared"'
        _require(self.masked, f'{noise} needs masks: set [encryption] masking = "pairwise"')
        _require(
            not self.coupling.on and self.similarity.every == 0,
            f"{noise}: similarity and coupling read one hospital's update; set [similarity] every = 0 and [coupling] "
            "strength and penalty = 0",
        )
        _require(self.trains_support, f'{noise}: the noise is on what is sent; set [sparsity] kind = "support"')
        _require(not self.release.experts, f"{noise}: no expert can be released at this epsilon; set experts = false")
        _require(self.training.steps == 1, f"{noise}: every step is a sum of all hospitals; set [training] steps = 1")
        weighted = any(site.weight != 1 for site in self.sites.values())
        _require(not weighted, f"{noise}: sums are over units, and weights do not apply; remove [sites] weight")

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
        made for those settings.
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
        shape = ModelShape(
            shared=partition.shared_size,
            personal=partition.personal_size,
            digest=_model_digest(model, partition),
        )
        roster = {name: self.sites.get(name, SiteSettings()) for name in names}
        bound = msgspec.structs.replace(self, sites=roster, shape=shape)
        noise = bound._planned_noise(shape.shared) if self.shares_noise else None
        return msgspec.structs.replace(bound, shape=msgspec.structs.replace(shape, noise=noise))

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
