"""The programs of the stack, made from the settings. The only file that lists them all."""

import os
import sys
from collections.abc import Iterator, Mapping

from pydantic import SecretStr

from deploy.local import envoy, nats, postgres, temporal
from deploy.local.probes import greeting, grpc_serving, http_get
from deploy.local.program import BACKGROUND, Program
from services.platform.config import Settings
from services.platform.generated_secrets import with_secrets
from services.platform.rpc.service_tls import client_credentials

# Makes glibc use one memory pool: with several, each keeps the memory that it needed at the peak.
_ONE_POOL = {"MALLOC_ARENA_MAX": "1"}
_PREFIX = "TASKFLOW_"
# Locally the mail window is this long (seconds), instead of the default five minutes.
_EMAIL_WINDOW = 5.0
# The k-th replica listens this far above the configured port, so that nine fit before the next range begins.
_REPLICA_STEP = 10
# Time (seconds) to exit after the drain, whose notice can take twice `drain_notice`.
_END_SECONDS = 3.0
# What services need ready before they start. They don't start after the migrations but wait for them: loading code
# meanwhile saves a second.
_NEEDED = frozenset({"postgres", "nats"})


def programs(settings: Settings) -> list[Program]:
    """Every program of the stack, dependencies first. `settings` come from `completed`."""
    folder = settings.data_dir
    return [
        postgres.program(folder, settings.postgres_port),
        nats.program(folder, settings.nats_port),
        temporal.program(folder, settings.temporal_port),
        _mail(settings),
        _migrate(settings),
        *_replicas(settings, "auth", settings.auth_port, settings.auth_http_port),
        *_replicas(settings, "task", settings.task_port, settings.task_http_port),
        *_replicas(
            settings, "notification", settings.notification_port, settings.notification_http_port
        ),
        *_background(settings, "relay", ("services", "relay"), settings.relay_http_port),
        *_background(settings, "worker", ("workflows",), settings.worker_http_port),
        envoy.program(settings, reachable(settings.host), _endpoints(settings)),
    ]


def completed(settings: Settings) -> Settings:
    """The settings with an absolute data folder, all secrets, the embedded servers' addresses, and mail sent soon."""
    folder = settings.data_dir.resolve()
    values = settings.model_dump()
    if settings.database_url is None:
        port = settings.postgres_port
        values["database_url"] = postgres.url(folder, port, postgres.APP)
        values["database_owner_url"] = postgres.url(folder, port, postgres.OWNER)
    if settings.nats_url is None:
        values["nats_url"] = nats.url(folder, settings.nats_port)
    if settings.temporal_address is None:
        values["temporal_address"] = f"127.0.0.1:{settings.temporal_port}"
    if "email_window" not in settings.model_fields_set:
        values["email_window"] = _EMAIL_WINDOW
    return with_secrets(type(settings)(**{**values, "data_dir": folder}))


def external(settings: Settings) -> frozenset[str]:
    """The servers that the settings place elsewhere: their embedded counterparts aren't started."""
    given = {
        "postgres": settings.database_url,
        "nats": settings.nats_url,
        "temporal": settings.temporal_address,
        "mail": settings.smtp_host,
    }
    return frozenset(name for name, address in given.items() if address is not None)


def child_environment(settings: Settings, *, owner: bool = False) -> dict[str, str]:
    """The environment of every program: this process's environment with exactly these settings.

    Only with `owner` it has the credential that can change tables.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.upper().startswith(_PREFIX)}
    ours = {
        f"{_PREFIX}{name.upper()}": _as_text(value)
        for name, value in settings.model_dump().items()
        if value is not None and (owner or name != "database_owner_url")
    }
    return {**inherited, **_ONE_POOL, **ours, "PYTHONUNBUFFERED": "1"}


def _as_text(value: object) -> str:
    """The value as the text that pydantic-settings parses back."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    return str(value)


def reachable(host: str) -> str:
    """The address that reaches a server listening on `host` from this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _replica_ports(settings: Settings, port: int) -> Iterator[int]:
    return iter(range(port, port + settings.replicas * _REPLICA_STEP, _REPLICA_STEP))


def _endpoints(settings: Settings) -> Mapping[str, list[int]]:
    ports = {
        "auth": settings.auth_port,
        "task": settings.task_port,
        "notification": settings.notification_port,
    }
    return {name: list(_replica_ports(settings, port)) for name, port in ports.items()}


def _mail(settings: Settings) -> Program:
    async def ready() -> bool:
        return (await greeting(reachable(settings.host), settings.mail_port)).startswith(b"220 ")

    return Program(
        name="mail",
        about="SMTP; caught mail is in mail/",
        command=(sys.executable, "-m", "deploy.local.mail_catcher"),
        ready=ready,
        ports={"MAIL_PORT": settings.mail_port},
    )


def _migrate(settings: Settings) -> Program:
    return Program(
        name="migrate",
        command=(sys.executable, "-m", "services", "migrate"),
        after=frozenset({"postgres"}),
        environment={"TASKFLOW_DATABASE_OWNER_URL": settings.postgres_owner},
        once=True,
    )


def _replicas(settings: Settings, name: str, port: int, http_port: int) -> Iterator[Program]:
    """A gRPC service: ready when its health service says so."""
    ports = zip(_replica_ports(settings, port), _replica_ports(settings, http_port), strict=True)
    credentials = client_credentials(settings)
    for number, (grpc_at, http_at) in enumerate(ports, start=1):

        async def ready(at: int = grpc_at) -> bool:
            return await grpc_serving(reachable(settings.host), at, credentials)

        yield Program(
            name=_numbered(name, number),
            about="gRPC; /healthz and /metrics",
            command=(sys.executable, "-m", "services", name),
            ready=ready,
            after=_NEEDED,
            ports={f"{name.upper()}_PORT": grpc_at, f"{name.upper()}_HTTP_PORT": http_at},
            environment={
                f"{_PREFIX}{name.upper()}_PORT": str(grpc_at),
                f"{_PREFIX}{name.upper()}_HTTP_PORT": str(http_at),
            },
            stop_seconds=2 * settings.drain_notice + settings.drain_grace + _END_SECONDS,
        )


def _background(
    settings: Settings, name: str, module: tuple[str, ...], http_port: int
) -> Iterator[Program]:
    """A process without a gRPC port: ready when /healthz answers 200."""
    priority = BACKGROUND if name == "worker" else ()
    for number, port in enumerate(_replica_ports(settings, http_port), start=1):

        async def ready(at: int = port) -> bool:
            status, _ = await http_get(reachable(settings.host), at, "/healthz")
            return status == 200

        yield Program(
            name=_numbered(name, number),
            about="/healthz and /metrics",
            command=(*priority, sys.executable, "-m", *module),
            ready=ready,
            after=_NEEDED | ({"temporal"} if name == "worker" else set()),
            ports={f"{name.upper()}_HTTP_PORT": port},
            environment={f"{_PREFIX}{name.upper()}_HTTP_PORT": str(port)},
            stop_seconds=8.0,
        )


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"
