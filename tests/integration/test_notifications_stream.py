"""Promises of WatchNotifications: every change, in order, without a gap, whatever messages are lost."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from nats.aio.msg import Msg
from sqlalchemy import bindparam

from services.notification.inbox.models import notifications
from services.notification.stream import hub, retention, room
from services.notification.stream.hub import Hub
from services.notification.stream.models import changes, epochs, feeds
from services.notification.stream.room import Room
from services.platform.config import Settings
from services.platform.data.db import Statement
from services.platform.data.retention import run_once
from taskflow.auth.v1.auth_service_pb2 import LogoutRequest
from tests.conftest import serving
from tests.integration.notification_world import (
    Device,
    NotificationWorld,
    a_notification_world,
    next_change,
    next_message,
    other_ports,
)
from tests.integration.people import Person, read_refusal


@pytest.fixture(scope="module")
async def world(settings: Settings) -> AsyncIterator[NotificationWorld]:
    async with a_notification_world(settings) as made:
        yield made


@pytest.fixture
async def ben(world: NotificationWorld) -> Person:
    return await world.member("ben")


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make all live messages get lost."""

    async def lose(room: Any, message: Msg) -> None:
        return None

    monkeypatch.setattr(Room, "deliver", lose)


async def sequences(call: Any, count: int) -> list[int]:
    return [(await next_change(call)).change.sequence for _ in range(count)]


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    async def to_the_end() -> None:
        while True:
            await next_message(call)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await to_the_end()
    found = read_refusal(caught.value)
    return found.code, found.reason


async def test_without_a_cursor_a_heartbeat_with_the_current_cursor_comes_at_once(
    world: NotificationWorld, ben: Person
) -> None:
    await world.assign(ben, ben)
    await world.wait_for_notifications(ben, 2)
    called = time.monotonic()
    call = world.watch(ben)
    first = await next_message(call)
    assert time.monotonic() - called < 0.8, "it waited for the next heartbeat"
    call.cancel()
    assert first.heartbeat.head_sequence == 2
    assert first.cursor == (await world.page(ben)).cursor
    await world.assign(ben)
    resumed = world.watch(ben, first.cursor)
    assert await sequences(resumed, 1) == [3]
    resumed.cancel()


