"""Promises of WatchTasks: all changes, in order, to members only, resumable from any cursor."""

import asyncio
import random
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from google.protobuf.struct_pb2 import Struct

from services.platform.config import Settings
from taskflow.auth.v1.workspace_pb2 import Role
from taskflow.task.v1 import task_pb2
from taskflow.task.v1.internal_service_pb2 import StoreSuggestionsRequest, SuggestionDraft
from taskflow.task.v1.suggestion_pb2 import SUGGESTION_KIND_PRIORITY
from taskflow.task.v1.task_pb2 import Task, TaskFilter
from taskflow.task.v1.task_service_pb2 import WatchTasksRequest, WatchTasksResponse
from tests.integration.people import read_refusal, refusal
from tests.integration.task_world import (
    Mirror,
    TaskWorld,
    a_task_world,
    ended,
    events,
    next_event,
    next_message,
    summary,
)


@pytest.fixture
async def world(services: Settings) -> AsyncIterator[TaskWorld]:
    async with a_task_world(services) as made:
        yield made


async def test_a_new_stream_sends_a_heartbeat_at_once_and_then_regularly(
    world: TaskWorld,
) -> None:
    call = world.watch()
    async with asyncio.timeout(0.9):
        first = await call.read()
    assert first.WhichOneof("kind") == "heartbeat"
    assert first.cursor == first.heartbeat.head_cursor != ""
    second = await next_message(call)
    assert second.WhichOneof("kind") == "heartbeat"
    assert second.heartbeat.time.ToDatetime() > first.heartbeat.time.ToDatetime()


async def test_every_kind_of_change_arrives_in_order_with_actor_and_fields(
    world: TaskWorld,
) -> None:
    call = await world.opened()
    task = await world.create("one")
    await world.update(task, title="two", priority=task_pb2.TASK_PRIORITY_HIGH)
    await world.delete(task)
    await world.undelete(task)
    created, updated, deleted, undeleted = await events(call, 4)
    assert [summary(message) for message in (created, updated, deleted, undeleted)] == [
        ("CREATED", "one", 1),
        ("UPDATED", "two", 2),
        ("DELETED", "two", 3),
        ("UNDELETED", "two", 4),
    ]
    assert created.change.task == task
    assert list(updated.change.changed_fields.paths) == ["priority", "title"]
    assert updated.change.actor_id == world.owner.id
    assert updated.change.HasField("change_time")
    assert deleted.change.task.HasField("delete_time")


async def test_jobs_and_suggestions_are_shown_live(world: TaskWorld) -> None:
    call = await world.opened()
    payload = Struct()
    payload.update({"message": "hello"})
    task = await world.create(payload=payload)
    first, second = await events(call, 2)
    assert (first.WhichOneof("kind"), second.WhichOneof("kind")) == ("change", "job")
    assert second.job.task_id == task.id
    await suggest(world, task)
    suggestion = (await next_event(call)).suggestion
    assert (suggestion.task_id, suggestion.priority) == (task.id, task_pb2.TASK_PRIORITY_HIGH)


async def suggest(world: TaskWorld, task: Task) -> None:
    draft = SuggestionDraft(
        kind=SUGGESTION_KIND_PRIORITY,
        priority=task_pb2.TASK_PRIORITY_HIGH,
        reason="says 'at once'",
        confidence=0.9,
        model="heuristic",
    )
    await world.worker_suggestions.StoreSuggestions(
        StoreSuggestionsRequest(task_id=task.id, base_text_revision=1, suggestions=[draft]),
        metadata=world.service,
    )


async def test_a_stream_resumes_after_any_message_without_gap_or_repeat(
    world: TaskWorld,
) -> None:
    call = await world.opened()
    for number in range(6):
        await world.create(str(number))
    seen = await events(call, 6)
    call.cancel()
    await world.create("6")
    for number, message in enumerate(seen):
        resumed = world.watch(cursor=message.cursor)
        rest = await events(resumed, 6 - number)
        assert [summary(later)[1] for later in rest] == [str(n) for n in range(number + 1, 7)]
        resumed.cancel()


async def test_a_stream_resumes_from_a_heartbeats_cursor(world: TaskWorld) -> None:
    call = world.watch()
    cursor = (await next_message(call)).cursor
    call.cancel()
    await world.create("meanwhile")
    assert summary(await next_event(world.watch(cursor=cursor))) == ("CREATED", "meanwhile", 1)


