"""What a call of train_private counts, and what the hospital is told of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from securepfl.errors import ModelError
from securepfl.privacy.training.unusable import Reason, Unusable


@dataclass(frozen=True)
class TrainingReport:
    """What a round's training looked like. Exact functions of private records: it stays in the hospital.

    clipped_fraction: of the units drawn, those whose gradient was clipped or counted as zero. shortened_fraction: of
    those that trained, those whose gradient the clip shortened. unusable: how many units (records or patients, once for
    each step that drew them) counted as zero, by reason (see unusable.Unusable).
    mean_loss: over records drawn with a finite loss. All three are None where nothing was drawn. mode: see
    gradients.GradientMode. failed: why training failed altogether, so that noise alone was sent; "" where it did not.

    >>> report = TrainingReport(1, clipped_fraction=0.25, mean_loss=0.7, mode="ghost", unusable={"not finite": 2})
    >>> report.nonfinite_records
    2
    """

    steps: int
    clipped_fraction: float | None
    mean_loss: float | None
    mode: str
    unusable: Mapping[Reason, int] = field(default_factory=dict)
    failed: str = ""
    shortened_fraction: float | None = None

    @property
    def nonfinite_records(self) -> int:
        """Units whose gradient held a NaN or an infinity."""
        return self.unusable.get("not finite", 0)

    @property
    def unusable_units(self) -> int:
        """Units that counted as zero, for whatever reason."""
        return sum(self.unusable.values())


class Tally:
    """Counts of one training, on the device until the end: reading each would wait for it."""

    def __init__(self, device: torch.device) -> None:
        self.unusable = Unusable()
        self._drawn = self._used = 0
        self._sums = torch.zeros(4, dtype=torch.float64, device=device)

    def draw(self, drawn: int, skipped: int) -> None:
        """Units drawn, and those of them that the caller told to skip."""
        self._drawn += drawn
        self.unusable.add("skipped", skipped)

    def add(self, losses: Tensor, clipped: Tensor, refused: Tensor) -> None:
        """losses [records], clipped and refused bool [units] of one batch."""
        finite = torch.isfinite(losses)
        total = losses.masked_fill(~finite, 0).sum(dtype=torch.float64)
        self._used += len(clipped)
        self._sums += torch.stack([clipped.sum(), refused.sum(), finite.sum(), total])

    def report(self, steps: int, mode: str) -> TrainingReport:
        """Raises ModelError where no unit could be used and model or loss are at fault."""
        if not self._used and self.unusable.model_error is not None:
            raise ModelError(self.unusable.model_error)
        clipped, refused, finite, loss = self._sums.tolist()
        trained = self._used - refused
        zero = sum(self.unusable.counts().values())
        self.unusable.add("not finite", int(refused))
        return TrainingReport(
            steps=steps,
            clipped_fraction=(clipped + zero) / self._drawn if self._drawn else None,
            mean_loss=loss / finite if finite else None,
            mode=mode,
            unusable=self.unusable.counts(),
            shortened_fraction=(clipped - refused) / trained if trained else None,
        )
