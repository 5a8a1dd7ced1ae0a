"""Whether routing is to be believed over the shared model, without labels."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from securepfl.tasks.models import public_stream

_RESAMPLES: Final = 200
_LEAST: Final = 0.025


@dataclass(frozen=True, eq=False)
class Verdict:
    """Which samples the shared model answers, bool [n], and why, in a line."""

    guarded: Tensor
    why: str

    @property
    def fell_back(self) -> bool:
        """Whether it answers all of them."""
        return bool(self.guarded.all())


def by_sample(criterion: str, gains: Tensor) -> Verdict:
    """Each sample by itself: the shared model answers where the routed one's score isn't higher. `gains` [n].

    >>> by_sample("agreement", torch.tensor([0.1, -0.1])).guarded.tolist()
    [False, True]
    """
    guarded = gains <= 0.0
    kept = int((~guarded).sum())
    return Verdict(guarded, f"{criterion} is higher than the shared model's for {kept} of {len(gains)}")


def by_site(criterion: str, gain_of: Callable[[Tensor], float], count: int) -> Verdict:
    """The whole site: the routed model must gain beyond chance in the choice of rows.

    `gain_of(index)` is the gain in score over the rows `index` [m]. It must exceed 0, and so must the 2.5 % quantile of
    its gains over bootstrap samples of the rows (one row: the gain alone). Resampling is public and repeats exactly.
    """
    everyone = torch.arange(count)
    gain, least = gain_of(everyone), float("-inf")
    if count > 1 and gain > 0.0:
        stream = public_stream("guard", count)
        drawn = torch.from_numpy((stream.uniform(_RESAMPLES * count) * count).astype("int64")).clamp(max=count - 1)
        gains = torch.tensor([gain_of(index) for index in drawn.reshape(_RESAMPLES, count)], dtype=torch.float64)
        least = float(gains.quantile(_LEAST))
    elif count == 1:
        least = gain
    back = not (gain > 0.0 and least > 0.0)
    told = f"{criterion} gains {gain:+.4f} over the shared model's"
    told += f" (at least {least:+.4f})" if torch.isfinite(torch.tensor(least)) and count > 1 else ""
    return Verdict(torch.full((count,), back), told)
