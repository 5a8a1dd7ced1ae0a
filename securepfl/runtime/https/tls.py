"""TLS as both sides use it: version 1.2 or newer, both with certificates, one root and no other, every check strict."""

import secrets
import ssl
import tempfile
from pathlib import Path
from typing import Final

from cryptography import x509

from securepfl.crypto.keys.certificates import Holder, encrypted_pem, pem
from securepfl.errors import MessageError
from securepfl.storage.certificates import Credentials

_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2; those of 1.3 are all good


def server_context(credentials: Credentials) -> ssl.SSLContext:
    """For the hub: a client must show a certificate of the hub's own root, for the purpose of clients."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    # Nothing is kept of a session: a certificate is looked at in each connection.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    return _strict(context, credentials)


def client_context(credentials: Credentials) -> ssl.SSLContext:
    """For a hospital: the hub must show a certificate of the pinned root, for the host that was called."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return _strict(context, credentials)


def show(context: ssl.SSLContext, credentials: Credentials) -> None:
    """Show these certificates in connections from now on.

    Python's ssl reads keys from files alone: what lies there, for a moment, is under a password that is nowhere else.
    """
    password = secrets.token_hex(32)
    with tempfile.TemporaryDirectory(prefix="securepfl-") as folder:
        chain = Path(folder, "chain")
        chain.touch(mode=0o600)
        chain.write_bytes(pem(credentials.certificate).encode() + encrypted_pem(credentials.key, password.encode()))
        context.load_cert_chain(chain, password=password)


def holder_shown(ssl_object: ssl.SSLObject) -> Holder:
    """Whose certificate the other side showed in a connection that stands. Raises MessageError for one of nobody's."""
    der = ssl_object.getpeercert(binary_form=True)
    if der is None:
        raise MessageError("no certificate was shown; refused")
    return Holder.of(x509.load_der_x509_certificate(der))


def _strict(context: ssl.SSLContext, credentials: Credentials) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=pem(credentials.root))
    show(context, credentials)
    return context
