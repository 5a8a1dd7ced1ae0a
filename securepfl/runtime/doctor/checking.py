"""All checks in their order: the machine, the settings, the model, the party's own things."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from securepfl.crypto.sums.scheme import find_scheme
from securepfl.errors import SecurePFLError
from securepfl.runtime.doctor.encryption import check_encryption
from securepfl.runtime.doctor.finding import Finding, found
from securepfl.runtime.doctor.machine import check_clock, check_device, check_disks, check_python
from securepfl.runtime.doctor.models import check_model, model_of
from securepfl.runtime.doctor.party import check_hub, check_keys
from securepfl.settings.auto import chosen
from securepfl.settings.federation import Federation
from securepfl.settings.roster import check_declared, check_roster
from securepfl.settings.tables import EncryptionSettings
from securepfl.storage.registry import ledgers_place


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What there is to look at beside the machine; None is passed over."""

    config: Path | None = None
    model: str | None = None
    folder: Path | None = None
    passphrase: bytes | None = None
    hub: str | None = None
    ledgers: Path | None = None
    device: str = "auto"

    def __repr__(self) -> str:
        return "Asked(...)"


def examine(asked: Asked) -> Iterator[Finding]:
    """Each finding as it is made. Raises nothing but what stops a process."""
    yield from found("python", check_python)
    yield from found("device", lambda: check_device(asked.device))
    federation = _federation(asked.config)
    scheme = EncryptionSettings().scheme if federation is None else federation.encryption.scheme
    yield from found("encryption", lambda: check_encryption(find_scheme(scheme), scheme))
    yield from found("disk", lambda: check_disks(_places(asked)))
    files = [path for path in (asked.config,) if path is not None]
    yield from found("clock", lambda: check_clock(files))
    if asked.config is not None:
        config = asked.config
        yield from found("settings", lambda: _check_settings(config))
    yield from found("model", lambda: _check_model(federation, asked))
    if asked.folder is not None:
        folder = asked.folder
        yield from found("keys", lambda: check_keys(folder, asked.passphrase, federation))
    if asked.hub is not None:
        hub = asked.hub
        yield from found("hub", lambda: check_hub(hub, asked.folder, asked.passphrase))


def _federation(config: Path | None) -> Federation | None:
    """The settings; None where they can't be read, which _check_settings tells."""
    try:
        return None if config is None else Federation.read(config)
    except SecurePFLError:
        return None


def _places(asked: Asked) -> list[tuple[str, Path]]:
    return [("disk", asked.folder or Path()), ("ledgers", asked.ledgers or ledgers_place())]


def _check_settings(config: Path) -> Iterator[Finding]:
    federation = Federation.read(config)
    check_roster(list(federation.roster), federation.minimum)
    check_declared(federation.sites, federation.privacy.unit)
    ready = chosen(federation)
    told = f"{config}: {len(federation.roster)} hospitals, {ready.rounds} rounds, digest {ready.digest.hex()[:16]}"
    if not federation.privacy.protects:
        remedy = 'for simulations alone; remove [privacy] protection = "none" before real patients'
        yield Finding("settings", "note", f"{told}; no privacy", remedy)
    else:
        yield Finding("settings", "ok", f"{told}, epsilon {federation.privacy.epsilon:g}")


def _check_model(federation: Federation | None, asked: Asked) -> Iterator[Finding]:
    model = model_of(federation, asked.model)
    if model is not None:
        yield from check_model(model)
    elif federation is not None:
        remedy = "--model FILE.py:NAME looks at yours, where NAME() builds it"
        yield Finding("model", "note", f'[model] kind = "{federation.model.kind}" is not built here', remedy)
