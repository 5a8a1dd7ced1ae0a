"""The tables of the TOML file that all parties share, each frozen and checked on its own.

What two tables must agree on is checked where they come together, in federation.py.
"""

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Final, Literal, Self

import msgspec
from msgspec.structs import fields

from securepfl.crypto.sums.scheme import find_scheme, scheme_names
from securepfl.data.prevalence import require_shares
from securepfl.learning.personal.choices import Rule
from securepfl.learning.personal.graph import LEAST_NEIGHBOURS
from securepfl.plugins import check_pinned
from securepfl.privacy.accounting.events import Unit
from securepfl.tasks.names import DEFAULT_TASK, TASK_NAMES


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


MODEL_KINDS: Final = ("mlp", "logistic", "unet", "cnn", "own")
"""The built-in models, and the pipeline's own. Others are plug-ins' (plugins.py)."""
IMAGE_KINDS: Final = ("unet", "cnn")
"""The models of `[data] kind = "images"`."""


class ModelSettings(Settings, frozen=True):
    """`[model]`: the architecture, what it starts from, which parameters train and which are personal.

    `kind` is "mlp" (Linear-ReLU-Linear, parameters body.* and head.*), "logistic" (parameters linear.*), of images
    "unet" (segmentation) or "cnn" (classification), each with body.* and head.*, or "own" where the pipeline brings its
    own torch module. `hidden` is the width of an mlp's hidden layer and of an image model's first stage. `start` is a
    file that `securepfl start` wrote, from whose weights an image model starts; a relative path is from the settings
    file. `trained`: "all", the "head" alone on features that are computed once, or fnmatch patterns; the rest is
    frozen. `personal` are fnmatch patterns of parameter names, or a rule:
    the output layer's bias ("intercept"), all of it ("head"), the "adapters", or the smallest of these that the model
    has ("auto", in learning/personal). `task` is what the model is for: None is "binary", unless a pipeline hands in a
    loss of its own and names no task. `plugins` pins the distributions that bring a kind or a task which is not built
    in, as ["tiny-models==1.0"]: all hospitals run the same version. `adapters` gives every Linear and Conv layer a
    correction of that rank (0: a bias), which "auto" makes personal.
    """

    kind: str = "mlp"
    task: str | None = None
    hidden: int = 8
    start: str | None = None
    trained: Literal["all", "head"] | tuple[str, ...] = "all"
    personal: tuple[str, ...] | Rule = "auto"
    adapters: int | None = None
    plugins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_pinned("securepfl.models", "kind", self.kind, MODEL_KINDS, self.plugins)
        check_pinned("securepfl.tasks", "task", self.task or DEFAULT_TASK, TASK_NAMES, self.plugins)
        used = self.plugged_in or self.task not in (None, *TASK_NAMES)
        require(used or not self.plugins, "plugins: neither kind nor task is a plug-in's; remove it")
        require(self.hidden >= 1, f"hidden = {self.hidden}: must be at least 1")
        require(self.adapters is None or self.adapters >= 0, f"adapters = {self.adapters}: a rank, 0 or more")
        _require_place(self, "kind", start=IMAGE_KINDS, trained=IMAGE_KINDS)
        require(self.start != "", 'start = "": name the file that `securepfl start` wrote, or leave the key out')
        require(
            self.trained != "head" or self.start is not None,
            'trained = "head" needs a start: without one the frozen body is random; set start = "FILE" (`securepfl '
            'start` writes it), or trained = "all"',
        )
        require(self.trained != (), 'trained = []: nothing would train; name patterns, or write "all" or "head"')
        require(
            self.adapters is None or self.trained == "all",
            'adapters and trained: adapters freeze nothing themselves; set trained = "all", or remove adapters',
        )

    @property
    def plugged_in(self) -> bool:
        """Whether a plug-in builds the model."""
        return self.kind not in MODEL_KINDS

    @property
    def is_for_images(self) -> bool:
        """Whether records are images."""
        return self.kind in IMAGE_KINDS

    def without_start(self) -> Self:
        """For a model that is filled from elsewhere: whose file it started from is nobody's business any more, and what
        was frozen no longer matters.
        """
        return msgspec.structs.replace(self, start=None, trained="all")


class TrainingSettings(Settings, frozen=True):
    """`[training]`: local steps of a round, and SGD's learning rate on the mean clipped gradient.

    Under `[privacy] protection = "none"` the learning rate is Adam's, which falls to zero over the rounds, and `batch`
    the records (of images, patches) in a step; under privacy a step takes all units, or draws them.
    """

    steps: int = 1
    learning_rate: float = 1.0
    batch: int = 4

    def __post_init__(self) -> None:
        require(self.steps >= 1, f"steps = {self.steps}: must be at least 1")
        require(1 <= self.batch <= 4096, f"batch = {self.batch}: must be 1 to 4096")
        _require_positive(self, "learning_rate")


