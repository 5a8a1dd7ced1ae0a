"""Training without privacy at equal gradient budgets: the ways that a study compares, on random patches.

How equal is counted: each hospital computes the gradient of `rounds` x `steps` minibatches of `batch` patches, whatever
the way, and whatever it does with them. Ditto halves each round between the shared and its own model. Trajectories are
averages of what FedAvg's hospitals had anyway, so they come from FedAvg's own run; a fine-tuning's steps are taken from
the rounds before it.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from securepfl.data.table import Table
from securepfl.learning.personal.trajectory import Trajectory
from securepfl.randomness import RandomStream
from securepfl.tasks.augmentation import patches
from securepfl.tasks.models import public_stream
from securepfl.tasks.segmentation import Segmentation
from segmentation.sites import tensors

State = dict[str, Tensor]
NORMS = ("*.adn.N.*",)
OUTPUT = ("head.*", "body.final_conv.*")
ALPHAS = (0.1, 0.5, 0.8)
FINETUNING = 150
LOWEST = 0.05
"""Of the learning rate, at the end of its cosine."""
TUNED = 1.0
"""Of the learning rate, at the beginning of a fine-tuning."""
PULL = 0.1
"""Ditto's."""


@dataclass(frozen=True)
class Schedule:
    """Rounds of `steps` minibatches of `batch` patches of `patch` pixels, turned by up to `turn` degrees; Adam, whose
    `rate` falls as a cosine.
    """

    rounds: int = 30
    steps: int = 30
    batch: int = 4
    patch: int = 128
    rate: float = 2e-3
    turn: float = 180.0

    @property
    def budget(self) -> int:
        """Minibatches whose gradient each hospital computes."""
        return self.rounds * self.steps

    def rate_at(self, done: float) -> float:
        """The learning rate when `done` of all is done.

        >>> Schedule(rate=1.0).rate_at(0.0), round(Schedule(rate=1.0).rate_at(1.0), 3)
        (1.0, 0.05)
        """
        return self.rate * (LOWEST + (1 - LOWEST) * 0.5 * (1 + math.cos(math.pi * done)))

    def lasting(self, steps: int) -> "Schedule":
        """The same in rounds that take `steps` together, rounded."""
        return replace(self, rounds=max(1, round(steps / self.steps)), steps=min(self.steps, steps))


@dataclass(eq=False)
class Hospital:
    """One hospital's images, model and optimiser, which stays its own from round to round."""

    name: str
    images: Tensor
    labels: Tensor
    model: nn.Module
    task: Segmentation
    stream: RandomStream
    optimiser: torch.optim.Adam = field(init=False)

    def __post_init__(self) -> None:
        self.model.to(memory_format=torch.channels_last)  # a fifth of a step's time on a CPU
        self.optimiser = torch.optim.Adam(self.model.parameters(), betas=(0.9, 0.99))

    def __len__(self) -> int:
        return len(self.images)

    def train(self, steps: int, schedule: Schedule, rate: float, pull: Callable[[], None] | None = None) -> float:
        """`steps` minibatches; the mean loss. `pull` may change gradients before each step."""
        self.model.train()
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        total = 0.0
        for _ in range(steps):
            x, y = patches(self.images, self.labels, schedule.batch, schedule.patch, self.stream, schedule.turn)
            loss = self.task.loss(self.model(x), y).mean()
            self.optimiser.zero_grad()
            loss.backward()
            if pull is not None:
                pull()
            self.optimiser.step()
            total += float(loss.detach())
        return total / max(1, steps)

    def state(self) -> State:
        """A copy."""
        return copied(self.model.state_dict())


def hospitals(
    model: nn.Module, tables: Mapping[str, Table], task: Segmentation, seed: int, device: str
) -> list[Hospital]:
    """One for each table, all at `model`'s weights; `seed` decides their patches."""
    return [
        Hospital(
            name, *tensors(table, device), copy.deepcopy(model).to(device), task, public_stream("study", name, seed)
        )
        for name, table in tables.items()
    ]


def copied(state: Mapping[str, Tensor]) -> State:
    """Tensors of their own, as they are written."""
    return {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}


