"""Streams resume automatically from any position, without missing a change."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from typing import Any

import pytest

from taskflow.notification.v1.notification_service_pb2 import (
    ListNotificationsRequest,
    WatchNotificationsRequest,
    WatchNotificationsResponse,
)
from taskflow.task.v1 import task_pb2, task_service_pb2
from taskflow_client import (
    InvalidArgument,
    PermissionDenied,
    TaskFlow,
    TaskFlowError,
    Unauthenticated,
)
from taskflow_client.streams import watch_notifications
from tests.unit.client_double import PASSWORD, WORKSPACE, Cut, Double, Failure, serving

CUTS = [
    Failure("UNAVAILABLE", "DRAINING", retry_after=0.001),
    Failure("UNAVAILABLE"),
    Failure("RESOURCE_EXHAUSTED", "READER_TOO_SLOW"),
    Failure("UNAUTHENTICATED", "TOKEN_INVALID"),
    Failure("INTERNAL"),
    Failure("UNKNOWN"),
    None,
]


@pytest.fixture(autouse=True)
def quick_reconnects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskflow_client.streams.backoff", lambda attempt, first: 0.001)


@pytest.fixture
async def client(double: Double) -> AsyncIterator[TaskFlow]:
    async with TaskFlow(double.address, heartbeat_timeout=0.15) as connected:
        await connected.login("ada@example.com", PASSWORD)
        yield connected


async def headlines(client: TaskFlow, count: int, **options: Any) -> list[str]:
    """The headlines of the next `count` notifications, with resets in between."""
    seen: list[str] = []
    async with aclosing(client.watch_notifications(**options)) as stream:
        async for message in stream:
            if message.HasField("change"):
                seen.append(message.change.created.headline)
            elif message.HasField("reset"):
                seen.append("reset")
            if len(seen) == count:
                break
    return seen


@pytest.mark.parametrize("seed", range(12))
async def test_a_stream_that_is_cut_anywhere_shows_each_change_once_and_in_order(
    client: TaskFlow, double: Double, seed: int
) -> None:
    chance = random.Random(seed)
    double.cuts = [Cut(chance.randrange(6), chance.choice(CUTS)) for _ in range(12)]
    double.heartbeat = 0.05
    expected = [f"change {number}" for number in range(60)]

    async def happen() -> None:
        for headline in expected:
            double.notify(headline)
            await asyncio.sleep(chance.random() * 0.01)

    cursor = (await client.notifications.ListNotifications(ListNotificationsRequest())).cursor
    changes = asyncio.create_task(happen())
    async with asyncio.timeout(20):
        assert await headlines(client, len(expected), cursor=cursor) == expected
    await changes


async def test_a_repeated_change_is_dropped(client: TaskFlow, double: Double) -> None:
    for number in range(3):
        double.notify(f"change {number}")
    double.changes[2:2] = [double.changes[1], double.changes[0]]
    seen = await headlines(client, 3, cursor="e1:0")
    assert seen == ["change 0", "change 1", "change 2"]


async def test_a_silent_stream_is_reopened(client: TaskFlow, double: Double) -> None:
    double.cuts = [Cut(1, None)]
    failures: list[TaskFlowError] = []

    async def happen() -> None:
        await asyncio.sleep(0.05)
        double.notify("spoken into the silence")

    changes = asyncio.create_task(happen())
    seen = await headlines(client, 1, on_reconnect=failures.append)
    assert seen == ["spoken into the silence"]
    assert [failure.message for failure in failures] == ["no message for 0.15 s"]
    await changes


async def test_time_spent_in_the_consumer_does_not_count_as_silence(
    client: TaskFlow, double: Double
) -> None:
    double.notify("one")
    double.notify("two")
    failures: list[TaskFlowError] = []
    seen = 0
    async with aclosing(client.watch_notifications("e1:0", on_reconnect=failures.append)) as stream:
        async for _ in stream:
            seen += 1
            await asyncio.sleep(0.3)
            if seen == 2:
                break
    assert failures == []


async def test_an_expired_token_is_renewed_and_the_stream_goes_on(
    client: TaskFlow, double: Double
) -> None:
    double.heartbeat = 0.02
    seen: list[str] = []
    async with aclosing(client.watch_notifications()) as stream:
        async for message in stream:
            if message.HasField("change"):
                seen.append(message.change.created.headline)
                if len(seen) == 2:
                    break
            elif not seen:
                double.notify("before")
                double.expire_access()
                double.notify("after")
    assert seen == ["before", "after"]
    assert double.calls["RefreshToken"] == 1


async def test_an_ended_session_ends_the_stream(client: TaskFlow, double: Double) -> None:
    double.heartbeat = 0.02

    async def consume() -> None:
        async for _ in client.watch_notifications():
            double.session_ended = True

    with pytest.raises(Unauthenticated):
        await consume()
    assert client.session is None


async def test_lost_membership_ends_the_stream(client: TaskFlow, double: Double) -> None:
    double.cuts = [Cut(0, Failure("PERMISSION_DENIED", "MEMBERSHIP_LOST"))]
    with pytest.raises(PermissionDenied):
        async for _ in client.watch_tasks(WORKSPACE):
            pass


async def test_a_refused_cursor_ends_the_stream(client: TaskFlow, double: Double) -> None:
    double.cuts = [Cut(0, Failure("INVALID_ARGUMENT", "INVALID_CURSOR"))]
    with pytest.raises(InvalidArgument):
        async for _ in client.watch_notifications("forged"):
            pass


async def test_a_repeatedly_refused_token_ends_the_stream(client: TaskFlow, double: Double) -> None:
    refused = Failure("UNAUTHENTICATED", "TOKEN_INVALID")
    double.cuts = [Cut(0, refused) for _ in range(9)]
    with pytest.raises(Unauthenticated):
        async for _ in client.watch_notifications():
            pass
    assert double.calls["WatchNotifications"] == 2


async def test_a_permanent_server_error_ends_the_stream(client: TaskFlow, double: Double) -> None:
    double.cuts = [Cut(0, Failure("INTERNAL", "INTERNAL")) for _ in range(99)]
    with pytest.raises(TaskFlowError):
        async for _ in client.watch_notifications():
            pass
    assert double.calls["WatchNotifications"] < 10


async def test_a_reset_is_shown_and_the_stream_goes_on_from_its_cursor(
    client: TaskFlow, double: Double
) -> None:
    double.notify("unreadable")
    double.epoch = "e2"
    double.cuts = [Cut(1, Failure("UNAVAILABLE"))]

    async def happen() -> None:
        await asyncio.sleep(0.1)
        double.notify("after the reset")

    changes = asyncio.create_task(happen())
    seen = await headlines(client, 2, cursor="e1:0")
    assert seen == ["reset", "after the reset"]
    assert double.requests["WatchNotifications"][1].cursor == "e2:1"
    await changes


async def test_a_cursor_is_stored_only_after_its_message_was_processed(
    client: TaskFlow, double: Double
) -> None:
    for number in range(3):
        double.notify(f"change {number}")
    stored: list[str] = []

    async def store(cursor: str) -> None:
        await asyncio.sleep(0)
        stored.append(cursor)

    processed: list[str] = []
    with suppress(ZeroDivisionError):
        async with aclosing(client.watch_notifications("e1:0", store)) as stream:
            async for message in stream:
                assert len(stored) == len(processed)
                if len(processed) == 2:
                    raise ZeroDivisionError  # the consumer crashes on the third message
                processed.append(message.change.created.headline)
    assert stored == ["e1:1", "e1:2"]
    assert await headlines(client, 1, cursor=stored[-1]) == ["change 2"]


async def test_the_server_may_restart_on_the_same_port() -> None:
    first = Double(accounts={"ada@example.com": PASSWORD}, heartbeat=0.05)
    async with serving(first):
        pass  # its port is fixed now
    async with TaskFlow(first.address, heartbeat_timeout=1) as client:
        seen: list[str] = []
        done = asyncio.Event()

        async def consume() -> None:
            async for message in client.watch_notifications():
                if message.HasField("change"):
                    seen.append(message.change.created.headline)
                if len(seen) == 2:
                    break
                done.set()

        async with serving(first):
            await client.login("ada@example.com", PASSWORD)
            consumer = asyncio.create_task(consume())
            await asyncio.wait_for(done.wait(), 5)
            first.notify("before")
            await asyncio.sleep(0.1)
        first.notify("meanwhile")
        await asyncio.sleep(0.3)
        async with serving(first):
            await asyncio.wait_for(consumer, 10)
    assert seen == ["before", "meanwhile"]


def task_change(double: Double, title: str) -> None:
    task = double.add_task(title)
    double.task_changes.append(
        task_service_pb2.TaskChange(kind=task_service_pb2.TASK_CHANGE_KIND_CREATED, task=task)
    )


async def board(client: TaskFlow, wanted: set[str], **options: Any) -> list[str]:
    """Apply a board stream until it shows `wanted`; returns the kinds of the messages."""
    kinds: list[str] = []
    titles: set[str] = set()
    async with aclosing(client.watch_tasks(WORKSPACE, **options)) as stream:
        async for message in stream:
            kind = message.WhichOneof("kind")
            assert kind is not None
            kinds.append(kind)
            if kind == "reset":
                titles = set()
            elif kind == "snapshot":
                titles.add(message.snapshot.title)
            elif kind == "change":
                titles.add(message.change.task.title)
            if titles == wanted and "snapshot_complete" in kinds:
                return kinds
    raise AssertionError("the stream ended")


@pytest.mark.parametrize("messages", range(9))
async def test_a_board_is_complete_wherever_its_snapshot_is_interrupted(
    client: TaskFlow, double: Double, messages: int
) -> None:
    for number in range(4):
        double.add_task(f"old {number}")
    double.cuts = [Cut(messages, Failure("UNAVAILABLE"))]

    async def happen() -> None:
        await asyncio.sleep(0.05)
        for number in range(4):
            task_change(double, f"new {number}")

    changes = asyncio.create_task(happen())
    wanted = {f"{age} {number}" for age in ("old", "new") for number in range(4)}
    async with asyncio.timeout(10):
        kinds = await board(client, wanted, snapshot=True)
    # Cut during the snapshot, the board starts over with a reset; cut later, the stream resumes.
    assert kinds.count("reset") == (1 if 1 <= messages <= 4 else 0)
    assert kinds.count("snapshot_complete") == 1
    await changes


async def test_a_task_deleted_while_a_snapshot_is_interrupted_leaves_the_board(
    client: TaskFlow, double: Double
) -> None:
    double.add_task("stays")
    double.tasks.insert(0, task_pb2.Task(id="x", title="goes"))
    double.cuts = [Cut(1, Failure("UNAVAILABLE"))]
    kinds = []
    titles: set[str] = set()
    async with aclosing(client.watch_tasks(WORKSPACE, snapshot=True)) as stream:
        async for message in stream:
            kinds.append(message.WhichOneof("kind"))
            if message.HasField("snapshot"):
                titles.add(message.snapshot.title)
                if message.snapshot.title == "goes":
                    del double.tasks[0]
            elif message.HasField("reset"):
                titles.clear()
            elif message.HasField("snapshot_complete"):
                break
    assert titles == {"stays"}
    assert kinds == ["snapshot", "reset", "snapshot", "snapshot_complete"]


async def test_after_a_reset_a_board_gets_a_new_snapshot(client: TaskFlow, double: Double) -> None:
    double.add_task("one")
    double.cuts = [Cut(2, Failure("UNAVAILABLE"))]
    stored: list[str] = []
    kinds: list[str | None] = []
    async with aclosing(
        client.watch_tasks(WORKSPACE, snapshot=True, on_cursor=stored.append)
    ) as stream:
        async for message in stream:
            kinds.append(message.WhichOneof("kind"))
            if kinds == ["snapshot", "snapshot_complete"]:
                double.epoch = "e2"
                assert stored == []  # resuming from this cursor would lose the snapshot
                task_change(double, "two")
            elif kinds.count("snapshot_complete") == 2:
                break
    assert kinds[2:] == ["reset", "snapshot", "snapshot", "snapshot_complete"]
    assert stored == ["e1:0"]


async def test_without_a_snapshot_a_reset_goes_on_from_its_cursor(
    client: TaskFlow, double: Double
) -> None:
    double.epoch = "e2"
    seen: list[str | None] = []
    async with aclosing(client.watch_tasks(WORKSPACE, cursor="e1:7")) as stream:
        async for message in stream:
            seen.append(message.WhichOneof("kind"))
            if seen == ["reset"]:
                task_change(double, "after")
            elif len(seen) == 2:
                break
    assert seen == ["reset", "change"]
    assert double.calls["WatchTasks"] == 1


async def test_the_filter_is_sent_each_time_the_stream_is_opened(
    client: TaskFlow, double: Double
) -> None:
    double.cuts = [Cut(1, Failure("UNAVAILABLE"))]
    only_mine = task_pb2.TaskFilter(assignee_ids=["01900000-0000-7000-8000-00000000000a"])
    async with aclosing(client.watch_tasks(WORKSPACE, only_mine)) as stream:
        async for message in stream:
            if message.HasField("heartbeat"):
                task_change(double, "mine")
            else:
                break
    assert [sent.filter for sent in double.requests["WatchTasks"]] == [only_mine, only_mine]


async def test_a_snapshot_and_a_cursor_exclude_each_other(client: TaskFlow) -> None:
    with pytest.raises(ValueError, match="not both"):
        await anext(client.watch_tasks(WORKSPACE, cursor="e1:1", snapshot=True))


async def test_a_cancelled_consumer_ends_even_if_a_message_arrives_at_the_same_moment() -> None:
    arriving: asyncio.Future[WatchNotificationsResponse] = (
        asyncio.get_running_loop().create_future()
    )

    class Call:
        async def __aiter__(self) -> AsyncIterator[WatchNotificationsResponse]:
            yield await arriving
            await asyncio.Event().wait()

        def cancel(self) -> None:
            pass

    class Stub:
        def WatchNotifications(self, _: WatchNotificationsRequest) -> Call:
            return Call()

    async def consume() -> None:
        stub: Any = Stub()
        async with aclosing(watch_notifications(stub, "", None, None, 60)) as messages:
            async for _ in messages:
                pass

    consuming = asyncio.create_task(consume())
    await asyncio.sleep(0.01)
    arriving.set_result(WatchNotificationsResponse())
    consuming.cancel()
    await asyncio.wait({consuming}, timeout=2)
    assert consuming.cancelled()
