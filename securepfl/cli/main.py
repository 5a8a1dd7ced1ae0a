"""The command line. Progress goes to stderr, results to stdout; 0 done, 2 the user can mend it, 1 our defect."""

import json
import re
import sys
import traceback
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import click
from rich.console import Console

from securepfl.errors import LedgerError, SecurePFLError

_EXISTING = click.Path(exists=True, path_type=Path)
_PATH = click.Path(path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("securepfl"), prog_name="securepfl")
def cli() -> None:
    """Personalised federated learning for hospitals: encrypted sums, private training, budgets that hold."""


@cli.command()
@click.argument("config", type=_EXISTING, required=False)
@click.option(
    "--data", type=_PATH, help="One CSV or Parquet file with a site column, or a folder with one file a site."
)
@click.option("--rounds", type=click.IntRange(min=1), help="Rounds, in place of the configuration's.")
@click.option("--epsilon", type=float, help="Epsilon of the whole run, in place of the configuration's.")
@click.option("--plaintext", is_flag=True, help="No encryption: same sums, and the coordinator can read updates.")
@click.option("--out", type=_PATH, help="Folder of the run. [default: runs/NAME-TIME]")
@click.option("--ledgers", type=_PATH, help="Folder of the hospitals' budget ledgers. [default: DATA.ledgers]")
@click.option("--seed", type=click.IntRange(min=0), help="Repeatable noise: for simulation only, protects nobody.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print result.json on stdout in place of the tables.")
def run(
    config: Path | None,
    data: Path | None,
    rounds: int | None,
    epsilon: float | None,
    plaintext: bool,
    out: Path | None,
    ledgers: Path | None,
    seed: int | None,
    device: str,
    as_json: bool,
) -> None:
    """Train a federation, all parties in this process (a simulation).

    Without CONFIG: four simulated hospitals from scikit-learn's breast-cancer data.
    """
    from securepfl.cli.run import configured, execute, plan_demo, plan_tables
    from securepfl.report.console import closing_output, live_display

    if (config is None) != (data is None):
        raise click.UsageError("CONFIG and --data go together: the configuration declares what the data hold")
    federation = configured(config, rounds=rounds, epsilon=epsilon, plaintext=plaintext)
    if data is None:
        plan = plan_demo(federation, seed, ledgers)
    else:
        plan = plan_tables(federation, data, seed, ledgers, config)
    out = out or Path("runs") / f"{_plain(federation.name)}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    display = partial(live_display, Console(stderr=True, markup=False))
    result = execute(plan, out, seed=seed, device=device, display=display)
    if as_json:
        click.echo(json.dumps(result, indent=2, allow_nan=False))
    else:
        closing_output(_stdout(), result)
    click.echo(f"wrote {out}", err=True)


@cli.command()
@click.argument("run_folder", metavar="RUN", type=_EXISTING)
@click.option(
    "--data",
    type=_PATH,
    required=True,
    help="CSV or Parquet with the unseen hospital's rows; no label needed.",
)
@click.option("--out", type=_PATH, help="CSV file of predictions. [default: stdout]")
@click.option("--passes", type=click.IntRange(min=0), default=10, show_default=True, help="Passes over the rows.")
def route(run_folder: Path, data: Path, out: Path | None, passes: int) -> None:
    """Fit RUN's released experts to an unseen hospital's unlabelled rows, and predict them."""
    from securepfl.cli.route import route_rows, write_predictions

    routed = route_rows(run_folder / "experts", data, passes)
    write_predictions(routed, out)
    for line in routed.summary():
        click.echo(line, err=True)
    if out is not None:
        click.echo(f"wrote {out}", err=True)


