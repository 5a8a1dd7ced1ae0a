"""NVFlare's certificates by request and approval. Each function is one party's step and gives the lines to print.

Hub: `init`. Hospital: `request`. Hub: `approve`. Hospital: `install`. Files pass through EXCHANGE/nvflare/. Private
keys never leave the machine that made them. Every file is signed with the securepfl identity that the key ceremony's
phone calls confirmed, and checked before NVFlare's tools read it: so the hospital gets the hub's root certificate
without another call, and the hub signs nobody's key but the hospital's own.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from securepfl.crypto.keys.holdings import Epoch, Holdings
from securepfl.errors import ConfigError, MessageError, StorageError
from securepfl.runtime.nvflare import hardening
from securepfl.runtime.nvflare.kit import Kit
from securepfl.runtime.nvflare.tool import nvflare, require_nvflare
from securepfl.runtime.nvflare.vouched import read_vouched, write_vouched
from securepfl.storage.folder import storage_error, write_bytes, write_json

_PROJECT: Final = "securepfl"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_RESERVED: Final = ("server", "relay", "all")
_ROOT, _REQUEST, _APPROVAL = b"root", b"request", b"approval"


class Root(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the hub signs: where its server is, and the certificate that stands above all others (PEM)."""

    host: str
    port: int
    scheme: str
    certificate: str

    def __post_init__(self) -> None:
        if not _HOST.fullmatch(self.host) or not 0 < self.port < 2**16 or self.scheme not in ("grpc", "tcp"):
            raise ValueError("host, port or scheme that cannot be")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, as NVFlare and openssl write it. Raises ValueError where it is none."""
        digest = x509.load_pem_x509_certificate(self.certificate.encode()).fingerprint(SHA256()).hex().upper()
        return ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))

    def to_bytes(self) -> bytes:
        """As JSON."""
        return msgspec.json.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse. Raises MessageError."""
        try:
            root = msgspec.json.decode(data, type=cls)
            _ = root.fingerprint
        except (msgspec.MsgspecError, ValueError):
            raise MessageError("the hub's root statement cannot be read; ask the hub to run `init` again") from None
        return root


def init(holdings: Holdings, folder: Path, exchange: Path, host: str, port: int, scheme: str) -> list[str]:
    """The hub's first step: a root certificate, the server's kit and the supervisor's; the root for everybody.

    Raises ConfigError where this is not the coordinator, a name cannot be a site's or a kit is there already.
    """
    require_nvflare()
    kit, epoch = Kit(folder), _epoch(holdings)
    if not holdings.is_coordinator:
        raise ConfigError(f"{holdings.identity.name}: a hospital; the coordinator runs `init`, hospitals `request`")
    for name in epoch.hospitals:
        _check_name(name)
    if kit.home.exists():
        raise ConfigError(f"{kit.home}: holds a kit already; remove the folder to begin anew: all hospitals must too")
    with _appearing(kit.home) as home:
        profile = _profile(home, host, port, scheme)
        # Without --org: 2.9.0 would put it into the subject and not into the issuer, and no chain would verify.
        nvflare("cert", "init", "--profile", profile, "-o", home / "root", home=home)
        root = Root(host, port, scheme, (home / "root" / "rootCA.pem").read_text())
        server = {"name": host, "type": "server", "org": "hub", "fed_learn_port": port, "admin_port": port}
        account = {"name": hardening.SUPERVISOR, "type": "admin", "org": "hub", "role": "lead"}
        for participant, place in ((server, "kit"), (account, "supervisor")):
            zip_file, keys = _requested(home, participant)
            _packaged(home, _approved(home, zip_file, home / "root", participant), keys, root, home / place)
            shutil.rmtree(keys)
        _harden(home / "kit", hardening.server_resources, kit.store.resolve(), len(epoch.hospitals))
    write_vouched(exchange / "nvflare" / "root", root.to_bytes(), holdings.identity, _ROOT)
    return [
        f"root certificate: SHA256 {root.fingerprint}",
        f"signed with this hub's identity ({holdings.identity.public.fingerprint}), so nobody need read it by phone",
        f"wrote {kit.path} (the server), {kit.supervisor} (who may submit jobs), {exchange / 'nvflare' / 'root'}",
        "hospitals: run `securepfl machines nvflare request` now",
    ]


