"""How every method sees a hospital's rows: full-batch gradients, counted and, at finite epsilon, private.

One gradient is one step of our own DP-SGD at learning rate 1 (Abadi et al. 2016, arXiv 1607.00133): so all methods
pay for the same clip, noise and accounting. A hospital's weight is the declared constant 1 over the number of
hospitals, in every method but fedavg_sizes and ours: theirs follow declared sizes.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from methods.task import Settings, Site, Task
from securepfl.privacy.accounting.calibration import noise_multiplier_for
from securepfl.privacy.training.dpsgd import DPSettings, train_private, validate_model
from securepfl.privacy.training.gradients import choose_mode
from securepfl.randomness import RandomStream, derive_key
from securepfl.tasks.binary import bce

Loss = Callable[[Tensor, Tensor], Tensor]

_KEY = b"securepfl benchmark methods"
_MOST_ROWS = 1024
# Entries of per-record gradients in memory at once, 256 MB in float32.
_KEPT_ENTRIES = 2**26


class BudgetSpent(RuntimeError):  # noqa: N818
    """A method asked a hospital for more gradients than the settings allow."""


class _Rows(Dataset[tuple[Tensor, Tensor]]):
    """Rows of a hospital, drawn many at a time."""

    def __init__(self, site: Site) -> None:
        self._x, self._y = site.train_x, site.train_y

    def __len__(self) -> int:
        return len(self._x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._x[index], self._y[index]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        return self._x[indices], self._y[indices]


class Oracle:
    """Gradients of a task at flat weights [D], in named_parameters() order and the model's floating type, on the CPU.

    clip: largest L2 norm of one record's gradient at finite epsilon; without privacy nothing is clipped. loss:
    (logits [B], y [B]) -> [B]. Noise depends on seed, hospital and number of the call alone, so two methods
    with the same seed meet the same noise. Raises ModelError for a model that private training refuses, at any epsilon.
    """

    def __init__(self, task: Task, settings: Settings, seed: int, clip: float = 1.0, loss: Loss = bce) -> None:
        self.task, self.settings, self.seed = task, settings, seed
        self.sites = tuple(task.sites)
        self._loss = loss
        self._model = task.build_model()
        validate_model(self._model)
        self._flat = _joined(self._model)
        self.start = self._flat.clone()
        self._calls = dict.fromkeys(self.sites, 0)
        self._rows = {name: _Rows(site) for name, site in task.sites.items()}
        self._private: DPSettings | None = None
        if math.isfinite(settings.epsilon):
            noise = noise_multiplier_for(settings.epsilon, settings.delta, 1.0, settings.steps)
            physical = max(1, min(_MOST_ROWS, _KEPT_ENTRIES // len(self.start)))
            self._private = DPSettings(noise, clip, 1.0, 1, 1.0, physical)
            self._mode = choose_mode(self._model, physical_batch=physical).name

    @property
    def private(self) -> bool:
        """Whether epsilon is finite."""
        return self._private is not None

    @property
    def spent(self) -> int:
        """Steps of the budget that the hospital with the most has taken."""
        return max(self._calls.values())

    def matching(self, patterns: Sequence[str]) -> Tensor:
        """Which coordinates belong to parameters that a pattern names, bool [D].

        Raises ValueError where a pattern names none.
        """
        named = dict(self._model.named_parameters())
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in named):
                raise ValueError(f"pattern {pattern!r} names no parameter: there are {', '.join(named)}")
        return torch.cat(
            [torch.full((p.numel(),), any(fnmatchcase(name, o) for o in patterns)) for name, p in named.items()]
        )

    def gradient(self, site: str, weights: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mean gradient [D] of the loss of the hospital's training rows; 0 where `mask`, bool [D], is False.

        At finite epsilon each record's gradient is restricted to `mask`, then clipped; noise falls on the mask alone.
        Raises BudgetSpent past the settings' steps.
        """
        key = self._charge(site)
        self._load(weights)
        if self._private is None:
            gradient = self._exact(self.task.sites[site])
            return gradient if mask is None else gradient.masked_fill(~mask, 0)
        rows = self._rows[site]
        train_private(
            self._model,
            rows,
            self._loss,
            self._private,
            noise=RandomStream(derive_key(key, "noise")),
            sampling=RandomStream(derive_key(key, "sampling")),
            device="cpu",
            units=len(rows),
            mode=self._mode,
            masks=None if mask is None else self._named(mask),
            collate=_as_drawn,
        )
        return weights - self._flat

    def choose(self, site: str, candidates: Sequence[Tensor]) -> int:
        """Index of the candidate [D] that suits the hospital's training rows best.

        Without privacy: the lowest mean loss, and nothing is charged. At finite epsilon: the most rows classified
        right, by a noisy vector of counts [k], charged as one step. Only differences between its entries matter, so
        take each record's 0/1 vector minus its mean: with p ones its squared norm is p (k - p) / k, at most at
        p = floor(k / 2). The root of that is the sensitivity under zero-out, and the noise is a gradient's multiplier
        times it, so the choice costs what a gradient does. Raises BudgetSpent.
        """
        if self._private is None:
            losses = torch.stack([self._mean(site, c, self._loss) for c in candidates])
            return int(losses.nan_to_num(math.inf).argmin())
        key, k = self._charge(site), len(candidates)
        right = torch.stack([self._mean(site, c, _right) for c in candidates]) * len(self._rows[site])
        noise = torch.from_numpy(RandomStream(derive_key(key, "noise")).gaussian(k))
        sensitivity = math.sqrt((k // 2) * (k - k // 2) / k)
        return int((right + self._private.noise_multiplier * sensitivity * noise).argmax())

    def model(self, weights: Tensor) -> nn.Module:
        """A model of its own with these weights, in evaluation mode."""
        self._load(weights)
        return copy.deepcopy(self._model).eval()

    def _charge(self, site: str) -> bytes:
        """Counts one step, and gives the key of its randomness."""
        if self._calls[site] >= self.settings.steps:
            raise BudgetSpent(f"hospital {site} has taken all {self.settings.steps} steps: use fewer rounds")
        self._calls[site] += 1
        return derive_key(_KEY, self.seed, site, self._calls[site])

    def _load(self, weights: Tensor) -> None:
        if weights.shape != self.start.shape:
            raise ValueError(f"weights must have shape {tuple(self.start.shape)}, not {tuple(weights.shape)}")
        self._flat.copy_(weights)

    def _named(self, mask: Tensor) -> dict[str, Tensor]:
        named = dict(self._model.named_parameters())
        pieces = torch.split(mask, [p.numel() for p in named.values()])
        return {name: piece.view(p.shape) for (name, p), piece in zip(named.items(), pieces, strict=True)}

    def _exact(self, site: Site) -> Tensor:
        self._model.train()
        parameters, total = tuple(self._model.parameters()), torch.zeros_like(self.start)
        for x, y in _chunks(site):
            found = torch.autograd.grad(self._loss(self._model(x), y).sum(), parameters)
            total += torch.cat([g.flatten() for g in found])
        return total / len(site.train_x)

    def _mean(self, name: str, weights: Tensor, score: Loss) -> Tensor:
        """Mean over the training rows of score(logits, y), a double without shape."""
        site, total = self.task.sites[name], torch.zeros((), dtype=torch.float64)
        self._load(weights)
        self._model.eval()
        with torch.no_grad():
            for x, y in _chunks(site):
                total += score(self._model(x), y).sum(dtype=torch.float64)
        return total / len(site.train_x)


def _joined(model: nn.Module) -> Tensor:
    """Makes all parameters views into one vector [D], which then loads and reads them at once."""
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    pieces = torch.split(flat, [p.numel() for p in model.parameters()])
    for p, piece in zip(model.parameters(), pieces, strict=True):
        p.data = piece.view(p.shape)
    return flat


def _chunks(site: Site) -> Iterator[tuple[Tensor, Tensor]]:
    """The training rows, some at a time."""
    return zip(torch.split(site.train_x, _MOST_ROWS), torch.split(site.train_y, _MOST_ROWS), strict=True)


def _right(logits: Tensor, y: Tensor) -> Tensor:
    return (logits > 0) == (y > 0.5)


def _as_drawn(rows: Any) -> Any:
    return rows  # _Rows has put them into tensors
