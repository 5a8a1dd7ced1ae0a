"""What the pages of an archive are made from: one hospital's part of one run, read and verified."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from securepfl.privacy.ledger.summary import LedgerSummary
from securepfl.settings.federation import Federation
from securepfl.tasks.names import DEFAULT_TASK


@dataclass(frozen=True)
class Released:
    """A model, or a number, that left the hospital: its line in the ledger, counted from 1, and what the line says.

    file, sha256, signer: the released file's name, digest and the fingerprint of the keys that signed it; None where
    the run's folder holds no such file.
    """

    line: int
    time: str
    details: Mapping[str, Any]
    file: str | None = None
    sha256: str | None = None
    signer: str | None = None

    @property
    def kind(self) -> str:
        """What was released: "personal", "shared", ..."""
        return str(self.details.get("expert"))


@dataclass(frozen=True)
class Case:
    """One hospital's part of the run that its ledger calls `run`.

    told: what verify_evidence.read_ledger says of the ledger, summary: what verify_ledger does. caveats: what the
    figures rest on. audit: the report of `securepfl audit attack --json`. purpose: what the models are for, in the
    hospital's words. metrics: what was released of them, as result.json has it. All None where there is nothing.
    task: what was learned, as result.json names it.
    """

    federation: Federation
    site: str
    run: str
    ledger: bytes
    told: Mapping[str, Any]
    summary: LedgerSummary
    caveats: tuple[str, ...]
    versions: Mapping[str, str]
    released: tuple[Released, ...]
    audit: Mapping[str, Any] | None = None
    purpose: str | None = None
    metrics: Mapping[str, Any] | None = None
    snapshot: bool = False
    task: str = DEFAULT_TASK
