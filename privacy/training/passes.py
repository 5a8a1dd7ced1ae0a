"""One physical batch through the model, and what it adds to a step: its clipped sum."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from securepfl.privacy.training.canaries import Canaries
from securepfl.privacy.training.clipping import Frame, Ghost, Kept, Layout, clip_into, clipped_units
from securepfl.privacy.training.gradients import ModeName, Recorder
from securepfl.privacy.training.units import Batch

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Passes:
    """What batches pass through. `most`: records in memory at once. Nothing is left behind by a pass that raises."""

    recorder: Recorder
    loss: Loss
    layout: Layout
    clip: float
    most: int
    canaries: Canaries | None = None

    def clipped(self, batch: Batch) -> tuple[Iterator[Tensor], Tensor, Tensor, Tensor]:
        """As summed, but the clipped gradients themselves, some units at a time: double [units, layout.size]."""
        gradients = Kept(self._frame(batch))
        losses = self._through(batch, gradients)
        rows, clipped, refused = clipped_units(gradients, self.clip)
        return rows, losses, clipped, refused

    def summed(self, batch: Batch, mode: ModeName) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The clipped sum, double [layout.size]; losses [records]; which units were clipped or refused, and which
        refused, bool [units].
        """
        # A patient with more records than that is alone: the sum over some records at a time is one gradient to keep.
        large = len(batch.x) > self.most
        gradients = Ghost(self._frame(batch)) if mode == "ghost" and not large else Kept(self._frame(batch))
        losses = self._through(batch, gradients)
        total = torch.zeros(self.layout.size, dtype=torch.float64, device=self.layout.device)
        return total, losses, *clip_into(total, gradients, self.clip)

    def _frame(self, batch: Batch) -> Frame:
        return Frame(self.layout, batch, self.canaries, self.clip, self.layout.device)

    def _through(self, batch: Batch, gradients: Kept | Ghost) -> Tensor:
        return pass_through(self.recorder, batch, self.loss, self.most, gradients, self.layout.device)


def pass_through(
    recorder: Recorder, batch: Batch, loss: Loss, most: int, gradients: Kept | Ghost, device: torch.device
) -> Tensor:
    """Hands `gradients` what the layers see of `batch`, at most `most` records at a time; losses, shape [records]."""
    parts = zip(torch.split(batch.x, most), torch.split(batch.y, most), strict=True)
    return torch.cat(
        [recorder.run(x.to(device), _against(loss, y.to(device)), len(x), gradients.take) for x, y in parts]
    )


def _against(loss: Loss, y: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda output: loss(output, y)
