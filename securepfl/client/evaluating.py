"""What a hospital adds to released metrics: its held-out patients' scores, counted by outcome, with noise.

A patient's records count as one patient together: the mean of their cells, which is never longer than one record's. So
one patient moves what is released by at most Histogram.bound, whatever its records hold; zeros in its place move it as
much as its absence. A unit that cannot be used counts as zero, as in training, and so does everybody where all fails.
Each unit is scored by itself, by a copy of the model: the last bits of a score hang on the batch that it is in, and of
many scores that lie on an edge between bins, one more or fewer in the batch would move all. So would a model that keeps
something of what it sees.

| noise | what is sent | counted as |
|---|---|---|
| each hospital's own | counts and one Gaussian; where units are drawn, the mean over `steps` draws | training steps |
| shared | `steps` times the counts on the grid, and as many shares of discrete noise | `steps` sums |
"""

import copy
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader, Dataset

from securepfl.client.contributing import Made, signed_contribution
from securepfl.client.masks import Masks
from securepfl.client.models import Models
from securepfl.client.records import TrainingSet
from securepfl.client.round import Round
from securepfl.client.snapshot import Snapshot
from securepfl.client.state import ClientState, Pending
from securepfl.errors import ConfigError
from securepfl.learning.released.histogram import Floats, Histogram
from securepfl.privacy.accounting.events import Release
from securepfl.privacy.training.discrete import discrete_gaussian
from securepfl.privacy.training.integer_sum import IntegerSum
from securepfl.privacy.training.shared_noise import SharedNoise
from securepfl.privacy.training.units import Batch, use_batches
from securepfl.privacy.training.unusable import Unusable
from securepfl.protocol.channels import SumChannel
from securepfl.protocol.messages import NONCE_BYTES, Contribution, MaskShares
from securepfl.settings.evaluation import Evaluation
from securepfl.settings.federation import Federation
from securepfl.tasks.names import COUNTED
from securepfl.tasks.prediction import predict
from securepfl.tasks.task import OperatingPoint, Predictions, Task

_PHYSICAL_BATCH: Final = 1
"""Half a millisecond a unit, where 64 together take a hundredth of that; it is done once a run."""


