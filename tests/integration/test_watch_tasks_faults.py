"""Promises of WatchTasks under faults: servers restart, stores are lost or rolled back, no stream has a silent gap."""

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig
from sqlalchemy import insert
from uuid_utils.compat import uuid7

from deploy.local.ports import free_ports
from deploy.local.stack import Stack, running_stack
from services.platform.config import Settings
from services.platform.data.db import Statement
from services.platform.data.tables import outbox
from services.platform.events import pull
from services.platform.events.bus import Bus
from services.platform.events.subjects import STREAM
from services.platform.rpc.seal import Seal
from services.task.board import feed
from services.task.board.ring import Entry, Reader
from taskflow.auth.v1.auth_service_pb2 import LogoutRequest
from taskflow.task.v1.task_pb2 import TaskFilter
from taskflow.task.v1.task_service_pb2 import WatchTasksResponse
from tests.conftest import serving, settings_for
from tests.integration.task_world import (
    PATIENCE,
    Mirror,
    TaskWorld,
    a_task_world,
    ended,
    events,
    next_event,
    next_message,
    summary,
)

_ADD = Statement(insert(outbox), ["event_id", "subject", "payload"])


@pytest.fixture(scope="module")
async def own_stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """A separate stack, which these tests may break."""
    settings = settings_for(tmp_path_factory.mktemp("broken") / "data")
    async with running_stack(settings, only={"postgres", "nats", "migrate"}) as stack:
        yield stack


@pytest.fixture
async def world(own_stack: Stack) -> AsyncIterator[TaskWorld]:
    settings = own_stack.settings
    async with AsyncExitStack() as running:
        for name in ("auth", "task", "relay"):
            await running.enter_async_context(serving(name, settings))
        yield await running.enter_async_context(a_task_world(settings))


@asynccontextmanager
async def another_process(world: TaskWorld, **overrides: Any) -> AsyncIterator[TaskWorld]:
    """A second task service on the same database and broker."""
    grpc_port, http_port = free_ports(2)
    ports = {"task_port": grpc_port, "task_http_port": http_port, "task_address": None}
    settings = Settings(**(world.settings.model_dump() | ports | overrides))
    async with serving("task", settings), grpc.aio.insecure_channel(settings.task) as channel:
        other = TaskWorld(
            settings,
            world.db,
            world.team,
            channel,
            world.owner,
            world.workspace_id,
            world.project_id,
        )
        yield other


async def follow(mirror: Mirror, call: Any, title: str) -> None:
    """Apply messages until a task with this title is shown."""
    while title not in {task.title for task in mirror.tasks.values()}:
        mirror.apply(await next_message(call))


async def test_cursors_mean_the_same_to_every_process(world: TaskWorld) -> None:
    async with another_process(world) as other:
        call = await world.opened()
        for number in range(4):
            await world.create(str(number))
        seen = await events(call, 4)
        resumed = other.watch(cursor=seen[1].cursor)
        assert [summary(message)[1] for message in await events(resumed, 2)] == ["2", "3"]
        assert [message.cursor for message in seen[2:]] == [
            message.cursor for message in await events(other.watch(cursor=seen[1].cursor), 2)
        ]


