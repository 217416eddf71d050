"""A member with very many open tasks is removed, while the processes that unassign them are killed."""

import asyncio
import time
from typing import Final

import grpc
import grpc.aio

from taskflow.auth.v1.workspace_pb2 import ROLE_MEMBER
from taskflow.auth.v1.workspace_service_pb2 import AddMemberRequest, RemoveMemberRequest
from taskflow.notification.v1.notification_service_pb2 import ListNotificationsRequest
from taskflow.task.v1.task_pb2 import Task, TaskFilter
from taskflow.task.v1.task_service_pb2 import CreateTaskRequest, GetTaskRequest, ListTasksRequest
from tests.faults.harness import injectors
from tests.faults.harness.scenario import Run, Tally
from tests.faults.harness.world import SeededPerson, World, a_world

PROMISE = "A removal takes effect at once, however much the member had"
LIMIT_SECONDS = {"short": 150.0, "long": 1800.0}

# Tasks with a notification, besides those that are written without events.
_NOTIFIED: Final = 10
# Seconds in which the removal has to be answered.
_PROMPT: Final = 1.0
_DEADLINE: Final = 20.0
_PATIENCE: Final = {"short": 60.0, "long": 900.0}
# Seconds between two looks.
_LOOK: Final = 0.3

_VICTIMS: Final = ("task", "task-2", "notification", "relay", "worker")
_PASSING: Final = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)


async def run(run: Run, tally: Tally) -> None:
    count = run.choose(3_000, 100_000)
    async with a_world(run, people=2) as world:
        owner, leaver = world.people
        ids = await world.write_tasks(count)
        await _create_notified(world, leaver)
        async with injectors.killing(run, _VICTIMS, run.choose(1.0, 7.0), tally):
            removed = await _remove(world, leaver, tally)
            until = time.monotonic() + _PATIENCE[run.profile]
            while await _left(world, leaver) and time.monotonic() < until:
                tally.leaked += await _seen(world, owner, leaver, run.random.choice(ids))
                tally.operations += 1
                await asyncio.sleep(_LOOK)
        tally.recovered_after(time.monotonic() - removed)
        tally.lost = await _left(world, leaver)
        tally.doubled = await _events(world) - (count + _NOTIFIED - tally.lost)
        tally.leaked += await _mails(world, leaver)
        await _add_again(world, leaver)
        tally.leaked += len((await _notifications(world, leaver)) or ())
        tally.leaked += await _seen(world, owner, leaver, run.random.choice(ids))
    tally.operations += count
    tally.figures["the removal"] = f"{count + _NOTIFIED} open tasks"


async def _create_notified(world: World, leaver: SeededPerson) -> None:
    for number in range(_NOTIFIED):
        await world.stubs.tasks.CreateTask(
            CreateTaskRequest(
                project_id=world.project, task=Task(title=f"Sluice {number}", assignee_id=leaver.id)
            ),
            metadata=world.people[0].credentials,
        )
    async with asyncio.timeout(_DEADLINE):
        while len(await _notifications(world, leaver) or ()) < _NOTIFIED:
            await asyncio.sleep(_LOOK)


async def _remove(world: World, leaver: SeededPerson, tally: Tally) -> float:
    """Returns when it was answered. The auth service isn't killed, so the first call has to succeed."""
    started = time.monotonic()
    await world.stubs.workspaces.RemoveMember(
        RemoveMemberRequest(workspace_id=world.workspace.id, user_id=leaver.id),
        metadata=world.people[0].credentials,
        timeout=_DEADLINE,
    )
    answered = time.monotonic()
    tally.figures["the removal was answered after"] = f"{answered - started:.2f} s"
    tally.expect_speed(
        answered - started <= _PROMPT, f"the removal took {answered - started:.1f} s"
    )
    return answered


async def _left(world: World, leaver: SeededPerson) -> int:
    [[count]] = await world.fetch(
        "SELECT count(*) FROM task.tasks WHERE workspace_id = %(workspace)s AND assignee_id = %(user)s",
        {"workspace": world.workspace.id, "user": leaver.id},
    )
    return int(count)


async def _events(world: World) -> int:
    """Each unassignment has one event; nothing else updates tasks."""
    [[count]] = await world.fetch(
        "SELECT count(*) FROM platform.outbox WHERE subject = %(subject)s",
        {"subject": f"taskflow.{world.workspace.id}.task.updated"},
    )
    return int(count)


async def _mails(world: World, leaver: SeededPerson) -> int:
    """Mails that were begun after the removal."""
    [[count]] = await world.fetch(
        """
        SELECT count(*) FROM notification.email_batches AS mail, notification.former_members AS former
        WHERE mail.user_id = %(user)s AND former.user_id = %(user)s AND mail.created_at > former.removed_at
        """,
        {"user": leaver.id},
    )
    return int(count)


async def _seen(world: World, owner: SeededPerson, leaver: SeededPerson, task_id: str) -> int:
    """What the former member sees of the workspace, and what still shows them as an assignee."""
    tasks, workspace = world.stubs.tasks, world.workspace.id
    theirs = TaskFilter(assignee_ids=[leaver.id])
    asked = await asyncio.gather(
        tasks.GetTask(GetTaskRequest(id=task_id), metadata=leaver.credentials, timeout=_DEADLINE),
        tasks.GetTask(GetTaskRequest(id=task_id), metadata=owner.credentials, timeout=_DEADLINE),
        tasks.ListTasks(
            ListTasksRequest(workspace_id=workspace, filter=theirs),
            metadata=owner.credentials,
            timeout=_DEADLINE,
        ),
        _notifications(world, leaver),
        return_exceptions=True,
    )
    own, shown, listed, notified = asked
    for answer in asked:
        if isinstance(answer, BaseException) and not _expected(answer):
            raise answer
    return (
        (not isinstance(own, BaseException) and await _is_member(world, leaver) == 0)
        + (not isinstance(shown, BaseException) and shown.task.assignee_id != "")
        + (0 if isinstance(listed, BaseException) else len(listed.tasks))
        + (0 if isinstance(notified, BaseException) else len(notified or ()))
    )


def _expected(error: BaseException) -> bool:
    """Of a killed process, or of a user who isn't a member."""
    return isinstance(error, grpc.aio.AioRpcError) and (
        error.code() in _PASSING or error.code() is grpc.StatusCode.NOT_FOUND
    )


async def _is_member(world: World, leaver: SeededPerson) -> int:
    [[count]] = await world.fetch(
        "SELECT count(*) FROM auth.members WHERE workspace_id = %(workspace)s AND user_id = %(user)s",
        {"workspace": world.workspace.id, "user": leaver.id},
    )
    return int(count)


async def _notifications(world: World, person: SeededPerson) -> list[str] | None:
    """The titles that the person's list shows; None while its process is down."""
    try:
        page = await world.stubs.notifications.ListNotifications(
            ListNotificationsRequest(page_size=100), metadata=person.credentials, timeout=_DEADLINE
        )
    except grpc.aio.AioRpcError as error:
        if error.code() in _PASSING:
            return None
        raise
    return [each.task_title for each in page.notifications]


async def _add_again(world: World, leaver: SeededPerson) -> None:
    await world.stubs.workspaces.AddMember(
        AddMemberRequest(workspace_id=world.workspace.id, email=leaver.email, role=ROLE_MEMBER),
        metadata=world.people[0].credentials,
        timeout=_DEADLINE,
    )
