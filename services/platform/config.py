"""Settings: one frozen object, read once from `TASKFLOW_*` environment variables."""

import sys
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(ge=0)]

# Good enough to try things on one machine; production refuses to start with them.
_DEVELOPMENT_SECRET = "taskflow-development-secret-not-for-production"


class Settings(BaseSettings):
    """What every process is configured by. Times are seconds, sizes bytes."""

    model_config = SettingsConfigDict(env_prefix="TASKFLOW_", frozen=True, env_ignore_empty=True)

    environment: Literal["development", "production"] = "development"
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    data_dir: Path = Path(".taskflow")

    # Where things listen. The second port of each process answers /healthz and /metrics.
    host: str = "127.0.0.1"
    gateway_port: Port = 8080
    auth_port: Port = 9001
    task_port: Port = 9002
    notification_port: Port = 9003
    auth_http_port: Port = 9101
    task_http_port: Port = 9102
    notification_http_port: Port = 9103
    relay_http_port: Port = 9104
    worker_http_port: Port = 9105
    envoy_admin_port: Port = 9901
    postgres_port: Port = 15432
    nats_port: Port = 14222
    temporal_port: Port = 17233
    mail_port: Port = 11025
    # Processes of each service that the local stack starts; the k-th listens 10 * k higher.
    replicas: Annotated[int, Field(ge=1, le=9)] = 1

    # Where things are. Unset: on `host` at the ports above.
    database_url: SecretStr | None = None
    nats_url: SecretStr | None = None
    temporal_address: str | None = None
    temporal_namespace: str = "default"
    auth_address: str | None = None
    task_address: str | None = None
    notification_address: str | None = None

    # Secrets. `token_secret` seals refresh tokens, page tokens and cursors; `service_secret` is how services know each
    # other; the ES256 keys that sign access tokens are PEM files, of which the newest signs.
    token_secret: SecretStr = SecretStr(_DEVELOPMENT_SECRET)
    service_secret: SecretStr = SecretStr(_DEVELOPMENT_SECRET)
    signing_key_dir: Path | None = None
    token_issuer: str = "taskflow"
    access_token_lifetime: Annotated[float, Field(ge=10, le=3600)] = 600
    refresh_token_lifetime: Annotated[float, Field(ge=60)] = 30 * 86400
    # Wrong passwords in 15 minutes after which logins are refused. Raise the second where many people share an address.
    login_attempts_per_account: Annotated[int, Field(ge=1)] = 10
    login_attempts_per_address: Annotated[int, Field(ge=1)] = 10

    # How a process behaves.
    reflection: bool = True
    database_pool_size: Annotated[int, Field(ge=1, le=200)] = 10
    statement_timeout: Seconds = 10
    max_calls: Annotated[int, Field(ge=1)] = 1000
    max_streams: Annotated[int, Field(ge=1)] = 20_000
    max_request_bytes: Annotated[int, Field(ge=1024)] = 256 * 1024
    max_call_seconds: Seconds = 30
    drain_notice: Seconds = 2
    drain_grace: Seconds = 5

    # Streams.
    heartbeat_interval: Annotated[float, Field(gt=0)] = 15
    # A reader that doesn't read for this long is cut off, at the next check.
    reader_timeout: Annotated[float, Field(gt=0)] = 25
    session_check_interval: Annotated[float, Field(gt=0)] = 2

    # Events.
    relay_interval: Annotated[float, Field(gt=0)] = 0.2
    event_retention: Seconds = 7 * 86400
    event_stream_bytes: Annotated[int, Field(ge=1024 * 1024)] = 4 * 1024**3
    event_stream_replicas: Annotated[int, Field(ge=1, le=5)] = 1

    # Workflows.
    enrich_debounce: Seconds = 2
    email_window: Seconds = 300
    # Seconds before a deadline at which people are reminded; 0 is the deadline itself.
    reminder_offsets: Annotated[tuple[Annotated[int, Field(ge=0)], ...], NoDecode] = (
        86400,
        3600,
        0,
    )
    workflow_concurrency: Annotated[int, Field(ge=1)] = 50

    # AI: without a base URL and a model, priorities are read off the wording, offline.
    ai_base_url: str | None = None
    ai_model: str | None = None
    ai_api_key: SecretStr | None = None
    ai_timeout: Annotated[float, Field(gt=0)] = 30
    ai_max_output_tokens: Annotated[int, Field(ge=64)] = 1500
    # Allows the model to be on a private or loopback address.
    ai_allow_private: bool = False

    # Mail. The port defaults to the local catcher's.
    smtp_host: str | None = None
    smtp_port: Port | None = None
    smtp_username: str | None = None
    smtp_password: SecretStr | None = None
    smtp_tls: Literal["none", "starttls", "tls"] = "none"
    mail_from: str = "TaskFlow <taskflow@localhost>"

    @model_validator(mode="before")
    @classmethod
    def _split_offsets(cls, values: dict[str, object]) -> dict[str, object]:
        offsets = values.get("reminder_offsets")
        if isinstance(offsets, str):
            values["reminder_offsets"] = [part.strip() for part in offsets.split(",")]
        return values

    @model_validator(mode="after")
    def _production_has_secrets(self) -> Self:
        if self.environment == "production":
            unsafe = [
                name
                for name in ("token_secret", "service_secret")
                if len(secret := getattr(self, name).get_secret_value()) < 32
                or secret == _DEVELOPMENT_SECRET
            ]
            if unsafe:
                names = " and ".join(f"TASKFLOW_{name.upper()}" for name in unsafe)
                raise ValueError(f"production needs {names}: at least 32 characters of your own")
            if self.signing_key_dir is None:
                raise ValueError("production needs TASKFLOW_SIGNING_KEY_DIR")
        return self

    @cached_property
    def postgres(self) -> str:
        """The database's connection string; holds the password, so it's never logged."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"postgresql://taskflow@{self.host}:{self.postgres_port}/taskflow"

    @cached_property
    def nats(self) -> str:
        if self.nats_url is not None:
            return self.nats_url.get_secret_value()
        return f"nats://{self.host}:{self.nats_port}"

    @cached_property
    def temporal(self) -> str:
        return self.temporal_address or f"{self.host}:{self.temporal_port}"

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
    """Reads the settings from the environment; exits with one sentence for each that is wrong."""
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        for problem in error.errors(include_input=False, include_url=False):
            name = "_".join(str(part) for part in problem["loc"][:1])
            subject = f"TASKFLOW_{name.upper()}: " if name else ""
            print(f"configuration: {subject}{problem['msg']}", file=sys.stderr)
        sys.exit(1)
