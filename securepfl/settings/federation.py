"""The settings that all parties of a federation share: frozen, validated, read from TOML.

Every party computes `Federation.digest` over all of them; a message made under other settings is refused.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar

import msgspec
import rfc8785

from securepfl.crypto.sums.scheme import Scheme, find_scheme
from securepfl.data.declared import Declared, spec_of
from securepfl.data.declaring import plain
from securepfl.errors import ConfigError
from securepfl.privacy.training.shared_noise import SharedNoise
from securepfl.settings.auto import AutoKey, chosen, without_auto
from securepfl.settings.fixed import EVALUATION_SHARE, FULL_BATCH_UNITS, WEIGHT_BITS
from securepfl.settings.presets import check_needs
from securepfl.settings.prevalence import prevalence_of, started_share_of
from securepfl.settings.reading import read_toml, with_preset
from securepfl.settings.roster import lacks_units, names_of
from securepfl.settings.schedule import Schedule
from securepfl.settings.tables import (
    CouplingSettings,
    EncryptionSettings,
    LassoSettings,
    ModelSettings,
    PrivacySettings,
    ReleaseSettings,
    Settings,
    SharedNoiseSettings,
    SimilaritySettings,
    SiteSettings,
    SparsitySettings,
    TrainingSettings,
    TrajectorySettings,
    require,
)
from securepfl.spelling import alike, composed, spelled_out
from securepfl.tasks.names import COUNTED, DEFAULT_TASK, LABEL_KEYS
from securepfl.tasks.task import OperatingPoint

if TYPE_CHECKING:
    from torch import nn


Made = TypeVar("Made")

_LATER: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "model": {"trained": "all", "plugins": ()},
        "training": {"batch": 4},
        "privacy": {"protection": "dp"},
        "release": {"finetuning": 0, "prior": False, "metrics": False},
    }
)
"""Keys that came after federations were enrolled: at these values a digest is what it was without them."""

SumKind = Literal["update", "personal"]
"""What is summed: shared updates, or personal parameters over a neighbourhood, which are never masked."""

_LABEL_FORMS = {
    "classes": 'classes = ["...", "..."]',
    "label": 'label = ["...", "..."] (several columns)',
    "label_range": "label_range = { centre = ..., spread = ... }",
}


_LONGEST_NAME: Final = 200
"""Letters of the federation's."""


class ModelShape(Settings, frozen=True):
    """What every party must agree on about the model: sizes, a hash of names, shapes and shared start, and each
    hospital's share of shared noise.
    """

    shared: int
    personal: int
    digest: str
    noise: SharedNoise | None = None