async def test_a_snapshot_shows_all_tasks_then_completes_then_continues_live(
    world: TaskWorld,
) -> None:
    tasks = [await world.create(str(number)) for number in range(3)]
    gone = await world.create("gone")
    await world.delete(gone)
    call = world.watch(snapshot=True)
    shown = [await next_message(call) for _ in range(3)]
    assert [message.snapshot for message in shown] == tasks
    assert (await next_message(call)).WhichOneof("kind") == "snapshot_complete"
    # Changes published after the stream's position was taken are repeated; new ones follow.
    await world.create("new")
    while summary(message := await next_event(call)) != ("CREATED", "new", 1):
        assert message.change.task.title in {"0", "1", "2", "gone"}


async def test_a_snapshot_misses_nothing_that_changes_while_it_is_taken(world: TaskWorld) -> None:
    tasks = [await world.create(str(number)) for number in range(30)]

    async def change(task: Task) -> None:
        await world.update(task, title=f"{task.title}!")

    mirror = Mirror()
    changing = asyncio.gather(*(change(task) for task in tasks))
    call = world.watch(snapshot=True)
    while not mirror.snapshot_done:
        mirror.apply(await next_message(call))
    await changing
    await world.create("last")
    while "last" not in {task.title for task in mirror.tasks.values()}:
        mirror.apply(await next_message(call))
    assert mirror.live() == await world.listed()


async def test_a_filtered_snapshot_shows_the_same_tasks_as_the_list(world: TaskWorld) -> None:
    urgent = await world.create("urgent", priority=task_pb2.TASK_PRIORITY_URGENT)
    await world.create("not")
    wanted = TaskFilter(priorities=[task_pb2.TASK_PRIORITY_URGENT])
    call = world.watch(snapshot=True, filter=wanted)
    assert (await next_message(call)).snapshot == urgent
    assert (await next_message(call)).WhichOneof("kind") == "snapshot_complete"


async def test_a_task_that_leaves_the_filter_is_sent_once_more(world: TaskWorld) -> None:
    wanted = TaskFilter(statuses=[task_pb2.TASK_STATUS_TODO], labels=["infra"])
    call = await world.opened(filter=wanted)
    await world.create("other")
    task = await world.create("mine", labels=["infra"])
    await world.update(task, labels=["home"])
    await world.update(task, title="unseen")
    await world.update(task, labels=["infra", "home"])
    await world.set_status(task)
    await world.update(task, title="unseen too")
    await world.create("end", labels=["infra"])
    assert [summary(message) for message in await events(call, 5)] == [
        ("CREATED", "mine", 1),
        ("UPDATED", "mine", 2),
        ("UPDATED", "unseen", 4),
        ("UPDATED", "unseen", 5),
        ("CREATED", "end", 1),
    ]


async def test_a_deletion_is_sent_to_streams_that_showed_the_task(world: TaskWorld) -> None:
    wanted = TaskFilter(text="MINE")
    call = await world.opened(filter=wanted)
    mine, other = await world.create("mine"), await world.create("other")
    await world.delete(mine)
    await world.delete(other)
    await world.undelete(mine)
    assert [summary(message)[0] for message in await events(call, 3)] == [
        "CREATED",
        "DELETED",
        "UNDELETED",
    ]


async def test_jobs_and_suggestions_are_filtered_by_their_task(world: TaskWorld) -> None:
    call = await world.opened(filter=TaskFilter(labels=["infra"]))
    payload = Struct()
    payload.update({"message": "hello"})
    await suggest(world, await world.create("other", payload=payload))
    task = await world.create("mine", payload=payload, labels=["infra"])
    await suggest(world, task)
    change, job, suggestion = await events(call, 3)
    assert summary(change) == ("CREATED", "mine", 1)
    assert job.job.task_id == suggestion.suggestion.task_id == task.id


async def test_other_workspaces_are_never_shown(world: TaskWorld, services: Settings) -> None:
    async with a_task_world(services) as other:
        call = await world.opened()
        await other.create("foreign")
        await world.create("own")
        assert summary(await next_event(call)) == ("CREATED", "own", 1)
        stranger = world.watch(other.owner)
        refused = await ended(stranger)
        assert (refused.code, refused.resource) == (grpc.StatusCode.NOT_FOUND, "workspace")


async def test_cursors_of_other_workspaces_and_forged_ones_are_refused(
    world: TaskWorld, services: Settings
) -> None:
    cursor = (await next_message(world.watch())).cursor
    async with a_task_world(services) as other:
        foreign = (await next_message(other.watch())).cursor
    for bad in (foreign, cursor[:-2] + "AA", "x", "é", "=" * 1024):
        refused = await ended(world.watch(cursor=bad))
        assert refused.code == grpc.StatusCode.INVALID_ARGUMENT
        assert refused.reason == "INVALID_CURSOR"


