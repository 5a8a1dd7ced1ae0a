"""What every method of the comparison is given, and what it gives back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

Hyper = Mapping[str, float | int | str]


@dataclass(frozen=True)
class Site:
    """One hospital's rows: x float32 [n, ...], y float32 [n] of 0 and 1."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


@dataclass(frozen=True)
class Task:
    """A data set dealt to hospitals, and the model that every method trains on it.

    `build_model` gives the same start each time: [B, ...] -> logits [B]. `head` and `norms` are fnmatch patterns of
    the output layer's and the normalisation layers' parameters. `clusters` is the truth where the data are synthetic.
    """

    name: str
    sites: Mapping[str, Site]
    build_model: Callable[[], nn.Module]
    head: tuple[str, ...]
    norms: tuple[str, ...] = ()
    clusters: Mapping[str, int] | None = None
    declared: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """What all methods may spend alike: (epsilon, delta) zero-out of each hospital's rows in all (infinity: no
    privacy), and `steps` full-batch gradients of each hospital.
    """

    epsilon: float
    delta: float
    steps: int


@dataclass(frozen=True)
class Fitted:
    """A model for each hospital, the bytes that all hospitals sent and received, and what a method has to tell.

    From its `thresholds` on (1/2 where it has none) a hospital's probability is a yes.
    """

    models: Mapping[str, nn.Module]
    upload_bytes: int
    download_bytes: int
    facts: Mapping[str, object] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)


class Method(Protocol):
    """A module of this package: `GRID` names each hyper-parameter's choices, `fit` trains."""

    GRID: Mapping[str, tuple[float | int | str, ...]]

    def fit(self, task: Task, settings: Settings, hyper: Hyper, seed: int) -> Fitted: ...
