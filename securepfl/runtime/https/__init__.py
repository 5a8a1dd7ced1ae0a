"""Plain HTTPS: one port, mutual TLS, long polls, outbound only for hospitals."""

from securepfl.runtime.https.hospital import join
from securepfl.runtime.https.serving import serve

__all__ = ["join", "serve"]
