"""The launcher with real servers: start, crash, stop, and leftovers."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest

from deploy.local.process import birth, family
from deploy.local.program import StackError
from deploy.local.programs import child_environment
from deploy.local.stack import running_stack
from services.platform.config import Settings
from tests.conftest import settings_for

SERVERS = ("postgres", "nats", "temporal", "mail")
_START_SECONDS = 30


@contextmanager
def launched(settings: Settings, *names: str) -> Iterator[subprocess.Popen[str]]:
    """`python -m deploy.local` in a separate process, started outside the project folder."""
    command = [sys.executable, "-m", "deploy.local", "--only", ",".join(names)]
    process = subprocess.Popen(
        command,
        env=child_environment(settings) | {"PYTHONPATH": os.getcwd()},
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _until_ready(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if "TaskFlow is ready" in line:
            return said
    raise AssertionError(f"the launcher ended before it was ready:\n{said}")


def _pids(settings: Settings) -> dict[str, str]:
    """The running processes: pids with their start times."""
    pairs = [file.read_text().split() for file in (settings.data_dir / "run").glob("*.pid")]
    return {pid: born for pid, born in pairs}


def _assert_gone(pids: dict[str, str], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while left := [pid for pid, born in pids.items() if birth(int(pid)) == born]:
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.02)


def _assert_free(settings: Settings) -> None:
    for port in (settings.postgres_port, settings.nats_port, settings.temporal_port):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))


async def _one(settings: Settings, query: LiteralString) -> object:
    async with await psycopg.AsyncConnection.connect(settings.postgres_owner) as connection:
        row = await (await connection.execute(query)).fetchone()
        return None if row is None else row[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_launcher_stops_all_processes_cleanly(
    tmp_path: Path, number: signal.Signals
) -> None:
    settings = settings_for(tmp_path / "data")
    with launched(settings, *SERVERS) as launcher:
        _until_ready(launcher)
        pids = _pids(settings)
        assert len(pids) == len(SERVERS)
        launcher.send_signal(number)
        output, _ = launcher.communicate(timeout=15)
    assert launcher.returncode == 0, output
    assert "Traceback" not in output
    _assert_gone(pids, 0)
    _assert_free(settings)
    assert "database system is shut down" in (tmp_path / "data/logs/postgres.log").read_text()


def test_a_killed_launcher_leaves_no_orphan_and_the_next_one_starts_at_once(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data")
    with launched(settings, *SERVERS) as launcher:
        _until_ready(launcher)
        pids = _pids(settings)
        launcher.kill()
        launcher.wait()
        with launched(settings, *SERVERS) as successor:
            _until_ready(successor)
            _assert_gone(pids, 0)
            pids = _pids(settings)
            successor.kill()
        _assert_gone(pids, 10)


def test_the_next_launcher_ends_processes_that_a_killed_launcher_left(
    tmp_path: Path,
) -> None:
    settings = settings_for(tmp_path / "data")
    (settings.data_dir / "run").mkdir(parents=True)
    stubborn = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)"
    for name, code in (("old", "import time; time.sleep(600)"), ("stubborn", stubborn)):
        left = subprocess.Popen([sys.executable, "-c", code])
        (settings.data_dir / "run" / f"{name}.pid").write_text(f"{left.pid} {birth(left.pid)}\n")
    pids = _pids(settings)
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    # The launcher finds the pid of another process, as if the system had reused it.
    (settings.data_dir / "run" / "reused.pid").write_text(f"{other.pid} 1\n")
    with launched(settings, "nats") as launcher:
        _until_ready(launcher)
        _assert_gone(pids, 0)
        assert other.poll() is None
    other.kill()
    other.wait()


def test_a_second_launcher_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data")
    with launched(settings, "nats") as first:
        _until_ready(first)
        with launched(settings, "nats") as second:
            output, _ = second.communicate(timeout=10)
        assert second.returncode == 1
        assert f"Another TaskFlow (process {first.pid}) already uses {tmp_path}/data" in output
        assert "Traceback" not in output


def test_a_port_in_use_is_reported_in_one_sentence_and_nothing_is_started(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data")
    with (
        socket.create_server(("127.0.0.1", settings.nats_port)),
        launched(settings, *SERVERS) as launcher,
    ):
        output, _ = launcher.communicate(timeout=10)
    assert launcher.returncode == 1
    assert (
        output == f"Port {settings.nats_port} (nats) is taken: set TASKFLOW_NATS_PORT "
        "to a free port.\n"
    )
    assert not _pids(settings)


def test_a_store_that_cannot_be_opened_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data")
    settings.data_dir.mkdir()
    (settings.data_dir / "temporal.db").write_bytes(b"this is not a database" * 100)
    with launched(settings, "temporal", "mail") as launcher:
        output, _ = launcher.communicate(timeout=_START_SECONDS)
    assert launcher.returncode == 1
    assert "temporal ended 5 times before it was ready" in output
    assert "file is not a database" in output
    assert "Traceback" not in output


async def test_every_server_restarts_after_a_crash_with_its_stored_data(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "a folder with spaces")
    async with running_stack(settings, only=SERVERS) as stack:
        async with await psycopg.AsyncConnection.connect(
            stack.settings.postgres_owner
        ) as connection:
            await connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        for name in SERVERS:
            before = stack.pid(name)
            stack.kill(name)
            await stack.wait_ready(name, 10)
            assert stack.pid(name) != before
        assert await _one(stack.settings, "SELECT answer FROM kept") == 42
    async with running_stack(settings, only={"postgres"}) as stack:
        assert await _one(stack.settings, "SELECT answer FROM kept") == 42
        assert await _one(stack.settings, "SHOW fsync") == "on"
        assert await _one(stack.settings, "SHOW synchronous_commit") == "on"
        assert str(await _one(stack.settings, "SHOW server_version")).startswith("18.")


async def test_postgres_is_restarted_after_one_of_its_processes_crashed(tmp_path: Path) -> None:
    """Postgres doesn't always recover alone, for instance from a second crash during recovery on a full disk."""
    async with running_stack(settings_for(tmp_path / "data"), only={"postgres"}) as stack:
        before = stack.pid("postgres")
        async with await psycopg.AsyncConnection.connect(
            stack.settings.postgres_owner
        ) as connection:
            await connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
            await connection.commit()
            os.kill(connection.info.backend_pid, signal.SIGKILL)
            async with asyncio.timeout(10):
                while stack.ready("postgres"):
                    await asyncio.sleep(0.01)
        await stack.wait_ready("postgres", 10)
        assert stack.pid("postgres") != before
        assert await _one(stack.settings, "SELECT answer FROM kept") == 42


