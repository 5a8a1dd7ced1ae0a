"""A party's own things: its keys and their age, its certificate, its hub. No secret is shown, nothing is changed."""

import socket
import stat
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from securepfl.crypto.keys.certificates import WARNED, ends
from securepfl.errors import SecurePFLError
from securepfl.runtime.doctor.finding import Finding, State
from securepfl.storage.certificates import CertificateFile, Credentials, certificates_file, load_credentials
from securepfl.storage.keys import load_holdings, private_file

if TYPE_CHECKING:
    from securepfl.settings.federation import Federation

_WAIT: Final = 5.0
_APART, _FAR_APART = 60.0, 86400.0
"""Seconds between two clocks: worth knowing, and too much for certificates."""
_ENROL: Final = "securepfl keys enrol"
_ASK: Final = "securepfl keys certificate"


def check_keys(folder: Path, passphrase: bytes | None, federation: "Federation | None") -> Iterator[Finding]:
    """The files' rights and age; with a passphrase, what they hold. Raises StorageError where it does not open them."""
    path = private_file(folder)
    if not path.exists():
        remedy = "securepfl keys create NAME --folder ... --exchange ..."
        yield Finding("keys", "failed", f"{path}: no keys here", remedy)
        return
    wide = [found for found in _wide(path, certificates_file(folder)) if found]
    yield from wide
    made = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    days = (datetime.now(UTC) - made).days
    if not wide:
        yield Finding("keys", "ok", f"{path}: for its owner alone, last changed {made:%Y-%m-%d} ({days} days ago)")
    if passphrase is None:
        yield Finding("keys", "note", "not opened", "--passphrase-file PATH looks at enrolment and certificate too")
        return
    holdings = load_holdings(folder, passphrase)
    epoch = holdings.latest
    if epoch is None:
        yield Finding("enrolment", "failed", f"{holdings.identity.name}: not enrolled yet", _ENROL)
        return
    told = f"{holdings.identity.name}, epoch {epoch.number} of {len(epoch.hospitals)} hospitals"
    if federation is not None and set(federation.roster) != set(epoch.hospitals):
        remedy = (
            f"use the file of the ceremony, or rotate the keys for the new one ({_ENROL.replace('enrol', 'rotate')})"
        )
        yield Finding("enrolment", "failed", f"{told}: other hospitals than CONFIG's", remedy)
    else:
        yield Finding("enrolment", "ok", told)
    yield from _check_certificate(CertificateFile.open(folder, passphrase))


def _wide(*paths: Path) -> Iterator[Finding]:
    for path in paths:
        if path.exists() and (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
            yield Finding("keys", "failed", f"{path}: others may read it (mode {mode:o})", f"chmod 600 '{path}'")


def _check_certificate(file: CertificateFile) -> Iterator[Finding]:
    held, now = file.held, datetime.now(UTC)
    if not held.certificate:
        waiting = " again, once the hub has approved its request" if held.pending_key else ""
        yield Finding("certificate", "failed", f"{file.path}: none yet", f"{_ASK}{waiting}")
        return
    last = min(ends(held.certificate), ends(held.root))
    told = f"valid until {last:%Y-%m-%d}"
    if last <= now:
        yield Finding("certificate", "failed", f"{told}: it has ended", f"{_ASK} --renew")
    elif last - now <= WARNED:
        yield Finding("certificate", "note", f"{told}: it ends soon", f"{_ASK} --renew")
    else:
        yield Finding("certificate", "ok", told)


def check_hub(url: str, folder: Path | None, passphrase: bytes | None) -> Iterator[Finding]:
    """Whether the hub can be reached, shows the certificate that it should, and has the same time."""
    from securepfl.runtime.https.hospital import check_url  # noqa: PLC0415 - optional

    parts = urlsplit(check_url(url))
    host, port = parts.hostname or "", parts.port or 443
    credentials: Credentials | None = None
    if folder is not None and passphrase is not None:
        try:
            credentials = load_credentials(folder, passphrase)
        except SecurePFLError:
            credentials = None  # check_keys says why
    if credentials is not None:
        yield from _called(check_url(url), credentials)
        return
    try:
        with socket.create_connection((host, port), timeout=_WAIT):
            pass
    except OSError as error:
        yield _away(url, error)
        return
    yield Finding("hub", "ok", f"{url}: something listens there")
    remedy = "--folder and --passphrase-file look at its certificate and clock too"
    yield Finding("hub", "note", "not called: that takes this party's certificate", remedy)


def _away(url: str, error: object) -> Finding:
    remedy = "start it (securepfl serve), mend the address, or open the way: firewall, HTTPS_PROXY"
    return Finding("hub", "failed", f"{url}: cannot be reached ({error})", remedy)


def _called(url: str, credentials: Credentials) -> Iterator[Finding]:
    import httpx  # noqa: PLC0415 - optional

    from securepfl.runtime.https.tls import client_context  # noqa: PLC0415
    from securepfl.runtime.https.wire import HEADER, PROTOCOL  # noqa: PLC0415

    try:
        answer = httpx.get(
            f"{url}/healthz", verify=client_context(credentials), timeout=_WAIT, headers={HEADER: PROTOCOL}
        )
    except httpx.HTTPError as error:
        if "CERTIFICATE" in str(error).upper():
            remedy = f"mend the address, a proxy that opens TLS, or run {_ASK} --renew"
            yield Finding("hub", "failed", f"{url}: shows a certificate that is not the hub's ({error})", remedy)
        else:
            yield _away(url, error)
        return
    if answer.status_code != httpx.codes.OK:
        told = f"{url}: answers {answer.status_code}"
        yield Finding("hub", "failed", told, "look at its log (securepfl status at the hub), or mend the address")
        return
    yield Finding("hub", "ok", f"{url}: serves, and shows this federation's certificate")
    yield from _compared(answer.headers.get("date", ""))


def _compared(date: str) -> Iterator[Finding]:
    try:
        apart = time.time() - parsedate_to_datetime(date).timestamp()
    except ValueError:
        return
    if abs(apart) < _APART:
        yield Finding("clock", "ok", "as the hub's, to a minute")
        return
    told = f"{abs(apart):,.0f} s {'ahead of' if apart > 0 else 'behind'} the hub's"
    state: State = "failed" if abs(apart) > _FAR_APART else "note"
    yield Finding("clock", state, told, "set the clock, here or there: certificates need it right to a day")
