"""A declared prior: the share of the field that a structure covers, or how common the classes are."""

from math import isfinite

from securepfl.errors import ConfigError
from securepfl.tasks.task import Task

Prior = float | tuple[float, ...]
_TOTAL = 1e-3


def checked_prior(prior: Prior | None, task: Task) -> tuple[float, ...]:
    """`prior` as one number (a structure's share, label 1's), or one for each label or class; () where there is none.

    Raises ConfigError where a share lies outside (0, 1), their count isn't the task's, or classes' don't sum to 1.

    >>> from securepfl.tasks.binary import BINARY
    >>> checked_prior(1.2, BINARY)
    Traceback (most recent call last):
    securepfl.errors.ConfigError: prior 1.2: must lie between 0 and 1 (write 0.3 for 30 %)
    """
    if prior is None:
        return ()
    shares = tuple(float(share) for share in (prior if isinstance(prior, tuple) else (prior,)))
    if task.name == "regression":
        raise ConfigError("prior: a regression has no classes whose share could be declared: leave it out")
    for share in shares:
        if not isfinite(share) or not 0.0 < share < 1.0:
            raise ConfigError(f"prior {share:g}: must lie between 0 and 1 (write 0.3 for 30 %)")
    several = task.name in ("multiclass", "multilabel")
    if len(shares) != (task.outputs if several else 1):
        raise ConfigError(
            f"prior: {len(shares)} shares, and the task {task.name} needs {task.outputs if several else 1}"
        )
    if task.name == "multiclass" and abs(sum(shares) - 1.0) > _TOTAL:
        raise ConfigError(f"prior: the classes' shares sum to {sum(shares):g}, not 1; correct them")
    return shares
