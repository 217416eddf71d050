"""Promises beside a connection pooler: what it silently takes away is noticed at the start."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest

from deploy.local.stack import running_stack
from services.migrations import wait_until_current
from services.platform.config import Settings
from services.platform.data.db import Database
from services.platform.data.session_check import UnsuitableDatabase
from services.platform.events.bus import Bus
from services.platform.events.relay import Relay
from tests.conftest import settings_for, superuser
from tests.fakes.pooler import a_pooler

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
async def settings(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Settings]:
    """Separate stores: on the shared ones another relay may hold the lock."""
    chosen = settings_for(tmp_path_factory.mktemp("pooler") / "data")
    async with running_stack(chosen, only={"postgres", "nats", "migrate"}) as stack:
        yield stack.settings


@pytest.fixture
async def pooled(settings: Settings) -> AsyncIterator[Settings]:
    """The database's address leads to a pooler."""
    async with a_pooler(settings.postgres_port) as port:
        url = settings.postgres.replace(f":{settings.postgres_port}/", f":{port}/")
        yield Settings(**settings.model_dump() | {"database_url": url})


@asynccontextmanager
async def _options_of_the_account(settings: Settings) -> AsyncIterator[None]:
    """As docs/deploying.md says, with the defaults of our settings."""
    options = {
        "statement_timeout": "10s",
        "idle_in_transaction_session_timeout": "30s",
        "lock_timeout": "3s",
        "timezone": "UTC",
    }
    async with await psycopg.AsyncConnection.connect(
        superuser(settings), autocommit=True
    ) as connection:
        for name, value in options.items():
            await connection.execute(f"ALTER ROLE taskflow_app SET {name} = '{value}'".encode())
        try:
            yield
        finally:
            for name in options:
                await connection.execute(f"ALTER ROLE taskflow_app RESET {name}".encode())


async def _task_process(settings: Settings) -> subprocess.CompletedProcess[str]:
    """Runs the task service until it exits by itself."""
    environment = os.environ | {
        "TASKFLOW_DATABASE_URL": settings.postgres,
        "TASKFLOW_DATA_DIR": str(settings.data_dir),
        "TASKFLOW_LOG_LEVEL": "info",
    }
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "services", "task"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


async def test_a_process_says_which_time_limits_the_pooler_drops_and_exits(
    pooled: Settings,
) -> None:
    ended = await _task_process(pooled)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("configuration: TASKFLOW_DATABASE_URL leads to a connection pooler")
    assert "statement_timeout, idle_in_transaction_session_timeout, lock_timeout" in line


async def test_a_process_that_cant_go_on_exits_while_it_still_opens_connections(
    settings: Settings,
) -> None:
    async with a_pooler(settings.postgres_port, served=1) as port:
        url = settings.postgres.replace(f":{settings.postgres_port}/", f":{port}/")
        ended = await _task_process(Settings(**settings.model_dump() | {"database_url": url}))
    assert ended.returncode == 1
    assert "configuration: TASKFLOW_DATABASE_URL leads to a connection pooler" in ended.stderr


async def test_a_process_starts_when_its_account_has_the_time_limits(pooled: Settings) -> None:
    async with _options_of_the_account(pooled):
        db = Database(pooled, application="test")
        await db.open()
        await wait_until_current(db)
        await db.close()


async def test_the_relay_takes_its_lock_beside_the_pooler_or_not_at_all(pooled: Settings) -> None:
    direct = pooled.postgres.replace(
        pooled.postgres.rpartition("@")[2], f"127.0.0.1:{pooled.postgres_port}/taskflow"
    )
    beside = Settings(**pooled.model_dump() | {"database_direct_url": direct})
    db, bus = Database(pooled, application="test"), Bus(pooled, name="test")
    await db.open()
    await bus.connect()
    with pytest.raises(UnsuitableDatabase, match="set TASKFLOW_DATABASE_DIRECT_URL"):
        await Relay(pooled, db, bus).run()
    relay = Relay(beside, db, bus)
    running = asyncio.create_task(relay.run())
    async with asyncio.timeout(20):
        while not relay.active:
            await asyncio.sleep(0.02)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await bus.close()
    await db.close()
