"""Certificates for TLS, the outer coat: the hub's own small root, and a leaf for each party of the roster.

Nothing here is trusted by itself: a request is signed by the identity of the hospital that asks, an approval by the
hub's, so the fingerprints that were compared at the ceremony vouch for both. A leaf states whose it is in a URI,
`urn:securepfl:ROLE:NAME:FINGERPRINT`: the name that a roster has, and the identity that it was approved for, so that
a party with a new identity leaves its old certificates behind. What may never change under one version: what is
signed, the order of the bytes, and the URI.
"""

import hashlib
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Final, Self
from urllib.parse import quote, unquote

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from securepfl.crypto.keys.identity import SIGNATURE_BYTES, Identity, PublicIdentity, fingerprint_bytes
from securepfl.crypto.keys.secret import Secret
from securepfl.errors import ConfigError, MessageError

LEAF: Final = timedelta(days=365)
ROOT: Final = timedelta(days=3650)
WARNED: Final = timedelta(days=30)
"""How long before its end a certificate is renewed, and its owner warned."""

MAX_REQUEST_BYTES: Final = 2**14
MAX_APPROVAL_BYTES: Final = 2**15

_BACKDATED: Final = timedelta(days=1)  # for clocks that are hours behind the hub's
_VERSION: Final = 1
_NUMBER: Final = struct.Struct(">Q")
_URN: Final = "urn:securepfl:"
_MAX_COMMON_NAME: Final = 64  # X.520
_MAX_HOST: Final = 253
_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")
_REQUEST: Final = b"certificate request"
_APPROVAL: Final = b"certificate approval"

HOSPITAL: Final = "hospital"
COORDINATOR: Final = "coordinator"


@dataclass(frozen=True)
class Holder:
    """Whose certificate it is: role, name in the roster, and fingerprint of the identity that it was approved for.

    >>> Holder("hospital", "north", "AAAA-BBBB-CCCC-DDDD-EEEE-FFFF-2222-7777").uri
    'urn:securepfl:hospital:north:AAAA-BBBB-CCCC-DDDD-EEEE-FFFF-2222-7777'
    """

    role: str
    name: str
    fingerprint: str

    @property
    def uri(self) -> str:
        """As it stands in the certificate."""
        return f"{_URN}{self.role}:{quote(self.name, safe='')}:{self.fingerprint}"

    @classmethod
    def of(cls, certificate: x509.Certificate) -> Self:
        """Of a certificate that was verified. Raises MessageError for one that states no holder, or several."""
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            uris = names.get_values_for_type(x509.UniformResourceIdentifier)
            ours = [uri for uri in uris if uri.startswith(_URN)]
            (uri,) = ours
            role, name, fingerprint = uri.removeprefix(_URN).split(":")
            fingerprint_bytes(fingerprint)
        except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
            raise MessageError("the certificate is none of securepfl's: it names no party; refused") from None
        return cls(role, unquote(name), fingerprint)


def new_key() -> Secret:
    """A private key for TLS (P-256, which every proxy and library knows), in PKCS #8."""
    return _private_bytes(ec.generate_private_key(ec.SECP256R1()))


def make_root(name: str, key: Secret, now: datetime) -> bytes:
    """The root of the hub `name`, in DER: it signs leaves and nothing else."""
    private = _read_private(key)
    subject = _subject(f"securepfl root of {name}")
    builder = _builder(subject, subject, private.public_key(), private.public_key(), now, now + ROOT)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(authority=True), critical=True)
    return _signed(builder, private)


