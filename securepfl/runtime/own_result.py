"""What a hospital has of a run when it is over: its own figures, its own model, and what it releases.

| in DIR | whose eyes |
|---|---|
| result.json, report.html | the hospital's: exact functions of its test rows. Others': what `released` says there |
| personal.safetensors | the hospital's: its model, not released |
| experts/NAME.safetensors, NAME.finetuned.safetensors, shared.safetensors | others': as `[release]` says |
| experts/NAME.priors.json | others': where `[release] prior` says so, charged |

`released_own` in result.json is of this hospital alone: others' where it chooses so, at no further cost.
"""

from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from securepfl.client.client import Client
from securepfl.outside.experts import SHARED, write_expert, write_unreleased
from securepfl.report.outcome import Communication, SiteOutcome
from securepfl.report.pages.writing import write_own_page
from securepfl.report.result import SCHEMA, VERSIONED, metrics_of, now, site_result
from securepfl.runtime.evaluation import site_outcome
from securepfl.runtime.finetuned import release_finetuned
from securepfl.runtime.judging import judged_models, scores_of
from securepfl.runtime.opening import Opened
from securepfl.runtime.released import own_released_of, released_of
from securepfl.runtime.releasing import own_priors, release_priors
from securepfl.runtime.traffic import Traffic
from securepfl.storage.folder import write_json
from securepfl.tasks.resampling import LEVEL
from securepfl.tasks.task import deciding_of

RESULT: Final = "result.json"
PERSONAL: Final = "personal.safetensors"
EXPERTS: Final = "experts"


def write_own(opened: Opened, out: Path, traffic: Traffic | None = None) -> None:
    """Write all of it, with the bytes of `traffic` where they were counted; result.json after what was released, so
    that one that is there says that nothing of that lacks, and the page from it last.

    Raises StorageError, and LedgerError where a release can't be written to the ledger: then it doesn't leave.
    """
    client = opened.client
    federation, spec = client.federation, client.federation.data_spec
    if spec is None:
        raise TypeError("a client that was opened from files has declared data")
    own = {"site": client.name, "round": client.round, "private": True}
    write_unreleased(out / PERSONAL, client.personal_model(), own, federation.model, spec)
    without: list[str] = []
    released = not is_seeded(client) or not federation.privacy.protects
    if federation.release.experts and released and client.round:
        without += release_priors(federation, {client.name: client}, out / EXPERTS / own_priors(client.name))
        signer = client.session.keyring.identity
        if client.round >= federation.rounds and client.shared_model() is not None:
            without += release_finetuned({client.name: client}, out / EXPERTS)
        model, record = client.release("personal")
        write_expert(out / EXPERTS / f"{client.name}.safetensors", model, record, federation.model, spec, signer)
        if client.shared_model() is not None:
            model, record = client.release("shared")
            write_expert(out / EXPERTS / f"{SHARED}.safetensors", model, record, federation.model, spec, signer)
    write_json(out / RESULT, result_of_own(opened, without) | {"communication": _communication(client, traffic)})
    write_own_page(out)


def result_of_own(opened: Opened, without: Sequence[str] = ()) -> dict[str, Any]:
    """result.json's content, `without` what was not released: one site of what `securepfl run` writes. No model was
    trained alone: between real hospitals that would be a second release from the same rows, so its metrics are null.
    """
    client = opened.client
    judged = judged_models(client, opened.hospital, opened.build_model)
    scores, _ = scores_of(client.task, {client.name: judged})
    site = site_outcome(client, opened.hospital, judged, scores[client.name])
    return result_of_client(client, site, [*opened.notes, *without])


def result_of_client(client: Client, site: SiteOutcome, notes: Sequence[str]) -> dict[str, Any]:
    """The same of `site`, what the hospital's `client` came to."""
    return {
        "schema": SCHEMA,
        "written": now(),
        "simulation": client.state.kind != "real",
        "versions": {name: version(name) for name in VERSIONED},
        "federation": client.federation.told() | {"digest": client.federation.digest.hex()},
        "site": client.name,
        "run": client.session.run.hex(),
        "rounds": min(client.round, client.federation.rounds),
        "ended": client.ended or None,
        "sites": {client.name: site_result(client.federation, site, deciding_of(client.task))},
        "intervals": {
            "level": LEVEL,
            "over": f"test {'patient' if site.patients_named else 'record'}s",
            "test_units": site.test_units,
        },
        "task": client.task.name,
        "metrics": metrics_of(client.federation, client.task),
        "released": released_of(client, seeded=is_seeded(client)),
        "released_own": own_released_of(client, seeded=is_seeded(client)),
        "named": dict(client.named),
        "seconds": {name: round(seconds, 4) for name, seconds in client.seconds.items()},
        "notes": list(notes),
        "seeded": is_seeded(client),
        "ledger": {"path": str(client.ledger.path.absolute()), "head": client.ledger.head},
    }


def _communication(client: Client, traffic: Traffic | None) -> dict[str, Any] | None:
    """The hospital's own bytes, of whole messages both ways; None where nobody counted."""
    shape = client.federation.shape
    if traffic is None or shape is None:
        return None
    upload, download = traffic.upload[client.name], traffic.download[client.name]
    dense = 4 * shape.shared * min(client.round, client.federation.rounds)
    counted = Communication(
        rounds=client.round,
        upload_bytes=upload,
        download_bytes=download,
        float32_upload_bytes=dense,
        float32_download_bytes=dense,
        clipped_values=client.state.clipped,
        parts=traffic.parts | {"envelopes": max(0, upload + download - sum(traffic.parts.values()))},
    )
    return asdict(counted)


def is_seeded(client: Client) -> bool:
    """Whether its noise repeats, and so protects nobody."""
    return client.session.noise_key is not None
