"""Whether a run that is taken up again is still the one that began: its settings, its rows, its securepfl."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Self

import msgspec
import numpy as np

from securepfl.data.table import Table
from securepfl.errors import ConfigError, DataError
from securepfl.runtime.planning import Plan, configured, plan_demo, plan_tables
from securepfl.settings.federation import Federation
from securepfl.storage.registry import ledgers_place
from securepfl.storage.unfinished import Asked, command_for

_NAMED: Final = 3


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The options of `securepfl run` that say what is run; `config` None is the demo."""

    config: Path | None = None
    data: Path | None = None
    rounds: int | None = None
    epsilon: float | None = None
    plaintext: bool = False
    ledgers: Path | None = None
    seed: int | None = None
    device: str = "auto"

    @classmethod
    def of(cls, asked: Asked) -> Self:
        """Those of a run that began before."""
        return cls(
            config=_path(asked.config),
            data=_path(asked.data),
            rounds=asked.rounds,
            epsilon=asked.epsilon,
            plaintext=asked.plaintext,
            ledgers=_path(asked.ledgers),
            seed=asked.seed,
            device=asked.device,
        )

    def federation(self) -> Federation:
        """The settings alone. Raises ConfigError."""
        return configured(self.config, rounds=self.rounds, epsilon=self.epsilon, plaintext=self.plaintext)

    def plan(self) -> Plan:
        """What the run needs. Raises ConfigError, DataError or ModelError where settings, data and model don't fit."""
        federation = self.federation()
        if self.data is None:
            return plan_demo(federation, self.seed, self.ledgers)
        return plan_tables(federation, self.data, self.seed, self.ledgers, self.config)

    def asked_for(self, plan: Plan) -> Asked:
        """What a run of `plan`, which these options made, is to be taken up with."""
        ledgers = None if plan.throwaway else plan.ledgers or ledgers_place()
        return Asked(
            version=version("securepfl"),
            config=_absolute(self.config),
            data=_absolute(self.data),
            rounds=self.rounds,
            epsilon=self.epsilon,
            plaintext=self.plaintext,
            ledgers=_absolute(ledgers),
            seed=self.seed,
            device=self.device,
            settings=msgspec.json.decode(msgspec.json.encode(plan.federation)),
            rows={
                name: _digest(hospital.train, hospital.test, plan.federation.digest)
                for name, hospital in plan.hospitals.items()
            },
        )


def check_same(asked: Asked, now: Asked, where: Path) -> None:
    """Whether the run in folder `where`, which `asked` for something, would go on as that. Raises ConfigError for
    other settings or another securepfl, DataError for other rows.
    """
    if asked.version != now.version:
        raise ConfigError(
            f"{where}: begun with securepfl {asked.version}, this is {now.version}; install that one and run "
            f"`{command_for(where)}` again, or begin a new run"
        )
    changed = sorted(_changed(asked.settings, now.settings))
    if changed:
        raise ConfigError(
            f"{asked.config or 'the demo'}: {_few(changed)} changed since the run in {where} began; restore the file, "
            "or begin a new run"
        )
    if asked.rows != now.rows:
        names = sorted(n for n in asked.rows.keys() | now.rows.keys() if asked.rows.get(n) != now.rows.get(n))
        raise DataError(
            f"{asked.data or 'the demo'}: the rows of {_few(names)} changed since the run in {where} began; restore "
            "them, or begin a new run"
        )


def _changed(before: Mapping[str, Any], now: Mapping[str, Any], table: str = "") -> Iterator[str]:
    """The settings that differ, by table and key."""
    for key in before.keys() | now.keys():
        one, other = before.get(key), now.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping) and not table:
            yield from _changed(one, other, key)
        elif one != other:
            yield f"[{table}] {key}" if table else key


def _few(names: list[str]) -> str:
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + rest


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())


def _digest(train: Table, test: Table, key: bytes) -> str:
    """SHA-256 over all that a hospital's rows hold, under the settings' digest."""
    digest = hashlib.sha256(b"securepfl rows 1" + key)
    for table in (train, test):
        for column in (table.features, table.labels, table.patients, table.rows, table.held_out):
            digest.update(_bytes_of(column))
        for kind in sorted(table.known):
            digest.update(kind.encode() + _bytes_of(table.known[kind]))
    return digest.hexdigest()


def _bytes_of(column: np.ndarray[Any, Any] | None) -> bytes:
    if column is None:
        return b"none"
    if column.dtype == object:
        return msgspec.json.encode([item.hex() if isinstance(item, bytes) else str(item) for item in column.tolist()])
    return f"{column.dtype} {column.shape}".encode() + np.ascontiguousarray(column).tobytes()