async def test_a_stream_sends_its_headers_at_once_even_if_its_first_message_takes_long(
    world: NotificationWorld, ben: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = asyncio.Event()

    async def slow(self: Hub, caller: Any, cursor: str) -> AsyncIterator[bytes]:
        await ready.wait()
        yield b""

    monkeypatch.setattr(Hub, "watch", slow)
    call = world.watch(ben)
    async with asyncio.timeout(20):
        await call.initial_metadata()
    ready.set()
    await next_message(call)
    call.cancel()


async def test_changes_arrive_live_and_agree_with_the_list(
    world: NotificationWorld, ben: Person
) -> None:
    call = world.watch(ben)
    device = Device((await next_message(call)).cursor)
    await world.assign(ben, ben)
    for _ in range(2):
        device.apply(await next_change(call))
    first = device.shown()[1]
    await world.mark_read(ben, first.id)
    await world.mark_all_read(ben)
    for _ in range(2):
        device.apply(await next_change(call))
    assert device.shown() == await world.listed(ben)
    assert all(one.HasField("read_time") for one in device.shown())
    call.cancel()


async def test_a_stream_resumes_from_any_of_its_cursors(
    world: NotificationWorld, ben: Person
) -> None:
    start = (await world.page(ben)).cursor
    await world.assign(*[ben] * 5)
    await world.wait_for_notifications(ben, 5)
    call = world.watch(ben, start)
    cursors = [(await next_change(call)).cursor for _ in range(5)]
    call.cancel()
    for seen, cursor in enumerate(cursors[:-1], 1):
        resumed = world.watch(ben, cursor)
        assert await sequences(resumed, 5 - seen) == list(range(seen + 1, 6))
        resumed.cancel()


async def test_a_client_that_was_offline_for_long_gets_every_change(
    world: NotificationWorld, ben: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the client is offline, more changes are written than one database read returns."""
    monkeypatch.setattr(hub, "_PAGE", 7)
    start = (await world.page(ben)).cursor
    await world.assign(*[ben] * 40)
    await world.wait_for_notifications(ben, 40)
    await world.mark_all_read(ben)
    call = world.watch(ben, start)
    assert await sequences(call, 41) == list(range(1, 42))
    await world.assign(ben)
    assert await sequences(call, 1) == [42]
    call.cancel()


async def test_all_streams_of_a_user_get_every_change_and_other_users_none(
    world: NotificationWorld, ben: Person
) -> None:
    eve = await world.member("eve")
    calls = [world.watch(ben) for _ in range(3)]
    hers = world.watch(eve)
    for call in (*calls, hers):
        await next_message(call)
    await world.assign(ben, ben)
    for call in calls:
        assert await sequences(call, 2) == [1, 2]
    await world.assign(eve)
    change = (await next_change(hers)).change
    assert change.sequence == 1
    for call in (*calls, hers):
        call.cancel()


async def test_heartbeats_come_on_time_and_carry_the_head(
    world: NotificationWorld, ben: Person
) -> None:
    call = world.watch(ben)
    await next_message(call)
    await world.assign(ben)
    cursor = (await next_change(call)).cursor
    interval = world.settings.heartbeat_interval
    await next_message(call)
    for _ in range(3):
        before = time.monotonic()
        beat = await next_message(call)
        assert beat.heartbeat.head_sequence == 1
        assert beat.cursor == cursor
        assert time.monotonic() - before < 1.5 * interval
    call.cancel()


@pytest.mark.usefixtures("deaf")
async def test_lost_live_messages_only_add_latency(world: NotificationWorld, ben: Person) -> None:
    call = world.watch(ben)
    await next_message(call)
    await world.assign(*[ben] * 3)
    assert await sequences(call, 3) == [1, 2, 3]
    call.cancel()


async def test_a_lost_live_message_is_recovered_with_the_next_one(
    world: NotificationWorld, ben: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver = Room.deliver

    async def lose_odd(room: Any, message: Msg) -> None:
        if int((message.headers or {})["Sequence"]) % 2 == 0:
            await deliver(room, message)

    monkeypatch.setattr(Room, "deliver", lose_odd)
    call = world.watch(ben)
    await next_message(call)
    await world.assign(*[ben] * 10)
    assert await sequences(call, 10) == list(range(1, 11))
    call.cancel()


async def test_repeated_and_reordered_live_messages_do_not_change_the_order(
    world: NotificationWorld, ben: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver = Room.deliver
    held: list[Msg] = []

    async def mix(room: Any, message: Msg) -> None:
        held.append(message)
        if len(held) == 5:
            for one in (*reversed(held), *held):
                await deliver(room, one)

    monkeypatch.setattr(Room, "deliver", mix)
    call = world.watch(ben)
    await next_message(call)
    await world.assign(*[ben] * 5)
    assert await sequences(call, 5) == [1, 2, 3, 4, 5]
    call.cancel()


async def test_a_slow_reader_gets_every_change_when_it_reads_again(
    world: NotificationWorld, ben: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_MOST_PENDING", 2)
    call = world.watch(ben)
    await next_message(call)
    for _ in range(10):
        await world.assign(*[ben] * 30)
    await world.wait_for_notifications(ben, 300)
    assert await sequences(call, 300) == list(range(1, 301))
    call.cancel()


async def test_streams_on_several_processes_show_the_same_changes(
    world: NotificationWorld, ben: Person
) -> None:
    settings = other_ports(world.settings, "notification")
    async with (
        serving("notification", settings),
        grpc.aio.insecure_channel(settings.notification) as channel,
    ):
        other = NotificationWorld(**(vars(world) | {"stub": type(world.stub)(channel)}))
        calls = [one.watch(ben) for one in (world, other)]
        for call in calls:
            await next_message(call)
        for _ in range(5):
            await world.assign(ben, ben)
        await world.wait_for_notifications(ben, 10)
        await other.mark_all_read(ben)
        for call in calls:
            assert await sequences(call, 11) == list(range(1, 12))
            call.cancel()


async def test_a_cursor_older_than_the_kept_changes_gets_a_reset(
    world: NotificationWorld, ben: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = (await world.page(ben)).cursor
    await world.assign(ben, ben)
    await world.wait_for_notifications(ben, 2)
    old = Statement(
        changes.update()
        .where(changes.c.user_id == bindparam("id"))
        .values(created_at=bindparam("at"))
    )
    async with world.db.transaction() as tx:
        await tx.run(old, id=ben.id, at="2020-01-01T00:00:00Z")
    await run_once(world.db, retention.kinds(world.settings))
    call = world.watch(ben, start)
    message = await next_message(call)
    assert message.WhichOneof("kind") == "reset"
    assert message.cursor == (await world.page(ben)).cursor
    await world.assign(ben)
    assert await sequences(call, 1) == [3]
    call.cancel()


async def test_a_cursor_ahead_of_a_restored_database_gets_a_reset(
    world: NotificationWorld, ben: Person
) -> None:
    await world.assign(ben, ben)
    await world.wait_for_notifications(ben, 2)
    ahead = (await world.page(ben)).cursor
    live = world.watch(ben, ahead)
    await next_message(live)
    await _put_back(world, ben, 1)
    call = world.watch(ben, ahead)
    for stream in (call, live):
        message = await next_change(stream)
        assert message.WhichOneof("kind") == "reset"
        assert message.cursor == (await world.page(ben)).cursor
    await world.assign(ben)
    for stream in (call, live):
        assert await sequences(stream, 1) == [2]
        stream.cancel()


async def _put_back(world: NotificationWorld, person: Person, sequence: int) -> None:
    """Put the feed back to this sequence, as restoring an older backup would."""
    async with world.db.transaction() as tx:
        await tx.run(
            Statement(
                feeds.update()
                .where(feeds.c.user_id == bindparam("id"))
                .values(last_sequence=bindparam("sequence"))
            ),
            id=person.id,
            sequence=sequence,
        )
        for table in ("changes", "notifications"):
            await tx.run(_FORGET[table], id=person.id, sequence=sequence)


_FORGET = {
    table.name: Statement(
        table.delete().where(
            table.c.user_id == bindparam("id"), table.c.sequence > bindparam("sequence")
        )
    )
    for table in (changes, notifications)
}


async def test_a_cursor_of_another_database_gets_a_reset(
    world: NotificationWorld, ben: Person
) -> None:
    cursor = (await world.page(ben)).cursor
    live = world.watch(ben, cursor)
    await next_message(live)
    new_epoch = Statement(epochs.update().values(id=bindparam("id")))
    async with world.db.read() as tx:
        row = await tx.one(Statement(epochs.select()))
    assert row is not None
    try:
        async with world.db.transaction() as tx:
            await tx.run(new_epoch, id="00000000-0000-4000-8000-000000000000")
        call = world.watch(ben, cursor)
        for stream in (call, live):
            message = await next_change(stream)
            assert message.WhichOneof("kind") == "reset"
            assert message.cursor == (await world.page(ben)).cursor
            stream.cancel()
    finally:
        async with world.db.transaction() as tx:
            await tx.run(new_epoch, id=row.id)


async def test_a_forged_or_foreign_cursor_is_refused(world: NotificationWorld, ben: Person) -> None:
    eve = await world.member("eve")
    hers = (await world.page(eve)).cursor
    for cursor in ("nonsense!", "AAAA", hers, hers[:-3] + "AAA"):
        assert await refused(world.watch(ben, cursor)) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_CURSOR",
        )


async def test_a_logout_ends_the_stream(world: NotificationWorld, ben: Person) -> None:
    call = world.watch(ben)
    await next_message(call)
    await world.team.auth.Logout(LogoutRequest(), metadata=ben.credentials)
    started = time.monotonic()
    assert await refused(call) == (grpc.StatusCode.UNAUTHENTICATED, "SESSION_REVOKED")
    assert time.monotonic() - started < 5


async def test_a_stopping_server_ends_the_stream_with_draining_and_it_resumes_at_another(
    world: NotificationWorld, ben: Person
) -> None:
    settings = other_ports(world.settings, "notification")
    async with grpc.aio.insecure_channel(settings.notification) as channel:
        async with serving("notification", settings):
            other = NotificationWorld(**(vars(world) | {"stub": type(world.stub)(channel)}))
            call = other.watch(ben)
            cursor = (await next_message(call)).cursor
            ending = asyncio.create_task(refused(call))
        assert await ending == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    await world.assign(ben)
    resumed = world.watch(ben, cursor)
    assert await sequences(resumed, 1) == [1]
    resumed.cancel()


async def test_memory_for_users_without_open_streams_is_released(
    world: NotificationWorld, ben: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    hubs: list[hub.Hub] = []
    forget = hub.Hub._close_empty

    async def noticed(one: hub.Hub) -> None:
        await forget(one)
        if one not in hubs:
            hubs.append(one)

    monkeypatch.setattr(hub.Hub, "_close_empty", noticed)
    calls = [world.watch(ben) for _ in range(20)]
    for call in calls:
        await next_message(call)
    for call in calls:
        call.cancel()
    async with asyncio.timeout(10):
        while not hubs or any(one._rooms for one in hubs):
            await asyncio.sleep(0.05)
