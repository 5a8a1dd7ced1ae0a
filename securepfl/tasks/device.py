"""Where tensors live."""

import torch

from securepfl.errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """The device for "auto", "cpu" or "cuda". Raises ConfigError where CUDA is asked for and absent."""
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device {name!r}: must be auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device 'cuda': torch finds no CUDA device here; use --device auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
