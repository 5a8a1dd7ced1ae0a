"""Each model once: experts that are one and the same model, to the last bit, are one candidate.

Where nothing is personal, all hospitals' averages over rounds are one model, and so is each released under its own
name. As several candidates it would be asked several times and weigh as often, beside experts that differ.
"""

import hashlib
from dataclasses import replace

import torch
from torch import nn

from securepfl.outside.candidates import SHARED
from securepfl.outside.experts import Experts


def each_once(experts: Experts) -> tuple[Experts, tuple[str, ...]]:
    """`experts` without models that equal another one, of which "shared" stays, else the first by name; and a note that
    names them, where there are any. Audit records and signatures stay all: each was released, at its own epsilon.
    """
    first: dict[bytes, str] = {}
    same: dict[str, list[str]] = {}
    for name in sorted(experts.models, key=lambda name: (name != SHARED, name)):
        kept = first.setdefault(_content(experts.models[name]), name)
        if kept != name:
            same.setdefault(kept, []).append(name)
    if not same:
        return experts, ()
    left_out = {name for names in same.values() for name in names}
    told = "; ".join(f"{', '.join(names)} as {kept}" for kept, names in same.items())
    models = {name: model for name, model in experts.models.items() if name not in left_out}
    return replace(experts, models=models), (f"experts that are one and the same model count once: {told}",)


def _content(model: nn.Module) -> bytes:
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\0".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.digest()
