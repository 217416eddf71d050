"""Promises for a database that lost committed changes, as in a failover to a standby that was behind."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import nats.js.errors
import psycopg
import pytest

from deploy.local.stack import Stack, running_stack
from services.platform.data.db import Database
from services.platform.events.bus import Bus
from services.platform.events.subjects import STREAM
from services.platform.observe import metrics
from tests.conftest import serving, settings_for, superuser
from tests.integration.notification_world import (
    NotificationWorld,
    a_notification_world,
    eventually,
    next_change,
)
from tests.integration.task_world import TaskWorld, a_task_world, next_event


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Separate stores with the services: a failover resets all streams."""
    chosen = settings_for(tmp_path_factory.mktemp("failover") / "data")
    async with (
        running_stack(chosen, only={"postgres", "nats", "migrate"}) as running,
        AsyncExitStack() as services,
    ):
        for name in ("auth", "task", "notification", "relay"):
            await services.enter_async_context(serving(name, running.settings))
        yield running


@pytest.fixture
async def world(stack: Stack) -> AsyncIterator[TaskWorld]:
    async with a_task_world(stack.settings) as made:
        yield made


@pytest.fixture
async def inbox(stack: Stack) -> AsyncIterator[NotificationWorld]:
    async with a_notification_world(stack.settings) as made:
        yield made


async def _created(bus: Bus) -> str:
    """When the event stream was created; empty while the relay creates another one."""
    try:
        return str((await bus.jetstream.stream_info(STREAM)).created)
    except nats.js.errors.NotFoundError:
        return ""


@pytest.fixture
async def bus(stack: Stack) -> AsyncIterator[Bus]:
    bus = Bus(stack.settings, name="test")
    await bus.connect()
    yield bus
    await bus.close()


async def _run_as_superuser(stack: Stack, *statements: str) -> None:
    """Runs the statements as one transaction, then ends all other sessions, as a failover does."""
    async with await psycopg.AsyncConnection.connect(superuser(stack.settings)) as connection:
        for statement in statements:
            await connection.execute(statement.encode())
        await connection.commit()
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'taskflow_app'"
        )


async def _published(stack: Stack) -> None:
    async def nothing_waits() -> bool:
        async with await psycopg.AsyncConnection.connect(superuser(stack.settings)) as connection:
            cursor = await connection.execute(
                "SELECT count(*) FROM platform.outbox WHERE published_at IS NULL"
            )
            return await cursor.fetchone() == (0,)

    await eventually(nothing_waits)


async def _reset(board: Any) -> None:
    """Returns once the stream is reset. Heartbeats alone would keep it going for ever."""
    async with asyncio.timeout(30):
        while (await next_event(board)).WhichOneof("kind") != "reset":
            pass


async def _copy(source: Path, target: Path) -> None:
    """Copies a folder with the owners of its files."""
    copying = await asyncio.create_subprocess_exec("cp", "-a", str(source), str(target))
    assert await copying.wait() == 0


async def _noticed(world: TaskWorld, *databases: Database) -> None:
    """Returns when services and test have replaced the connections that the failover ended."""

    async def works() -> bool:
        try:
            for _ in range(5):
                for db in (world.db, *databases):
                    await db.ping()
                await world.listed()
                await world.team.members(world.owner, world.workspace_id)
        except psycopg.OperationalError:
            return False
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False
        return True

    await eventually(works)


async def test_streams_are_reset_and_go_on_after_a_failover_to_an_earlier_state(
    stack: Stack, world: TaskWorld, inbox: NotificationWorld, bus: Bus, tmp_path: Path
) -> None:
    ben = await inbox.member("ben")
    await inbox.assign(ben)
    await inbox.wait_for_notifications(ben, 1)
    kept = await world.create("Kept")
    await _published(stack)
    before, losses = await _created(bus), metrics.DATABASE_LOSSES._value.get()

    # The standby has everything up to here.
    data, standby = stack.settings.data_dir / "postgres", tmp_path / "standby"
    await stack.hold("postgres")
    await _copy(data, standby)
    stack.release("postgres")
    await _noticed(world, inbox.db)

    live, board = inbox.watch(ben, (await inbox.page(ben)).cursor), await world.opened()
    lost = await world.create("Lost")
    while (await next_event(board)).change.task.id != lost.id:
        pass
    await inbox.assign(ben)
    assert (await next_change(live)).change.sequence == 2
    await _published(stack)

    await stack.hold("postgres")
    shutil.rmtree(data)
    await _copy(standby, data)
    stack.release("postgres")
    await _noticed(world, inbox.db)
    await _reset(board)
    assert (await next_change(live)).WhichOneof("kind") == "reset"
    assert await _created(bus) != before
    assert metrics.DATABASE_LOSSES._value.get() == losses + 1

    assert list(await world.listed()) == [kept.id]
    made = await world.create("After")
    while (await next_event(board)).change.task.id != made.id:
        pass
    await inbox.assign(ben)
    # A stream that is ahead of the database is reset at once, and again with the new epoch.
    while (told := await next_change(live)).WhichOneof("kind") == "reset":
        pass
    # The number of the lost notification is given out again.
    assert told.change.sequence == 2
    board.cancel()
    live.cancel()


async def test_a_lost_mark_of_the_relay_is_noticed_although_all_events_are_known(
    stack: Stack, world: TaskWorld, bus: Bus
) -> None:
    """Effects that consumers committed at that time are lost with it, and their events were acknowledged."""
    board = await world.opened()
    made = await world.create()
    while (await next_event(board)).change.task.id != made.id:
        pass
    await _published(stack)
    before = await _created(bus)
    await _run_as_superuser(
        stack,
        "UPDATE platform.outbox SET published_at = NULL, stream_sequence = NULL"
        " WHERE stream_sequence = (SELECT max(stream_sequence) FROM platform.outbox)",
        "UPDATE platform.relay_position SET last_sequence = last_sequence - 1",
    )
    await _reset(board)
    assert await _created(bus) != before
    board.cancel()
    await _noticed(world)


async def test_a_failover_that_lost_nothing_resets_nothing(
    stack: Stack, world: TaskWorld, bus: Bus
) -> None:
    board = await world.opened()
    await world.create()
    await _published(stack)
    before = await _created(bus)
    await _run_as_superuser(stack)
    await _noticed(world)
    made = await world.create()
    while (found := await next_event(board)).change.task.id != made.id:
        assert found.WhichOneof("kind") != "reset"
    assert await _created(bus) == before
    board.cancel()


async def test_a_stream_of_another_database_is_not_continued(stack: Stack, bus: Bus) -> None:
    await _published(stack)
    before = await _created(bus)
    await _run_as_superuser(stack, "DELETE FROM platform.relay_position")

    async def another_stream() -> bool:
        return await _created(bus) not in (before, "")

    await eventually(another_stream)
    await _published(stack)
