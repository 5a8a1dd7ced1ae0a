"""The evidence of a run: what its folder, the hospital's ledger and its released files hold, as one signed archive."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from securepfl.client.charging import POINTER, Pointer
from securepfl.crypto.keys.identity import Identity
from securepfl.errors import ConfigError, LedgerError, StorageError
from securepfl.outside.signed_file import bounded_bytes, opened_bytes
from securepfl.privacy.accounting.events import Release
from securepfl.privacy.audit.report import AuditReport
from securepfl.privacy.ledger.file import read
from securepfl.privacy.ledger.lines import DeclaredSession, ExpertRelease, Session, decode_line
from securepfl.privacy.ledger.summary import LedgerSummary
from securepfl.report.evidence.archive import archive_of
from securepfl.report.evidence.case import Case, Released
from securepfl.report.evidence.pages import SCRIPT, files_of
from securepfl.report.evidence.verify_evidence import check, read_ledger
from securepfl.report.ledger import SNAPSHOT, caveats, verified
from securepfl.settings.federation import Federation
from securepfl.tasks.names import DEFAULT_TASK

_MOST_JSON: Final = 2**24
_MOST_READ: Final = 2**26
"""What the script reads of an archive."""
_LONGEST_PURPOSE: Final = 1000
_REHEARSED: Final = ("site", "unit", "units", "rounds", "noise_multiplier", "sample_rate")
_REPORTED: Final = tuple(field.name for field in dataclasses.fields(AuditReport))


def evidence_of(
    run: Path,
    site: str | None,
    identity: Identity | None,
    *,
    ledger: Path | None = None,
    audit: Path | None = None,
    purpose: str | None = None,
) -> tuple[bytes, Case]:
    """The archive of one hospital's part of `run`, and what it was made from.

    run: a folder of `securepfl run`, of a hospital that took part, or of a pipeline's client that wrote its result.
    site: whose part; None where it is one hospital's folder. identity: the hospital's; None for a simulation, which is
    signed with keys that are made here and thrown away. ledger: in place of the one that the run was charged to.
    audit: a report of `securepfl audit attack --json`.

    Raises ConfigError, StorageError for what is no such folder or file, or doesn't fit together, and LedgerError for a
    ledger that doesn't hold, that lacks lines of the run, or on which no epsilon holds.
    """
    result = _json(run / "result.json", _mend(run))
    federation = Federation.from_told(_part(result, "federation", run), str(run / "result.json"))
    site = _site_of(run, result, site)
    pointer = _pointer(run, site)
    path = ledger or _ledger_of(run, site, pointer)
    signer = _signer(result, site, identity)
    summary = verified(path, None, None)
    case = _case(run, federation, site, pointer, path, summary, result, audit, purpose)
    if not summary.simulation and summary.public_keys[-1] != signer.public.ed25519:
        raise LedgerError(
            f"{path}: its last session was signed by other keys than those in the hospital's folder; name the folder "
            "whose keys signed it, with --folder"
        )
    archive = archive_of(files_of(case), case.run, signer)
    keys = {signer.public.fingerprint.lower(), *(key.hex() for key in summary.public_keys)}
    with _refused_by_the_script(path):
        check(archive[:_MOST_READ], keys, None)
    return archive, case


@contextmanager
def _refused_by_the_script(path: Path) -> Iterator[None]:
    """What a stranger's script would refuse is a LedgerError here, and never written."""
    try:
        yield
    except ValueError as error:
        raise LedgerError(
            f"{path}: {SCRIPT} would refuse an archive of this ledger ({error}), so none is written; "
            "`securepfl audit verify` checks the ledger itself"
        ) from None


def _case(
    run: Path,
    federation: Federation,
    site: str,
    pointer: Pointer,
    path: Path,
    summary: LedgerSummary,
    result: Mapping[str, Any],
    audit: Path | None,
    purpose: str | None,
) -> Case:
    if summary.site != site:
        raise LedgerError(f"{path}: is {summary.site}'s ledger, not {site}'s; name {site}'s with --ledger")
    if summary.unprotected is not None:
        raise LedgerError(
            f"{path}: these records trained without protection on {summary.unprotected}, so no epsilon holds and there "
            "is nothing to show evidence of"
        )
    if not summary.releases:
        raise LedgerError(f"{path}: holds no release yet, so there is nothing to show evidence of; run first")
    data = read(path)
    name = _run_in(path, data, summary, pointer)
    session = next(one for one in reversed(summary.sessions) if one.run == name)
    if session.facts is None or session.facts.settings != federation.digest.hex():
        raise LedgerError(f"{path}: the run {name} had other settings there than {run / 'result.json'} tells")
    with _refused_by_the_script(path):
        told = read_ledger(data)
    return Case(
        federation=federation,
        site=site,
        run=name,
        ledger=data,
        told=told,
        summary=summary,
        caveats=tuple(caveats(summary)),
        versions=_part(result, "versions", run),
        released=tuple(_released(run, data, name)),
        audit=None if audit is None else _audit(audit, site, federation, summary, name),
        purpose=_purpose(purpose),
        metrics=_metrics(result),
        snapshot=path.name.endswith(SNAPSHOT),
        task=str(result.get("task", DEFAULT_TASK)),
    )


def _mend(run: Path) -> str:
    if (run / POINTER).exists():
        return "let the pipeline whose folder it is call securepfl.write_result(client)"
    return "name the folder of a run that is over"


def _site_of(run: Path, result: Mapping[str, Any], site: str | None) -> str:
    names = sorted(_part(result, "sites", run))
    if site is None and len(names) == 1:
        return str(names[0])
    if site not in names:
        given = "give --site" if site is None else f"--site {site!r}"
        raise ConfigError(f"{given}: {run} has {', '.join(names)}")
    return str(site)


