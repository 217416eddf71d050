"""The routes that every process serves: /healthz and /metrics."""

from collections.abc import Callable, Mapping

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route


def probes(health: Callable[[], Mapping[str, bool]]) -> list[Route]:
    """/healthz answers with a line for each dependency, and 503 unless all respond. Prometheus scrapes /metrics.

    `health` returns whether each dependency responds, by name.
    """

    async def healthz(_: Request) -> Response:
        state = health()
        lines = [f"{name} {'ok' if ok else 'unavailable'}\n" for name, ok in state.items()]
        return PlainTextResponse("".join(lines), 200 if all(state.values()) else 503)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return [Route("/healthz", healthz), Route("/metrics", metrics)]