@cli.command()
@click.argument("config", type=_EXISTING)
@click.option("--data", type=_EXISTING, required=True, help="The hospital's table, or a folder with one file a site.")
@click.option("--site", required=True, help="The hospital that asks.")
@click.option(
    "--run", "run_folder", type=_EXISTING, required=True, help="A run whose released shared model is the start."
)
@click.option("--epsilon", type=float, required=True, help="The most that the answer may cost.")
@click.option("--ledger", type=_PATH, help="The hospital's budget ledger. [default: DATA.ledgers/SITE.jsonl]")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON in place of the sentence.")
def suggest(
    config: Path,
    data: Path,
    site: str,
    run_folder: Path,
    epsilon: float,
    ledger: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Which parameters SITE should keep personal, tried on its own rows: charged as repeat-and-select, every time.

    The default, [model] personal = "auto", is a public rule and costs nothing.
    """
    from securepfl.cli.audit import dumps
    from securepfl.cli.suggest import suggest as ask

    found = ask(config, data, site, run_folder, epsilon, ledger, device)
    click.echo(dumps(found) if as_json else found["sentence"])


@cli.command()
@click.option("--size", type=click.IntRange(min=1), default=100_000, show_default=True, help="Values in an update.")
@click.option("--hospitals", type=click.IntRange(min=2), default=16, show_default=True)
@click.option("--bits", type=click.IntRange(4, 16), default=8, show_default=True, help="Bits of a quantised value.")
@click.option("--density", type=float, default=1.0, show_default=True, help="Share of the values that is sent.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON in place of the tables.")
def bench(size: int, hospitals: int, bits: int, density: float, as_json: bool) -> None:
    """Measure encrypted sums and similarity beside CKKS, additive pads and plaintext, in one run."""
    from securepfl.bench.case import Case
    from securepfl.bench.measure import print_tables, run_case

    result = run_case(size, hospitals, bits, density)
    if as_json:
        click.echo(json.dumps(result, indent=2, allow_nan=False))
    else:
        print_tables(_stdout(150), Case(size, hospitals, bits, density), result)


@cli.group()
def audit() -> None:
    """What was spent, whether the ledger can be believed, and whether an attack confirms it."""


_LEDGER = click.argument("ledger", type=click.Path(exists=True, dir_okay=False, path_type=Path))
_KEY = click.option(
    "--key",
    "keys_",
    multiple=True,
    metavar="HEX",
    help="A public key that may have signed, as the hospital's `securepfl keys show` prints it. [default: any]",
)


@audit.command()
@_LEDGER
@_KEY
@click.option("--plot", type=_PATH, help="Draw epsilon over rounds to this file (.png, .svg or .pdf).")
@click.option("--json", "as_json", is_flag=True, help="Print all rounds as JSON in place of the table.")
def budget(ledger: Path, keys_: tuple[str, ...], plot: Path | None, as_json: bool) -> None:
    """What LEDGER's data set has spent and has left, per round and per unit."""
    from securepfl.cli import audit as command

    found = command.budget_of(ledger, command.trusted_keys(keys_))
    if plot is not None:
        command.plot_budget(found, plot)
    if as_json:
        click.echo(command.dumps(found))
    else:
        command.print_budget(_stdout(), found)
    if plot is not None:
        click.echo(f"wrote {plot}", err=True)


@audit.command()
@_LEDGER
@_KEY
@click.option("--heads", type=_EXISTING, help="What the coordinator saw: heads.json of a run. Shows truncation.")
def verify(ledger: Path, keys_: tuple[str, ...], heads: Path | None) -> None:
    """Recompute all that LEDGER claims. Exit 1 with the first line that is wrong."""
    from securepfl.cli import audit as command

    trusted = command.trusted_keys(keys_)
    try:
        summary = command.verified(ledger, heads, trusted)
    except LedgerError as error:
        click.echo(f"securepfl: {error}", err=True)
        sys.exit(1)
    click.echo("\n".join(command.verdict(summary, heads, trusted)))


@audit.command()
@click.argument("config", type=_EXISTING, required=False)
@click.option("--data", type=_PATH, help="The hospital's table, or a folder with one file a site, as for `run`.")
@click.option("--site", help="The hospital to rehearse. [default: the first]")
@click.option("--canaries", type=click.IntRange(min=10), default=1000, show_default=True)
@click.option(
    "--runs", type=click.IntRange(min=3), default=40, show_default=True, help="Whole runs of one canary each."
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON in place of the tables.")
def attack(
    config: Path | None, data: Path | None, site: str | None, canaries: int, runs: int, device: str, as_json: bool
) -> None:
    """Attack a rehearsal of one hospital's training and compare what leaks with what the accounting claims.

    The rehearsal never leaves this machine and spends nothing. Exit 1 where the build is less private than its claim.
    Without CONFIG: a hospital of the demo.
    """
    from securepfl.cli import attack as command
    from securepfl.cli.audit import dumps
    from securepfl.cli.run import configured

    if (config is None) != (data is None):
        raise click.UsageError("CONFIG and --data go together: the configuration declares what the data hold")
    rehearsal = command.rehearsal_of(configured(config), data, site, device)
    click.echo(f"rehearsing {rehearsal.site}: {canaries} canaries, then {runs} whole runs", err=True)
    report = rehearsal.attack(canaries, runs)
    if as_json:
        click.echo(dumps(command.report_of(rehearsal, report)))
    else:
        command.print_report(_stdout(), rehearsal, report)
    if report.accused:
        sys.exit(1)


@cli.group()
def data() -> None:
    """Help with declaring data."""


@data.command()
@click.argument("path", type=_EXISTING)
@click.option("--site", required=True, help="The hospital whose columns to list.")
@click.option("--no-header", is_flag=True, help="The file has no header line; columns are numbered.")
def ranges(path: Path, site: str, no_header: bool) -> None:
    """List a hospital's columns and print a [data] table to fill in from public knowledge."""
    from securepfl.data.ranges import describe_columns

    click.echo(describe_columns(path, site, header=not no_header))


@cli.group()
def keys() -> None:
    """The key ceremony: make an identity, enrol in a federation, renew its keys."""


_FOLDER = click.option("--folder", type=_PATH, required=True, help="This party's own folder; secrets lie in keys/.")
_EXCHANGE = click.option("--exchange", type=_PATH, required=True, help="The folder that all parties read and write.")
_PASSPHRASE = click.option(
    "--passphrase-file", type=_PATH, help="Its first line is the passphrase. [default: asked for]"
)
_FINGERPRINTS = click.option(
    "--fingerprint",
    "fingerprints",
    multiple=True,
    metavar="NAME=XXXX-...",
    help="A fingerprint as its owner read it by phone. [default: asked for]",
)


@keys.command()
@click.argument("name")
@_FOLDER
@_EXCHANGE
@click.option("--coordinator", is_flag=True, help="This is the coordinator, not a hospital.")
@_PASSPHRASE
def create(name: str, folder: Path, exchange: Path, coordinator: bool, passphrase_file: Path | None) -> None:
    """Make the identity of the party NAME: private keys in FOLDER, public ones in EXCHANGE."""
    from securepfl.cli import keys

    lines = keys.create(name, folder, exchange, coordinator=coordinator, passphrase_file=passphrase_file)
    click.echo("\n".join(lines))


@keys.command()
@click.argument("config", type=_EXISTING)
@_FOLDER
@_EXCHANGE
@click.option("--steward", required=True, metavar="NAME", help="The hospital that makes the federation's key.")
@_FINGERPRINTS
@_PASSPHRASE
def enrol(
    config: Path,
    folder: Path,
    exchange: Path,
    steward: str,
    fingerprints: tuple[str, ...],
    passphrase_file: Path | None,
) -> None:
    """Take the next step of the ceremony; every party runs this until it says "complete"."""
    from securepfl.cli import enrol as enrolment

    lines = enrolment.enrol(
        config, folder, exchange, steward=steward, fingerprints=fingerprints, passphrase_file=passphrase_file
    )
    click.echo("\n".join(lines))


@keys.command()
@_FOLDER
@_PASSPHRASE
def show(folder: Path, passphrase_file: Path | None) -> None:
    """List what FOLDER holds: fingerprints, epoch, roster. Never a secret."""
    from securepfl.cli import keys

    click.echo("\n".join(keys.show(folder, passphrase_file=passphrase_file)))


@keys.command()
@click.argument("config", type=_EXISTING)
@_FOLDER
@_EXCHANGE
@click.option("--remove", multiple=True, metavar="NAME", help="A hospital that gets no key of the new epoch.")
@_FINGERPRINTS
@_PASSPHRASE
def rotate(
    config: Path,
    folder: Path,
    exchange: Path,
    remove: tuple[str, ...],
    fingerprints: tuple[str, ...],
    passphrase_file: Path | None,
) -> None:
    """The steward begins a new epoch with wholly new keys; then all others enrol again."""
    from securepfl.cli import enrol as enrolment

    lines = enrolment.rotate(
        config, folder, exchange, remove=remove, fingerprints=fingerprints, passphrase_file=passphrase_file
    )
    click.echo("\n".join(lines))


def _plain(name: str) -> str:
    """A name that a shell takes as it stands."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.") or "run"


def _stdout(width: int = 140) -> Console:
    """Tables keep their width where the output is no terminal."""
    return Console(markup=False) if sys.stdout.isatty() else Console(markup=False, width=width)


def main() -> None:
    """Entry point: maps errors to exit codes."""
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("securepfl: interrupted; the run's folder is gone, what it spent stays in the ledgers", err=True)
        sys.exit(130)
    except click.ClickException as error:
        click.echo(f"securepfl: {error.format_message()} (see --help)", err=True)
        sys.exit(error.exit_code)
    except SecurePFLError as error:
        click.echo(f"securepfl: {error}", err=True)
        sys.exit(2)
    except Exception:  # noqa: BLE001 - the last line of defence: a defect of ours, said so
        traceback.print_exc()
        click.echo("securepfl: this is a defect in securepfl, please report the lines above", err=True)
        sys.exit(1)