async def test_a_held_program_stays_down_until_it_is_released(tmp_path: Path) -> None:
    async with running_stack(settings_for(tmp_path / "data"), only={"postgres", "nats"}) as stack:
        kept = await psycopg.AsyncConnection.connect(stack.settings.postgres)
        before = {pid: birth(pid) for pid in family(stack.pid("postgres"))}
        assert len(before) > 3  # the server, its helper processes, and the backend of `kept`
        await stack.hold("postgres")
        async with asyncio.timeout(5):
            while [pid for pid, born in before.items() if birth(pid) == born]:
                await asyncio.sleep(0.05)
        await kept.close()
        with pytest.raises(TimeoutError):
            await stack.wait_ready("postgres", 1.5)
        with pytest.raises(ProcessLookupError):
            stack.pid("postgres")
        assert stack.held() == ["postgres"]
        # Ten holds in a row must not lengthen the pause before the next start.
        for _ in range(10):
            stack.release("nats")
            await stack.wait_ready("nats", 3)
            await stack.hold("nats", signal.SIGTERM)
        stack.release("postgres")
        await stack.wait_ready("postgres", 10)
        assert await _one(stack.settings, "SELECT 1") == 1
        assert stack.held() == ["nats"]
    # A stack can stop while a program is held.
    assert not _pids(stack.settings)


async def test_a_program_that_is_about_to_start_again_can_be_held(tmp_path: Path) -> None:
    async with running_stack(settings_for(tmp_path / "data"), only={"nats"}) as stack:
        stack.kill("nats")
        await stack.hold("nats")
        with pytest.raises(TimeoutError):
            await stack.wait_ready("nats", 1.5)
        stack.release("nats")
        await stack.wait_ready("nats", 3)


async def test_two_stacks_run_side_by_side(tmp_path: Path) -> None:
    first, second = (settings_for(tmp_path / name) for name in ("first", "second"))
    async with running_stack(first, only=SERVERS) as one:
        async with running_stack(second, only=SERVERS) as two:
            assert await _one(one.settings, "SELECT 1") == await _one(two.settings, "SELECT 1")
            pids = {stack.pid(name) for stack in (one, two) for name in SERVERS}
            assert len(pids) == 2 * len(SERVERS)
        assert await _one(one.settings, "SELECT 1") == 1


async def test_a_data_folder_with_owner_only_permissions_works(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    async with running_stack(settings_for(private / "data"), only={"postgres"}) as stack:
        assert await _one(stack.settings, "SELECT 1") == 1


async def test_the_database_refuses_a_wrong_password(tmp_path: Path) -> None:
    async with running_stack(settings_for(tmp_path / "data"), only={"postgres"}) as stack:
        address = f"postgresql://taskflow:wrong@127.0.0.1:{stack.settings.postgres_port}/taskflow"
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            await psycopg.AsyncConnection.connect(address)


async def test_a_failed_start_stops_the_started_programs_and_quotes_the_log(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data")
    settings.data_dir.mkdir()
    # NATS expects a folder here; a file makes its start fail.
    (settings.data_dir / "nats").write_text("in the way")
    # Count from here, because another stack may be running in this process.
    before = asyncio.all_tasks()
    with pytest.raises(StackError, match=r"nats ended 5 times(.|\n)*nats\.log(.|\n)*storage"):
        async with running_stack(settings, only={"nats", "mail"}):
            pass
    assert not _pids(settings)
    assert not [task for task in asyncio.all_tasks() - before if task.get_name() in SERVERS]