def request(holdings: Holdings, folder: Path, exchange: Path) -> list[str]:
    """A hospital's first step: a key that stays here, and a request for its certificate.

    Raises MessageError where the root is not signed by the hub of the key ceremony.
    """
    root, name = _read_root(holdings, exchange), holdings.identity.name
    _check_name(name)
    kit = Kit(folder)
    if kit.path.exists():
        raise ConfigError(f"{kit.path}: a kit is installed; remove {kit.home} to ask for a new certificate")
    if not (kit.home / "request").exists():
        with _appearing(kit.home) as home:
            _, keys = _requested(home, {"name": name, "type": "client", "org": "hospital"})
            keys.rename(home / "request")
    zip_file = kit.home / "request" / f"{name}.request.zip"
    path = exchange / "nvflare" / f"{name}.request"
    write_vouched(path, zip_file.read_bytes(), holdings.identity, _REQUEST, root.fingerprint.encode())
    hub = _epoch(holdings).coordinator.name
    return [
        f"{hub}'s root certificate: SHA256 {root.fingerprint}",
        f"signed by {hub}, whose fingerprint the key ceremony confirmed",
        f"wrote {path}; the private key stays in {kit.home}",
        f"when {hub} has run `approve`: run `securepfl machines nvflare install`",
    ]


def approve(holdings: Holdings, folder: Path, exchange: Path) -> list[str]:
    """The hub's second step: a certificate for each hospital that asked under its own name and identity.

    A request that is wrong is named, and the others go on.
    """
    kit, epoch = Kit(folder), _epoch(holdings)
    if not kit.root.is_dir():
        raise ConfigError(f"{kit.root}: no root certificate here; run `securepfl machines nvflare init` at the hub")
    root = _read_root(holdings, exchange)
    lines, waiting = [], []
    for name, public in sorted(epoch.hospitals.items()):
        path = exchange / "nvflare" / f"{name}.request"
        if not path.exists():
            waiting.append(name)
            continue
        try:
            zipped = read_vouched(path, public, _REQUEST, root.fingerprint.encode())
            lines.append(_answer(holdings, kit, exchange, name, zipped))
        except (ConfigError, MessageError, StorageError) as refusal:
            lines.append(f"refused: {refusal}")
    return [*lines, f"waiting for requests from: {', '.join(waiting)}" if waiting else "complete"]


def install(holdings: Holdings, folder: Path, exchange: Path, socket: Path) -> list[str]:
    """A hospital's second step: the kit, hardened. `socket` is where its agent listens.

    Raises MessageError where the answer is not the hub's to this request.
    """
    root, kit, name = _read_root(holdings, exchange), Kit(folder), holdings.identity.name
    if not kit.path.exists():
        zip_file = kit.home / "request" / f"{name}.request.zip"
        if not zip_file.exists():
            raise ConfigError(f"{kit.home}: nothing was requested here; run `securepfl machines nvflare request`")
        path, hub = exchange / "nvflare" / f"{name}.approval", _epoch(holdings).coordinator
        if not path.exists():
            return [f"waiting for {hub.name}'s approval: run this again when {hub.name} has run `approve`"]
        signed = read_vouched(path, hub, _APPROVAL, name.encode(), _digest(zip_file.read_bytes()))
        with tempfile.TemporaryDirectory(dir=kit.home) as work:
            archive = Path(work) / f"{name}.signed.zip"
            write_bytes(archive, signed)
            _packaged(Path(work), archive, kit.home / "request", root, Path(work) / "kit")
            _harden(Path(work) / "kit", hardening.site_resources)
            _move(Path(work) / "kit", kit.path)
        shutil.rmtree(kit.home / "request", ignore_errors=True)  # the kit has the key
    kit.configure(socket=str(socket.resolve()))
    expires = _expiry(kit.path / "startup" / "client.crt")
    return [
        f"installed {kit.path}: connects to {root.scheme}://{root.host}:{root.port}, certificate until {expires}",
        f"start the agent (`securepfl agent`, socket {socket}), then `securepfl machines nvflare start`",
    ]


def _epoch(holdings: Holdings) -> Epoch:
    if holdings.latest is None:
        raise ConfigError(f"{holdings.identity.name}: not enrolled yet; first run `securepfl keys enrol`")
    return holdings.latest


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or name.lower() in _RESERVED:
        raise ConfigError(
            f"{name!r}: NVFlare takes names of at most 64 letters, digits, - and _ only; enrol under such a name, or "
            "use `securepfl serve`"
        )


