"""`securepfl evidence`."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from securepfl.cli.command import Command
from securepfl.cli.options import EXISTING, PATH, passphrase_file
from securepfl.cli.output import give, say, tell

if TYPE_CHECKING:
    from securepfl.crypto.keys.identity import Identity


@click.command(
    cls=Command,
    examples=(
        "securepfl evidence run --site north",
        "securepfl evidence run --site north --out north.zip --purpose 'triage of chest images'",
        "securepfl evidence --script",
    ),
)
@click.argument("run", type=EXISTING, required=False)
@click.option("--site", help="The hospital whose evidence it is. [default: the only one]")
@click.option("--out", type=PATH, help="The archive. [default: evidence-SITE.zip]")
@click.option("--folder", type=PATH, help="The hospital's own folder, whose keys sign. Not for a simulation.")
@passphrase_file
@click.option("--ledger", type=EXISTING, help="The hospital's ledger, where it moved. [default: as the run knows it]")
@click.option("--audit", type=EXISTING, help="A report of `securepfl audit attack --json` to take in.")
@click.option("--purpose", help="What the released models are for, in a line.")
@click.option("--script", is_flag=True, help="Write verify_evidence.py, by which others check an archive, and no more.")
def evidence(
    run: Path | None,
    site: str | None,
    out: Path | None,
    folder: Path | None,
    passphrase_file: Path | None,
    ledger: Path | None,
    audit: Path | None,
    purpose: str | None,
    script: bool,
) -> None:
    """One signed archive about RUN for a privacy officer to file, and for a stranger to check offline.

    Nothing private is in it: no metric that was not released, no patient's id, no key.
    """
    from securepfl.report.evidence.pages import SCRIPT, script_bytes
    from securepfl.storage.folder import write_bytes

    script_digest = hashlib.sha256(script_bytes()).hexdigest()
    told = f"verify_evidence.py: SHA-256 {script_digest}"
    if script:
        if run is not None:
            raise click.UsageError("--script writes the script alone: leave out RUN")
        path = out or Path(SCRIPT)
        write_bytes(path, script_bytes())
        give({"path": str(path), "script_sha256": script_digest}, lambda: say(told))
        tell(f"wrote {path}")
        return
    if run is None:
        raise click.UsageError("name a RUN, or give --script")
    from securepfl.report.evidence.verify_evidence import words
    from securepfl.runtime.evidence import evidence_of

    data, case = evidence_of(run, site, _identity(folder, passphrase_file), ledger=ledger, audit=audit, purpose=purpose)
    path = out or Path(f"evidence-{case.site}.zip")
    write_bytes(path, data)
    summary = words(dict(case.told)).strip()
    give(
        {"path": str(path), "site": case.site, "summary": summary, "script_sha256": script_digest},
        lambda: say(f"{summary}\n{told}"),
    )
    tell(f"wrote {path}")


def _identity(folder: Path | None, passphrase: Path | None) -> "Identity | None":
    from securepfl.cli.asking import ask_passphrase
    from securepfl.storage.keys import load_holdings

    return None if folder is None else load_holdings(folder, ask_passphrase(passphrase, folder)).identity
