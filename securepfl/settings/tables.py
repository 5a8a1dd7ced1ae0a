"""The tables of the TOML file that all parties share, each frozen and checked on its own.

What two tables must agree on is checked where they come together, in federation.py.
"""

import math
from typing import Literal

import msgspec
from msgspec.structs import fields

from securepfl.crypto.sums.scheme import scheme_names
from securepfl.learning.personal.choices import Rule
from securepfl.privacy.accounting.events import Unit
from securepfl.tasks.names import TaskName

FULL_BATCH_UNITS = 2000
"""Up to this many training records a hospital takes the full batch: least noise, exact accounting."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of one TOML table: frozen, typed, no unknown keys."""


def changed_keys(settings: Settings) -> tuple[str, ...]:
    """The keys of a table of numbers and choices that are not at their defaults."""
    return tuple(field.name for field in fields(settings) if getattr(settings, field.name) != field.default)


def require(condition: bool, message: str) -> None:
    """Raise ValueError with `message` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def _require_positive(settings: "Settings", *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        positive = value is None or (math.isfinite(value) and value > 0)
        require(positive, f"{name} = {value}: must be positive and finite")
        require(value is None or 1e-9 <= value <= 1e9, f"{name} = {value}: must be in [1e-9, 1e9]")


def _require_place(settings: Settings, key: str, **places: tuple[str, ...]) -> None:
    """Refuse a setting that would do nothing: one that is not at its default though the choice under `key` is none of
    its `places`.
    """
    chosen, changed = getattr(settings, key), changed_keys(settings)
    for name, choices in places.items():
        needed = " or ".join(f'"{choice}"' for choice in choices)
        require(
            chosen in choices or name not in changed,
            f'{name} has no place in {key} = "{chosen}"; remove it, or set {key} = {needed}',
        )


class ModelSettings(Settings, frozen=True):
    """`[model]`: the architecture and which parameters are personal.

    `kind` is "mlp" (Linear-ReLU-Linear, parameters body.* and head.*), "logistic" (parameters linear.*), or
    "own" where the pipeline brings its own torch module. `personal` are fnmatch patterns of parameter names, or a rule:
    the output layer's bias ("intercept"), all of it ("head"), the "adapters", or the smallest of these that the model
    has ("auto", default_partition.py). `task` is what the model is for: None is "binary", unless a pipeline hands in a
    loss of its own and names no task. `adapters` gives every Linear and Conv layer a correction of that rank (0: a
    bias), which "auto" makes personal.
    """

    kind: Literal["mlp", "logistic", "own"] = "mlp"
    task: TaskName | None = None
    hidden: int = 8
    personal: tuple[str, ...] | Rule = "auto"
    adapters: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.hidden >= 1, f"hidden = {self.hidden}: must be at least 1")
        require(self.adapters is None or self.adapters >= 0, f"adapters = {self.adapters}: a rank, 0 or more")
        require(0 <= self.seed < 2**53, f"seed = {self.seed}: must be in [0, 2^53)")


class TrainingSettings(Settings, frozen=True):
    """`[training]`: local steps of a round, and SGD's learning rate on the mean clipped gradient."""

    steps: int = 1
    learning_rate: float = 1.0
    physical_batch: int = 256

    def __post_init__(self) -> None:
        require(self.steps >= 1, f"steps = {self.steps}: must be at least 1")
        _require_positive(self, "learning_rate")
        require(self.physical_batch >= 1, f"physical_batch = {self.physical_batch}: must be at least 1")


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
        require(0 < self.delta < 1, f"delta = {self.delta}: must be between 0 and 1 (try 1e-5)")
        require(0 < self.sample_rate <= 1, f"sample_rate = {self.sample_rate}: must be in (0, 1]")
        require(self.colluders >= 1, f"colluders = {self.colluders}: at least 1, every hospital knows its own noise")
        require(self.dropouts >= 0, f"dropouts = {self.dropouts}: must be 0 or more")
        require(self.normaliser is None or self.normaliser >= 1, f"normaliser = {self.normaliser}: must be at least 1")
        require(
            self.noise == "local" or self.normaliser is not None,
            'noise = "shared" needs normaliser: declare how many training units all hospitals have together',
        )
        unused = self.normaliser is None and (self.colluders, self.dropouts) == (1, 0)
        require(
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
        require(0 < self.density <= 1, f"density = {self.density}: must be in (0, 1]")
        require(self.block >= 1, f"block = {self.block}: must be at least 1")
        require(0 <= self.exploration <= 1, f"exploration = {self.exploration}: must be in [0, 1]")
        _require_place(self, "kind", strength=("soft", "difference"))


class EncryptionSettings(Settings, frozen=True):
    """`[encryption]`: the scheme, and the grid on which values travel.

    Shared updates are clipped to +-`limit`, personal parameters to +-`personal_limit` around their start;
    what is clipped is counted, and stays in the error feedback of the update. `masking` = "pairwise" hides each
    update even from a coordinator that has some hospital's keys; each hospital shares masks with `mask_degree` others
    (default: 2 ceil(log2 n) + 2, or all).
    """

    scheme: str = "bfv"
    bits: int = 10
    limit: float = 0.5
    personal_limit: float = 4.0
    masking: Literal["none", "pairwise"] = "none"
    mask_degree: int | None = None

    def __post_init__(self) -> None:
        known = f"scheme = {self.scheme!r}: known are {' and '.join(scheme_names())}"
        require(self.scheme in scheme_names(), known)
        require(4 <= self.bits <= 16, f"bits = {self.bits}: must be 4 to 16")
        require(self.mask_degree is None or self.mask_degree >= 2, f"mask_degree = {self.mask_degree}: at least 2")
        masked = self.mask_degree is None or self.masking == "pairwise"
        require(masked, 'mask_degree needs masking = "pairwise"; remove it')
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
        require(self.every >= 0, f"every = {self.every}: must be 0 (never) or more")
        require(2 <= self.dimensions <= 8192, f"dimensions = {self.dimensions}: must be 2 to 8192")
        require(0.1 <= self.gate <= 1000, f"gate = {self.gate}: must be 0.1 to 1000")


class CouplingSettings(Settings, frozen=True):
    """`[coupling]`: how personal parameters are drawn to those of similar hospitals.

    `kind` = "unit" pulls them by `strength` (0 is off, at most 1) to the mean of the neighbourhood. "lasso" solves the
    network lasso, `penalty` ||z_i - z_j|| on every edge of the graph, with integer weights of `weight_bits`; `scale` is
    the declared typical distance of two hospitals, under which distances are floored (annealed), and `momentum` speeds
    it up where there is hardly any noise, which it amplifies. `graph`:
    the `neighbours` most similar hospitals with a cosine above 0, all with one of at least `threshold`, or all. The
    graph is kept for `hold` rounds.
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
        require(0 <= self.strength <= 1, f"strength = {self.strength}: must be in [0, 1]")
        require(0 <= self.penalty <= 1e9, f"penalty = {self.penalty}: must be 0 to 1e9")
        _require_positive(self, "scale")
        require(4 <= self.weight_bits <= 12, f"weight_bits = {self.weight_bits}: must be 4 to 12")
        require(self.neighbours >= 3, f"neighbours = {self.neighbours}: at least 3, or a sum shows too few")
        require(-1 <= self.threshold <= 1, f"threshold = {self.threshold}: a cosine, must be in [-1, 1]")
        require(self.hold >= 1, f"hold = {self.hold}: must be at least 1 round")
        lasso = ("lasso",)
        if self.on:
            _require_place(
                self, "kind", strength=("unit",), penalty=lasso, weight_bits=lasso, scale=lasso, momentum=lasso
            )

    @property
    def on(self) -> bool:
        """Whether personal parameters are coupled at all."""
        return self.strength > 0 or self.penalty > 0

    @property
    def most_edge_weight(self) -> int:
        """The largest integer weight of a hospital in another's neighbourhood sum."""
        return 2**self.weight_bits - 1 if self.kind == "lasso" and self.on else 1

    @property
    def switch(self) -> str:
        """The key that turns coupling on, where it is above 0."""
        return "penalty" if self.kind == "lasso" else "strength"


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
        layers = {f"layers: {pattern}": alpha for pattern, alpha in self.layers.items()}
        for name, alpha in {"alpha": self.alpha, **layers}.items():
            require(0 <= alpha < 1, f"{name} = {alpha}: must be in [0, 1)")


class ReleaseSettings(Settings, frozen=True):
    """`[release]`: whether hospitals release their personal models as experts for hospitals outside."""

    experts: bool = False


class SiteSettings(Settings, frozen=True):
    """`[sites.NAME]`: a hospital's declared weight (a public constant, no sample count) and its budget."""

    weight: int = 1
    budget: float | None = None

    def __post_init__(self) -> None:
        require(1 <= self.weight <= 1000, f"weight = {self.weight}: must be 1 to 1000")
        _require_positive(self, "budget")
