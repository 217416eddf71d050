"""Settings: one frozen object, read once from `TASKFLOW_*` environment variables.

docs/configuration.md is made of this file by `python -m deploy.settings_table`.
"""

import difflib
import os
import sys
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(ge=0)]

PREFIX = "TASKFLOW_"
# Of the command-line client, which has settings of its own.
_CLIENT = ("TASKFLOW_SERVER", "TASKFLOW_CONFIG_DIR", "TASKFLOW_WORKSPACE")

# Where the local PostgreSQL, NATS and Temporal listen, whatever `host` is: they're for this machine alone.
_LOCAL = "127.0.0.1"
# Good enough to try things on one machine; production refuses to start with them.
_DEVELOPMENT_SECRET = "taskflow-development-secret-not-for-production"


class Settings(BaseSettings):
    """What every process is configured by. Times are seconds, sizes bytes."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        env_ignore_empty=True,
        use_attribute_docstrings=True,
        # An error would quote what it is about otherwise, and that may be a secret.
        hide_input_in_errors=True,
    )

    environment: Literal["development", "production"] = "development"
    """`production` refuses to start with default secrets and without signing keys."""
    log_format: Literal["console", "json"] = "console"
    """Lines for people, or a JSON object a line."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is logged. At `debug` every call has a line, else those that failed."""
    data_dir: Path = Path(".taskflow")
    """Where the local stack and the development signing keys keep their files."""

    host: str = "127.0.0.1"
    """The address that the gateway, our processes and the mail catcher listen on. The local PostgreSQL, NATS and
    Temporal listen on 127.0.0.1."""
    gateway_port: Port = 8080
    """Envoy: gRPC and gRPC-Web, all that is public."""
    auth_port: Port = 9001
    """The auth service's gRPC."""
    task_port: Port = 9002
    """The task service's gRPC."""
    notification_port: Port = 9003
    """The notification service's gRPC."""
    auth_http_port: Port = 9101
    """The auth service's /healthz and /metrics."""
    task_http_port: Port = 9102
    """The task service's /healthz and /metrics."""
    notification_http_port: Port = 9103
    """The notification service's /healthz and /metrics."""
    relay_http_port: Port = 9104
    """The relay's /healthz and /metrics."""
    worker_http_port: Port = 9105
    """The workflow worker's /healthz and /metrics."""
    envoy_admin_port: Port = 9901
    """Envoy's administration, on the loopback address only."""
    postgres_port: Port = 15432
    """The embedded PostgreSQL."""
    nats_port: Port = 14222
    """The embedded NATS."""
    temporal_port: Port = 17233
    """The embedded Temporal."""
    mail_port: Port = 11025
    """The local mail catcher's SMTP."""
    replicas: Annotated[int, Field(ge=1, le=9)] = 1
    """Processes of each service that the local stack starts; the k-th listens 10 * (k - 1) higher."""

    database_url: SecretStr | None = None
    """`postgresql://user:password@host:port/name`. Unset: the embedded one."""
    nats_url: SecretStr | None = None
    """`nats://host:port`. Unset: the embedded one."""
    temporal_address: str | None = None
    """`host:port`. Unset: the embedded one."""
    temporal_namespace: str = "default"
    """The namespace in Temporal, which has to exist."""
    auth_address: str | None = None
    """Where others reach the auth service, `host:port`. Unset: on `host` at its port."""
    task_address: str | None = None
    """Where others reach the task service, likewise."""
    notification_address: str | None = None
    """Where others reach the notification service, likewise."""

    token_secret: SecretStr = SecretStr(_DEVELOPMENT_SECRET)
    """Seals refresh tokens, page tokens and cursors. The same for all processes; at least 32 characters."""
    service_secret: SecretStr = SecretStr(_DEVELOPMENT_SECRET)
    """How services know each other. The same for all processes; at least 32 characters."""
    signing_key_dir: Path | None = None
    """Folder of the ES256 keys (PEM) for access tokens, of which the newest signs. Unset: `keys` in the data folder."""
    token_issuer: str = "taskflow"
    """Issuer and audience of access tokens."""
    access_token_lifetime: Annotated[float, Field(ge=10, le=3600)] = 600
    """Seconds that an access token is good for."""
    refresh_token_lifetime: Annotated[float, Field(ge=60)] = 30 * 86400
    """Seconds that a session lasts without being used."""
    login_attempts_per_account: Annotated[int, Field(ge=1)] = 10
    """Wrong passwords in 15 minutes after which an account's logins are refused."""
    login_attempts_per_address: Annotated[int, Field(ge=1)] = 10
    """Likewise for an address that they come from. Raise it where many people share one."""

    reflection: bool = True
    """Whether the services describe themselves over gRPC. Switch it off in production."""
    database_pool_size: Annotated[int, Field(ge=1, le=200)] = 10
    """Connections to PostgreSQL that a process holds at most."""
    statement_timeout: Seconds = 10
    """Seconds after which PostgreSQL ends a statement."""
    usual_calls: Annotated[int, Field(ge=4)] = 100
    """Unary calls for each process that the gateway lets through at once; further ones would only wait."""
    max_calls: Annotated[int, Field(ge=1)] = 1000
    """Unary calls that a process works on at once, wherever they come from; those beyond are refused."""
    max_streams: Annotated[int, Field(ge=1)] = 20_000
    """Streams that a process keeps open; those beyond are refused."""
    max_request_bytes: Annotated[int, Field(ge=1024)] = 256 * 1024
    """Size of the largest request."""
    max_call_seconds: Seconds = 30
    """Seconds after which a unary call is ended, whatever its client's deadline."""
    drain_notice: Seconds = 2
    """Seconds between telling the gateway of a shutdown and beginning it, twice as many while calls still come."""
    drain_grace: Seconds = 5
    """Seconds that calls have to finish in then."""

    heartbeat_interval: Annotated[float, Field(gt=0)] = 15
    """Seconds between heartbeats on a stream."""
    reader_timeout: Annotated[float, Field(gt=0)] = 25
    """Seconds after which a client that doesn't read its stream is cut off, at the next check."""
    session_check_interval: Annotated[float, Field(gt=0)] = 2
    """Seconds between looks at whether the sessions of open streams live."""

    relay_interval: Annotated[float, Field(gt=0)] = 0.2
    """Seconds between looks at the outbox when nothing wakes the relay."""
    event_retention: Annotated[float, Field(ge=120)] = 7 * 86400
    """Seconds that published events are kept, in NATS and in the outbox, from which a lost NATS is filled again."""
    event_stream_bytes: Annotated[int, Field(ge=1024 * 1024)] = 4 * 1024**3
    """Size of the event stream in NATS at most."""
    event_stream_replicas: Annotated[int, Field(ge=1, le=5)] = 1
    """NATS servers that each hold the event stream; 3 in a cluster."""
    event_retry_pause: Annotated[float, Field(gt=0)] = 60
    """Seconds between two tries of an event that a consumer failed on, at most; after ten it's a dead letter."""

    retention_interval: Annotated[float, Field(gt=0)] = 300
    """Seconds between looks for what is to be deleted because its time is over, at most."""
    task_retention: Seconds = 30 * 86400
    """Seconds that a deleted task can be undeleted; then it's gone with its suggestions, jobs and reminders."""
    notification_retention: Seconds = 90 * 86400
    """Seconds that a notification is kept after it was read. Unread ones stay."""
    change_retention: Seconds = 30 * 86400
    """Seconds that a client may be away and go on with its WatchNotifications stream; after more it's reset."""
    dead_letter_retention: Seconds = 30 * 86400
    """Seconds that a dead letter is kept after it was replayed. Those that weren't stay."""

    enrich_debounce: Seconds = 2
    """Seconds that a task's text has to stay as it is before suggestions are made for it."""
    text_cpu_seconds: Annotated[float, Field(ge=0.1, le=10)] = 1
    """Seconds of processor time that reading one task's text or one model's answer may take; then its suggestions fail.
    The slowest text we know takes a tenth of that."""
    email_window: Seconds = 300
    """Seconds in which a person's notifications are gathered into one mail."""
    reminder_offsets: Annotated[tuple[Annotated[int, Field(ge=0)], ...], NoDecode] = (
        86400,
        3600,
        0,
    )
    """Seconds before a deadline at which people are reminded, separated by commas; 0 is the deadline itself."""
    workflow_concurrency: Annotated[int, Field(ge=1)] = 50
    """Activities that a worker runs at once: so many that answer quickly, and so many that wait for others."""

    ai_base_url: str | None = None
    """An OpenAI-compatible endpoint. Without it and a model, priorities are read off the wording, offline."""
    ai_model: str | None = None
    """The model to ask for there."""
    ai_api_key: SecretStr | None = None
    """The endpoint's API key."""
    ai_timeout: Annotated[float, Field(gt=0)] = 30
    """Seconds that the model may take."""
    ai_max_output_tokens: Annotated[int, Field(ge=64)] = 8000
    """Tokens that one answer may have; an improved description can be long."""
    ai_calls_per_user: Annotated[int, Field(ge=0)] = 1000
    """Suggestions that a person may ask for in an hour; those beyond are refused. 0: no limit."""
    ai_calls_per_workspace: Annotated[int, Field(ge=0)] = 10_000
    """Texts of a workspace that suggestions are made for in an hour; new tasks beyond wait for their turn, for at most
    12 hours. 0: no limit."""
    ai_allow_private: bool = False
    """Whether the endpoint may be at a private or loopback address."""

    smtp_host: str | None = None
    """The mail server. Unset: the local catcher."""
    smtp_port: Port | None = None
    """Unset: 25, 587 or 465, as `smtp_tls` says; the local catcher's."""
    smtp_username: str | None = None
    """Unset: mail is sent without logging in."""
    smtp_password: SecretStr | None = None
    """The password to that name."""
    smtp_tls: Literal["none", "starttls", "tls"] = "none"
    """How the connection is encrypted."""
    mail_from: str = "TaskFlow <taskflow@localhost>"
    """The sender of all mail."""

    @model_validator(mode="before")
    @classmethod
    def _split_offsets(cls, values: dict[str, object]) -> dict[str, object]:
        offsets = values.get("reminder_offsets")
        if isinstance(offsets, str):
            values["reminder_offsets"] = [part.strip() for part in offsets.split(",")]
        return values

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if problems := [*self._unsafe(), *self._inconsistent()]:
            raise ValueError("\n".join(f"{PREFIX}{name.upper()}: {why}" for name, why in problems))
        return self

    def _unsafe(self) -> Iterator[tuple[str, str]]:
        if self.environment != "production":
            return
        for name in ("token_secret", "service_secret"):
            secret = getattr(self, name).get_secret_value()
            if len(secret) < 32 or secret == _DEVELOPMENT_SECRET:
                yield name, "production needs at least 32 characters of your own"
        if self.signing_key_dir is None:
            yield "signing_key_dir", "production needs the folder of your signing keys"

    def _inconsistent(self) -> Iterator[tuple[str, str]]:
        if not self.postgres.startswith(("postgresql://", "postgres://")):
            yield "database_url", "should begin with postgresql://"
        if not self.nats.startswith(("nats://", "tls://")):
            yield "nats_url", "should begin with nats:// or tls://"
        if self.ai_base_url and not self.ai_model:
            yield "ai_model", "is missing, while TASKFLOW_AI_BASE_URL is set"
        if self.ai_model and not self.ai_base_url:
            yield "ai_base_url", "is missing, while TASKFLOW_AI_MODEL is set"
        if self.smtp_password and not self.smtp_username:
            yield "smtp_username", "is missing, while TASKFLOW_SMTP_PASSWORD is set"

    @cached_property
    def postgres(self) -> str:
        """The database's connection string; holds the password, so it's never logged."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"postgresql://taskflow{self._local_password}@{_LOCAL}:{self.postgres_port}/taskflow"

    @property
    def _local_password(self) -> str:
        """The local stack keeps the password of its database beside the data."""
        try:
            return ":" + (self.data_dir / "postgres.password").read_text().strip()
        except OSError:
            return ""

    @cached_property
    def nats(self) -> str:
        if self.nats_url is not None:
            return self.nats_url.get_secret_value()
        return f"nats://{_LOCAL}:{self.nats_port}"

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

    @cached_property
    def keys(self) -> Path:
        return self.signing_key_dir or self.data_dir / "keys"


def load(**overrides: object) -> Settings:
    """Reads the settings from the environment; exits with one sentence for each that is wrong.

    Says which TASKFLOW_* variables aren't settings: they could be misspelt.
    """
    for sentence in unknown(os.environ):
        print(f"configuration: {sentence}", file=sys.stderr)
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        # Never the input, which could be a secret.
        for problem in error.errors(include_input=False, include_url=False, include_context=False):
            name = "".join(PREFIX + str(part).upper() + ": " for part in problem["loc"][:1])
            for text in problem["msg"].removeprefix("Value error, ").splitlines():
                print(f"configuration: {name}{text}", file=sys.stderr)
        sys.exit(1)


def unknown(variables: Iterable[str]) -> list[str]:
    """A sentence for each variable that looks like a setting and isn't one."""
    known = [PREFIX + name.upper() for name in Settings.model_fields]
    sentences = []
    for name in sorted(variables):
        if name.upper().startswith(PREFIX) and name.upper() not in (*known, *_CLIENT):
            similar = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f"; is {similar[0]} meant?" if similar else ""
            sentences.append(f"{name} isn't a setting and does nothing{hint}")
    return sentences