def make_leaf(
    root: bytes, root_key: Secret, public_key: bytes, holder: Holder, hosts: Sequence[str], now: datetime
) -> bytes:
    """A certificate in DER for whoever has `public_key` (DER): a hub's for its `hosts`, a hospital's for none.

    It ends with the root at the latest. Raises ConfigError for a host that is neither a name nor an address.
    """
    authority, private = x509.load_der_x509_certificate(root), _read_private(root_key)
    public = _read_public(public_key)
    end = min(now + LEAF, authority.not_valid_after_utc)
    server = holder.role == COORDINATOR
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(holder.uri), *map(_host, hosts)]
    builder = _builder(_subject(holder.name), authority.subject, public, private.public_key(), now, end)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(authority=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    return _signed(builder, private)


def public_key_of(key: Secret) -> bytes:
    """The public half of a private key, in DER."""
    return _public_bytes(_read_private(key).public_key())


def ends(certificate: bytes) -> datetime:
    """When a certificate in DER ends."""
    return x509.load_der_x509_certificate(certificate).not_valid_after_utc


def begins(certificate: bytes) -> datetime:
    """When a certificate in DER begins."""
    return x509.load_der_x509_certificate(certificate).not_valid_before_utc


def certificate_fingerprint(certificate: bytes) -> str:
    """SHA-256 of a certificate in DER, in groups that people can compare."""
    text = hashlib.sha256(certificate).hexdigest()
    return " ".join(text[start : start + 4] for start in range(0, len(text), 4))


@dataclass(frozen=True)
class CertificateRequest:
    """A hospital's wish for a certificate: its `number` (each later one is larger, so that an old one that comes back
    is refused) and a PKCS #10 request, by which it shows that it has the key.

    >>> north, hub = Identity.generate("north"), Identity.generate("hub").public
    >>> request = CertificateRequest.make(new_key(), 1)
    >>> CertificateRequest.from_bytes(request.to_bytes(north, hub), north.public, hub) == request
    True
    """

    number: int
    pkcs10: bytes

    @classmethod
    def make(cls, key: Secret, number: int) -> Self:
        """One for `key`."""
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        return cls(number, builder.sign(_read_private(key), hashes.SHA256()).public_bytes(Encoding.DER))

    def to_bytes(self, identity: Identity, hub: PublicIdentity) -> bytes:
        """As it travels from the party `identity` to `hub`."""
        signature = identity.sign(self._signed_by(identity.public, hub), _REQUEST)
        return bytes((_VERSION,)) + signature + self._body

    @classmethod
    def from_bytes(cls, data: bytes, sender: PublicIdentity, hub: PublicIdentity) -> Self:
        """Check a request of `sender`. Raises MessageError for one that it did not sign, or that is none."""
        signature, body = _opened(data, MAX_REQUEST_BYTES)
        if len(body) <= _NUMBER.size:
            raise MessageError("a truncated request; copy the file again")
        request = cls(int.from_bytes(body[: _NUMBER.size], "big"), body[_NUMBER.size :])
        sender.verify(signature, request._signed_by(sender, hub), _REQUEST)
        request.public_key  # noqa: B018 - raises
        return request

    @property
    def public_key(self) -> bytes:
        """The key that a certificate is wanted for, in DER. Raises MessageError where it is not shown to be held."""
        try:
            request = x509.load_der_x509_csr(self.pkcs10)
            public = request.public_key()
            if request.is_signature_valid and isinstance(public, ec.EllipticCurvePublicKey):
                return _public_bytes(public)
        except (ValueError, InvalidSignature, UnsupportedAlgorithm):
            pass
        raise MessageError("the request is malformed; run `securepfl keys certificate` at the hospital again")

    @property
    def _body(self) -> bytes:
        return _NUMBER.pack(self.number) + self.pkcs10

    def _signed_by(self, sender: PublicIdentity, hub: PublicIdentity) -> bytes:
        return fingerprint_bytes(sender.fingerprint) + fingerprint_bytes(hub.fingerprint) + self._body


@dataclass(frozen=True)
class Approval:
    """What the hub sends back: its root and the hospital's certificate, both in DER.

    >>> north, hub = Identity.generate("north").public, Identity.generate("hub")
    >>> approval = Approval(b"root", b"certificate")
    >>> Approval.from_bytes(approval.to_bytes(hub, north), hub.public, north) == approval
    True
    """

    root: bytes
    certificate: bytes

    def to_bytes(self, hub: Identity, receiver: PublicIdentity) -> bytes:
        """As it travels."""
        signature = hub.sign(self._signed_for(receiver), _APPROVAL)
        return bytes((_VERSION,)) + signature + self._body

    @classmethod
    def from_bytes(cls, data: bytes, hub: PublicIdentity, receiver: PublicIdentity) -> Self:
        """Check an approval of `hub`. Raises MessageError for one that it did not sign for `receiver`."""
        signature, body = _opened(data, MAX_APPROVAL_BYTES)
        length = int.from_bytes(body[:4], "big")
        if not 4 < 4 + length < len(body):
            raise MessageError("a truncated certificate; copy the file again")
        approval = cls(body[4 : 4 + length], body[4 + length :])
        hub.verify(signature, approval._signed_for(receiver), _APPROVAL)
        return approval

    @property
    def _body(self) -> bytes:
        return len(self.root).to_bytes(4, "big") + self.root + self.certificate

    def _signed_for(self, receiver: PublicIdentity) -> bytes:
        return fingerprint_bytes(receiver.fingerprint) + self._body


def check_leaf(certificate: bytes, root: bytes, key: Secret, holder: Holder) -> None:
    """Raise MessageError unless `certificate` is `holder`'s for `key`, and issued by `root`."""
    try:
        leaf, authority = x509.load_der_x509_certificate(certificate), x509.load_der_x509_certificate(root)
        leaf.verify_directly_issued_by(authority)
        of_key = _read_public(leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        raise MessageError("the certificate is not of the hub's root; run `securepfl keys certificate` again") from None
    if Holder.of(leaf) != holder or _public_bytes(of_key) != public_key_of(key):
        raise MessageError("the certificate is not for this party's key; run `securepfl keys certificate --renew`")


def encrypted_pem(key: Secret, password: bytes) -> bytes:
    """A private key in PEM under a password, for libraries that read keys from files alone."""
    encryption = BestAvailableEncryption(password)
    return _read_private(key).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def pem(certificate: bytes) -> str:
    """A certificate in PEM."""
    return x509.load_der_x509_certificate(certificate).public_bytes(Encoding.PEM).decode()


def _opened(data: bytes, most: int) -> tuple[bytes, bytes]:
    if len(data) > most or len(data) <= 1 + SIGNATURE_BYTES:
        raise MessageError("of a length that it cannot have; copy the file again")
    if data[0] != _VERSION:
        raise MessageError("of another version; install the same securepfl")
    return data[1 : 1 + SIGNATURE_BYTES], data[1 + SIGNATURE_BYTES :]


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    authority: ec.EllipticCurvePublicKey,
    now: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - _BACKDATED).not_valid_after(end)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    issued_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority)
    return builder.add_extension(issued_by, critical=False)


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _signed(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> bytes:
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def _subject(name: str) -> x509.Name:
    """For people alone: what is compared is the holder's URI."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:_MAX_COMMON_NAME])])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        pass
    labels = host.split(".")
    if len(host) > _MAX_HOST or not all(_LABEL.fullmatch(label) for label in labels) or labels[-1].isdecimal():
        raise ConfigError(f"--host {host!r}: neither a name in DNS nor an address; give one that hospitals can reach")
    return x509.DNSName(host)


def _private_bytes(key: ec.EllipticCurvePrivateKey) -> Secret:
    return Secret(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))


def _public_bytes(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _read_private(key: Secret) -> ec.EllipticCurvePrivateKey:
    private = load_der_private_key(key, None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise MessageError("not a key for TLS; restore the file from a copy")
    return private


def _read_public(key: bytes) -> ec.EllipticCurvePublicKey:
    public = load_der_public_key(key)
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise MessageError("not a key for TLS; run `securepfl keys certificate` again")
    return public