def _read_root(holdings: Holdings, exchange: Path) -> Root:
    path, hub = exchange / "nvflare" / "root", _epoch(holdings).coordinator
    if not path.exists():
        raise ConfigError(f"{path}: not there yet; {hub.name} runs `securepfl machines nvflare init` first")
    return Root.from_bytes(read_vouched(path, hub, _ROOT))


def _profile(home: Path, host: str, port: int, scheme: str) -> Path:
    server = {"host": host, "fed_learn_port": port, "admin_port": port}
    path = home / "profile.yml"
    # JSON is YAML.
    write_json(path, {"name": _PROJECT, "scheme": scheme, "connection_security": "mtls", "server": server})
    return path


def _requested(home: Path, participant: Mapping[str, object]) -> tuple[Path, Path]:
    """The request's zip, and the folder with the private key."""
    place = home / f"request-{participant['type']}"
    definition = home / f"{participant['type']}.yml"
    write_json(definition, {"name": _PROJECT, "participants": [participant]})
    answer = nvflare("cert", "request", "-p", definition, "--out", place, home=home)
    definition.unlink()
    return Path(answer["request_zip"]), place


def _approved(home: Path, zip_file: Path, root: Path, participant: Mapping[str, object]) -> Path:
    """The signed zip. Raises MessageError where the request was for somebody or something else."""
    path = zip_file.with_name(f"{participant['name']}.signed.zip")
    profile = root.parent / "profile.yml"
    answer = nvflare("cert", "approve", zip_file, "-c", root, "--profile", profile, "--out", path, home=home)
    kinds = {"client": "client", "server": "server", "admin": "lead"}
    found = {"name": answer.get("name"), "org": answer.get("org"), "type": answer.get("cert_type")}
    wanted = {"name": participant["name"], "org": participant["org"], "type": kinds[str(participant["type"])]}
    if found != wanted:
        path.unlink(missing_ok=True)
        raise MessageError(f"asks for {found}, not {wanted}; refused")
    return path


def _packaged(home: Path, archive: Path, keys: Path, root: Root, place: Path) -> None:
    """Make the kit at `place` of a signed zip and the private key that it belongs to."""
    workspace = home / "workspace"
    answer = nvflare(
        "package", archive, "-w", workspace, "--request-dir", keys, "--fingerprint", root.fingerprint, home=home
    )
    _move(Path(answer["output_dir"]), place)
    shutil.rmtree(workspace, ignore_errors=True)


def _answer(holdings: Holdings, kit: Kit, exchange: Path, name: str, zipped: bytes) -> str:
    path = exchange / "nvflare" / f"{name}.approval"
    use = (_APPROVAL, name.encode(), _digest(zipped))
    try:
        read_vouched(path, holdings.identity.public, *use)
        return f"{name}: approved before, {path}"
    except (MessageError, StorageError):
        pass  # none yet, or the answer to an earlier request
    with tempfile.TemporaryDirectory(dir=kit.home) as work:
        zip_file = Path(work) / f"{name}.request.zip"
        write_bytes(zip_file, zipped)
        participant = {"name": name, "type": "client", "org": "hospital"}
        signed = _approved(kit.home, zip_file, kit.root, participant)
        write_vouched(path, signed.read_bytes(), holdings.identity, *use)
    return f"{name}: approved, wrote {path}"


def _harden(place: Path, resources: Any, *arguments: object) -> None:
    """Write the kit's local files, and take away what starts it otherwise."""
    local = place / "local"
    default = json.loads((local / "resources.json.default").read_bytes())
    write_json(local / "resources.json", resources(default, *arguments))
    write_json(local / "authorization.json", hardening.authorization())
    write_json(local / "comm_config.json", hardening.communication())
    write_json(local / "log_config.json", hardening.logging())
    for script in (place / "startup").glob("*.sh"):
        script.unlink()
    place.chmod(0o700)


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _expiry(certificate: Path) -> str:
    return f"{x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc:%Y-%m-%d}"


def _move(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        raise storage_error(target, error) from None


@contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """A folder for its owner alone, that appears whole or not at all. Raises StorageError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise storage_error(path, error) from None
    try:
        yield partial
        _move(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
