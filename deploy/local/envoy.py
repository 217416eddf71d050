"""The gateway: Envoy with its configuration filled in for this machine."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from jinja2 import Environment, StrictUndefined

from deploy.local import binaries, gateway_errors
from deploy.local.probes import gateway_routes
from deploy.local.program import Program, StackError
from services.platform.config import Settings
from services.platform.rpc.health_service import SCOPE_HEADER
from services.platform.rpc.methods import METHODS
from taskflow.options.v1.options_pb2 import CAPACITY_NEW_PASSWORDS, CAPACITY_PASSWORDS

_TEMPLATE = Path(__file__).resolve().parents[1] / "envoy" / "envoy.yaml.j2"
# The port of Envoy's administration in a container.
ADMIN_PORT = 9901
_CERTIFICATE = "envoy-certificate.yaml"
_SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
# The cluster of all processes. Each of them knows the health of all services.
_ANY = "any"
# Calls of gRPC's own services can be long-lived.
_HEALTH = {"/grpc.health.v1.Health/": _ANY}
# Each process describes the public services of all.
_REFLECTION = {
    "/grpc.reflection.v1.ServerReflection/": _ANY,
    "/grpc.reflection.v1alpha.ServerReflection/": _ANY,
}
# The auth service's clusters for methods that hash a password, of which few can run at once. Logins have their own, so
# that registrations can't take their places.
_CAPACITIES = {CAPACITY_PASSWORDS: "passwords", CAPACITY_NEW_PASSWORDS: "new-passwords"}
# A DNS name stands for at least this many replicas.
_NAMED_REPLICAS = 2
# Logins, and registrations, for each process: more than it lets one address have waiting (passwords.py), so that an
# address can't take them all. It would refuse further ones too, but at a higher cost.
PASSWORDS_AT_ONCE = 20
# Calls per second that the gateway passes on for one access token and process, in times of `user_calls_per_second`.
# The process refuses what is above its own limit with a better error; this bounds what those refusals cost it.
_TIMES_USER_RATE = 5
# Access tokens whose calls the gateway counts at once.
_COUNTED_TOKENS = 10_000
# Memory that Envoy may use, half of its container's. It needs some 40 MiB without a client.
_HEAP_BYTES = 512 * 2**20
# Requests up to this many times the limit are passed on, so that the services refuse them with their own error.
_PASSED_ON = 4
# A stream may miss several heartbeats before it counts as dead.
_HEARTBEATS_MISSED = 8


# The most bytes in the path of a Unix socket on Linux, without the final zero.
_LONGEST_SOCKET_PATH = 107


class ServiceTls(NamedTuple):
    """Paths of the certificate, its key and the authority with which gateway and services check each other."""

    certificate: str
    key: str
    authority: str


def admin_socket(folder: Path) -> Path:
    """Where Envoy's administration listens. Only the owner of the folder reaches it, and no browser does."""
    return folder / "envoy.sock"


def configuration(settings: Settings, host: str, endpoints: Mapping[str, list[int]]) -> str:
    """Envoy's bootstrap as YAML; `endpoints` are the ports of each service's replicas on `host`."""
    addresses = {name: [(host, port) for port in ports] for name, ports in endpoints.items()}
    folder = settings.data_dir
    certificate = str(folder / _CERTIFICATE) if settings.gateway_tls_cert else None
    return rendered(
        settings,
        addresses,
        discovery="STATIC",
        certificate=certificate,
        admin=admin_socket(folder),
        service_tls=_service_tls(settings),
    )


def _service_tls(settings: Settings) -> ServiceTls | None:
    files = (settings.service_tls_cert, settings.service_tls_key, settings.service_tls_ca)
    return ServiceTls(*(str(file.resolve()) for file in files if file)) if all(files) else None


def _certificate(certificate: Path, key: Path) -> str:
    """The file that describes the gateway's certificate. Envoy serves a renewed one without a restart."""
    pair = {
        "certificate_chain": {"filename": str(certificate.resolve())},
        "private_key": {"filename": str(key.resolve())},
    }
    secret = {"@type": _SECRET, "name": "gateway", "tls_certificate": pair}
    # JSON is YAML.
    return json.dumps({"resources": [secret]})