class Federation(Settings, frozen=True, dict=True):
    """All shared settings. Read them with `Federation.read`, fix them to parties with `bound`.

    `auto` names the numbers that a file leaves to be chosen from what it declares: until `bound` has chosen them, they
    stand at a default that means nothing.

    Raises ConfigError (from the readers) for a value out of range, an unknown key, too few hospitals.

    >>> from securepfl import Federation
    >>> Federation.from_mapping({"rounds": 6, "privacy": {"epsilon": 2.0}}).privacy.epsilon
    2.0
    """

    preset: str | None = None
    auto: tuple[AutoKey, ...] = ()
    name: str = "federation"
    rounds: int = 10
    minimum: int = 3
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    privacy: PrivacySettings = PrivacySettings()
    sparsity: SparsitySettings = SparsitySettings()
    encryption: EncryptionSettings = EncryptionSettings()
    similarity: SimilaritySettings = SimilaritySettings()
    coupling: CouplingSettings = CouplingSettings()
    lasso: LassoSettings | None = None
    shared_noise: SharedNoiseSettings | None = None
    trajectory: TrajectorySettings = TrajectorySettings()
    release: ReleaseSettings = ReleaseSettings()
    sites: dict[str, SiteSettings] = msgspec.field(default_factory=dict)
    data: dict[str, Any] | None = None
    shape: ModelShape | None = None

    def __post_init__(self) -> None:
        require(
            self.name.isprintable() and len(self.name) <= _LONGEST_NAME,
            f"name = {self.name[:_LONGEST_NAME]!r}: titles and logs show it: at most {_LONGEST_NAME} printable letters",
        )
        require(self.rounds >= 1, f"rounds = {self.rounds}: must be at least 1")
        self._require_declared_task()
        require(self.minimum >= 2, f"minimum = {self.minimum}: a sum needs at least 2 hospitals")
        require(
            not self.coupling.strength or self.similarity.every > 0,
            "[coupling] strength is above 0 and needs similarity: set [similarity] every",
        )
        require(
            self.lasso is None or self.similarity.every == 1,
            "[lasso] needs the distances of every round: set [similarity] every = 1",
        )
        require(
            self.lasso is None or self.coupling.strength == 0,
            "[coupling] strength and [lasso] are two ways to draw hospitals together; set strength = 0, or remove "
            "[lasso]",
        )
        if self.shares_noise:
            self._require_shared_noise_fits()
        task = self.model.task or DEFAULT_TASK
        require(
            not self.release.metrics or task in COUNTED,
            f"[release] metrics: a {task} has no scores of a yes or no to count; set metrics = false, and read each "
            "hospital's own result.json there",
        )
        self._require_protection_fits()
        self._require_model_of_the_data()
        require(
            not (self.masked and self.similarity.every > 0) or self.similarity.beside_masks,
            'masking = "pairwise" with similarity: sketches would show what masks hide to a coordinator that has a '
            "hospital's keys; set [similarity] every = 0, or beside_masks = true to accept that",
        )

    def _require_declared_task(self) -> None:
        """What `[data]` declares of labels and what `[model]` makes of them are one task."""
        data, task = self.data or {}, self.model.task or DEFAULT_TASK
        if task not in LABEL_KEYS:
            return  # a plug-in's says itself what it takes
        declared = {key: data.get(key) is not None for key in _LABEL_FORMS}
        declared["label"] = isinstance(data.get("label"), list | tuple)
        for key, form in _LABEL_FORMS.items():
            tasks = " or ".join(f'"{name}"' for name, its in LABEL_KEYS.items() if its == key)
            fits = LABEL_KEYS[task] == key
            require(not declared[key] or fits, f'[data] {form} needs [model] task = {tasks}, not "{task}"')
            require(self.data is None or declared[key] or not fits, f'[model] task = "{task}" needs [data] {form}')

    def _require_protection_fits(self) -> None:
        """Refuse what counts on noise where there is none, and the reverse."""
        if self.privacy.protects:
            batch = self.training.batch == TrainingSettings().batch
            require(batch, '[training] batch has its place in [privacy] protection = "none"; remove it')
            return
        none = '[privacy] protection = "none"'
        require(not self.shares_noise, f"{none}: there is no noise to share; remove [shared_noise]")
        require(self.lasso is None, f"{none}: the network lasso's step is one of DP-SGD; remove [lasso]")
        budgets = sorted(name for name, site in self.sites.items() if site.budget is not None)
        first = budgets[0] if budgets else ""
        require(not budgets, f"{none}: no budget holds without noise; remove [sites.{first}] budget")
        require(
            not self.release.metrics,
            f"{none}: metrics are released with noise, and there is none; set [release] metrics = false",
        )

    def _require_model_of_the_data(self) -> None:
        """Images need a model of images, and tables one of tables."""
        if self.data is None:
            return
        kind, images = self.model.kind, self.data.get("kind") == "images"
        require(
            kind == "own" or self.model.plugged_in or self.model.is_for_images == images,
            f'[model] kind = "{kind}" is for {"tables" if images else "images"}; set '
            + ('"unet" (segmentation) or "cnn"' if images else '"mlp" or "logistic", or [data] kind = "images"'),
        )
        segments = self.model.task == "segmentation"
        require(kind != "unet" or segments, '[model] kind = "unet" needs task = "segmentation"; set it, or "cnn"')
        masks = images and self.data.get("label") is None
        require(not masks or segments, '[data] has no label, so masks are learned: set [model] task = "segmentation"')
        needed = '[data] kind = "images" without label, whose masks are learned'
        require(masks or not segments, f'[model] task = "segmentation" needs {needed}')
        require(kind != "cnn" or not segments, '[model] task = "segmentation" needs kind = "unet"; set it')

    def _require_shared_noise_fits(self) -> None:
        """A hospital's own update carries a fraction of the noise, so only the masked sum may be seen or used."""
        noise = "[shared_noise]"
        require(self.masked, f'{noise} needs masks: set [encryption] masking = "pairwise"')
        require(
            not self.coupled and self.similarity.every == 0,
            f"{noise}: similarity and coupling read one hospital's update; set [similarity] every = 0 and [coupling] "
            "strength = 0, and remove [lasso]",
        )
        require(self.trains_support, f'{noise}: the noise is on what is sent; set [sparsity] kind = "support"')
        require(not self.release.experts, f"{noise}: no expert can be released at this epsilon; set experts = false")
        require(self.training.steps == 1, f"{noise}: every step is a sum of all hospitals; set [training] steps = 1")
        weighted = any(site.weight is not None for site in self.sites.values())
        require(not weighted, f"{noise}: sums are over units, and weights do not apply; remove [sites] weight")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a TOML file; `[model] start` is from its folder. Raises ConfigError naming the file and the key.

        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder, "federation.toml")
        ...     _ = file.write_text("rounds = 6")
        ...     Federation.read(file).rounds
        6
        """
        federation = cls.from_mapping(read_toml(Path(path)), where=str(path))
        start = federation.model.start
        if start is None:
            return federation
        return federation.changed("model", start=str(Path(path).absolute().parent / Path(start).expanduser()))

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], where: str = "federation") -> Self:
        """Build from nested mappings named like the TOML tables. Raises ConfigError naming `where` and the key.

        >>> Federation.from_mapping({"rounds": 6, "privacy": {"epsilon": 2.0}}).rounds
        6
        >>> Federation.from_mapping({"rounds": "six"}, where="settings.toml")
        Traceback (most recent call last):
        securepfl.errors.ConfigError: settings.toml: ...
        """
        if not isinstance(mapping, Mapping):
            raise ConfigError(f"{where}: must be a mapping named like the TOML tables, not {type(mapping).__name__}")
        if "shape" in mapping:
            raise ConfigError(f"{where}: key `shape` is computed from the model, not declared; remove it")
        mapping, auto = without_auto(plain(mapping), where)
        federation = with_preset(mapping, cls, where)
        federation = msgspec.structs.replace(federation, auto=auto)
        if pair := alike(federation.sites):
            raise ConfigError(f"{where}: [sites] {' and '.join(map(spelled_out, pair))} look alike; keep one")
        sites = {composed(name): settings for name, settings in federation.sites.items()}
        federation = msgspec.structs.replace(federation, sites=sites)
        check_needs(federation, where)
        if federation.data is None:
            return federation
        # In full, so that a default spelled out and one left out give the same digest.
        spec = spec_of(federation.data, where)
        return msgspec.structs.replace(federation, data=spec.to_mapping())

    def replace(self, **changes: Any) -> Self:
        """A checked copy with some settings changed: what is given is not to be chosen any more. Raises ConfigError
        where a value is out of range.

        >>> Federation().replace(rounds=6).rounds
        6
        """
        left = tuple(key for key in self.auto if key not in changes)
        try:
            return msgspec.structs.replace(self, **({"auto": left} | changes))
        except ValueError as error:
            raise ConfigError(str(error)) from None

    def changed(self, table: str, **changes: Any) -> Self:
        """A checked copy with some settings of one table changed. Raises ConfigError where one is out of range.

        >>> Federation().changed("privacy", epsilon=2.0).privacy.epsilon
        2.0
        """
        left = tuple(key for key in self.auto if key not in {f"{table}.{name}" for name in changes})
        try:
            return self.replace(auto=left, **{table: msgspec.structs.replace(getattr(self, table), **changes)})
        except ValueError as error:
            raise ConfigError(f"[{table}] {error}") from None

    def bound(
        self,
        sites: Iterable[str],
        build_model: "Callable[[], nn.Module]",
        personal: "Callable[[str, nn.Parameter], bool] | None" = None,
        *,
        units: int | Mapping[str, int] | None = None,
    ) -> "Federation":
        """Fix the roster and the model: what parties compare before the first round.

        `sites` are all hospitals' names. `[sites.NAME]` of an absent hospital is an error. `units` declares how many
        training units each counts as, where `[sites.NAME] units` does not: a number for all, or one by name. `personal`
        (name, parameter) picks the personal parameters in place of `[model] personal`, where their exact names then
        stand: keys must be made for those settings. Raises ConfigError or ModelError where settings don't fit the
        hospitals or the model.
        """
        from securepfl.settings.binding import bind  # noqa: PLC0415 (it loads torch)

        names = names_of(sites)
        return bind(self.with_units(names, units), names, build_model, personal)

    def with_units(self, sites: Iterable[str], units: int | Mapping[str, int] | None) -> Self:
        """A copy in which each of `sites` that declares none counts as `units`, a number for all or one by name.

        Raises ConfigError where a site declares another than is given by its name.

        >>> names = ("north", "south", "west")
        >>> Federation().with_units(names, {"north": 40, "south": 60, "west": 50}).units_of("south")
        60
        """
        if units is None:
            return self
        counts = plain(units)
        given = counts if isinstance(counts, Mapping) else dict.fromkeys(sites, counts)
        declared = dict(self.sites)
        for name, count in given.items():
            own = declared.get(name, SiteSettings())
            if not isinstance(count, int) or isinstance(count, bool):
                raise ConfigError(f"[sites.{name}] units = {count!r}: must be a whole number")
            if own.units is not None and not isinstance(units, Mapping):
                continue
            if own.units not in (None, count):
                raise ConfigError(f"[sites.{name}] units = {own.units}, and bound is given {count}; declare one")
            try:
                declared[name] = msgspec.structs.replace(own, units=count)
            except ValueError as error:
                raise ConfigError(f"[sites.{name}] {error}") from None
        return self.replace(sites=declared)

    @cached_property
    def roster(self) -> tuple[str, ...]:
        """The hospitals' names, sorted; a hospital's index here is its index in sums.

        >>> Federation().with_units(("south", "north", "west"), 40).roster
        ('north', 'south', 'west')
        """
        return tuple(sorted(self.sites))

    @cached_property
    def places(self) -> Mapping[str, int]:
        """Each hospital's index in the roster.

        >>> dict(Federation().with_units(("south", "north", "west"), 40).places)
        {'north': 0, 'south': 1, 'west': 2}
        """
        return {name: index for index, name in enumerate(self.roster)}

    def once(self, make: Callable[[Self], Made]) -> Made:
        """What `make` (a function or a class method, no closure) derives from these settings: made once, and kept as
        long as they are.

        >>> federation = Federation()
        >>> federation.once(Federation.told) is federation.once(Federation.told)
        True
        """
        if make not in self._made:
            self._made[make] = make(self)
        made: Made = self._made[make]
        return made

    @cached_property
    def _made(self) -> dict[Any, Any]:
        return {}

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over `canonical`: 32 bytes.

        >>> Federation().digest == Federation(rounds=10).digest, Federation().digest == Federation(rounds=11).digest
        (True, False)
        """
        return hashlib.sha256(self.canonical).digest()

    @property
    def canonical(self) -> bytes:
        """All settings that parties share, as canonical JSON (RFC 8785).

        Budgets are left out: each hospital keeps its own to itself. So are the preset's name, which numbers were
        chosen by rule, as what they are counts, and where the file of a start lies: what it holds is in the model's
        digest.

        >>> federation = Federation(rounds=6)
        >>> b'"rounds":6' in federation.canonical, federation.digest == hashlib.sha256(federation.canonical).digest()
        (True, True)
        """
        plain = msgspec.to_builtins(self)
        plain.pop("preset")
        plain.pop("auto")
        plain["privacy"].pop("budget")
        plain["model"].pop("start")
        for table, keys in _LATER.items():
            for key, default in keys.items():
                if plain[table][key] in (default, [*default] if isinstance(default, tuple) else default):
                    del plain[table][key]
        for site in plain["sites"].values():
            site.pop("budget")
        return rfc8785.dumps(plain)

    def told(self) -> dict[str, Any]:
        """All settings as plain values, for a record that others read: of a start's file, its name alone, and where
        nothing protects neither epsilon nor clip.
        """
        plain: dict[str, Any] = msgspec.to_builtins(self)
        if not self.privacy.protects:
            plain["privacy"] |= {"epsilon": None, "clip": None}
        if self.model.start is not None:
            plain["model"]["start"] = Path(self.model.start).name
        return plain

    @classmethod
    def from_told(cls, told: Mapping[str, Any], where: str) -> Self:
        """The bound settings that a record tells, as `told` made it, with their `digest` beside them.

        Raises ConfigError, naming `where`, for what no run recorded: another form, or another digest.

        >>> one = Federation(sites={name: SiteSettings(units=40) for name in ("north", "south", "west")})
        >>> Federation.from_told(one.told() | {"digest": one.digest.hex()}, "result.json") == one
        True
        """
        tables = {name: value for name, value in told.items() if name != "digest"}
        privacy = tables.get("privacy")
        if isinstance(privacy, Mapping) and privacy.get("protection") == "none":
            # Neither may be set where nothing protects, so what isn't told is the default.
            kept = {key: value for key, value in privacy.items() if key not in ("epsilon", "clip") or value is not None}
            tables |= {"privacy": kept}
        try:
            found = msgspec.convert(tables, type=cls)
        except (msgspec.MsgspecError, ValueError):
            found = None
        if found is None or found.digest.hex() != told.get("digest"):
            raise ConfigError(f"{where}: holds no settings that this securepfl recorded; restore it from a copy")
        return found

    @property
    def label_options(self) -> dict[str, Any]:
        """What `[data]` declares of labels for the task: classes, labels, or centre, spread, limit and unit.

        >>> ranges, classes = {"age": {"centre": 50, "spread": 15}}, ["benign", "malignant"]
        >>> data = {"label": "lesion", "classes": classes, "ranges": ranges}
        >>> Federation.from_mapping({"model": {"task": "multiclass"}, "data": data}).label_options
        {'classes': ('benign', 'malignant')}
        """
        spec = self.data_spec
        return {} if spec is None else spec.label_options

    @cached_property
    def data_spec(self) -> Declared | None:
        """What `[data]` declares about tables or images, or None. Read once.

        >>> data = {"label": "ill", "ranges": {"age": {"centre": 50, "spread": 15}}}
        >>> Federation.from_mapping({"data": data}).data_spec.label
        'ill'
        """
        return None if self.data is None else spec_of(self.data)

    @property
    def masked(self) -> bool:
        """Whether updates are masked against collusion.

        >>> Federation().changed("encryption", masking="pairwise").masked
        True
        """
        return self.encryption.masking == "pairwise"

    @property
    def shares_noise(self) -> bool:
        """Whether each sum is protected by all hospitals' noise together, and no update by its own.

        >>> settings = {"encryption": {"masking": "pairwise"}, "shared_noise": {"colluders": 1, "dropouts": 1}}
        >>> Federation.from_mapping(settings).shares_noise, Federation().shares_noise
        (True, False)
        """
        return self.shared_noise is not None

    @property
    def least_in_sum(self) -> int:
        """The fewest hospitals that a sum may be over: with shared noise, as many as the accounting counts on.

        >>> Federation(minimum=4).least_in_sum
        4
        """
        if self.shared_noise is None:
            return self.minimum
        return max(self.minimum, len(self.roster) - self.shared_noise.dropouts)

    @property
    def coupled(self) -> bool:
        """Whether personal parameters are drawn to those of similar hospitals.

        >>> Federation.from_mapping({"similarity": {"every": 1}, "coupling": {"strength": 0.5}}).coupled
        True
        """
        return self.coupling.strength > 0 or self.lasso is not None

    @property
    def compares(self) -> Literal["updates", "personal"]:
        """What similarity is between: accumulated updates, in which the noise is known exactly, or, for the distances
        of the network lasso, personal parameters less their start.

        >>> Federation().compares
        'updates'
        """
        return "updates" if self.lasso is None else "personal"

    @property
    def most_edge_weight(self) -> int:
        """The largest integer weight of a hospital in another's neighbourhood sum.

        >>> lasso = Federation.from_mapping({"similarity": {"every": 1}, "lasso": {"penalty": 0.1}})
        >>> Federation().most_edge_weight, lasso.most_edge_weight, lasso.compares
        (1, 4095, 'personal')
        """
        return 1 if self.lasso is None else 2**WEIGHT_BITS - 1

    @property
    def scheme(self) -> Scheme:
        """How sums are encrypted: `[encryption] scheme`.

        >>> Federation().scheme.encrypted, Federation().changed("encryption", scheme="none").scheme.encrypted
        (True, False)
        """
        return find_scheme(self.encryption.scheme)

    def scheme_of(self, kind: SumKind) -> Scheme:
        """How sums of one kind are encrypted: updates by `scheme`, and what carries no masks by the one that it names
        for that, under the same key.

        >>> masked = Federation.from_mapping({"encryption": {"masking": "pairwise"}})
        >>> masked.scheme_of("update") is masked.scheme, masked.scheme_of("personal").encrypted
        (True, True)
        """
        return self.scheme if kind == "update" and self.masked else find_scheme(self.scheme.unmasked)

    @property
    def ceremony_digest(self) -> bytes:
        """What the key ceremony is bound to: the settings and the roster, without the model's shape. 32 bytes.

        Raises ConfigError where numbers are to be chosen and some hospital's units aren't declared.

        >>> federation = Federation().with_units(("north", "south", "west"), 40)
        >>> federation.ceremony_digest == federation.replace(rounds=11).ceremony_digest
        False
        """
        return chosen(self).replace(shape=None).digest

    def session_digest(self, key_commitment: bytes) -> bytes:
        """What messages are bound to, whichever run they are of: these settings under one federation key. 32 bytes.

        `key_commitment` (FederationKey.commitment, 32 bytes) fixes the key and its epoch, and is public.

        >>> from securepfl import FederationKey
        >>> one, other = (FederationKey.generate(encrypted=False).commitment for _ in range(2))
        >>> Federation().session_digest(one) == Federation().session_digest(other)
        False
        """
        return hashlib.sha256(b"securepfl session 1" + self.digest + key_commitment).digest()

    def without_budgets(self) -> Self:
        """A copy for the coordinator: budgets are each hospital's own business. The digest is the same.

        >>> mine = Federation.from_mapping({"sites": {"north": {"units": 40, "budget": 4.0}}})
        >>> mine.without_budgets().budget_is_explicit("north"), mine.without_budgets().digest == mine.digest
        (False, True)
        """
        sites = {name: msgspec.structs.replace(site, budget=None) for name, site in self.sites.items()}
        return msgspec.structs.replace(self, sites=sites, privacy=msgspec.structs.replace(self.privacy, budget=None))

    @property
    def trains_support(self) -> bool:
        """Whether a round trains only the coordinates that it sends: so does "auto", which measured best.

        >>> Federation().trains_support
        True
        """
        return self.sparsity.kind in ("auto", "support")

    @property
    def schedule(self) -> Schedule:
        """Which round carries what.

        >>> settings = {"rounds": 6, "similarity": {"every": 2}}
        >>> [number for number in range(1, 7) if Federation.from_mapping(settings).schedule.similarity_due(number)]
        [2, 4]
        """
        return Schedule(self.rounds, self.similarity.every, self.coupled)

    @property
    def run_steps(self) -> int:
        """The noisy steps that a run's epsilon pays for: those of all rounds, of a fine-tuned expert, one that a prior
        counts as, and those that released metrics count as.

        >>> Federation(rounds=6).changed("training", steps=4).run_steps
        24
        """
        return self.rounds * self.training.steps + self.release.steps + self.evaluation_steps

    @property
    def evaluation_steps(self) -> int:
        """The noisy steps that released metrics count as; 0 where none are released.

        >>> federation = Federation(rounds=10)
        >>> federation.evaluation_steps, federation.changed("release", metrics=True).evaluation_steps
        (0, 3)
        """
        return math.ceil(EVALUATION_SHARE * self.rounds * self.training.steps) if self.release.metrics else 0

    @property
    def exchanges(self) -> int:
        """Rounds of messages: those that train, and one more in which released metrics are summed.

        >>> Federation(rounds=6).exchanges, Federation(rounds=6).changed("release", metrics=True).exchanges
        (6, 7)
        """
        return self.rounds + int(self.release.metrics)

    def evaluates(self, round_: int) -> bool:
        """Whether `round_` is the one in which released metrics are summed.

        >>> federation = Federation(rounds=6).changed("release", metrics=True)
        >>> federation.evaluates(6), federation.evaluates(7)
        (False, True)
        """
        return self.release.metrics and round_ == self.exchanges

    def sample_rate_for(self, units: int) -> float:
        """The declared sample rate of a hospital with `units` training records or patients.

        >>> Federation().sample_rate_for(200)
        1.0
        """
        return 1.0 if units <= FULL_BATCH_UNITS or self.shares_noise else self.privacy.sample_rate

    def budget_of(self, site: str) -> float:
        """The most epsilon that `site` may ever spend on its data, at this federation's delta.

        >>> sites = {"north": {"budget": 4.0}, "south": {}, "west": {}}
        >>> federation = Federation.from_mapping({"privacy": {"epsilon": 2.0, "budget": 8.0}, "sites": sites})
        >>> federation.budget_of("north"), federation.budget_of("south")
        (4.0, 8.0)
        """
        own = self.declared_of(site).budget
        return next(value for value in (own, self.privacy.budget, self.privacy.epsilon) if value is not None)

    def budget_is_explicit(self, site: str) -> bool:
        """Whether somebody declared a budget for `site`, rather than leaving it at this run's epsilon.

        >>> federation = Federation.from_mapping({"sites": {"north": {"budget": 4.0}, "south": {}, "west": {}}})
        >>> federation.budget_is_explicit("north"), federation.budget_is_explicit("south")
        (True, False)
        """
        return self.declared_of(site).budget is not None or self.privacy.budget is not None

    def declared_of(self, site: str) -> SiteSettings:
        """What is declared of `site`. Raises ConfigError where there is no such hospital.

        >>> federation = Federation().with_units(("north", "south", "west"), 40)
        >>> federation.declared_of("north").units
        40
        >>> federation.declared_of("nort")
        Traceback (most recent call last):
        securepfl.errors.ConfigError: nort: no such hospital among north, south, west; mend the name
        """
        if site not in self.sites:
            raise ConfigError(f"{site}: no such hospital among {', '.join(self.sites) or 'none'}; mend the name")
        return self.sites[site]

    def units_of(self, site: str) -> int:
        """The training units that `site` counts as. Raises ConfigError where it declares none."""
        units = self.declared_of(site).units
        if units is None:
            raise ConfigError(lacks_units(site))
        return units

    @cached_property
    def all_units(self) -> int:
        """The declared training units of all hospitals together: under shared noise, what divides a sum.

        >>> Federation().with_units(("north", "south", "west"), {"north": 40, "south": 60, "west": 50}).all_units
        150
        """
        return sum(map(self.units_of, self.sites))

    def weight_share(self, site: str) -> float:
        """The weight of `site` over the largest one, in (0, 1]. By default hospitals weigh as their units do.

        >>> federation = Federation().with_units(("north", "south", "west"), {"north": 40, "south": 80, "west": 80})
        >>> federation.weight_share("north")
        0.5
        """
        return self._weight_shares[site]

    @cached_property
    def _weight_shares(self) -> dict[str, float]:
        weights = {name: self.units_of(name) if its.weight is None else its.weight for name, its in self.sites.items()}
        largest = max(weights.values())
        return {name: weight / largest for name, weight in weights.items()}

    def prevalence_of(self, site: str | None = None) -> tuple[float, ...] | None:
        """The declared prevalence at `site`, or over all hospitals (None): of label 1, or of each class or label in
        their order. None where it isn't declared. Over all, sites that declare theirs count as their units do.

        >>> data = {"label": "ill", "prevalence": 0.2, "ranges": {"age": {"centre": 50, "spread": 15}}}
        >>> federation = Federation.from_mapping({"data": data, "sites": {"north": {"prevalence": 0.4}, "south": {}}})
        >>> federation.prevalence_of(), federation.prevalence_of("north")
        ((0.2,), (0.4,))
        """
        return prevalence_of(self, site)

    def operating_point_of(self, site: str | None = None, *, alone: bool = False) -> OperatingPoint:
        """Where probabilities become decisions at `site`: `[data] threshold`, else what its model starts from, which is
        halfway to the prevalence there (all the way for a model that it trains `alone`; without a site, that of the
        shared model); else empty.

        >>> data = {"label": "ill", "prevalence": 0.2, "ranges": {"age": {"centre": 50, "spread": 15}}}
        >>> federation = Federation.from_mapping({"data": data, "sites": {"north": {"prevalence": 0.4}, "south": {}}})
        >>> [round(share, 2) for site in ("north", "south") for share in federation.operating_point_of(site)]
        [0.29, 0.2]
        """
        declared = None if self.data is None else self.data.get("threshold")
        return started_share_of(self, site, alone=alone) if declared is None else (float(declared),)
