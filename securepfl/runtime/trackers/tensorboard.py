"""TensorBoard: curves in a folder."""

from collections.abc import Mapping

from securepfl.errors import ConfigError


class TensorBoard:
    """Writes event files below `folder`, as `tensorboard --logdir` shows them."""

    def __init__(self, folder: str) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - an extra

        self._writer = SummaryWriter(folder)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """See Tracker."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """See Tracker."""
        self._writer.close()


def open_tracker(place: str, run: str) -> TensorBoard:
    """`place`: a folder for all runs, in which this one gets its own. Raises ConfigError without one."""
    if not place:
        raise ConfigError("--track tensorboard: name a folder, as in --track tensorboard:curves")
    return TensorBoard(f"{place}/{run}")
