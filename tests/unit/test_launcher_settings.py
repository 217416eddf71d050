"""The launcher before it starts anything: what it refuses, with which message, and the settings it passes on."""

import os
import socket
from pathlib import Path

import pytest
import yaml

from deploy.local import binaries, postgres
from deploy.local.data_folder import claimed
from deploy.local.envoy import configuration
from deploy.local.ports import check_ports, free_ports
from deploy.local.program import Program, StackError
from deploy.local.programs import child_environment, completed, external, programs
from services.platform.config import Settings
from tests.conftest import settings_for


def _program(name: str, **ports: int) -> Program:
    return Program(name=name, command=("true",), ports=ports)


def test_a_port_in_use_is_reported_with_the_setting_that_changes_it() -> None:
    with socket.create_server(("127.0.0.1", free_ports(1)[0])) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StackError) as caught:
            check_ports("127.0.0.1", [_program("envoy", GATEWAY_PORT=port)])
    message = f"Port {port} (envoy) is taken: set TASKFLOW_GATEWAY_PORT to a free port."
    assert str(caught.value) == message


def test_all_ports_in_use_are_reported_together() -> None:
    first, second = free_ports(2)
    with (
        socket.create_server(("127.0.0.1", first)),
        socket.create_server(("127.0.0.1", second)),
        pytest.raises(StackError) as caught,
    ):
        check_ports("127.0.0.1", [_program("a", A_PORT=first), _program("b", B_PORT=second)])
    assert "TASKFLOW_A_PORT" in str(caught.value)
    assert "TASKFLOW_B_PORT" in str(caught.value)


def test_two_programs_cannot_be_configured_with_one_port() -> None:
    port = free_ports(1)[0]
    with pytest.raises(StackError, match=f"Port {port} is wanted by both auth and task"):
        check_ports(
            "127.0.0.1", [_program("auth", AUTH_PORT=port), _program("task", TASK_PORT=port)]
        )


def test_a_just_closed_port_counts_as_free() -> None:
    port = free_ports(1)[0]
    with socket.create_server(("127.0.0.1", port)) as server:
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = server.accept()
        accepted.close()
        client.close()
    check_ports("127.0.0.1", [_program("task", TASK_PORT=port)])


def test_a_missing_server_program_is_reported_with_the_way_to_install_it() -> None:
    with pytest.raises(StackError, match=r"no-such-server is missing .*make setup"):
        binaries.script("no-such-server")


def test_a_data_folder_admits_one_launcher_at_a_time(tmp_path: Path) -> None:
    with (
        claimed(tmp_path),
        pytest.raises(StackError, match=rf"process {os.getpid()}\) already uses"),
        claimed(tmp_path),
    ):
        pass
    with claimed(tmp_path):
        pass


def test_a_data_folder_that_cannot_be_created_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StackError, match=r"can't be used: Not a directory.*TASKFLOW_DATA_DIR"),
        claimed(tmp_path / "file" / "data"),
    ):
        pass


def test_a_data_folder_of_another_postgres_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("16\n")
    with pytest.raises(StackError, match=r"was made by PostgreSQL 16, this is 18\. Move"):
        postgres.program(tmp_path, 15432)


def test_a_data_folder_without_a_postgres_version_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    with pytest.raises(StackError, match="PG_VERSION is missing"):
        postgres.program(tmp_path, 15432)


def test_the_database_password_is_generated_once_and_readable_by_its_owner_only(
    tmp_path: Path,
) -> None:
    first = postgres.password(tmp_path)
    assert len(first) >= 32
    assert postgres.password(tmp_path) == first
    assert (tmp_path / "postgres.password").stat().st_mode & 0o777 == 0o600


def test_programs_read_the_same_settings_as_the_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKFLOW_LOG_LEVEL", "error")
    settings = completed(
        settings_for(
            tmp_path, log_level="debug", reminder_offsets=(60, 5, 0), token_secret="s" * 40
        )
    )
    for name, value in child_environment(settings).items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings.model_copy(update={"database_owner_url": None})


def test_only_the_migration_gets_the_credential_of_the_tables_owner(tmp_path: Path) -> None:
    settings = completed(Settings(data_dir=tmp_path))
    secret = postgres.password(tmp_path, postgres.OWNER)
    holders = [
        program.name
        for program in programs(settings)
        if secret in str(child_environment(settings) | dict(program.environment))
    ]
    assert holders == ["migrate"]
    assert postgres.password(tmp_path) not in str(child_environment(settings, owner=True))


def test_a_stack_that_others_can_reach_has_secrets_of_its_own(tmp_path: Path) -> None:
    first = completed(Settings(data_dir=tmp_path / "one", host="0.0.0.0"))
    again = completed(Settings(data_dir=tmp_path / "one", host="0.0.0.0"))
    other = completed(Settings(data_dir=tmp_path / "two", host="0.0.0.0"))
    for name in ("token_secret", "service_secret"):
        values = [getattr(each, name).get_secret_value() for each in (first, again, other)]
        assert values[0] == values[1] != values[2]
        assert len(values[0]) >= 32
    files = [*(tmp_path / "one").glob("*.secret"), *(tmp_path / "one").glob("*.password")]
    assert len(files) == 5
    for file in files:
        assert file.stat().st_mode & 0o777 == 0o600, file.name


def test_a_command_run_beside_the_stack_finds_its_database(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    assert completed(settings).postgres == Settings(data_dir=tmp_path).postgres


def test_an_external_server_is_not_started_by_the_launcher(tmp_path: Path) -> None:
    given = Settings(data_dir=tmp_path, nats_url="nats://elsewhere:4222", smtp_host="mx")
    assert external(given) == {"nats", "mail"}
    assert completed(given).nats == "nats://elsewhere:4222"


def test_replicas_listen_ten_ports_apart(tmp_path: Path) -> None:
    settings = completed(Settings(data_dir=tmp_path, replicas=3))
    ports = {program.name: dict(program.ports) for program in programs(settings)}
    assert ports["task"] == {"TASK_PORT": 9002, "TASK_HTTP_PORT": 9102}
    assert ports["task-3"] == {"TASK_PORT": 9022, "TASK_HTTP_PORT": 9122}
    assert ports["relay-2"] == {"RELAY_HTTP_PORT": 9114}
    every = [port for of_one in ports.values() for port in of_one.values()]
    assert len(every) == len(set(every))


def test_every_default_port_is_below_the_ephemeral_range(tmp_path: Path) -> None:
    settings = completed(Settings(data_dir=tmp_path, replicas=9))
    for program in programs(settings):
        assert all(port < 32768 for port in program.ports.values()), program.name


@pytest.mark.parametrize("reflection", [True, False])
def test_the_gateway_routes_public_services_only(reflection: bool) -> None:
    settings = Settings(reflection=reflection)
    text = configuration(settings, "127.0.0.1", {"auth": [1], "task": [2, 3], "notification": [4]})
    bootstrap = yaml.safe_load(text)
    (listener,) = bootstrap["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    (host,) = manager["route_config"]["virtual_hosts"]
    first, *routes, last = host["routes"]
    assert "InternalService" in first["match"]["safe_regex"]["regex"]
    assert first["direct_response"]["status"] == last["direct_response"]["status"] == 404
    prefixes = {route["match"]["prefix"] for route in routes}
    assert ("/grpc.reflection.v1.ServerReflection/" in prefixes) is reflection
    assert all(route["route"]["timeout"] == "0s" for route in routes)
    assert int(manager["stream_idle_timeout"].removesuffix("s")) > 2 * settings.heartbeat_interval
