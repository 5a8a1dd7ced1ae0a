"""A public start as a file: the network's weights, what network and images they are for, and a card in plain English.

safetensors, with texts in its metadata:

| key | what |
|---|---|
| format | "securepfl start 1" |
| facts | JSON: `name`, `network` (kind, channels, hidden), `images` (how pixels were scaled), `made` (seed, steps) |
| card | plain English: where the images came from, and that no patient is in it |
| digest | SHA-256, hex, over weights, facts and card |

The digest finds damage, not malice: who means harm recomputes it. A federation's own digest binds it for all hospitals.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors
from torch import nn

from securepfl.errors import ModelError

FORMAT: Final = "securepfl start 1"
HEAD: Final = "head."
"""A start leaves the head alone: a network's own is zero, and each federation trains it."""
MOST_BYTES: Final = 1 << 28
"""Of a start's file; the largest UNet here (hidden 64) has 55 MB."""
MOST_CARD: Final = 1 << 14
"""Characters of a card."""
_LARGEST: Final = 1e6
_LEAST: Final = 1e-5
"""Of what features are divided by; `securepfl start` divides by 1e-4 at least."""
_MEND: Final = "make it again with `securepfl start`"


@dataclass(frozen=True, eq=False, kw_only=True)
class Start:
    """Weights by a network's own names (float32, all finite), and what they are for.

    `network` has what the network was built from (`kind`, `channels`, `hidden`); `images` how pixels were scaled before
    it saw them; `made` what made it. Raises ModelError where a weight is no finite float32 or a text is too long.

    >>> weights = {"body.w": np.ones(2, np.float32)}
    >>> start = Start(name="tiny", weights=weights, network={"kind": "unet"}, card="No patient.")
    >>> again = Start.from_bytes(start.to_bytes(), "tiny.safetensors")
    >>> again.digest == start.digest, again.card
    (True, 'No patient.')
    """

    name: str
    weights: Mapping[str, NDArray[np.float32]] = field(repr=False)
    network: Mapping[str, Any]
    card: str = field(repr=False)
    images: Mapping[str, Any] = field(default_factory=dict)
    made: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, array in self.weights.items():
            if array.dtype != np.float32 or not np.isfinite(array).all():
                raise ModelError(f"a start's weight {name!r} must be finite float32; {_MEND}")
        if not self.weights or not self.card or len(self.card) > MOST_CARD:
            raise ModelError(f"a start needs weights and a card of at most {MOST_CARD} characters; {_MEND}")

    @property
    def _facts(self) -> str:
        facts = {"name": self.name, "network": self.network, "images": self.images, "made": self.made}
        return json.dumps(facts, sort_keys=True, allow_nan=False, default=dict)

    @cached_property
    def digest(self) -> str:
        """SHA-256, hex, over the weights with their names and shapes, the facts and the card."""
        hashed = hashlib.sha256()
        for text in (FORMAT, self._facts, self.card):
            _feed(hashed, text.encode())
        for name in sorted(self.weights):
            array = np.ascontiguousarray(self.weights[name], dtype="<f4")
            _feed(hashed, name.encode())
            _feed(hashed, repr(array.shape).encode())
            _feed(hashed, array.tobytes())
        return hashed.hexdigest()

    def to_bytes(self) -> bytes:
        """The file's bytes; read_start reads them back."""
        meta = {"format": FORMAT, "facts": self._facts, "card": self.card, "digest": self.digest}
        return bytes(save_safetensors({name: np.ascontiguousarray(w) for name, w in self.weights.items()}, meta))

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> "Start":
        """What to_bytes gave. Raises ModelError, with `where` in its line, where the bytes are anything else."""
        try:
            weights = load_safetensors(data)
            meta = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
            if meta["format"] != FORMAT:
                raise ModelError(f'{where}: its format is not "{FORMAT}"; {_MEND}')
            facts, card, digest = json.loads(meta["facts"]), meta["card"], meta["digest"]
            start = cls(weights=weights, card=card, **facts)
        except ModelError as error:
            raise ModelError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ModelError(f"{where}: not a start that securepfl wrote whole; {_MEND}") from None
        if not isinstance(start.network, dict) or start.digest != digest:
            raise ModelError(f"{where}: its content is not what its digest says: damaged or changed; {_MEND}")
        return start


def read_start(path: Path) -> Start:
    """The start in a file. Raises ModelError where there is none, or it is damaged, too large or another file."""
    try:
        if path.exists() and not path.is_file():
            raise ModelError(f"{path}: the start is no plain file; name one, or {_MEND}")
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ModelError(f"{path}: a start has at most {MOST_BYTES >> 20} MiB; name another file")
    except OSError as error:
        raise ModelError(f"{path}: the start cannot be read ({error.strerror}); name a file, or {_MEND}") from None
    return Start.from_bytes(data, str(path))


def fill(model: nn.Module, path: Path) -> Start:
    """Put the start at `path` into a built network, all but its head, on the device where it is; gives the start.

    Raises ModelError where the file is no start, of another network, or holds numbers that no network answers by, and
    then leaves `model` as it was.
    """
    start = read_start(path)
    put(model, start, str(path))
    return start


def put(model: nn.Module, start: Start, where: str) -> None:
    """Put a start into a built network, all but its head. Raises ModelError as `fill` does."""
    own = {name: value for name, value in model.state_dict().items() if not name.startswith(HEAD)}
    if (named := _differs(start.weights, own)) is not None:
        declared = ", ".join(f"{key} {value}" for key, value in start.network.items())
        raise ModelError(
            f"{where}: the start is of another network ({declared}): {named}; set [model] and [data] to that, or make "
            "the start anew for this network"
        )
    if (unfit := _unfit(start.weights)) is not None:
        raise ModelError(f"{where}: {unfit}, so nothing but overflows would come of it; {_MEND}")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(torch.from_numpy(start.weights[name]))


def taken(model: nn.Module) -> dict[str, NDArray[np.float32]]:
    """A network's weights and buffers as a start has them: float32 on the CPU, all but the head's."""
    return {
        name: value.detach().to("cpu", torch.float32).numpy().copy()
        for name, value in model.state_dict().items()
        if not name.startswith(HEAD)
    }


def _differs(weights: Mapping[str, NDArray[np.float32]], own: Mapping[str, torch.Tensor]) -> str | None:
    """The first difference between a start's tensors and a network's own, in words; None where there is none."""
    for name in sorted(own.keys() | weights.keys()):
        if name not in weights:
            return f"the model's {name} is not in it"
        if name not in own:
            return f"its {name} is not in the model"
        if weights[name].shape != tuple(own[name].shape):
            return f"its {name} has shape {list(weights[name].shape)}, the model's {list(own[name].shape)}"
    return None


def _unfit(weights: Mapping[str, NDArray[np.float32]]) -> str | None:
    """Which numbers of a network no `securepfl start` writes, and what it would divide by or overflow with."""
    for name, array in weights.items():
        if array.size and np.abs(array).max() > _LARGEST:
            return f"its {name} holds numbers above {_LARGEST:g}"
    if (spread := weights.get("spread")) is not None and spread.min() < _LEAST:
        return f"its spread holds numbers below {_LEAST:g}"
    mixing = weights.get("mixing")
    if mixing is not None and (np.triu(mixing, 1).any() or np.diag(mixing).min() < _LEAST):
        return f"its mixing is not lower triangular with at least {_LEAST:g} on the diagonal"
    return None


def _feed(hashed: Any, part: bytes) -> None:
    hashed.update(len(part).to_bytes(8, "big"))
    hashed.update(part)
