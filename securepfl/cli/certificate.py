"""`securepfl keys certificate`: TLS certificates by request and approval. Gives the lines to print.

A private key is made where it is used and never leaves there. Requests and approvals pass through the exchange folder,
each signed by an identity whose fingerprint was compared at the ceremony.
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from securepfl.cli.asking import ask_passphrase
from securepfl.crypto.keys.certificates import (
    MAX_APPROVAL_BYTES,
    MAX_REQUEST_BYTES,
    WARNED,
    Approval,
    CertificateRequest,
    Holder,
    certificate_fingerprint,
    check_leaf,
    ends,
    make_leaf,
    make_root,
    new_key,
    public_key_of,
)
from securepfl.crypto.keys.holdings import Epoch, Holdings
from securepfl.crypto.keys.identity import PublicIdentity
from securepfl.crypto.keys.secret import Secret
from securepfl.errors import ConfigError, MessageError, SecurePFLError, StorageError
from securepfl.storage.ceremony_folder import naming, reachable
from securepfl.storage.certificates import Approved, CertificateFile, Certificates, expiry, holder_of
from securepfl.storage.keys import KeyFolder, publish, read_bounded, withdraw


def certificate(
    folder: Path, exchange: Path, *, hosts: Sequence[str], renew: bool, passphrase_file: Path | None
) -> list[str]:
    """One party's next step; run again until it names a certificate.

    Raises ConfigError, MessageError or StorageError (one line each); what is held then stays as it was.
    """
    passphrase = ask_passphrase(passphrase_file, folder)
    with reachable(exchange), KeyFolder.open(folder, passphrase) as keys:
        holdings, file = keys.holdings, CertificateFile.open(folder, passphrase)
        epoch, now = holdings.epoch(), datetime.now(UTC)
        if holdings.is_coordinator:
            return _hub(exchange, holdings, epoch, file, hosts, renew, now)
        if hosts:
            raise ConfigError("--host is for the hub, which others reach; a hospital needs none")
        return _hospital(exchange, holdings, epoch, file, renew, now)


def _hub(
    exchange: Path,
    holdings: Holdings,
    epoch: Epoch,
    file: CertificateFile,
    hosts: Sequence[str],
    renew: bool,
    now: datetime,
) -> list[str]:
    held, holder = file.held, holder_of(holdings)
    if not held.root or held.issuer != holder.fingerprint:
        root_key = new_key()
        root = make_root(holder.name, root_key, now)
        held = Certificates(issuer=holder.fingerprint, root=root, root_key=root_key)
    wanted = sorted(set(hosts)) or held.hosts
    if not wanted:
        raise ConfigError("--host is missing: name each host under which hospitals reach this hub")
    if renew or not held.certificate or wanted != held.hosts or ends(held.certificate) - now <= WARNED:
        key = new_key()
        leaf = make_leaf(held.root, Secret(held.root_key), public_key_of(key), holder, wanted, now)
        held = msgspec.structs.replace(held, key=key, certificate=leaf, hosts=wanted)
    if held is not file.held:
        file.save(held)
    lines = _standing(holder, held)
    for name, public in sorted(epoch.hospitals.items()):
        try:
            lines += _approve(exchange, holdings, public, file, now)
        except (MessageError, StorageError) as error:  # one's altered file keeps nobody else from a certificate
            lines.append(f"note: {name}: no certificate: {error}")
    return lines + expiry(file.held, now)


def _approve(
    exchange: Path, holdings: Holdings, public: PublicIdentity, file: CertificateFile, now: datetime
) -> list[str]:
    """Answer the request of one hospital of the roster, where there is one that was not answered."""
    path = request_file(exchange, public.name)
    before = file.held.approved.get(public.fingerprint)
    if not path.exists() and not path.is_symlink():
        return [] if before else [f"waiting for {public.name}'s request: run this again when it is there"]
    data = read_bounded(path, MAX_REQUEST_BYTES)
    with naming(path):
        request = CertificateRequest.from_bytes(data, public, holdings.identity.public)
        # What was asked for again in place of a later request would give a key that was replaced a new certificate.
        digest = hashlib.sha256(request.public_key).digest()
        if before and (request.number, digest) != (before.number, before.digest) and request.number <= before.number:
            raise MessageError("older than the last one of this hospital; ask it to run `keys certificate --renew`")
    if before is None or request.number > before.number:
        holder = Holder("hospital", public.name, public.fingerprint)
        root, root_key = file.held.root, Secret(file.held.root_key)
        leaf = make_leaf(root, root_key, request.public_key, holder, (), now)
        before = Approved(request.number, digest, leaf)
        approved = {**file.held.approved, public.fingerprint: before}
        file.save(msgspec.structs.replace(file.held, approved=approved))
    answer = Approval(file.held.root, before.certificate)
    _replace(certificate_file(exchange, public.name), answer.to_bytes(holdings.identity, public))
    return [f"{public.name}: approved until {ends(before.certificate):%Y-%m-%d}"]


def _hospital(
    exchange: Path, holdings: Holdings, epoch: Epoch, file: CertificateFile, renew: bool, now: datetime
) -> list[str]:
    held, holder, hub = file.held, holder_of(holdings), epoch.coordinator
    installed = False
    if held.pending_key and (approval := _approval(exchange, holdings, hub, held, holder)):
        held = msgspec.structs.replace(
            held,
            issuer=hub.fingerprint,
            root=approval.root,
            key=held.pending_key,
            certificate=approval.certificate,
            pending_key=b"",
        )
        file.save(held)
        installed = True
        with suppress(StorageError):  # it is answered, and would be approved again
            withdraw(request_file(exchange, holder.name))
    wanted = not held.certificate or held.issuer != hub.fingerprint or ends(held.certificate) - now <= WARNED
    if (renew and not installed) or wanted:
        _ask(exchange, holdings, hub, file, now)
    lines = _standing(holder, file.held) if file.held.certificate else []
    if file.held.pending_key:
        lines.append(f"waiting for {hub.name}'s approval: run this again when {hub.name} has run it")
    return lines + expiry(file.held, now)


def _approval(
    exchange: Path, holdings: Holdings, hub: PublicIdentity, held: Certificates, holder: Holder
) -> Approval | None:
    """The hub's answer to the request under way; None while there is none. Raises MessageError for another's."""
    path = certificate_file(exchange, holder.name)
    if not path.exists() and not path.is_symlink():
        return None
    data = read_bounded(path, MAX_APPROVAL_BYTES)
    with naming(path):
        approval = Approval.from_bytes(data, hub, holdings.identity.public)
        if approval.certificate == held.certificate:
            return None  # of the request before
        check_leaf(approval.certificate, approval.root, Secret(held.pending_key), holder)
    return approval


def _ask(exchange: Path, holdings: Holdings, hub: PublicIdentity, file: CertificateFile, now: datetime) -> None:
    """Send a request; the same key again where one is under way already."""
    held = file.held
    if not held.pending_key:
        # Of the clock, so that it grows although the file was lost; and more than the last, although the clock was set.
        number = max(held.number + 1, int(now.timestamp()))
        file.save(msgspec.structs.replace(held, pending_key=new_key(), number=number))
    request = CertificateRequest.make(Secret(file.held.pending_key), file.held.number)
    _replace(request_file(exchange, holdings.identity.name), request.to_bytes(holdings.identity, hub))


def _standing(holder: Holder, held: Certificates) -> list[str]:
    hosts = f" ({', '.join(held.hosts)})" if held.hosts else ""
    return [
        f"certificate of {holder.name}{hosts}: valid until {ends(held.certificate):%Y-%m-%d}",
        f"root: {certificate_fingerprint(held.root)}",
    ]


def request_file(exchange: Path, name: str) -> Path:
    """Where a hospital's request passes."""
    return exchange / "certificates" / f"{name}.request"


def certificate_file(exchange: Path, name: str) -> Path:
    """Where the hub's answer passes."""
    return exchange / "certificates" / f"{name}.certificate"


def _replace(path: Path, data: bytes) -> None:
    """Publish a file in place of an earlier one."""
    with suppress(FileNotFoundError, SecurePFLError):
        if read_bounded(path, max(MAX_REQUEST_BYTES, MAX_APPROVAL_BYTES)) == data:
            return
    withdraw(path)
    publish(path, data)
