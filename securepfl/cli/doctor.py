"""`securepfl doctor`."""

from pathlib import Path

import click

from securepfl.cli.command import Command
from securepfl.cli.options import PATH, device
from securepfl.cli.output import give, say, voice_of


@click.command(
    cls=Command,
    examples=(
        "securepfl doctor",
        "securepfl doctor federation.toml --model model.py:build_model",
        "securepfl doctor federation.toml --folder north --passphrase-file passphrase --hub https://hub.example.org:8443",
    ),
)
@click.argument("config", type=PATH, required=False)
@click.option(
    "--model", metavar="FILE.py:NAME", help="A torch model of yours, or what builds it: does it train privately?"
)
@click.option("--folder", type=PATH, help="This party's own folder: its keys, their rights and age.")
@click.option("--passphrase-file", type=PATH, help="Opens the keys: enrolment, certificate, the hub's clock.")
@click.option("--hub", metavar="URL", help="The hub, https://HOST:PORT: can it be reached, and has it the same time?")
@click.option("--ledgers", type=PATH, help="Where ledgers will lie. [default: as for `run`]")
@device
def doctor(
    config: Path | None,
    model: str | None,
    folder: Path | None,
    passphrase_file: Path | None,
    hub: str | None,
    ledgers: Path | None,
    device: str,
) -> None:
    """Is this machine ready? What is wrong stands in a line, and below it what to do.

    Python and libraries, the device, an encrypted sum and its speed, disks and clock; with CONFIG the settings and the
    model, layer by layer. Changes nothing, reads no patient. Exit code 2 where something stops work.
    """
    import dataclasses

    from securepfl.report.doctor import lines_of, verdict_of
    from securepfl.runtime.doctor.checking import Asked, examine
    from securepfl.storage.keys import read_passphrase

    passphrase = None if passphrase_file is None else read_passphrase(passphrase_file)
    asked = Asked(
        config=config, model=model, folder=folder, passphrase=passphrase, hub=hub, ledgers=ledgers, device=device
    )
    findings = []
    for finding in examine(asked):
        findings.append(finding)
        if not voice_of().json:
            say("\n".join(lines_of(finding)))
    failed = any(finding.state == "failed" for finding in findings)
    told = {"ready": not failed, "findings": [dataclasses.asdict(finding) for finding in findings]}
    give(told, lambda: say(verdict_of(findings)))
    if failed:
        click.get_current_context().exit(2)
