"""The gateway: Envoy with its configuration filled in for this machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from jinja2 import Environment, StrictUndefined

from deploy.local import binaries
from deploy.local.probes import gateway_routes
from deploy.local.program import Program
from services.platform.config import Settings

_TEMPLATE = Path(__file__).resolve().parents[1] / "envoy" / "envoy.yaml.j2"
# Which service answers what. Any one of them can answer reflection for all, and health is asked of the main one.
_ROUTES = {
    "/taskflow.auth.v1.": "auth",
    "/taskflow.task.v1.": "task",
    "/taskflow.notification.v1.": "notification",
    "/taskflow.event.v1.": "notification",
    "/grpc.health.v1.Health/": "task",
}
_REFLECTION = {
    "/grpc.reflection.v1.ServerReflection/": "task",
    "/grpc.reflection.v1alpha.ServerReflection/": "task",
}
# A stream may miss several heartbeats before it counts as dead.
_HEARTBEATS_MISSED = 8


def configuration(settings: Settings, host: str, endpoints: Mapping[str, list[int]]) -> str:
    """Envoy's bootstrap as YAML; `endpoints` are the ports of each service's replicas on `host`."""
    addresses = {name: [(host, port) for port in ports] for name, ports in endpoints.items()}
    return rendered(settings, addresses, discovery="STATIC")


def rendered(
    settings: Settings,
    addresses: Mapping[str, list[tuple[str, int]]],
    *,
    discovery: Literal["STATIC", "STRICT_DNS"],
    certificate: str | None = None,
    operations_port: int | None = None,
) -> str:
    """Envoy's bootstrap as YAML, with the `addresses` of each service: IPs, or names that stand for all its replicas.

    `certificate` is the path of the file that describes the TLS certificate; without one the gateway speaks clear
    text. On `operations_port` it answers /ready and /stats/prometheus.
    """
    template = Environment(undefined=StrictUndefined, autoescape=False).from_string(
        _TEMPLATE.read_text()
    )
    return template.render(
        admin_host="127.0.0.1",
        admin_port=settings.envoy_admin_port,
        host=settings.host,
        gateway_port=settings.gateway_port,
        operations_port=operations_port,
        certificate=certificate,
        routes=_ROUTES | (_REFLECTION if settings.reflection else {}),
        clusters=addresses,
        discovery=discovery,
        heartbeat_seconds=settings.heartbeat_interval,
        idle_seconds=max(120, int(_HEARTBEATS_MISSED * settings.heartbeat_interval)),
    )


def program(settings: Settings, host: str, endpoints: Mapping[str, list[int]]) -> Program:
    """Envoy on the gateway port; ready when it has found every service healthy."""
    file = settings.data_dir / "envoy.yaml"

    async def prepare() -> None:
        file.write_text(configuration(settings, host, endpoints))

    return Program(
        name="envoy",
        about="the gateway: gRPC and gRPC-Web",
        command=(
            *(str(binaries.envoy()), "--config-path", str(file)),
            # One worker: LEAST_REQUEST then sees all calls, and it isn't the bottleneck on one machine.
            *("--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"),
        ),
        ready=lambda: gateway_routes("127.0.0.1", settings.envoy_admin_port),
        prepare=prepare,
        ports={
            "GATEWAY_PORT": settings.gateway_port,
            "ENVOY_ADMIN_PORT": settings.envoy_admin_port,
        },
    )
