"""`securepfl status`."""

from pathlib import Path

import click

from securepfl.cli.command import Command
from securepfl.cli.options import PATH
from securepfl.cli.output import give


@click.command(cls=Command, examples=("securepfl status run",))
@click.argument("folder", metavar="DIR", type=PATH)
def status(folder: Path) -> None:
    """Where the run in DIR stands: at a hub, at a hospital, or of `securepfl run`.

    DIR is a run's folder, or the party's own whose run/ it is. Whether the process lives, waits, was stopped or was
    killed; for whom it waits and until when; bytes, seconds, epsilon; who was refused or named; the last error. Opens
    no keys, and disturbs nobody.
    """
    from datetime import UTC, datetime

    import msgspec

    from securepfl.cli.consoles import tables
    from securepfl.report.status import print_simulated, print_standing, print_unfinished, seconds_left
    from securepfl.runtime.status import STATUS, folder_of, read_status, simulated, unfinished

    found = folder_of(folder)
    waiting = unfinished(found)
    if waiting is not None:
        give(waiting, lambda: print_unfinished(tables(80), waiting["state"], waiting["round"], waiting["command"]))
        return
    if not (found / STATUS).exists():
        result = simulated(found)
        told = {"role": "run", "state": "finished", "rounds": result["federation"]["rounds"], "sites": result["sites"]}
        give(told, lambda: print_simulated(tables(80), told["rounds"], told["sites"]))
        return
    standing, now = read_status(found), datetime.now(UTC)
    told = msgspec.to_builtins(standing) | {"seconds_left": seconds_left(standing, now)}
    give(told, lambda: print_standing(tables(80), standing, now))
