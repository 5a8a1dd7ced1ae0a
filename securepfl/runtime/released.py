"""Released metrics of a run, and of one hospital alone, as its result says them."""

from typing import Any

from securepfl.client.client import Client
from securepfl.report.released import released_result


def released_of(client: Client, *, seeded: bool) -> dict[str, Any] | None:
    """Those over all hospitals, as any of them holds them."""
    return released_result(
        client.federation, client.released_metrics, client.released_by, client.evaluation_release, seeded=seeded
    )


def own_released_of(client: Client, *, seeded: bool) -> dict[str, Any] | None:
    """This hospital's alone, for it to hand out or to keep; None where there are none."""
    found = client.own_released_metrics
    if found is None:
        return None
    return released_result(client.federation, found, (client.name,), client.evaluation_release, seeded=seeded)
