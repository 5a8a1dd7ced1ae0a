"""A model whose chosen tensors move along a few public directions, each made as strong as the others: theta_0 + A z.

Noise under differential privacy is the same in every direction, and grows with how many there are. So a network of a
thousand norms moves only along the `count` directions that change its logits most on images that hold no patient: the
leading eigenvectors of the Gauss-Newton matrix of those logits, each over its eigenvalue's root, so that a step of
length 1 changes public logits about equally whichever way it goes. (Public subspaces: Zhou, Wu and Banerjee 2021, arXiv
2007.03813.) A is made before any patient is seen and costs no privacy.
"""

from collections.abc import Sequence

import torch
from opacus.grad_sample import register_grad_sampler
from torch import Tensor, nn
from torch.func import functional_call

from securepfl.randomness import RandomStream
from segmentation.training import matches

PROBES = 150
DAMPING = 0.1
"""Added to each eigenvalue, in parts of the mean of those that are kept: weak directions are not blown up."""


class Whitened(nn.Module):
    """`model` with all tensors frozen but those that `patterns` name, which follow `z` [count]; 0 at the start.

    `directions` is A [d, count] for the d values of those tensors; None: each value by itself.
    """

    def __init__(self, model: nn.Module, patterns: Sequence[str], directions: Tensor | None = None) -> None:
        super().__init__()
        own = {name: value.detach().clone() for name, value in model.named_parameters() if matches(name, patterns)}
        if not own:
            raise ValueError(f"no tensor is named like any of {list(patterns)}")
        # Not a submodule: its tensors are no parameters of this one.
        object.__setattr__(self, "_model", model.requires_grad_(False).eval())
        self._own, self.size = own, sum(value.numel() for value in own.values())
        self.directions = torch.eye(self.size) if directions is None else directions
        self.z = nn.Parameter(torch.zeros(self.directions.shape[1]))

    def tensors(self) -> dict[str, Tensor]:
        """The moved tensors by name."""
        moved = torch.split(self.directions @ self.z, [value.numel() for value in self._own.values()])
        return {name: value + part.view_as(value) for (name, value), part in zip(self._own.items(), moved, strict=True)}

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = functional_call(self._model, self.tensors(), (x,))
        return outputs


@register_grad_sampler(Whitened)
def _one_by_one(layer: Whitened, activations: list[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
    """Each record's gradient by itself: images are few, and there is one tensor."""
    found = []
    with torch.enable_grad():
        for x, at in zip(activations[0], backprops, strict=True):
            found += torch.autograd.grad(layer.forward(x[None]), layer.z, at[None])  # no hook sees it
    return {layer.z: torch.stack(found)}


def whitening(model: nn.Module, patterns: Sequence[str], images: Tensor, count: int, stream: RandomStream) -> Tensor:
    """A [d, count] for the tensors of `model` that `patterns` name, from public `images` [n, C, H, W].

    The matrix is estimated by gradients of sums of logits, each weighted by its chance's deviation and a random normal
    value. Raises ValueError for more directions than that can tell apart.
    """
    if not 1 <= count <= PROBES:
        raise ValueError(f"count must be from 1 to {PROBES}, not {count}")
    plain = Whitened(model, patterns)
    probes = []
    for number in range(PROBES):
        logits = plain(images[number % len(images)][None])
        chances = logits.detach().sigmoid()
        normal = torch.from_numpy(stream.gaussian(logits.numel())).view_as(logits).to(logits)
        weights = normal * (chances * (1 - chances) / logits.numel()).sqrt()
        probes += torch.autograd.grad((weights * logits).sum(), plain.z)
    _, roots, vectors = torch.linalg.svd(torch.stack(probes).double() / PROBES**0.5, full_matrices=False)
    values = roots[:count].square()
    return (vectors[:count] * (values + DAMPING * values.mean()).rsqrt()[:, None]).T.float()