class PrivacySettings(Settings, frozen=True):
    """`[privacy]`: what each hospital spends on all rounds together, and the most it may ever spend.

    `epsilon` is the cost of the whole run at `delta` for zero-out adjacency; `budget` (default: epsilon) is
    the ceiling that a hospital's ledger enforces over all runs on its data. `unit` is what the clip bounds: one
    record, or all records of a patient together. `sample_rate` is the declared Poisson rate of hospitals with more
    than 2,000 training units; smaller ones take the full batch.

    `protection` = "none" is for simulations alone: ordinary training, nothing is clipped and no noise is added. Its
    models have no epsilon, and the ledger of records that trained so is spent for good.
    """

    protection: Literal["dp", "none"] = "dp"
    epsilon: float = 4.0
    delta: float = 1e-5
    clip: float = 1.0
    unit: Unit = "record"
    sample_rate: float = 0.1
    budget: float | None = None

    def __post_init__(self) -> None:
        _require_positive(self, "epsilon", "clip", "budget")
        require(0 < self.delta < 1, f"delta = {self.delta}: must be between 0 and 1 (try 1e-5)")
        require(0 < self.sample_rate <= 1, f"sample_rate = {self.sample_rate}: must be in (0, 1]")
        protected = dict.fromkeys(("epsilon", "delta", "clip", "sample_rate", "budget"), ("dp",))
        _require_place(self, "protection", **protected)

    @property
    def protects(self) -> bool:
        """Whether what leaves a hospital is noised."""
        return self.protection == "dp"


SparsityKind = Literal["auto", "support", "select", "soft", "difference"]


class SparsitySettings(Settings, frozen=True):
    """`[sparsity]`: the share of shared coordinates that a round sends, in blocks, and how they come about.

    `kind` = "support" trains only those; "select" trains all and sends those; "soft" and "difference" do as "select",
    after a soft threshold or the exact difference-sparse step of `strength`, in units of the update's root mean
    square. "auto" is "support", which measured best under privacy. `feedback` keeps what is not sent for later rounds.
    """

    density: float = 1.0
    block: int = 8
    kind: SparsityKind = "auto"
    strength: float = 1.0
    feedback: bool = True

    def __post_init__(self) -> None:
        _require_positive(self, "strength")
        require(0 < self.density <= 1, f"density = {self.density}: must be in (0, 1]")
        require(self.block >= 1, f"block = {self.block}: must be at least 1")
        _require_place(self, "kind", strength=("soft", "difference"))


_OLD_SCHEMES = {"bfv": "it is called lean now, with masks, and tenseal takes its place without; "}


class EncryptionSettings(Settings, frozen=True):
    """`[encryption]`: the scheme, and the grid on which values travel.

    Shared updates are clipped to +-`limit`, personal parameters to +-`personal_limit` around their start;
    what is clipped is counted, and stays in the error feedback of the update. `masking` = "pairwise" hides each
    update even from a coordinator that has some hospital's keys; some schemes need it.
    """

    scheme: str = "tenseal"
    bits: int = 10
    limit: float = 0.5
    personal_limit: float = 4.0
    masking: Literal["none", "pairwise"] = "none"

    def __post_init__(self) -> None:
        *others, last = scheme_names()
        known = f"known are {', '.join(others)} and {last}"
        renamed = _OLD_SCHEMES.get(self.scheme, "")
        require(self.scheme in scheme_names(), f"scheme = {self.scheme!r}: {renamed}{known}")
        reason = find_scheme(self.scheme).needs_masks
        require(
            not reason or self.masking == "pairwise",
            f'scheme = "{self.scheme}" needs masking = "pairwise": without masks {reason}; set masking, or '
            f'scheme = "{find_scheme(self.scheme).unmasked}"',
        )
        require(4 <= self.bits <= 16, f"bits = {self.bits}: must be 4 to 16")
        _require_positive(self, "limit", "personal_limit")


class SimilaritySettings(Settings, frozen=True):
    """`[similarity]`: an encrypted sketch travels every `every` rounds (0: never), from the second on.

    `beside_masks` accepts that a coordinator with a hospital's keys learns from sketches what masks would hide from it.
    """

    every: int = 0
    beside_masks: bool = False

    def __post_init__(self) -> None:
        require(self.every >= 0, f"every = {self.every}: must be 0 (never) or more")


class CouplingSettings(Settings, frozen=True):
    """`[coupling]`: how personal parameters are drawn to those of similar hospitals.

    They are pulled by `strength` (0 is off, at most 1) to the mean of the `neighbours` most similar hospitals with a
    cosine above 0. Under `[lasso]` the same neighbours are the graph, and strength is 0.
    """

    strength: float = 0.0
    neighbours: int = LEAST_NEIGHBOURS

    def __post_init__(self) -> None:
        require(0 <= self.strength <= 1, f"strength = {self.strength}: must be in [0, 1]")
        require(
            self.neighbours >= LEAST_NEIGHBOURS,
            f"neighbours = {self.neighbours}: at least {LEAST_NEIGHBOURS}, or a sum shows too few",
        )