async def test_a_process_that_starts_later_serves_old_cursors(
    world: TaskWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = await world.opened()
    for number in range(6):
        await world.create(str(number))
    seen = await events(call, 6)
    # At its start a process reads up to _BACKLOG stored events into memory: try with and without them.
    for backlog in (5000, 0):
        monkeypatch.setattr(feed, "_BACKLOG", backlog)
        async with another_process(world) as other:
            resumed = other.watch(cursor=seen[0].cursor)
            assert [summary(m)[1] for m in await events(resumed, 5)] == ["1", "2", "3", "4", "5"]
            await world.create("live")
            assert summary(await next_event(resumed))[1] == "live"


async def test_a_stream_that_falls_behind_the_ring_reads_on_from_the_store(
    world: TaskWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "_EVENTS", 3)
    monkeypatch.setattr(feed, "_CHUNK_EVENTS", 7)
    async with another_process(world) as small:
        call = await small.opened()
        wanted = TaskFilter(text="7")
        filtered = await small.opened(filter=wanted)
        cursor = (await next_message(small.watch())).cursor
        await asyncio.gather(*(world.create(str(number)) for number in range(80)))
        direct = [summary(message)[1] for message in await events(call, 80)]
        assert sorted(direct, key=int) == [str(number) for number in range(80)]
        resumed = small.watch(cursor=cursor)
        assert [summary(message)[1] for message in await events(resumed, 80)] == direct
        sevens = [summary(message)[1] for message in await events(filtered, 17)]
        assert sevens == [title for title in direct if "7" in title]


async def test_an_unreadable_event_ends_no_stream(
    world: TaskWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "_BACKLOG", 0)
    call = await world.opened()
    await world.create("before")
    first = await next_event(call)
    subject = f"taskflow.{world.workspace_id}"
    async with world.db.transaction() as tx:
        for event in ("member.removed", "task.updated", "job.created"):
            await tx.run(_ADD, event_id=uuid7(), subject=f"{subject}.{event}", payload=b"\xff")
    await world.create("after")
    assert summary(await next_event(call))[1] == "after"
    # The first stream reads from memory; the other process reads from the store.
    assert summary(await next_event(world.watch(cursor=first.cursor)))[1] == "after"
    async with another_process(world) as other:
        assert summary(await next_event(other.watch(cursor=first.cursor)))[1] == "after"


async def test_a_slow_reader_misses_nothing_and_delays_no_other_reader(
    world: TaskWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "_EVENTS", 5)
    async with another_process(world) as small:
        slow, quick = await small.opened(), await small.opened()
        description = "x" * 15_000
        for number in range(60):
            await world.create(str(number), description=description)
            assert summary(await next_event(quick))[1] == str(number)
        assert [summary(m)[1] for m in await events(slow, 60)] == [str(n) for n in range(60)]


async def test_a_missing_event_is_detected_and_fetched(
    world: TaskWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ordered consumer detects a message lost on its way from NATS by the gap in the numbers."""
    real = pull.batches
    lost: list[int] = []

    def arrives(message: Msg) -> bool:
        if b"swallowed" in message.data and len(lost) < 2:
            lost.append(message.metadata.sequence.stream)
            return False
        return True

    async def lossy(bus: Bus, config: ConsumerConfig, size: int) -> AsyncIterator[list[Msg]]:
        async for batch in real(bus, config, size):
            if arrived := [message for message in batch if arrives(message)]:
                yield arrived

    monkeypatch.setattr(pull, "batches", lossy)
    async with another_process(world) as other:
        call = await other.opened()
        for title in ("before", "swallowed", "after"):
            await world.create(title)
        seen = [summary(message)[1] for message in await events(call, 3)]
    assert seen == ["before", "swallowed", "after"]
    assert lost


async def test_a_stream_that_swallows_a_cancellation_still_ends(
    world: TaskWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task can swallow its cancellation when a message from NATS arrives at the same moment."""
    real = feed.Feed.read_back
    reading = asyncio.Event()

    async def deaf(self: feed.Feed, reader: Reader) -> list[Entry]:
        reading.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return await real(self, reader)

    call = await world.opened()
    await world.create("first")
    first = await next_event(call)
    await world.create("secret")
    await next_event(call)
    monkeypatch.setattr(feed, "_BACKLOG", 0)
    async with another_process(world) as other:
        monkeypatch.setattr(feed.Feed, "read_back", deaf)
        resumed = other.watch(cursor=first.cursor)
        await reading.wait()
        await world.team.auth.Logout(LogoutRequest(), metadata=world.me)
        shown: list[WatchTasksResponse] = []
        assert (await ended(resumed, shown)).reason == "SESSION_REVOKED"
    assert not shown


async def test_a_process_whose_feed_swallows_a_cancellation_still_ends(
    world: TaskWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = feed.Feed._follow

    async def deaf(self: feed.Feed) -> None:
        with suppress(asyncio.CancelledError):
            await real(self)
        await real(self)

    monkeypatch.setattr(feed.Feed, "_follow", deaf)
    async with asyncio.timeout(30), another_process(world) as other:
        call = await other.opened()
        await world.create("live")
        assert summary(await next_event(call))[1] == "live"


async def test_streams_survive_a_nats_restart_without_a_gap(
    world: TaskWorld, own_stack: Stack
) -> None:
    call = await world.opened()
    await world.create("0")
    first = await next_event(call)
    for number in range(1, 3):
        own_stack.kill("nats")
        await world.create(str(number))
        await own_stack.wait_ready("nats")
        assert summary(await next_event(call))[1] == str(number)
    resumed = world.watch(cursor=first.cursor)
    assert [summary(message)[1] for message in await events(resumed, 2)] == ["1", "2"]


async def test_while_nats_hangs_streams_stay_open_and_send_heartbeats(
    world: TaskWorld, own_stack: Stack
) -> None:
    call = await world.opened()
    await world.create("before")
    cursor = (await next_event(call)).cursor
    own_stack.kill("nats", signal.SIGSTOP)
    try:
        await world.create("meanwhile")
        for _ in range(3):
            beat = await next_message(call)
            assert beat.WhichOneof("kind") == "heartbeat"
            assert beat.cursor == cursor
        opened = await world.opened()
        resumed = world.watch(cursor=cursor)
        assert (await next_message(resumed)).WhichOneof("kind") == "heartbeat"
    finally:
        own_stack.kill("nats", signal.SIGCONT)
    for stream in (call, opened, resumed):
        assert summary(await next_event(stream))[1] == "meanwhile"


async def test_removing_a_member_ends_their_streams_even_while_nats_hangs(
    world: TaskWorld, own_stack: Stack
) -> None:
    ben = await world.member("ben")
    call = await world.opened(ben)
    own_stack.kill("nats", signal.SIGSTOP)
    try:
        await world.team.remove(world.owner, world.workspace_id, ben.id)
        assert (await ended(call)).reason == "MEMBERSHIP_LOST"
    finally:
        own_stack.kill("nats", signal.SIGCONT)


async def test_a_process_that_never_reached_nats_answers_unavailable(world: TaskWorld) -> None:
    (nowhere,) = free_ports(1)
    async with another_process(world, nats_url=f"nats://127.0.0.1:{nowhere}") as cut_off:
        assert await cut_off.listed() == {}
        answer = await ended(cut_off.watch())
    assert answer.code == grpc.StatusCode.UNAVAILABLE
    assert answer.reason == "DEPENDENCY_UNAVAILABLE"
    assert answer.retry_after is not None


async def test_a_cursor_older_than_the_store_is_reset(world: TaskWorld) -> None:
    call = await world.opened()
    for number in range(4):
        await world.create(str(number))
    seen = await events(call, 4)
    bus = Bus(world.settings, name="test")
    await bus.connect()
    try:
        await bus.jetstream.purge_stream(STREAM, keep=1)
    finally:
        await bus.close()
    async with another_process(world) as other:
        stream = other.watch(cursor=seen[0].cursor)
        reset = await next_message(stream)
        assert reset.WhichOneof("kind") == "reset"
        # After the reset, the stream continues from the reset's cursor.
        await world.create("later")
        assert summary(await next_event(stream))[1] == "later"
        again = other.watch(cursor=reset.cursor)
        assert summary(await next_event(again))[1] == "later"
        last = other.watch(cursor=seen[3].cursor)
        assert summary(await next_event(last))[1] == "later"


async def test_a_lost_store_resets_all_streams_and_old_cursors(
    world: TaskWorld, own_stack: Stack
) -> None:
    call = await world.opened()
    await world.create("before")
    old = (await next_event(call)).cursor
    mirror = Mirror()
    own_stack.kill("nats")
    shutil.rmtree(own_stack.settings.data_dir / "nats")
    await world.create("meanwhile")
    await own_stack.wait_ready("nats")
    await follow(mirror, call, "meanwhile")
    assert mirror.resets == 1
    resumed = world.watch(cursor=old)
    assert (await next_event(resumed)).WhichOneof("kind") == "reset"
    await world.create("later")
    await follow(mirror, call, "later")
    renewed = world.watch(cursor=mirror.cursor)
    await world.create("last")
    await follow(Mirror(), renewed, "last")


async def test_a_rolled_back_store_resets_streams_that_were_ahead_of_it(
    world: TaskWorld, own_stack: Stack, tmp_path: Path
) -> None:
    """The same sequence numbers may then belong to other events."""
    store, copy = own_stack.settings.data_dir / "nats", tmp_path / "copy"
    call = await world.opened()
    await world.create("kept")
    kept = (await next_event(call)).cursor
    own_stack.kill("nats")
    shutil.copytree(store, copy)
    await own_stack.wait_ready("nats")
    await world.create("lost from the store")
    lost = await next_event(call)
    assert summary(lost)[1] == "lost from the store"
    own_stack.kill("nats")
    shutil.rmtree(store)
    shutil.copytree(copy, store)
    await own_stack.wait_ready("nats")
    await world.create("after")
    mirror = Mirror()
    await follow(mirror, call, "after")
    resumed = Mirror()
    await follow(resumed, world.watch(cursor=kept), "after")
    assert "lost from the store" in {task.title for task in resumed.tasks.values()}


async def test_a_cursor_beyond_the_end_of_the_store_is_reset(world: TaskWorld) -> None:
    call = await world.opened()
    await world.create("one")
    cursor = (await next_event(call)).cursor
    async with another_process(world) as other:
        beyond = other.watch(cursor=_moved(world, cursor, 1000))
        assert (await next_message(beyond)).WhichOneof("kind") == "reset"
        another_event = other.watch(cursor=_moved(world, cursor, 0, tag="00000000"))
        assert (await next_message(another_event)).WhichOneof("kind") == "reset"


def _moved(world: TaskWorld, cursor: str, by: int, tag: str = "") -> str:
    seal = Seal(world.settings)
    purpose = {"purpose": "watch-tasks", "context": world.workspace_id}
    epoch, sequence, known = seal.open(cursor, **purpose)
    return seal.close([epoch, sequence + by, tag or known], **purpose)


async def test_a_change_reaches_all_streams_in_the_same_bytes(world: TaskWorld) -> None:
    calls = [await world.opened() for _ in range(50)]
    await world.create("seen by all")
    async with asyncio.timeout(PATIENCE):
        found = await asyncio.gather(*(next_event(call) for call in calls))
    assert len({message.SerializeToString() for message in found}) == 1
    for call in calls:
        call.cancel()


async def test_a_stream_is_reset_when_the_broker_discarded_events_its_process_had_not_read(
    world: TaskWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pull.batches
    reading = asyncio.Event()
    reading.set()

    async def slow(bus: Bus, config: ConsumerConfig, size: int) -> AsyncIterator[list[Msg]]:
        async with aclosing(real(bus, config, size)) as batches:
            async for batch in batches:
                await reading.wait()
                yield batch

    monkeypatch.setattr(pull, "_REQUEST_SIZE", 1)
    monkeypatch.setattr(pull, "batches", slow)
    async with another_process(world) as other:
        call = await other.opened()
        reading.clear()
        for number in range(6):
            await world.create(str(number))
        connection = Bus(world.settings, name="test")
        await connection.connect()
        async with asyncio.timeout(PATIENCE):
            while (await connection.jetstream.stream_info(STREAM)).state.messages < 6:
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        await connection.jetstream.purge_stream(STREAM, keep=1)
        await connection.close()
        reading.set()
        kinds = []
        while "reset" not in kinds:
            kinds.append((await next_message(call)).WhichOneof("kind"))
