"""What a model holds beside the parameters that train: buffers, frozen parameters, attributes, what its hooks hold.

None of it takes noise. A model that keeps something of what it sees (a running mean, the last inputs, a count) would
carry it out of the hospital, or from one record to the gradients of the next.
"""

import functools
import hashlib
import itertools
import random
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from securepfl.errors import ModelError

_INTERNAL = frozenset({"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "training"})
_ARRAYS = (np.ndarray, np.generic)
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
# Instances of these packages' own classes hold what the machine needs, not what a model keeps; but for some of torch's.
_MACHINERY = frozenset({"torch", "opacus", "logging", "threading", "weakref", "builtins", "numpy", "securepfl"})
_KEEPING = ("torch.optim.", "torch.distributions.")
# Data may be cached as they are read: who holds a model's data set holds them anyway.
_NOT_KEPT = (types.ModuleType, types.GeneratorType, types.CodeType, types.FrameType, Dataset, DataLoader)

Item = tuple[str, Any]


@dataclass(frozen=True)
class HeldState:
    """A fingerprint of everything that a model holds, by its path from the model ("0.mean", "encoder.seen[3]"), and
    that its loss does ("loss.mean").

    Found are buffers, parameters, and attributes of all modules and of what they hold in turn: tensors, arrays,
    numbers, texts, containers, generators, objects, their classes, and what functions (hooks) close over. Not found is
    what a module changes elsewhere: a global, a file, the cache of functools.lru_cache.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> before = HeldState.of(model)
        >>> model.seen = [3]
        >>> before.change(HeldState.of(model))
        'seen[0]'
    """

    values: Mapping[str, Any]

    @classmethod
    def of(cls, model: nn.Module, loss: Any = None, *, trained: bool = True) -> Self:
        """`trained`: whether parameters that train are looked at too, as they are where no step is taken."""
        return cls(_Walk(trained).through(model, loss))

    def change(self, later: "HeldState") -> str | None:
        """The path of the first thing that is new, gone or another one in `later`; None where nothing is."""
        for path in [*self.values, *later.values]:
            if (path in self.values) != (path in later.values) or self.values[path] != later.values[path]:
                return path
        return None

    def check_unchanged(self, model: nn.Module, loss: Any = None, *, trained: bool = True) -> None:
        """Raises ModelError, naming what changed in `model` or `loss` since."""
        path = self.change(HeldState.of(model, loss, trained=trained))
        if path is not None:
            raise ModelError(
                f"{_kind(model, path)} {path} changes while the model is trained, and would carry private records out "
                "without noise: let forward and loss keep nothing of what they see (fix it in __init__, or compute it "
                "anew in each call)"
            )


def _kind(model: nn.Module, path: str) -> str:
    if path in dict(model.named_buffers()):
        return "buffer"
    return "parameter" if path in dict(model.named_parameters()) else "attribute"


@dataclass
class _Walk:
    """One way through everything that can be reached, each thing once."""

    trained: bool
    found: dict[str, Any] = field(default_factory=dict)
    seen: dict[int, Any] = field(default_factory=dict)

    def through(self, model: nn.Module, loss: Any) -> dict[str, Any]:
        waiting: list[Item] = [("loss", loss), ("", model)]
        while waiting:
            path, thing = waiting.pop()
            if isinstance(thing, _PLAIN):
                self.found[path] = (type(thing).__name__, repr(thing))
            elif id(thing) not in self.seen:
                self.seen[id(thing)] = thing  # kept, so that no other object gets its number
                waiting += reversed(list(self._within(path, thing)))
        return self.found

    def _within(self, path: str, thing: Any) -> Iterator[Item]:
        """What `thing` holds; its own value is taken down here."""
        if isinstance(thing, Tensor):
            if self.trained or not (isinstance(thing, nn.Parameter) and thing.requires_grad):
                self.found[path] = _fingerprint(thing)
                yield f"{path}.grad", thing.grad if thing.is_leaf else None
            yield from _attributes(path, thing)
            return
        if isinstance(thing, _ARRAYS) and thing.dtype != object:
            self.found[path] = (str(thing.dtype), thing.shape, hashlib.blake2b(thing.tobytes()).digest())
            yield from _attributes(path, thing)
            return
        within = _way_into(cast("Any", type(thing)))
        if within is not None:
            yield from within(path, thing)


def _fingerprint(tensor: Tensor) -> tuple[str, tuple[int, ...], bytes]:
    value = tensor.detach()
    if value.is_meta:
        return str(value.dtype), tuple(value.shape), b""
    dense = value.to_dense() if value.layout != torch.strided else value
    raw = dense.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()  # once before and once after, not in training
    return str(value.dtype), tuple(value.shape), hashlib.blake2b(raw.data).digest()


def _of_module(path: str, module: nn.Module) -> Iterator[Item]:
    for held in (module._parameters, module._buffers, module._modules):
        for name, value in held.items():
            yield _under(path, name), value
    for name, value in vars(module).items():
        if name not in _INTERNAL:
            yield _under(path, name), value
    yield from _of_class(path, type(module))


def _of_class(path: str, kind: type) -> Iterator[Item]:
    for one in kind.__mro__:
        if _package(one) not in _MACHINERY:
            yield from ((_under(path, name), value) for name, value in vars(one).items() if _is_data(name, value))


def _is_data(name: str, value: Any) -> bool:
    """Whether an attribute of a class is a value, not a method or what Python keeps there."""
    return not name.startswith("__") and not callable(value) and not hasattr(value, "__get__")


def _of_mapping(path: str, thing: Mapping[Any, Any]) -> Iterator[Item]:
    yield f"len({path})", len(thing)
    for number, (key, value) in enumerate(thing.items()):
        yield f"{path}[{key!r}]" if isinstance(key, _PLAIN) else f"{path}[key {number}]", value
    yield from _attributes(path, thing)


def _of_sequence(path: str, thing: Any) -> Iterator[Item]:
    for number, value in enumerate(thing):
        yield f"{path}[{number}]", value
    yield from _attributes(path, thing)


def _of_set(path: str, thing: Any) -> Iterator[Item]:
    yield path, repr(sorted(repr(value) for value in thing))
    yield from _attributes(path, thing)


def _of_function(path: str, thing: Any) -> Iterator[Item]:
    for name, cell in zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=True):
        try:
            yield f"{path}:{name}", cell.cell_contents
        except ValueError:  # not filled yet
            continue
    yield f"{path}:defaults", thing.__defaults__
    yield f"{path}:defaults by name", thing.__kwdefaults__
    yield f"{path}:attributes", vars(thing)


def _of_method(path: str, thing: Any) -> Iterator[Item]:
    yield f"{path}:self", thing.__self__
    yield path, thing.__func__


def _of_partial(path: str, thing: Any) -> Iterator[Item]:
    yield path, thing.func
    yield f"{path}:arguments", (thing.args, thing.keywords)


def _of_object(path: str, thing: Any) -> Iterator[Item]:
    held = list(_attributes(path, thing))
    yield from held
    yield from _of_class(path, type(thing))
    if not held:
        yield from _of_reduction(path, thing)


def _attributes(path: str, thing: Any) -> Iterator[Item]:
    for name in _slots_of(cast("Any", type(thing))):
        if hasattr(thing, name):
            yield _under(path, name), getattr(thing, name)
    for name, value in vars(thing).items() if hasattr(thing, "__dict__") else ():
        yield _under(path, name), value


@functools.lru_cache(maxsize=4096)
def _slots_of(kind: type) -> tuple[str, ...]:
    """What Python lays out in an instance beside its `__dict__`; a class is made with it, once."""
    named = (vars(base).get("__slots__", ()) for base in kind.__mro__)
    return tuple(name for slots in named for name in ((slots,) if isinstance(slots, str) else slots))


def _of_reduction(path: str, thing: Any) -> Iterator[Item]:
    """What pickle would take of an object without attributes (a date, an array.array, a BytesIO); most give nothing."""
    try:
        reduced = thing.__reduce_ex__(2)
    except Exception:  # noqa: BLE001 - whatever a class says to that: it can't be pickled
        return
    if isinstance(reduced, tuple):
        yield path, tuple(list(part) if isinstance(part, Iterator) else part for part in reduced[1:])


def _is_kept_object(kind: type) -> bool:
    if issubclass(kind, _NOT_KEPT):
        return False
    return _package(kind) not in _MACHINERY or f"{kind.__module__}.".startswith(_KEEPING)


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _under(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


_WAYS: tuple[tuple[tuple[type, ...], Callable[[str, Any], Iterator[Item]]], ...] = (
    ((nn.Module,), _of_module),
    ((dict, types.MappingProxyType), _of_mapping),
    ((list, tuple, deque), _of_sequence),
    ((np.ndarray,), lambda path, thing: iter([(path, thing.tolist())])),
    ((set, frozenset), _of_set),
    ((itertools.count,), lambda path, thing: iter([(path, repr(thing))])),
    ((bytearray,), lambda path, thing: iter([(path, bytes(thing))])),
    ((torch.Generator,), lambda path, thing: iter([(path, thing.get_state())])),
    ((random.Random,), lambda path, thing: iter([(path, repr(thing.getstate()))])),
    (
        (np.random.Generator,),
        lambda path, thing: iter([(path, repr(thing.bit_generator.state))]),
    ),
    (
        (np.random.RandomState,),
        lambda path, thing: iter([(path, repr(thing.get_state(legacy=False)))]),
    ),
    ((types.FunctionType,), _of_function),
    ((types.MethodType,), _of_method),
    ((functools.partial,), _of_partial),
    ((type,), _of_class),
)


@functools.lru_cache(maxsize=4096)
def _way_into(kind: type) -> Callable[[str, Any], Iterator[Item]] | None:
    """How instances of a class are looked into; None where they hold nothing that a model keeps."""
    known = next((within for kinds, within in _WAYS if issubclass(kind, kinds)), None)
    return known or (_of_object if _is_kept_object(kind) else None)
