"""Promises of the configuration: errors are reported at startup, in one sentence, and without secrets."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from deploy import settings_table
from deploy.local.ports import free_ports
from services.platform.config import PREFIX, Settings, load, unknown

ROOT = Path(__file__).resolve().parents[2]
SECRET = "correct-horse-battery-staple-0123456789"
PRODUCTION = {
    "environment": "production",
    "token_secret": SECRET,
    "service_secret": SECRET + "-too",
    "signing_key_dir": "/etc/taskflow/keys",
    "reflection": "false",
}


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith(PREFIX):
            monkeypatch.delenv(name)


def _set(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(PREFIX + name.upper(), value)


def _complaints(capsys: pytest.CaptureFixture[str]) -> list[str]:
    with pytest.raises(SystemExit) as ended:
        load()
    assert ended.value.code == 1
    return capsys.readouterr().err.splitlines()


def test_without_any_variable_the_development_defaults_apply(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Run in an empty folder, because a local stack may have stored a database password in this one.
    monkeypatch.chdir(tmp_path)
    settings = load()
    assert settings.environment == "development"
    assert settings.postgres == "postgresql://taskflow_app@127.0.0.1:15432/taskflow"
    assert settings.task == "127.0.0.1:9002"


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch, task_port="", database_url="")
    assert load() == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("task_port", "http"),
        ("task_port", "0"),
        ("task_port", "65536"),
        ("environment", "staging"),
        ("log_level", "chatty"),
        ("max_calls", "0"),
        ("reader_timeout", "-1"),
        ("reminder_offsets", "3600,soon"),
        ("reminder_offsets", "-5"),
        ("reminder_morning", "9 o'clock"),
        ("reminder_morning", "09:00+01:00"),
        ("reflection", "perhaps"),
        ("database_url", "mysql://somewhere/taskflow"),
        ("nats_url", "http://somewhere"),
        ("nats_url", "nats://one:4222,http://two"),
        ("nats_user", "taskflow"),
        ("nats_tls_key", "key.pem"),
        ("service_tls_ca", "ca.pem"),
        ("temporal_tls_ca", "ca.pem"),
        ("gateway_networks", "everywhere"),
        ("ai_base_url", "https://models.example/v1"),
        ("smtp_password", "hush"),
    ],
)
def test_an_invalid_setting_is_named_and_its_value_is_not_quoted(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
) -> None:
    _set(monkeypatch, **{name: value})
    complaints = _complaints(capsys)
    assert len(complaints) == 1
    assert complaints[0].startswith("configuration: TASKFLOW_")
    assert PREFIX + name.upper() in complaints[0]
    # The two bounds may be equal.
    assert value in ("0", "65536") or value not in complaints[0]


def test_each_invalid_setting_has_its_own_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _set(monkeypatch, task_port="http", auth_port="http")
    assert [line.split(": ")[1] for line in _complaints(capsys)] == [
        "TASKFLOW_AUTH_PORT",
        "TASKFLOW_TASK_PORT",
    ]


def test_production_starts_with_its_own_secrets_and_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _set(monkeypatch, **PRODUCTION)
    assert load().token_secret.get_secret_value() == SECRET


@pytest.mark.parametrize("missing", ["token_secret", "service_secret", "signing_key_dir"])
def test_production_refuses_development_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    _set(monkeypatch, **{name: value for name, value in PRODUCTION.items() if name != missing})
    assert [line.split(": ")[1] for line in _complaints(capsys)] == [PREFIX + missing.upper()]


@pytest.mark.parametrize("secret", ["short", SECRET])
def test_production_refuses_a_short_secret_and_one_value_for_two(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], secret: str
) -> None:
    _set(monkeypatch, **PRODUCTION | {"service_secret": secret})
    complaints = _complaints(capsys)
    assert [line.split(": ")[1] for line in complaints] == ["TASKFLOW_SERVICE_SECRET"]
    assert secret not in complaints[0]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"reflection": "true"}, "reflection"),
        ({"smtp_username": "taskflow", "smtp_password": SECRET}, "smtp_tls"),
        (
            {"ai_base_url": "http://models.example/v1", "ai_model": "m", "ai_api_key": SECRET},
            "ai_base_url",
        ),
        ({"temporal_api_key": SECRET}, "temporal_tls"),
    ],
)
def test_production_refuses_credentials_in_clear_text(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    values: dict[str, str],
    named: str,
) -> None:
    _set(monkeypatch, **PRODUCTION | values)
    complaints = _complaints(capsys)
    assert [line.split(": ")[1] for line in complaints] == [PREFIX + named.upper()]
    assert SECRET not in complaints[0]


def test_development_settings_contain_no_secret_that_is_the_same_everywhere() -> None:
    for name, field in Settings.model_fields.items():
        if field.annotation is SecretStr:
            assert field.default.get_secret_value() == "", name


def test_several_servers_of_the_broker_and_hosts_of_the_database_are_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _set(
        monkeypatch,
        nats_url="nats://one:4222, tls://two:4222",
        database_url="postgres://app@one:5432,two:5433/taskflow?target_session_attrs=read-write",
    )
    assert load().nats_servers == ["nats://one:4222", "tls://two:4222"]


def test_a_process_that_cannot_start_says_why_without_a_traceback() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "services", "task"],
        cwd=ROOT,
        env={**os.environ, "TASKFLOW_TASK_PORT": "http"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("configuration: TASKFLOW_TASK_PORT: ")
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", [["recover"], ["grant-operator", "ada@example.com"]])
def test_a_command_reports_a_missing_database_without_a_traceback(command: list[str]) -> None:
    (port,) = free_ports(1)
    ended = subprocess.run(
        [sys.executable, "-m", "services", *command],
        cwd=ROOT,
        env={
            **os.environ,
            "TASKFLOW_DATABASE_URL": f"postgresql://x@127.0.0.1:{port}/x",
            "TASKFLOW_LOG_LEVEL": "error",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("PostgreSQL doesn't answer.")
    assert "Traceback" not in ended.stdout + ended.stderr


def test_secrets_are_never_printed() -> None:
    settings = Settings(
        database_url=f"postgresql://taskflow:{SECRET}@db/taskflow",
        nats_url=f"nats://taskflow:{SECRET}@nats",
        token_secret=SECRET,
        service_secret=SECRET,
        smtp_username="taskflow",
        smtp_password=SECRET,
        ai_api_key=SECRET,
    )
    assert SECRET in settings.postgres
    assert SECRET in settings.nats
    assert SECRET not in f"{settings!r} {settings} {settings.model_dump()}"
    assert SECRET not in settings.model_dump_json()


def test_an_error_does_not_quote_a_secret() -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(environment="production", smtp_password=SECRET, token_secret=SECRET[:20])
    assert SECRET[:20] not in str(refused.value)


def test_a_misspelt_variable_is_named_and_the_process_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _set(monkeypatch, taks_port="9999", server="localhost:8080")
    assert load().task_port == 9002
    assert capsys.readouterr().err.splitlines() == [
        "configuration: TASKFLOW_TAKS_PORT isn't a setting and does nothing; "
        "is TASKFLOW_TASK_PORT meant?"
    ]


def test_no_warning_for_known_settings_or_variables_of_other_programs() -> None:
    assert unknown([PREFIX + name.upper() for name in Settings.model_fields]) == []
    assert unknown(["PATH", "OTEL_SERVICE_NAME", "TASKFLOWER"]) == []


def test_every_setting_has_a_description() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_the_documented_table_is_up_to_date() -> None:
    assert settings_table.FILE.read_text() == settings_table.document()
