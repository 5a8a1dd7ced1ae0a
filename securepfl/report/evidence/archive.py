"""The archive itself: a zip of plain files with no date in it, and the signature over all of them."""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from typing import Final

from securepfl.crypto.keys.identity import Identity

CONTEXT: Final = b"evidence 1"
SIGNATURE: Final = "signature.json"


def archive_of(files: Mapping[str, bytes], run: str, signer: Identity) -> bytes:
    """The archive of `files`, signed by `signer`: the same to the byte each time, but for the signature.

    run: what the ledger calls the run. The manifest, which is what is signed, names the signer too: all of an identity,
    and not those keys alone that sign. verify_evidence.py reads no other form than this one, so none of it may change
    under one CONTEXT.

    >>> from securepfl.report.evidence.verify_evidence import unpack
    >>> sorted(unpack(archive_of({"README.md": b"hello"}, "one", Identity.generate("north"))))
    ['README.md', 'manifest.json', 'signature.json']
    """
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    named = digests | {SIGNATURE: signer.public.fingerprint}
    manifest = _json({"schema": 1, "run": run, "files": named})
    signature = signer.sign(hashlib.sha256(manifest).digest(), CONTEXT)
    identity = signer.public.to_bytes().hex()
    sealed = {"manifest.json": manifest, SIGNATURE: _json({"identity": identity, "signature": signature.hex()})}
    return packed({**files, **sealed})


def packed(files: Mapping[str, bytes]) -> bytes:
    """The zip archive of `files`: sorted, stored as they are, of the first date that a zip can hold."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_STORED) as archive:
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(name)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            archive.writestr(entry, data)
    return held.getvalue()


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"
