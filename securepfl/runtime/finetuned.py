"""Fine-tuned experts leave their hospitals."""

from collections.abc import Mapping
from pathlib import Path

from securepfl.client.client import Client
from securepfl.errors import BudgetError
from securepfl.outside.experts import FINETUNED, write_expert


def release_finetuned(clients: Mapping[str, Client], folder: Path) -> list[str]:
    """Write SITE.finetuned.safetensors of each hospital, where its federation asks for it: a line for each without.

    What it costs is spent when this returns. Raises what Client.release raises but BudgetError, StorageError.
    """
    without = []
    for name, client in clients.items():
        federation, path = client.federation, folder / f"{name}.{FINETUNED}.safetensors"
        spec = federation.data_spec
        if not federation.release.finetuning or path.exists():  # an earlier process may have written it
            continue
        if spec is None:
            raise ValueError("a run's federation declares its data")
        if client.shared_model() is None:
            without.append(f"{name}: no fine-tuned expert: the last round formed no sum, so there is no shared model")
            continue
        try:
            model, record = client.release("finetuned")
        except BudgetError as error:
            without.append(str(error))
            continue
        write_expert(path, model, record, federation.model, spec, client.session.keyring.identity)
    return without