def averaged(states: Sequence[State], weights: Sequence[float]) -> State:
    """The weighted mean; weights need not sum to 1.

    >>> averaged([{"w": torch.zeros(1)}, {"w": torch.ones(1)}], [1, 3])["w"].item()
    0.75
    """
    total = sum(weights)
    return {name: sum(w / total * state[name] for w, state in zip(weights, states, strict=True)) for name in states[0]}


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether any pattern takes the name."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def local(members: Sequence[Hospital], schedule: Schedule) -> None:
    """Each alone."""
    for turn in range(schedule.rounds):
        for member in members:
            member.train(schedule.steps, schedule, schedule.rate_at(turn / schedule.rounds))


def federated(members: Sequence[Hospital], schedule: Schedule, private: Sequence[str] = ()) -> Iterator[list[State]]:
    """FedAvg by images, all but what `private` names: FedBN's norms, FedPer's output. Gives what each hospital had
    trained, round by round; afterwards each has the average, with its own private part.
    """
    for turn in range(schedule.rounds):
        rate = schedule.rate_at(turn / schedule.rounds)
        for member in members:
            member.train(schedule.steps, schedule, rate)
        trained = [member.state() for member in members]
        yield trained
        mean = averaged(trained, [len(member) for member in members])
        for member, own in zip(members, trained, strict=True):
            member.model.load_state_dict(
                {name: own[name] if matches(name, private) else value for name, value in mean.items()}
            )


def ditto(members: Sequence[Hospital], schedule: Schedule, pull: float = PULL) -> list[State]:
    """Li et al. 2021: a model of one's own, drawn to the shared one by pull / 2 x distance^2. Each gets half the steps;
    gives the own models.
    """
    own = [Hospital(m.name, m.images, m.labels, copy.deepcopy(m.model), m.task, m.stream) for m in members]
    shared_steps = schedule.steps // 2
    for turn in range(schedule.rounds):
        rate = schedule.rate_at(turn / schedule.rounds)
        for mine, member in zip(own, members, strict=True):
            to = copied(dict(member.model.named_parameters()))
            mine.train(schedule.steps - shared_steps, schedule, rate, _pulled(mine.model, to, pull))
        for member in members:
            member.train(shared_steps, schedule, rate)
        mean = averaged([member.state() for member in members], [len(member) for member in members])
        for member in members:
            member.model.load_state_dict(mean)
    return [mine.state() for mine in own]


def _pulled(model: nn.Module, to: State, strength: float) -> Callable[[], None]:
    def add() -> None:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    parameter.grad.add_(parameter - to[name], alpha=strength)

    return add


def finetuned(members: Sequence[Hospital], schedule: Schedule, steps: int = FINETUNING) -> list[State]:
    """Each on its own from where it stands, with a fresh optimiser and a rate that falls to nearly nothing."""
    for member in members:
        fresh = Hospital(member.name, member.images, member.labels, member.model, member.task, member.stream)
        for at in range(steps):
            fresh.train(1, schedule, TUNED * schedule.rate_at(at / steps))
    return [member.state() for member in members]


class Trajectories:
    """The trajectory of each hospital under several alphas at once, from the states that `federated` gives."""

    def __init__(
        self, model: nn.Module, members: Sequence[str], alphas: Mapping[str, float | Mapping[str, Tensor]]
    ) -> None:
        self._floating = [name for name, value in model.state_dict().items() if value.is_floating_point()]
        self._all = {way: {member: Trajectory(alpha) for member in members} for way, alpha in alphas.items()}

    def move(self, trained: Mapping[str, State]) -> None:
        """One round."""
        for each in self._all.values():
            for member, trajectory in each.items():
                trajectory.move({name: trained[member][name] for name in self._floating})

    def states(self) -> dict[str, dict[str, State]]:
        """By way, by hospital."""
        return {way: {name: each.state_dict() for name, each in found.items()} for way, found in self._all.items()}


def alphas_by_layer(model: nn.Module, fast: float = ALPHAS[0], slow: float = ALPHAS[-1]) -> dict[str, Tensor]:
    """Norms and output follow the hospital's last rounds (`fast`), convolutions the longer mean (`slow`)."""
    own = (*NORMS, *OUTPUT)
    return {
        name: torch.full_like(value, fast if matches(name, own) else slow)
        for name, value in model.state_dict().items()
        if value.is_floating_point()
    }


def trajectory_alphas(model: nn.Module) -> dict[str, float | Mapping[str, Tensor]]:
    """The ways of a trajectory that are compared."""
    return {f"trajectory, alpha {alpha:g}": alpha for alpha in ALPHAS} | {
        "trajectory, by layer": alphas_by_layer(model)
    }