class LassoSettings(Settings, frozen=True):
    """`[lasso]`: the network lasso in place of a pull: `penalty` ||z_i - z_j|| on every edge of the similarity graph.

    `scale` is the declared typical distance of two hospitals, under which distances are floored (annealed).
    """

    penalty: float
    scale: float = 1.0

    def __post_init__(self) -> None:
        _require_positive(self, "penalty", "scale")


class SharedNoiseSettings(Settings, frozen=True):
    """`[shared_noise]`: all hospitals' noise together protects each sum, always over full batches.

    Of the hospitals, `colluders` (at least 1: each knows its own share) may hand theirs to somebody and `dropouts` may
    be missing from a sum. What divides a sum is all hospitals' declared units together.
    """

    colluders: int = 1
    dropouts: int = 0

    def __post_init__(self) -> None:
        require(self.colluders >= 1, f"colluders = {self.colluders}: at least 1, every hospital knows its own noise")
        require(self.dropouts >= 0, f"dropouts = {self.dropouts}: must be 0 or more")

    @property
    def absent(self) -> int:
        """The hospitals whose noise does not count."""
        return self.colluders + self.dropouts


class TrajectorySettings(Settings, frozen=True):
    """`[trajectory]`: alpha weighs history in the personal model's average over rounds, in [0, 1).

    One `alpha` for all parameters, or a table of fnmatch patterns of their names; the longest that matches counts, and
    a parameter that none matches takes 0.

    `of`: that average is over the hospital's "local" models, as it trained them (inside personalisation), or over its
    "mixture" of shared and personal parameters at the end of each round, whose last step all hospitals' noise shared.
    """

    alpha: float | dict[str, float] = 0.0
    of: Literal["local", "mixture"] = "mixture"

    def __post_init__(self) -> None:
        for pattern, alpha in self.patterns.items():
            require(0 <= alpha < 1, f"alpha = {alpha}{f' of {pattern!r}' * (pattern != '*')}: must be in [0, 1)")

    @property
    def patterns(self) -> Mapping[str, float]:
        """Alpha by pattern."""
        return self.alpha if isinstance(self.alpha, dict) else {"*": self.alpha}

    def alpha_of(self, name: str) -> float:
        """Alpha of the parameter `name`.

        >>> TrajectorySettings(alpha={"*": 0.1, "head.*": 0.5}).alpha_of("head.bias")
        0.5
        """
        fitting = [pattern for pattern in self.patterns if fnmatchcase(name, pattern)]
        # Of two as long, the same everywhere: the order of a table's keys does not survive canonical JSON.
        return self.patterns[max(fitting, key=lambda pattern: (len(pattern), pattern))] if fitting else 0.0


class ReleaseSettings(Settings, frozen=True):
    """`[release]`: whether hospitals release their personal models as experts for hospitals outside.

    `finetuning`: beside it an expert that differs more: the shared model after that many further steps on the
    hospital's own records. `prior`: how common the outcome is there, or how much of an image the structure covers.
    `metrics`: how well hospitals' models do on patients held out, over all hospitals together (evaluation.py); it needs
    no experts. Under privacy all three are part of the planned epsilon.
    """

    experts: bool = False
    finetuning: int = 0
    prior: bool = False
    metrics: bool = False

    def __post_init__(self) -> None:
        require(0 <= self.finetuning <= 10**6, f"finetuning = {self.finetuning}: a number of steps, 0 or more")
        extra = "finetuning" if self.finetuning else "prior"
        require(self.experts or not (self.finetuning or self.prior), f"{extra} goes with experts; set experts = true")

    @property
    def steps(self) -> int:
        """The noisy steps that a hospital's own releases take behind the rounds: a prior counts as one."""
        return self.finetuning + int(self.prior)


class SiteSettings(Settings, frozen=True):
    """`[sites.NAME]`: what is publicly known of a hospital, and its budget.

    `units`: the training units (records or patients) that it counts as, a public constant. Noise, sample rate and the
    divisor of its steps follow from it; where it has more, some are left out, and where it has fewer, the rest add
    nothing. `weight` in the mean over hospitals: by default the units. `prevalence`: the share of its patients with
    label 1, or of each class; by default `[data] prevalence`.
    """

    units: int | None = None
    weight: int | None = None
    prevalence: float | dict[str, float] | None = None
    budget: float | None = None

    def __post_init__(self) -> None:
        require(self.weight is None or 1 <= self.weight <= 1000, f"weight = {self.weight}: must be 1 to 1000")
        require(self.units is None or 1 <= self.units <= 10**9, f"units = {self.units}: must be 1 to a billion")
        require_shares(self.prevalence)
        _require_positive(self, "budget")