def _pointer(run: Path, site: str) -> Pointer:
    """What the hospital's folder keeps of its ledger."""
    for folder in (run / "sites" / site, run / "state", run):
        if (found := Pointer.load(folder)) is not None:
            return found
    raise StorageError(f"{run}: keeps nothing of {site}'s ledger (sites/{site}/ledger.json); name a whole run's folder")


def _ledger_of(run: Path, site: str, pointer: Pointer) -> Path:
    """Where it lies now: a run with throwaway ledgers may have been moved as a whole."""
    for path in (Path(pointer.ledger), run / "ledger" / site / Path(pointer.ledger).name):
        if path.exists():
            return path
    raise StorageError(
        f"{pointer.ledger}: is not there; name {site}'s ledger with --ledger, or the run's snapshot of it"
    )


def _signer(result: Mapping[str, Any], site: str, identity: Identity | None) -> Identity:
    if result.get("simulation", True):
        if identity is not None:
            raise ConfigError("a simulation's evidence is signed by nobody's keys: leave out --folder")
        return Identity.generate(site)
    if identity is None:
        raise ConfigError(f"{site} signs its evidence: name the folder with its keys, --folder")
    if identity.name != site:
        raise ConfigError(f"--folder: holds the keys of {identity.name}, not of {site}; name {site}'s own")
    return identity


def _run_in(path: Path, data: bytes, summary: LedgerSummary, pointer: Pointer) -> str:
    """What the ledger calls the run: the session above the last line that the run's folder knows."""
    if pointer.head not in summary.hashes:
        raise LedgerError(f"{path}: lacks a line that this run wrote, so it is another ledger or an older copy")
    name = ""
    for _, line in zip(range(summary.hashes.index(pointer.head) + 1), _lines(data), strict=False):
        name = line.run if isinstance(line, Session | DeclaredSession) else name
    return name


def _lines(data: bytes) -> Iterator[Any]:
    return map(decode_line, data.removesuffix(b"\n").split(b"\n"))


def _released(run: Path, data: bytes, name: str) -> Iterator[Released]:
    """What this run released, by the ledger; the files of the run's folder that say that they are it."""
    raw = data.removesuffix(b"\n").split(b"\n")
    files = dict(_files(sorted((run / "experts").glob("*.safetensors"))))
    for number, (line, its) in enumerate(zip(_lines(data), raw, strict=True), start=1):
        if isinstance(line, ExpertRelease) and line.details.get("run") == name:
            told = files.get(hashlib.sha256(its).hexdigest(), (None, None, None))
            yield Released(number, line.time, line.details, *told)


def _files(paths: Iterable[Path]) -> Iterator[tuple[str, tuple[str, str, str]]]:
    """Of each released file, by each ledger line that it names: its name, SHA-256 and signer's fingerprint."""
    for path in paths:
        data = bounded_bytes(path)
        found = opened_bytes(data, str(path))
        heads = found.meta["record"]["ledger_head"]
        for head in [heads] if isinstance(heads, str) else heads:
            yield head, (path.name, hashlib.sha256(data).hexdigest(), found.signer.fingerprint)


def _audit(path: Path, site: str, federation: Federation, summary: LedgerSummary, run: str) -> Mapping[str, Any]:
    """A report of `securepfl audit attack --json`, of this hospital under these settings, with the noise of `run`."""
    printed = _json(path, "give what `securepfl audit attack --json` printed")
    found = printed["result"] if isinstance(printed.get("result"), dict) else printed  # the report alone will do
    privacy, units = federation.privacy, federation.sites[site].units
    expected = {"site": site, "unit": privacy.unit, "rounds": federation.rounds, "delta": privacy.delta}
    expected |= {} if units is None else {"units": units}
    noisy = [one.release for one in summary.rounds if one.run == run and isinstance(one.release, Release)]
    expected |= {name: getattr(one, name) for one in noisy[:1] for name in ("noise_multiplier", "sample_rate")}
    for name, value in expected.items():
        if found.get(name) != value:
            told = f"{name} {found[name]!r}" if name in found else f"no {name}"
            raise ConfigError(f"{path}: an audit with {told}, where this run has {value!r}; audit this hospital again")
    if not isinstance(found.get("sentence"), str) or not isinstance(found.get("accused"), bool):
        raise ConfigError(f"{path}: no report of an audit; give what `securepfl audit attack --json` printed")
    # Nothing else gets in that somebody may have written beside it.
    return {name: found[name] for name in (*_REHEARSED, *_REPORTED) if name in found}


def _metrics(result: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What was released of metrics, if it may leave."""
    found = result.get("released")
    return found if isinstance(found, dict) and found.get("may_leave") is True else None


def _purpose(text: str | None) -> str | None:
    if text is not None and not (0 < len(text.strip()) <= _LONGEST_PURPOSE and text.isprintable()):
        raise ConfigError(f"--purpose: give one line of at most {_LONGEST_PURPOSE} characters")
    return text


def _part(result: Mapping[str, Any], name: str, run: Path) -> Mapping[str, Any]:
    found = result.get(name)
    if not isinstance(found, dict):
        raise ConfigError(f"{run / 'result.json'}: no record of a run that this securepfl wrote; name another folder")
    return found


def _no_number(name: str) -> float:
    """Raises ValueError for NaN and infinities, which JSON does not have."""
    raise ValueError(name)


def _json(path: Path, mend: str) -> Mapping[str, Any]:
    """A JSON object in a plain file. Raises StorageError, ConfigError."""
    try:
        found = json.loads(bounded_bytes(path, _MOST_JSON), parse_constant=_no_number)
    except (ValueError, RecursionError):
        found = None
    except StorageError:
        raise StorageError(f"{path}: cannot be read; {mend}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: holds no JSON object; {mend}")
    return found
