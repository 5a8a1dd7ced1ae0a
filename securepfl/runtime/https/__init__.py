"""Plain HTTPS: one port, mutual TLS, long polls, outbound only for hospitals."""

from securepfl.runtime.https.hospital import join
from securepfl.runtime.https.local import local_credentials
from securepfl.runtime.https.serving import serve
from securepfl.storage.certificates import load_credentials

__all__ = ["join", "load_credentials", "local_credentials", "serve"]
