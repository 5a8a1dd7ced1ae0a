"""Which parameters train: the rest is frozen, neither shared nor personal, and stays at the public start."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Literal

from torch import nn

from securepfl.errors import ConfigError
from securepfl.learning.personal.partition import unmatched

HEAD = ("head.*",)


def freeze(model: nn.Module, trained: Literal["all", "head"] | Sequence[str]) -> None:
    """Sets requires_grad of all parameters, in place: on for those that `trained` names, off for the others.

    "all" leaves the model as it is, "head" names the parameters of its `head`, else these are fnmatch patterns. Raises
    ConfigError for a pattern that matches no parameter.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    >>> freeze(model, ("1.*",))
    >>> [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    ['1.weight', '1.bias']
    """
    if trained == "all":
        return
    patterns = HEAD if trained == "head" else tuple(trained)
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(unmatched("[model] trained", pattern, names))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(fnmatchcase(name, pattern) for pattern in patterns))
