"""What leaves hospitals beside their models, where all of them are at hand: means over neighbourhoods, and priors."""

import math
from collections.abc import Mapping
from pathlib import Path

from securepfl.client.client import Client
from securepfl.client.neighbourhood import releasable
from securepfl.outside.experts import CLUSTER, write_expert
from securepfl.outside.priors import PRIORS, signed_prior, write_priors
from securepfl.settings.federation import Federation


def release_clusters(federation: Federation, clients: Mapping[str, Client], folder: Path) -> None:
    """Write `cluster-K.safetensors` of the neighbourhoods that may leave together, each signed by who was answered it.

    Its epsilon is the largest of all whose data are in it: the shared parameters are of all hospitals. Raises what
    Client.release_cluster raises, StorageError.
    """
    spec = federation.data_spec
    if spec is None:
        raise ValueError("a run's federation declares its data")
    found = {name: client.neighbourhood for name, client in clients.items()}
    for number, name in enumerate(releasable(found, federation.roster), start=1):
        path = folder / f"{CLUSTER}-{number}.safetensors"
        if path.exists():  # an earlier process may have written it
            continue
        client = clients[name]
        model, record = client.release_cluster(number)
        spent = max(other.ledger.spent() for other in clients.values())
        told = record | {"epsilon": spent if record["epsilon"] is not None and math.isfinite(spent) else None}
        write_expert(path, model, told, federation.model, spec, client.session.keyring.identity)


def release_priors(federation: Federation, clients: Mapping[str, Client], path: Path) -> list[str]:
    """Write the priors that hospitals release to `path`, each signed by its own hospital: a line for each without.

    Raises what Client.release_prior raises, StorageError.
    """
    if not federation.release.prior or path.exists():
        return []
    released = {name: client.release_prior() for name, client in clients.items()}
    signed = [
        signed_prior(record, clients[name].session.keyring.identity)
        for name, record in released.items()
        if record is not None
    ]
    if signed:
        write_priors(path, signed)
    return [
        f"{name}: no prior: the budget doesn't hold it, or it was counted before and lost with its process, and stays "
        "charged; `securepfl audit budget` shows which"
        for name, record in released.items()
        if record is None
    ]


def own_priors(name: str) -> str:
    """The file's name where a hospital writes for itself alone."""
    return f"{name}.{PRIORS}"
