"""Small reference models whose shape and starting weights follow from public settings alone.

Every hospital must start from the same shared weights, so these come from a fixed public key and not from
torch's global generator: the same settings give the same model on every machine.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

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
    with torch.no_grad():
        for parameter in layer.parameters():
            drawn = torch.from_numpy(stream.uniform(parameter.numel())).reshape(parameter.shape)
            parameter.copy_((2.0 * drawn - 1.0) / inputs**0.5)
    return layer


class MLP(nn.Module):
    """One hidden layer: parameters `body.*` and `head.*`; [B, features] -> logits [B].

    tanh rather than ReLU: bounded activations keep gradients small and lose less to clipping
    (Papernot et al. 2020, arXiv 2007.14191).
    """

    def __init__(self, features: int, hidden: int, stream: RandomStream) -> None:
        super().__init__()
        self.body = seeded_linear(features, hidden, stream)
        self.activation = nn.Tanh()
        self.head = seeded_linear(hidden, 1, stream)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(self.activation(self.body(features)))
        return logits.squeeze(-1)


class Logistic(nn.Module):
    """Logistic regression started at zero: parameters `linear.*`; [B, features] -> logits [B]."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear = seeded_linear(features, 1, public_stream("logistic"))
        for parameter in self.linear.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.linear(features)
        return logits.squeeze(-1)


def build_model(kind: ModelKind, features: int, hidden: int = 8, seed: int = 0) -> nn.Module:
    """The reference model for `features` input columns and one binary label: [B, features] -> logits [B].

    `seed` is public and picks the starting weights of an "mlp"; torch's global generator plays no part.
    Raises ModelError where `kind` is unknown and ValueError where a size is below 1.
    """
    if kind == "mlp":
        return MLP(features, hidden, public_stream("mlp", features, hidden, seed))
    if kind == "logistic":
        return Logistic(features)
    raise ModelError(f'model kind "{kind}" is unknown: use "mlp" or "logistic"')


def bce(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of each record: logits [B] and labels [B] (0 or 1) -> losses [B], in nats.

    Raises ValueError where the shapes differ, which torch would otherwise broadcast into B x B losses.
    """
    if logits.shape != labels.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} differ in shape")
    return functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none")
