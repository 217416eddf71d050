"""Settings: one frozen object, read once from `TASKFLOW_*` environment variables.

`python -m deploy.settings_table` makes docs/configuration.md from this file.
"""

import difflib
import os
import sys
from collections.abc import Iterable, Iterator
from datetime import time
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, IPvAnyNetwork, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(ge=0)]

PREFIX = "TASKFLOW_"
# Variables of the command-line client, which reads them itself.
_CLIENT = ("TASKFLOW_SERVER", "TASKFLOW_CONFIG_DIR", "TASKFLOW_WORKSPACE")

# The local PostgreSQL, NATS and Temporal always listen here, whatever `host` is.
_LOCAL = "127.0.0.1"
# The accounts of the embedded PostgreSQL: one reads and writes rows, the other owns the tables.
_APP, _OWNER = "taskflow_app", "taskflow_owner"

# Settings that are useless without each other.
_PAIRS = (
    ("ai_base_url", "ai_model"),
    ("nats_user", "nats_password"),
    ("nats_tls_cert", "nats_tls_key"),
    ("temporal_tls_cert", "temporal_tls_key"),
    ("service_tls_cert", "service_tls_key"),
    ("gateway_tls_cert", "gateway_tls_key"),
)


class Settings(BaseSettings):
    """The settings of all processes. Times are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        env_ignore_empty=True,
        use_attribute_docstrings=True,
        # Errors must not quote the input, which may be a secret.
        hide_input_in_errors=True,
    )

    environment: Literal["development", "production"] = "development"
    """`production` refuses to start with default secrets and without signing keys."""
    log_format: Literal["console", "json"] = "console"
    """`console` writes lines for people, `json` one JSON object a line."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The lowest level that is logged. At `debug` every call has a line; otherwise only failed calls have one."""
    data_dir: Path = Path(".taskflow")
    """Where the local stack and the development signing keys keep their files."""

    host: str = "127.0.0.1"
    """The address that the gateway, our processes and the mail catcher listen on. The local PostgreSQL, NATS and
    Temporal always listen on 127.0.0.1."""
    gateway_port: Port = 8080
    """Envoy's port for gRPC and gRPC-Web, the only public port."""
    auth_port: Port = 9001
    """Port of the auth service's gRPC server."""
    task_port: Port = 9002
    """Port of the task service's gRPC server."""
    notification_port: Port = 9003
    """Port of the notification service's gRPC server."""
    auth_http_port: Port = 9101
    """Port of the auth service's /healthz and /metrics."""
    task_http_port: Port = 9102
    """Port of the task service's /healthz and /metrics."""
    notification_http_port: Port = 9103
    """Port of the notification service's /healthz and /metrics."""
    relay_http_port: Port = 9104
    """Port of the relay's /healthz and /metrics."""
    worker_http_port: Port = 9105
    """The workflow worker's /healthz and /metrics."""
    postgres_port: Port = 15432
    """Port of the embedded PostgreSQL."""
    nats_port: Port = 14222
    """Port of the embedded NATS."""
    temporal_port: Port = 17233
    """Port of the embedded Temporal."""
    mail_port: Port = 11025
    """SMTP port of the local mail catcher."""
    replicas: Annotated[int, Field(ge=1, le=9)] = 1
    """Processes of each service that the local stack starts. The k-th adds 10 * (k - 1) to its port numbers."""

    database_url: SecretStr | None = None
    """`postgresql://user:password@host:port/name`, for the account that reads and writes rows; several hosts, TLS and
    other options as in libpq. Unset: the embedded one."""
    database_direct_url: SecretStr | None = None
    """The same database without a connection pooler in between, for the relay's lock, which needs a session of its own.
    Unset: `TASKFLOW_DATABASE_URL`."""
    database_owner_url: SecretStr | None = None
    """The same database without a pooler, for the account that owns the tables. Only migrations and backups use it.
    Unset: `TASKFLOW_DATABASE_DIRECT_URL`."""
    nats_url: SecretStr | None = None
    """`nats://host:port`, several separated by commas; `tls://` demands TLS. Unset: the embedded one."""
    nats_user: str | None = None
    """The account in NATS."""
    nats_password: SecretStr | None = None
    """The password of that account."""
    nats_credentials: Path | None = None
    """The credentials file (JWT and seed) of an account in NATS."""
    nats_tls_ca: Path | None = None
    """Certificates (PEM) that NATS servers are checked with; demands TLS. Unset: the system's."""
    nats_tls_cert: Path | None = None
    """Our client certificate (PEM) for NATS; demands TLS."""
    nats_tls_key: Path | None = None
    """The key (PEM) of that certificate."""
    temporal_address: str | None = None
    """Temporal's `host:port`. Unset: the embedded Temporal."""
    temporal_namespace: str = "default"
    """The namespace in Temporal. It has to exist."""
    temporal_tls: bool = False
    """Whether Temporal is reached by TLS. The next three settings and an API key need it."""
    temporal_tls_ca: Path | None = None
    """Certificates (PEM) that Temporal is checked with. Unset: the system's."""
    temporal_tls_cert: Path | None = None
    """Our client certificate (PEM) for Temporal."""
    temporal_tls_key: Path | None = None
    """The key (PEM) of that certificate."""
    temporal_api_key: SecretStr | None = None
    """The API key for Temporal."""
    auth_address: str | None = None
    """Where other processes reach the auth service, `host:port`. Unset: `host` and `auth_port`."""
    task_address: str | None = None
    """Where other processes reach the task service, `host:port`. Unset: `host` and `task_port`."""
    notification_address: str | None = None
    """Where other processes reach the notification service, `host:port`. Unset: `host` and `notification_port`."""

    public_url: str | None = None
    """Where people reach TaskFlow, such as `https://tasks.example.com`. Links in mail begin with it. Unset: the
    gateway on this machine."""

    service_tls_ca: Path | None = None
    """Certificates (PEM) that our processes and the gateway check each other with. With it, services answer only peers
    with a certificate from there. The next two settings belong to it."""
    service_tls_cert: Path | None = None
    """Certificate (PEM) of this process, for its addresses above; it serves and calls with it."""
    service_tls_key: Path | None = None
    """The key (PEM) of that certificate."""
    gateway_tls_cert: Path | None = None
    """Certificate (PEM) that the local stack's gateway serves with. Unset: clear text."""
    gateway_tls_key: Path | None = None
    """The key (PEM) of that certificate."""

    token_secret: SecretStr = SecretStr("")
    """Seals refresh tokens, page tokens and cursors. Equal in all processes; at least 32 characters in production.
    Unset in development: `token.secret` in the data folder, made at the first start."""
    service_secret: SecretStr = SecretStr("")
    """Proves to a service that another service calls. Equal in all processes; at least 32 characters in production.
    Unset in development: `service.secret` in the data folder, made at the first start."""
    gateway_networks: Annotated[tuple[IPvAnyNetwork, ...], NoDecode] = (
        IPv4Network("127.0.0.0/8"),
        IPv6Network("::1/128"),
    )
    """Networks of the gateways, separated by commas. Services believe `x-forwarded-for` only from there."""
    signing_key_dir: Path | None = None
    """Folder of the ES256 keys (PEM) for access tokens. The newest one signs. Unset: `keys` in the data folder."""
    token_issuer: str = "taskflow"
    """Issuer and audience of access tokens."""
    access_token_lifetime: Annotated[float, Field(ge=10, le=3600)] = 600
    """Seconds that an access token is valid."""
    refresh_token_lifetime: Annotated[float, Field(ge=60)] = 30 * 86400
    """Seconds that a session lasts without being used."""
    login_attempts_per_account: Annotated[int, Field(ge=1)] = 10
    """Wrong passwords within 15 minutes after which logins to an account from one IP address are refused. From all
    addresses together ten times as many are allowed."""
    login_attempts_per_address: Annotated[int | None, Field(ge=1)] = None
    """Wrong passwords within 15 minutes after which all logins from an IP address are refused. Unset: 100, and 1,000 in
    development. Raise it where many people share an address."""
    registrations_per_address: Annotated[int | None, Field(ge=1)] = None
    """Accounts that may be registered from an IP address in an hour, at each auth process. Unset: 100, and 100,000 in
    development."""
    trusted_hops: Annotated[int, Field(ge=0, le=10)] = 0
    """Proxies in front of the gateway, such as a load balancer, that append the client's address to x-forwarded-for.
    With a wrong number, clients share an address or can choose one."""

    reflection: bool = True
    """Whether the services offer gRPC reflection. Switch it off in production."""
    database_pool_size: Annotated[int, Field(ge=1, le=200)] = 10
    """The most PostgreSQL connections that one process opens."""
    statement_timeout: Seconds = 10
    """Seconds after which PostgreSQL cancels a statement."""
    gateway_calls: Annotated[int, Field(ge=4)] = 100
    """Unary calls that the gateway passes to each process at once. It refuses further ones, which would only wait."""
    max_calls: Annotated[int, Field(ge=1)] = 1000
    """Unary calls that a process works on at once, from the gateway and other services. It refuses further ones."""
    max_streams: Annotated[int, Field(ge=1)] = 20_000
    """Streams that a process keeps open. It refuses further ones."""
    user_calls: Annotated[int, Field(ge=1)] = 84
    """Calls of one user that a process works on at once. It refuses further ones."""
    workspace_calls: Annotated[int, Field(ge=1)] = 90
    """As `user_calls`, for the calls that name one workspace."""
    user_calls_per_second: Annotated[float, Field(gt=0)] = 200
    """Calls per second of one user at a process while other users call, after a burst of one second's calls. Further
    ones wait for up to a second, then they are refused."""
    workspace_calls_per_second: Annotated[float, Field(gt=0)] = 1000
    """As `user_calls_per_second`, for the calls that name one workspace."""
    user_streams: Annotated[int, Field(ge=1)] = 1_000
    """Streams of one user that a process keeps open. It refuses further ones."""
    workspace_streams: Annotated[int, Field(ge=1)] = 15_000
    """WatchTasks streams of one workspace that a process keeps open. It refuses further ones."""
    user_connections: Annotated[int, Field(ge=1)] = 8
    """Connections of `database_pool_size` that one user's calls hold at once, and at most all but one. Further calls
    wait."""
    workspace_connections: Annotated[int, Field(ge=1)] = 8
    """As `user_connections`, for the calls that name one workspace."""
    user_search_seconds: Annotated[float, Field(gt=0)] = 20
    """Seconds per minute that one user's text searches may keep the database busy. Further ones are refused."""
    workspace_search_seconds: Annotated[float, Field(gt=0)] = 30
    """As `user_search_seconds`, for all members of one workspace."""
    max_request_bytes: Annotated[int, Field(ge=1024)] = 256 * 1024
    """Size of the largest request."""
    max_call_seconds: Seconds = 30
    """Seconds after which a unary call is cancelled, whatever its client's deadline."""
    drain_notice: Seconds = 2
    """Seconds that a process keeps serving after it reported its shutdown to the gateway; up to twice as long while
    calls still arrive."""
    drain_grace: Seconds = 5
    """Seconds after the drain notice in which running calls may finish."""

    heartbeat_interval: Annotated[float, Field(gt=0)] = 15
    """Seconds between heartbeats on a stream."""
    reader_timeout: Annotated[float, Field(gt=0)] = 25
    """Seconds after which the stream of a client that doesn't read is closed, at the next check."""
    session_check_interval: Annotated[float, Field(gt=0)] = 2
    """Seconds between checks that the sessions of open streams are still valid."""

    relay_interval: Annotated[float, Field(gt=0)] = 0.2
    """Seconds between checks of the outbox while no notification wakes the relay."""
    event_retention: Annotated[float, Field(ge=120)] = 7 * 86400
    """Seconds that published events are kept in NATS, and in the outbox, which refills a NATS that lost its data."""
    event_stream_bytes: Annotated[int, Field(ge=1024 * 1024)] = 4 * 1024**3
    """Largest size of the event stream in NATS."""
    event_stream_replicas: Annotated[int, Field(ge=1, le=5)] = 1
    """NATS servers that each store the event stream; 3 in a cluster."""
    event_retry_pause: Annotated[float, Field(gt=0)] = 60
    """Longest pause (seconds) before a consumer retries an event that it failed on. After ten attempts it becomes
    a dead letter."""

    retention_interval: Annotated[float, Field(gt=0)] = 300
    """Longest pause (seconds) between deletions of expired rows."""
    task_retention: Seconds = 30 * 86400
    """Seconds that a deleted task can be undeleted. Then it is removed with its suggestions, jobs and reminders."""
    notification_retention: Seconds = 90 * 86400
    """Seconds that a notification is kept after it was read. Unread ones are kept forever."""
    change_retention: Seconds = 30 * 86400
    """Seconds that a client may be away and still resume its WatchNotifications stream. Later the stream is reset."""
    dead_letter_retention: Seconds = 30 * 86400
    """Seconds that a dead letter is kept after it was replayed. Those never replayed are kept forever."""

    enrich_debounce: Seconds = 2
    """Seconds that a task's text has to stay unchanged before suggestions are made for it."""
    text_cpu_seconds: Annotated[float, Field(ge=0.1, le=10)] = 1
    """Processor time (seconds) that reading one task's text or one model's answer may take; beyond it the suggestions
    fail. The slowest text we know takes a tenth of that."""
    email_window: Seconds = 300
    """Seconds in which a user's notifications are collected into one mail."""
    reminder_offsets: Annotated[tuple[Annotated[int, Field(ge=0)], ...], NoDecode] = (
        86400,
        3600,
        0,
    )
    """Seconds before a deadline with a time at which reminders are sent, separated by commas; 0 is the deadline
    itself."""
    reminder_morning: time = time(9)
    """Local time of the assignee at which reminders of a deadline without a time are sent: the day before, on the day,
    and the morning after it, when the task is overdue. Such as `09:00`."""
    workflow_concurrency: Annotated[int, Field(ge=1)] = 50
    """Activities that a worker runs at once: this many quick ones, as many that wait for a model or a job handler, and
    as many that wait for the mail server."""

    ai_base_url: str | None = None
    """An OpenAI-compatible endpoint. Without it, priorities are guessed from the wording, offline."""
    ai_model: str | None = None
    """The model to use at `ai_base_url`."""
    ai_api_key: SecretStr | None = None
    """The API key for `ai_base_url`."""
    ai_timeout: Annotated[float, Field(gt=0)] = 30
    """Seconds after which a request to the model fails."""
    ai_max_output_tokens: Annotated[int, Field(ge=64)] = 8000
    """The most tokens in one answer. An improved description can be long."""
    ai_calls_per_user: Annotated[int, Field(ge=0)] = 1000
    """Suggestions that a user may request in an hour; further requests are refused. 0: no limit."""
    ai_calls_per_workspace: Annotated[int, Field(ge=0)] = 10_000
    """Texts of a workspace that suggestions are made for in an hour. New tasks beyond that wait, for at most 12 hours.
    0: no limit."""
    ai_allow_private: bool = False
    """Whether the endpoint may have a private or loopback address."""

    smtp_host: str | None = None
    """The mail server. Unset: the local mail catcher."""
    smtp_port: Port | None = None
    """The mail server's port. Unset: 25, 587 or 465, by `smtp_tls`; `mail_port` for the local mail catcher."""
    smtp_username: str | None = None
    """The account at the mail server. Unset: mail is sent without logging in."""
    smtp_password: SecretStr | None = None
    """The password of `smtp_username`."""
    smtp_tls: Literal["none", "starttls", "tls"] = "none"
    """How the connection to the mail server is encrypted."""
    smtp_tls_ca: Path | None = None
    """Certificates (PEM) that the mail server is checked with. Unset: the system's."""
    mail_from: str = "TaskFlow <taskflow@localhost>"
    """The sender of all mail."""

    @model_validator(mode="before")
    @classmethod
    def _split_lists(cls, values: dict[str, object]) -> dict[str, object]:
        for name in ("reminder_offsets", "gateway_networks"):
            listed = values.get(name)
            if isinstance(listed, str):
                values[name] = [part.strip() for part in listed.split(",")]
        return values

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if problems := [*self._unsafe(), *self._inconsistent()]:
            raise ValueError("\n".join(f"{PREFIX}{name.upper()}: {why}" for name, why in problems))
        return self

    def _unsafe(self) -> Iterator[tuple[str, str]]:
        """What production refuses: missing and repeated secrets, and credentials that would be sent in clear text."""
        if self.environment != "production":
            return
        for name in ("token_secret", "service_secret"):
            if len(getattr(self, name).get_secret_value()) < 32:
                yield name, "production needs at least 32 characters of your own"
        if self.token_secret.get_secret_value() == self.service_secret.get_secret_value() != "":
            yield "service_secret", "production needs another value than TASKFLOW_TOKEN_SECRET"
        if self.signing_key_dir is None:
            yield "signing_key_dir", "production needs the folder of your signing keys"
        if self.reflection:
            yield "reflection", "production needs it switched off"
        if self.smtp_password and self.smtp_tls == "none":
            yield "smtp_tls", "production doesn't send TASKFLOW_SMTP_PASSWORD in clear text"
        if self.ai_api_key and (self.ai_base_url or "").lower().startswith("http://"):
            yield (
                "ai_base_url",
                "production doesn't send TASKFLOW_AI_API_KEY in clear text; use https://",
            )
        if self.temporal_api_key and not self.temporal_tls:
            yield "temporal_tls", "production doesn't send TASKFLOW_TEMPORAL_API_KEY in clear text"

    def _inconsistent(self) -> Iterator[tuple[str, str]]:
        for name in ("database_url", "database_direct_url", "database_owner_url"):
            url = getattr(self, name)
            if url and not url.get_secret_value().startswith(("postgresql://", "postgres://")):
                yield name, "should begin with postgresql://"
        if not all(server.startswith(("nats://", "tls://")) for server in self.nats_servers):
            yield "nats_url", "each server should begin with nats:// or tls://"
        if self.public_url and not self.public_url.startswith(("http://", "https://")):
            yield "public_url", "should begin with https:// or http://"
        if self.reminder_morning.tzinfo is not None:
            yield "reminder_morning", "is a local time, without an offset from UTC"
        for one, other in _PAIRS:
            for present, missing in ((one, other), (other, one)):
                if getattr(self, present) and not getattr(self, missing):
                    yield missing, f"is missing, while {PREFIX}{present.upper()} is set"
        if self.smtp_password and not self.smtp_username:
            yield "smtp_username", "is missing, while TASKFLOW_SMTP_PASSWORD is set"
        if self.nats_credentials and self.nats_user:
            yield "nats_credentials", "is set, and so is TASKFLOW_NATS_USER; NATS takes one of them"
        if self.service_tls_ca and not self.service_tls_cert:
            yield "service_tls_cert", "is missing, while TASKFLOW_SERVICE_TLS_CA is set"
        if self.service_tls_cert and not self.service_tls_ca:
            yield "service_tls_ca", "is missing, while TASKFLOW_SERVICE_TLS_CERT is set"
        for name in ("temporal_tls_ca", "temporal_tls_cert"):
            if getattr(self, name) and not self.temporal_tls:
                yield name, "has no effect without TASKFLOW_TEMPORAL_TLS"
        if self.smtp_tls_ca and self.smtp_tls == "none":
            yield "smtp_tls_ca", "has no effect without TASKFLOW_SMTP_TLS"

    @property
    def postgres(self) -> str:
        """The database's connection string. Never log it: it contains the password."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return self._embedded_postgres(_APP)

    @property
    def postgres_direct(self) -> str:
        """The connection string without a pooler."""
        if self.database_direct_url is not None:
            return self.database_direct_url.get_secret_value()
        return self.postgres

    @property
    def postgres_owner(self) -> str:
        """The connection string of the account that owns the tables."""
        if self.database_owner_url is not None:
            return self.database_owner_url.get_secret_value()
        if self.database_url is None:
            return self._embedded_postgres(_OWNER)
        return self.postgres_direct

    def _embedded_postgres(self, account: str) -> str:
        login = account + self._local_password(f"{account}.password")
        return f"postgresql://{login}@{_LOCAL}:{self.postgres_port}/taskflow"

    def _local_password(self, file: str) -> str:
        """A password that the local stack generated, with a colon before it. Empty before the first start."""
        try:
            return ":" + (self.data_dir / file).read_text().strip()
        except OSError:
            return ""

    @property
    def nats(self) -> str:
        """The servers' addresses, separated by commas. Never log it: it can contain a password."""
        if self.nats_url is not None:
            return self.nats_url.get_secret_value()
        password = self._local_password("nats.password")
        return f"nats://{f'taskflow{password}@' if password else ''}{_LOCAL}:{self.nats_port}"

    @property
    def nats_servers(self) -> list[str]:
        return [server.strip() for server in self.nats.split(",") if server.strip()]

    @cached_property
    def temporal(self) -> str:
        return self.temporal_address or f"{_LOCAL}:{self.temporal_port}"

    @cached_property
    def auth(self) -> str:
        return self.auth_address or f"{self.host}:{self.auth_port}"

    @cached_property
    def task(self) -> str:
        return self.task_address or f"{self.host}:{self.task_port}"

    @cached_property
    def notification(self) -> str:
        return self.notification_address or f"{self.host}:{self.notification_port}"

    @property
    def attempts_per_address(self) -> int:
        return self.login_attempts_per_address or (1_000 if self._developing else 100)

    @property
    def registrations(self) -> int:
        """Per address and hour."""
        return self.registrations_per_address or (100_000 if self._developing else 100)

    @property
    def _developing(self) -> bool:
        return self.environment == "development"

    @cached_property
    def web(self) -> str:
        """What links for people begin with."""
        if self.public_url:
            return self.public_url.rstrip("/")
        return f"http://{_LOCAL if self.host == '0.0.0.0' else self.host}:{self.gateway_port}"

    @cached_property
    def keys(self) -> Path:
        return self.signing_key_dir or self.data_dir / "keys"


def load(**overrides: object) -> Settings:
    """Reads the settings from the environment. Exits with one sentence for each wrong value.

    Warns about TASKFLOW_* variables that aren't settings: they may be misspelt.
    """
    for sentence in unknown(os.environ):
        print(f"configuration: {sentence}", file=sys.stderr)
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        # Leaves out the input, which may be a secret.
        for problem in error.errors(include_input=False, include_url=False, include_context=False):
            name = "".join(PREFIX + str(part).upper() + ": " for part in problem["loc"][:1])
            for text in problem["msg"].removeprefix("Value error, ").splitlines():
                print(f"configuration: {name}{text}", file=sys.stderr)
        sys.exit(1)


def unknown(variables: Iterable[str]) -> list[str]:
    """A sentence for each variable that has the prefix but isn't a setting."""
    known = [PREFIX + name.upper() for name in Settings.model_fields]
    sentences = []
    for name in sorted(variables):
        if name.upper().startswith(PREFIX) and name.upper() not in (*known, *_CLIENT):
            similar = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f"; is {similar[0]} meant?" if similar else ""
            sentences.append(f"{name} isn't a setting and does nothing{hint}")
    return sentences
