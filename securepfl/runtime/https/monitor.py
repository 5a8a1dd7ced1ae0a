"""/healthz and /metrics for whoever watches the hub's machine: plain HTTP, on loopback alone.

Counts, bytes and seconds by hospital, all of which the hub sees anyway: no secret, and nothing of what messages hold.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from securepfl.runtime.https.hub import HubApplication
from securepfl.runtime.https.peers import GuestServer


class _Numbers(Collector):
    """What Prometheus is told, read when it asks."""

    def __init__(self, application: HubApplication, server: GuestServer) -> None:
        self._application, self._server = application, server

    def collect(self) -> Iterator[Metric]:
        """All families."""
        session = self._application.session
        hub, loop, record = session.hub, session.loop, session.record
        yield _gauge("securepfl_rounds", "Rounds of the run.", hub.rounds)
        yield _gauge("securepfl_rounds_closed", "Rounds that are over.", hub.closed)
        yield _gauge("securepfl_step_waits_for", "Hospitals that the step at hand waits for.", len(loop.waiting))
        yield _gauge("securepfl_polls", "Polls that wait.", self._application.polling)
        yield _gauge("securepfl_connections", "Open connections.", len(self._server.server_state.connections))
        yield _gauge("securepfl_failed", "1 once the hub cannot go on.", float(session.failure is not None))
        here = GaugeMetricFamily("securepfl_hospital_here", "1 while the hospital is here.", labels=["hospital"])
        sent = CounterMetricFamily("securepfl_upload_bytes", "Of messages from a hospital.", labels=["hospital"])
        told = CounterMetricFamily("securepfl_download_bytes", "Of messages to a hospital.", labels=["hospital"])
        for name in hub.roster:
            here.add_metric([name], float(loop.at[name] is not None))
            sent.add_metric([name], record.upload[name])
            told.add_metric([name], record.download[name])
        yield from (here, sent, told)
        asked = CounterMetricFamily("securepfl_requests", "Answered, by status.", labels=["status"])
        for status, count in list(self._application.requests.items()):
            asked.add_metric([status], count)
        yield asked


def monitor_server(application: HubApplication, server: GuestServer) -> uvicorn.Server:
    """A server for a socket on loopback; the caller ends it by cancelling its task."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Numbers(application, server))

    async def health(request: Request) -> Response:
        serves = not application.stopping and application.session.failure is None
        return JSONResponse({"serves": serves}, 200 if serves else 503)

    async def metrics(request: Request) -> Response:
        return Response(generate_latest(registry), headers={"content-type": CONTENT_TYPE_LATEST})

    routes = [Route("/healthz", health), Route("/metrics", metrics)]
    config = uvicorn.Config(
        Starlette(routes=routes),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
    return _Quiet(config)


def _gauge(name: str, what: str, value: float) -> Metric:
    family = GaugeMetricFamily(name, what)
    family.add_metric([], value)
    return family


class _Quiet(uvicorn.Server):
    """Takes no signals: they are the hub's."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None."""
        yield
