"""Small reference models whose shape and starting weights follow from public settings alone.

Every hospital must start from the same shared weights, so these come from a fixed public key and not from
torch's global generator: the same settings give the same model on every machine.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from securepfl.errors import ModelError
from securepfl.randomness import RandomStream, derive_key

ModelKind = Literal["mlp", "logistic"]
_PUBLIC_KEY = b"securepfl public starting weights"


def public_stream(*labels: str | int) -> RandomStream:
    """A stream that anyone can repeat: for starting weights and row orders, never for noise or secrets."""
    return RandomStream(derive_key(_PUBLIC_KEY, *labels))


def seeded_linear(inputs: int, outputs: int, stream: RandomStream) -> nn.Linear:
    """A Linear layer with weights and bias uniform on +-1/sqrt(inputs), drawn from `stream`.

    Raises ValueError where `inputs` or `outputs` is below 1.
    """
    if inputs < 1 or outputs < 1:
        raise ValueError(f"a linear layer needs inputs and outputs of at least 1, not {inputs} and {outputs}")
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    seed_layer(layer, stream)
    return layer


def seed_layer(layer: nn.Linear | nn.Conv2d, stream: RandomStream) -> None:
    """Weight and bias uniform on +-1/sqrt(numbers that one output is made of), in place, drawn from `stream`.

    >>> layer = nn.Conv2d(1, 2, kernel_size=3)
    >>> seed_layer(layer, public_stream("example"))
    >>> bool((layer.weight.abs() <= 1 / 3).all())
    True
    """
    inputs = layer.weight[0].numel()
    with torch.no_grad():
        for parameter in layer.parameters():
            drawn = torch.from_numpy(stream.uniform(parameter.numel())).reshape(parameter.shape)
            parameter.copy_((2.0 * drawn - 1.0) / inputs**0.5)


class MLP(nn.Module):
    """One hidden layer: parameters `body.*` and `head.*`; [B, features] -> [B], or [B, outputs] of several.

    tanh rather than ReLU: bounded activations keep gradients small and lose less to clipping
    (Papernot et al. 2020, arXiv 2007.14191).
    """

    def __init__(self, features: int, hidden: int, stream: RandomStream, outputs: int = 1) -> None:
        super().__init__()
        self.body = seeded_linear(features, hidden, stream)
        self.activation = nn.Tanh()
        self.head = seeded_linear(hidden, outputs, stream)

    def forward(self, features: Tensor) -> Tensor:
        return _one_a_record(self.head(self.activation(self.body(features))))


class Logistic(nn.Module):
    """A linear model started at zero: parameters `linear.*`; [B, features] -> [B], or [B, outputs] of several."""

    def __init__(self, features: int, outputs: int = 1) -> None:
        super().__init__()
        self.linear = seeded_linear(features, outputs, public_stream("logistic"))
        for parameter in self.linear.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor) -> Tensor:
        return _one_a_record(self.linear(features))


def _one_a_record(outputs: Tensor) -> Tensor:
    return outputs.squeeze(-1)


def build_model(kind: ModelKind, features: int, hidden: int = 8, seed: int = 0, outputs: int = 1) -> nn.Module:
    """The reference model for `features` input columns: [B, features] -> [B], or [B, outputs] where there are several.

    `seed` is public and picks the starting weights of an "mlp"; torch's global generator plays no part.
    Raises ModelError where `kind` is unknown and ValueError where a size is below 1.
    """
    if kind == "mlp":
        return MLP(features, hidden, public_stream("mlp", features, hidden, seed), outputs)
    if kind == "logistic":
        return Logistic(features, outputs)
    raise ModelError(f'model kind "{kind}" is unknown: use "mlp" or "logistic"')