def rendered(
    settings: Settings,
    addresses: Mapping[str, list[tuple[str, int]]],
    *,
    discovery: Literal["STATIC", "STRICT_DNS"],
    certificate: str | None = None,
    operations_port: int | None = None,
    admin: Path | None = None,
    service_tls: ServiceTls | None = None,
) -> str:
    """Envoy's bootstrap as YAML, with the `addresses` of each service: IPs, or names that stand for all its replicas.

    `certificate` is the path of the file that describes the TLS certificate; without one the gateway speaks clear
    text. On `operations_port` it answers /ready and /stats/prometheus. `admin` is the socket of the administration;
    without one it listens on ADMIN_PORT of the loopback address, for a container of its own.
    """
    everywhere = [address for some in addresses.values() for address in some]
    passwords = dict.fromkeys(_CAPACITIES.values(), addresses["auth"])
    clusters = {**addresses, **passwords, _ANY: everywhere}
    processes = max(map(len, addresses.values())) * (
        _NAMED_REPLICAS if discovery == "STRICT_DNS" else 1
    )
    template = Environment(undefined=StrictUndefined, autoescape=False).from_string(
        _TEMPLATE.read_text()
    )
    return template.render(
        admin_socket=admin,
        admin_port=ADMIN_PORT,
        service_tls=service_tls,
        host=settings.host,
        gateway_port=settings.gateway_port,
        operations_port=operations_port,
        certificate=certificate,
        reflection=settings.reflection,
        routes=_routes(settings.reflection),
        any_process=_ANY,
        health_scope=SCOPE_HEADER,
        local_replies=list(gateway_errors.local_replies(settings)),
        library_errors=gateway_errors.library_errors(settings),
        request_seconds=gateway_errors.REQUEST_SECONDS,
        calls_at_once=_calls_at_once(settings, clusters, discovery == "STRICT_DNS"),
        token_calls_per_second=int(_TIMES_USER_RATE * settings.user_calls_per_second * processes),
        counted_tokens=_COUNTED_TOKENS,
        trusted_hops=settings.trusted_hops,
        heap_bytes=_HEAP_BYTES,
        request_bytes=_PASSED_ON * settings.max_request_bytes,
        clusters=clusters,
        discovery=discovery,
        heartbeat_seconds=settings.heartbeat_interval,
        idle_seconds=max(120, int(_HEARTBEATS_MISSED * settings.heartbeat_interval)),
    )


def _routes(reflection: bool) -> list[tuple[str, str, bool]]:
    """Prefix, cluster, and whether calls are long-lived. Envoy takes the first prefix that matches.

    Streams come first, because they don't count towards the limit of concurrent calls.
    """
    public = [method for method in METHODS.values() if not method.internal]
    streams = {method.path: method.process for method in public if method.streams}
    lasting = streams | _HEALTH | (_REFLECTION if reflection else {})
    apart = {
        method.path: _CAPACITIES[method.capacity]
        for method in public
        if method.capacity in _CAPACITIES
    }
    packages = {f"/{method.service.rpartition('.')[0]}.": method.process for method in public}
    return [
        *((prefix, process, True) for prefix, process in lasting.items()),
        *((path, cluster, False) for path, cluster in apart.items()),
        *((prefix, process, False) for prefix, process in packages.items()),
    ]


def _calls_at_once(
    settings: Settings, clusters: Mapping[str, list[tuple[str, int]]], named: bool
) -> dict[str, int]:
    """The most concurrent calls for each service, over all its processes."""
    replicas = _NAMED_REPLICAS if named else 1
    return {
        name: (PASSWORDS_AT_ONCE if name in _CAPACITIES.values() else settings.gateway_calls)
        * replicas
        * len(addresses)
        for name, addresses in clusters.items()
    }


def program(settings: Settings, host: str, endpoints: Mapping[str, list[int]]) -> Program:
    """Envoy on the gateway port. It is ready once every service has passed its health check."""
    file = settings.data_dir / "envoy.yaml"

    socket = admin_socket(settings.data_dir)

    async def prepare() -> None:
        if len(os.fsencode(socket)) > _LONGEST_SOCKET_PATH:
            raise StackError(
                f"{socket} is too long for a socket: set TASKFLOW_DATA_DIR to a folder with a shorter path."
            )
        if settings.gateway_tls_cert and settings.gateway_tls_key:
            described = _certificate(settings.gateway_tls_cert, settings.gateway_tls_key)
            (settings.data_dir / _CERTIFICATE).write_text(described)
        file.write_text(configuration(settings, host, endpoints))

    return Program(
        name="envoy",
        about="the gateway: gRPC and gRPC-Web",
        command=(
            *(str(binaries.envoy()), "--config-path", str(file)),
            # One worker thread, so that Envoy's LEAST_REQUEST balancing counts all calls. On one machine one thread
            # isn't the bottleneck.
            *("--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"),
        ),
        ready=lambda: gateway_routes(socket),
        prepare=prepare,
        ports={"GATEWAY_PORT": settings.gateway_port},
    )