@dataclass(frozen=True)
class Counting:
    """How `model`'s answers on a batch of units become cells. `point`: where the hospital decides."""

    histogram: Histogram
    task: Task
    point: OperatingPoint
    model: nn.Module
    trained: torch.dtype | None = None

    def of_units(self, batch: Batch) -> Floats:
        """Each unit's cells, [units, outcomes, 2, cells], of norm at most `histogram.bound`; a record that has no legal
        label or no finite score adds nothing.
        """
        said = predict(copy.deepcopy(self.model), batch.x, self.task, trained=self.trained)
        chances, decided, truth, legal = self._told(said, batch.y.detach().cpu().numpy())
        counts = np.ones(len(batch.units), dtype=np.int64) if batch.counts is None else np.array(batch.counts)
        owner = np.repeat(np.arange(len(counts)), counts)
        return self.histogram.of_units(chances, decided, truth, legal / counts[owner], owner, len(counts))

    def _told(self, said: Predictions, labels: NDArray[Any]) -> tuple[Floats, NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Scores, decisions and labels, [n, outcomes] each, and which records are legal, [n]."""
        count = self.histogram.outcomes
        finite = np.isfinite(said).reshape(len(said), -1).all(axis=1)
        decided = self.task.decide(np.nan_to_num(said), self.point)
        if self.task.name == "multiclass":
            flat, classes = labels.reshape(len(said)), np.arange(count)
            legal: NDArray[np.bool_] = np.logical_and(finite, np.isin(flat, classes))
            return said, decided[:, None] == classes, flat[:, None] == classes, legal
        truth = labels.reshape(len(said), count)
        legal = np.logical_and(finite, np.isin(truth, (0, 1)).all(axis=1))
        return said.reshape(len(said), count), decided.reshape(len(said), count) == 1, truth == 1, legal


@dataclass(frozen=True)
class Evaluator:
    """A hospital's held-out units, `tested`, and its way to the sum. `seconds` counts what "encrypt" took."""

    federation: Federation
    evaluation: Evaluation
    task: Task
    tested: TrainingSet
    models: Models
    channel: SumChannel
    masks: Masks
    trained: torch.dtype | None
    seconds: dict[str, float]

    @classmethod
    def of(cls, federation: Federation, task: Task, tested: TrainingSet, **parts: Any) -> "Evaluator":
        """Raises ConfigError for a task of one's own, whose predictions are no scores."""
        if task.name not in COUNTED:
            raise ConfigError(f"[release] metrics: a {task.name} has no scores to count; set metrics = false")
        return cls(federation, federation.once(Evaluation.of), task, tested, **parts)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the hospital alone should know of them."""
        unit, most = self.tested.unit, self.evaluation.most
        if self.found <= most:
            return ()
        return (
            f"[release] metrics: more than {most} held-out {unit}s, four times the units that the largest hospital "
            "declares: counts are cut there, and figures can be wrong; hold out fewer",
        )

    @property
    def found(self) -> int:
        """Held-out units. None where they can't be counted, or came or went since the Client was made: no ledger knows
        those that came.
        """
        try:
            self.tested.check_length()
            return self.tested.found
        except Exception:  # noqa: BLE001 - whatever the data set raises: who can be read must not show in who answers
            return 0

    def make(self, round_: Round, state: ClientState, release: Release | None, head: str) -> Made:
        """The contribution to the round of released metrics: nothing but noisy counts in the place of an update.
        `release`: the hospital's own noise; None where it is shared. `state` changes by its nonce alone.
        """
        digest = Snapshot.of(state).digest(round_.session.key.snapshot_key, round_.session.digest)
        integers = self.counted(round_, self.models.personal(state), release)
        started = time.perf_counter()
        update = self.channel.encode_integers(
            self.evaluation.digits_of(integers),
            round_.session.name,
            round_.contexts["update"],
            self.masks.under(round_),
        )
        self.seconds["encrypt"] += time.perf_counter() - started
        state.nonce, masked = secrets.token_hex(NONCE_BYTES), update.masked
        body = Contribution(
            update=update.data,
            personal=None,
            sketch=None,
            neighbours={},
            head=head,
            nonce=bytes.fromhex(state.nonce),
            state=digest,
            masks=None if masked is None else MaskShares(blobs=masked.blobs, commitments=masked.commitments),
            stands=b"",
        )
        opens = masked is not None and not self.federation.shares_noise
        kept = Pending(
            message=b"",
            trained=True,
            sent=np.zeros_like(state.residual),
            local_shared=state.shared,
            own_mask=masked.own.hex() if masked is not None and opens else "",
        )
        own = None if release is None else tuple(integers.tolist())
        return Made(signed_contribution(round_, body), kept, None, own)

    def counted(self, round_: Round, model: nn.Module, release: Release | None) -> NDArray[np.int64]:
        """What leaves, [histogram.size] integers: counts and noise, `evaluation.scale` to a patient."""
        name, federation = round_.session.name, self.federation
        point = federation.operating_point_of(name)
        counting = Counting(self.evaluation.histogram, self.task, point, model, self.trained)
        if release is not None:
            return self._with_own_noise(round_, counting, release)
        if federation.shape is None or federation.shape.noise is None:
            raise ConfigError("the federation is not bound to hospitals and a model: call Federation.bound first")
        return self._with_a_share(round_, counting, federation.shape.noise)

    def _with_own_noise(self, round_: Round, counting: Counting, release: Release) -> NDArray[np.int64]:
        """The mean of `steps` noisy sums of the units that each draws, over the rate. Only that is ever made: its noise
        is one Gaussian's.
        """
        histogram = self.evaluation.histogram
        rate, steps, found = release.sample_rate, release.steps, self.found
        times = np.full(found, float(steps))
        if rate < 1:
            times = (round_.streams["sampling"].uniform(steps * found).reshape(steps, found) < rate).sum(axis=0) * 1.0
        total = np.zeros((histogram.outcomes, 2, histogram.cells))
        for places, cells in self._cells(counting, np.flatnonzero(times).tolist()):
            total += np.tensordot(times[places], cells, axes=1)
        deviation = release.noise_multiplier * histogram.bound * np.sqrt(steps)
        noise = deviation * round_.streams["noise"].gaussian(histogram.size)
        return self._rounded((histogram.released(total) + noise) / (steps * rate))

    def _rounded(self, counts: Floats) -> NDArray[np.int64]:
        reach = self.evaluation.reach
        found: NDArray[np.int64] = np.clip(np.rint(counts * self.evaluation.scale), -reach, reach).astype(np.int64)
        return found

    def _with_a_share(self, round_: Round, counting: Counting, noise: SharedNoise) -> NDArray[np.int64]:
        """`steps` times the counts on the grid, and as many shares of noise: the sum of `steps` sums, which are never
        seen alone. Counts are cut before noise is added, which moves no two of them apart.
        """
        evaluation, histogram, stream = self.evaluation, self.evaluation.histogram, round_.streams["noise share"]
        sums = IntegerSum.empty(noise, stream, histogram.size)
        for _, cells in self._cells(counting, list(range(self.found))):
            vectors = histogram.released(cells) / histogram.bound
            sums.add(vectors * _INSIDE, np.zeros(len(vectors)))
        most = evaluation.most * noise.grid
        drawn = discrete_gaussian(evaluation.steps * histogram.size, noise.scale, stream)
        shares: NDArray[np.int64] = drawn.reshape(evaluation.steps, -1).sum(axis=0)
        return shares + evaluation.steps * np.clip(sums.total, -most, most)

    def _cells(self, counting: Counting, places: list[int]) -> Iterator[tuple[list[int], Floats]]:
        """The places and cells of the units at `places` that can be used, a physical batch at a time."""
        tested = self.tested
        yield from use_batches(
            tested.dataset,
            places,
            _PHYSICAL_BATCH,
            tested.unit,
            tested.collate,
            lambda batch: (list(batch.units), counting.of_units(batch)),
            Unusable(),
        )


_INSIDE: Final = 1 - 2.0**-40
"""For what doubles round: no vector is longer than 1 after it."""


def tested_of(federation: Federation, name: str, testing: DataLoader[Any] | Dataset[Any] | None) -> TrainingSet | None:
    """The held-out units that a hospital hands in, None where no metrics are released. None at all are none: how many
    there are is private. Raises ConfigError where `testing` is missing or nobody would use it, DataError as
    TrainingSet.of.
    """
    if not federation.release.metrics:
        if testing is None:
            return None
        raise ConfigError(f"{name}: testing= goes with [release] metrics = true, which these settings don't have")
    if testing is None:
        raise ConfigError(
            f"{name}: [release] metrics = true counts patients that were held out: hand in testing=, a data set like "
            "that which trains"
        )
    dataset = testing.dataset if isinstance(testing, DataLoader) else testing
    unit = federation.privacy.unit
    empty = hasattr(dataset, "__len__") and not len(dataset)
    found = TrainingSet(dataset, None, unit) if empty else TrainingSet.of(testing, name, unit)
    return replace(found, scanned=found.found)