async def test_a_snapshot_and_a_cursor_exclude_each_other(world: TaskWorld) -> None:
    refused = await ended(world.watch(cursor="x", snapshot=True))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


async def test_removing_a_member_ends_their_streams_and_nothing_later_is_sent(
    world: TaskWorld,
) -> None:
    ben = await world.member("ben")
    call = await world.opened(ben)
    stays = await world.opened()
    await world.create("before")
    await world.team.remove(world.owner, world.workspace_id, ben.id)
    await world.create("after")
    assert summary(await next_event(call))[1] == "before"
    after: list[WatchTasksResponse] = []
    refused = await ended(call, after)
    assert after == []
    assert refused.code == grpc.StatusCode.PERMISSION_DENIED
    assert refused.reason == "MEMBERSHIP_LOST"
    assert [summary(message)[1] for message in await events(stays, 2)] == ["before", "after"]
    assert (await ended(world.watch(ben))).code == grpc.StatusCode.NOT_FOUND


async def test_a_readded_member_resumes_past_their_removal(world: TaskWorld) -> None:
    ben = await world.member("ben")
    call = world.watch(ben)
    cursor = (await next_message(call)).cursor
    await world.team.remove(world.owner, world.workspace_id, ben.id)
    await ended(call)
    await world.create("meanwhile")
    await world.team.add(world.owner, world.workspace_id, ben.email, Role.ROLE_MEMBER)
    resumed = world.watch(ben, cursor=cursor)
    assert summary(await next_event(resumed))[1] == "meanwhile"


async def test_viewers_can_watch_tasks(world: TaskWorld) -> None:
    viewer = await world.member("vera", Role.ROLE_VIEWER)
    call = await world.opened(viewer)
    await world.create("seen")
    assert summary(await next_event(call))[1] == "seen"


@pytest.mark.parametrize("seed", range(4))
async def test_a_client_that_disconnects_anywhere_ends_with_the_same_tasks_as_the_list(
    world: TaskWorld, seed: int
) -> None:
    chance = random.Random(seed)
    mirror = Mirror()
    working = asyncio.create_task(_work(world, random.Random(seed + 100)))
    shown = done = False
    while not done:
        call = world.watch(cursor=mirror.cursor, snapshot=not mirror.snapshot_done)
        for _ in range(chance.randrange(1, 12)):
            message = await next_message(call)
            mirror.apply(message)
            # The stream may deliver the last change before its call returns.
            shown = shown or message.change.task.title == "end"
            done = shown and working.done()
            if done:
                break
        if not mirror.snapshot_done:
            # A snapshot can't be resumed in the middle; a new one replaces it.
            mirror.cursor = ""
            mirror.tasks.clear()
        call.cancel()
        await asyncio.sleep(chance.random() * 0.02)
    await working
    assert mirror.live() == await world.listed()
    assert mirror.resets == 0


async def _work(world: TaskWorld, chance: random.Random) -> None:
    """Make a hundred changes to a dozen tasks, several at once, then create a last task."""
    tasks = list(await asyncio.gather(*(world.create(str(n)) for n in range(12))))

    async def change(task: Task) -> None:
        for step in range(8):
            action = chance.choice((world.update, world.set_status, world.delete))
            try:
                if action is world.update:
                    await world.update(task, title=f"{task.title} {step}")
                elif action is world.set_status:
                    await world.set_status(task, chance.randrange(1, 5))
                else:
                    await world.delete(task)
                    if chance.random() < 0.7:
                        await world.undelete(task)
            except grpc.aio.AioRpcError as error:
                if read_refusal(error).reason not in {"TASK_DELETED", "RESOURCE_NOT_FOUND"}:
                    raise
                # A task that stays deleted refuses further changes with one of these reasons.
                return

    await asyncio.gather(*(change(task) for task in tasks))
    await world.create("end")


async def test_unknown_and_malformed_workspace_ids_are_refused_alike_for_everyone(
    world: TaskWorld,
) -> None:
    call = world.tasks.WatchTasks(WatchTasksRequest(workspace_id="nonsense"), metadata=world.me)
    assert (await ended(call)).code == grpc.StatusCode.INVALID_ARGUMENT
    unknown = await ended(world.watch(workspace_id="0197a3c8-0000-7000-8000-000000000000"))
    assert unknown.code == grpc.StatusCode.NOT_FOUND
    anonymous = world.tasks.WatchTasks(WatchTasksRequest(workspace_id=world.workspace_id))
    assert (await refusal(anonymous.read())).code == grpc.StatusCode.UNAUTHENTICATED
