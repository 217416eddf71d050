"""Promises about one task: created once, changed by field, deleted and undeleted, each with its event."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from sqlalchemy import text

from services.platform.config import Settings
from services.platform.data.db import Statement
from services.task.tasks.creation_queries import RESERVE_NUMBERS
from taskflow.task.v1 import task_pb2, task_service_pb2
from tests.integration.people import refusal
from tests.integration.roles_world import (
    People,
    RolesWorld,
    Task,
    due_date,
    people_of,
    roles_world_at,
    struct,
)

_Code = grpc.StatusCode
TODO = task_pb2.TASK_STATUS_TODO
DONE = task_pb2.TASK_STATUS_DONE
CANCELED = task_pb2.TASK_STATUS_CANCELED
IN_PROGRESS = task_pb2.TASK_STATUS_IN_PROGRESS

_HOLD_MEMBERSHIPS = Statement(text("SELECT FROM auth.members WHERE user_id = :user_id FOR UPDATE"))
_LOCK_TASK_AT_ONCE = Statement(
    text("SELECT FROM task.tasks WHERE id = :task_id FOR NO KEY UPDATE NOWAIT")
)
_SESSION = Statement(text("SELECT id FROM auth.sessions WHERE user_id = :user_id"))


@pytest.fixture(scope="module")
async def people(services: Settings) -> People:
    return await people_of(services)


@pytest.fixture
async def world(services: Settings, people: People) -> AsyncIterator[RolesWorld]:
    async with roles_world_at(services, people) as world:
        yield world


async def test_a_created_task_has_all_requested_values_and_sensible_defaults(
    world: RolesWorld,
) -> None:
    project = await world.project()
    task = await world.create(project, title="  Cafe\u0301 ")
    assert task.title == "Caf\u00e9"
    assert task.status == TODO
    assert task.priority == task_pb2.TASK_PRIORITY_UNSPECIFIED
    assert task.workspace_id == project.workspace_id
    assert task.creator_id == world.people.member.id
    assert (task.assignee_id, task.revision, task.text_revision) == ("", 1, 1)
    assert UUID(task.id).version == 7
    assert task.create_time == task.update_time
    assert not task.HasField("finish_time")
    assert not task.HasField("delete_time")
    assert not task.HasField("payload")

    parent = task
    full = await world.create(
        project,
        title="All of it",
        description="One\nline and another",
        status=DONE,
        priority=task_pb2.TASK_PRIORITY_HIGH,
        assignee_id=world.people.viewer.id,
        labels=["b", "a", " b ", "e\u0301", "\u00e9"],
        due=due_date(2031, 3, 5),
        payload=struct({"message": "hi", "deep": [{"a": None}]}),
        parent_id=parent.id,
    )
    assert full.labels == ["b", "a", "\u00e9"]
    assert full.HasField("finish_time")
    assert full.parent_id == parent.id
    assert full.payload == struct({"message": "hi", "deep": [{"a": None}]})
    assert await world.get(full.id) == full


async def test_server_assigned_fields_cannot_be_set(world: RolesWorld) -> None:
    project = await world.project()
    forged: dict[str, Any] = {
        "id": str(uuid4()),
        "workspace_id": str(uuid4()),
        "project_id": str(uuid4()),
        "creator_id": world.people.owner.id,
        "key": "X-1",
        "revision": 9,
        "text_revision": 9,
    }
    task = await world.create(project, **forged)
    assert all(getattr(task, name) != value for name, value in forged.items())
    del forged["id"]
    assert await world.update(task, "*", title=task.title, **forged) == task
    assert await world.update(task, *forged, **forged) == task


async def test_a_task_is_found_by_its_key_within_its_workspace(world: RolesWorld) -> None:
    project = await world.project()
    first, second = [await world.create(project) for _ in range(2)]
    assert (first.key, second.key) == ("OPS-1", "OPS-2")
    assert await world.get("OPS-2", project.workspace_id) == second
    other = await world.project()
    assert (await refusal(world.get("OPS-2", other.workspace_id))).code is _Code.NOT_FOUND
    without = await refusal(world.get("OPS-2"))
    assert (without.reason, without.fields) == ("INVALID_REQUEST", ["workspace_id"])
    for nothing in ("OPS-3", "OPSX-1", "OPS-999999999999999999"):
        assert (await refusal(world.get(nothing, project.workspace_id))).code is _Code.NOT_FOUND
    assert await world.get(first.id.upper(), project.workspace_id) == first
    assert (await refusal(world.get(first.id, other.workspace_id))).code is _Code.NOT_FOUND


async def test_numbers_of_concurrent_tasks_are_each_used_once(world: RolesWorld) -> None:
    project = await world.project()
    tasks = await asyncio.gather(*(world.create(project) for _ in range(60)))
    assert {task.key for task in tasks} == {f"OPS-{n}" for n in range(1, 61)}
    assert len({task.id for task in tasks}) == 60


async def test_concurrent_invalid_creates_are_refused_individually(world: RolesWorld) -> None:
    project, archived = await world.project(), await world.project()
    await world.archive(archived)
    other = await world.create(await world.project())
    request_id = str(uuid4())
    asked = [
        world.create(project, title="One"),
        world.create(archived),
        world.create(project, assignee_id=str(uuid4())),
        world.create(project, parent_id=other.id),
        world.create(project, by=world.people.stranger),
        world.create(project, by=world.people.viewer),
        world.create(project, title="Repeated", request_id=request_id),
        world.create(project, title="Repeated", request_id=request_id),
        world.create(project, title="Two", assignee_id=world.people.owner.id),
    ]
    one, *refused, first, again, two = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(one, Task)
    assert isinstance(first, Task)
    assert isinstance(two, Task)
    assert again == first
    reasons = [(await refusal(_raised(failure))).reason for failure in refused]
    assert reasons == [
        "PROJECT_ARCHIVED",
        "ASSIGNEE_NOT_MEMBER",
        "PARENT_INVALID",
        "RESOURCE_NOT_FOUND",
        "ROLE_TOO_LOW",
    ]
    # Two concurrent copies of a request may both reserve a number; then one number stays unused.
    assert len({one.key, first.key, two.key}) == 3
    assert len(await world.all(project.workspace_id)) == 3


async def _raised(failure: object) -> None:
    assert isinstance(failure, BaseException)
    raise failure


async def test_changing_an_open_task_does_not_wait_for_the_removal_of_its_assignee(
    world: RolesWorld,
) -> None:
    # The removal waits for the assignee's open tasks, so waiting for it would be a deadlock.
    project = await world.project()
    assignee = world.people.member
    task = await world.create(project, assignee_id=assignee.id)
    async with world.db.transaction() as tx:
        await tx.run(_HOLD_MEMBERSHIPS, user_id=UUID(assignee.id))
        async with asyncio.timeout(5):
            changed = await world.set_status(task, task_pb2.TASK_STATUS_IN_PROGRESS)
    assert changed.status == task_pb2.TASK_STATUS_IN_PROGRESS


@pytest.mark.parametrize("comeback", ["undelete", "reopen", "update"])
async def test_undeleting_a_task_waits_for_its_assignees_removal_before_locking_it(
    world: RolesWorld, comeback: str
) -> None:
    project = await world.project()
    assignee = world.people.member
    task = await world.create(project, assignee_id=assignee.id)
    if comeback == "undelete":
        await world.delete(task)
        back = world.undelete(task)
    elif comeback == "update":
        await world.set_status(task, DONE)
        back = world.update(task, status=task_pb2.TASK_STATUS_TODO)
    else:
        await world.set_status(task, DONE)
        back = world.set_status(task, task_pb2.TASK_STATUS_TODO)
    async with world.db.transaction() as removal:
        await removal.run(_HOLD_MEMBERSHIPS, user_id=UUID(assignee.id))
        waiting = asyncio.ensure_future(back)
        await asyncio.sleep(0.3)
        assert not waiting.done()
        # The removal locks the task next. It gets the lock at once, because the waiting call hasn't locked the task.
        await removal.run(_LOCK_TASK_AT_ONCE, task_id=UUID(task.id))
    assert (await waiting).assignee_id == assignee.id


async def test_creating_a_task_for_a_member_being_removed_delays_no_other_create(
    world: RolesWorld,
) -> None:
    workspace = await world.workspace()
    leaving = await world.newcomer(workspace)
    project = await world.project(workspace)
    async with world.db.transaction() as removal:
        await removal.run(_HOLD_MEMBERSHIPS, user_id=UUID(leaving.id))
        waiting = asyncio.ensure_future(world.create(project, assignee_id=leaving.id))
        await asyncio.sleep(0.1)
        async with asyncio.timeout(5):
            await asyncio.gather(*(world.create(project) for _ in range(20)))
        assert not waiting.done()
    assert (await waiting).assignee_id == leaving.id


async def test_reserving_a_number_keeps_the_commit_of_the_task_durable(world: RolesWorld) -> None:
    setting = Statement(text("SHOW synchronous_commit"))
    project = await world.project()
    async with world.db.read() as tx:
        member = UUID(world.people.member.id)
        session = await tx.one(_SESSION, user_id=member)
        assert session
        asked = {
            "n": 0,
            "project_id": project.id,
            "caller_id": str(member),
            "session_id": str(session.id),
            "needs": 0,
        }
        place = await tx.one(RESERVE_NUMBERS, input_rows=json.dumps([asked]))
        assert place
        assert place.number == 1
        assert await tx.one(setting) == ("on",)
    assert (await world.create(project)).key == "OPS-2"


async def test_every_change_emits_an_event_with_its_new_revision(world: RolesWorld) -> None:
    project = await world.project()
    task = await world.create(project, title="One")
    changed = await world.update(task, title="Two", labels=["x"])
    await world.set_status(task, DONE)
    await world.delete(task)
    last = await world.undelete(task)
    events = await world.events(task.id)
    assert [event.type for event in events] == [
        "task.created",
        "task.updated",
        "task.updated",
        "task.deleted",
        "task.undeleted",
    ]
    assert [event.revision for event in events] == [1, 2, 3, 4, 5]
    assert {event.workspace_id for event in events} == {project.workspace_id}
    assert {event.actor_id for event in events} == {world.people.member.id}
    assert events[0].task_created.task == task
    updated = events[1].task_updated
    assert updated.task == changed
    assert updated.before == Task(title="One")
    assert list(updated.changed_fields.paths) == ["labels", "title"]
    assert list(events[2].task_updated.changed_fields.paths) == ["status"]
    assert events[2].task_updated.before == Task(status=TODO)
    assert events[4].task_undeleted.task == last


async def test_an_update_without_changes_emits_no_event_and_keeps_the_revision(
    world: RolesWorld,
) -> None:
    project = await world.project()
    task = await world.create(
        project,
        title="Same",
        labels=["a"],
        due=due_date(2030, 1, 1),
        payload=struct({"n": 1e300}),
        assignee_id=world.people.owner.id,
    )
    before = len(await world.events(task.id))
    assert await world.update(task, "*", **_writable(task)) == task
    assert await world.set_status(task, TODO) == task
    assert await world.assign(task, world.people.owner.id) == task
    assert await world.update(task) == task
    assert await world.get(task.id) == task
    assert len(await world.events(task.id)) == before


def _writable(task: Task) -> dict[str, Any]:
    names = (
        *("title", "description", "status", "priority", "assignee_id"),
        *("labels", "due", "payload", "parent_id"),
    )
    return {name: getattr(task, name) for name in names}


async def test_a_mask_names_the_fields_to_set_and_to_clear(world: RolesWorld) -> None:
    project = await world.project()
    task = await world.create(
        project,
        title="Title",
        description="Text",
        status=IN_PROGRESS,
        priority=task_pb2.TASK_PRIORITY_LOW,
        labels=["a"],
        due=due_date(2030, 1, 1),
        payload=struct({}),
        assignee_id=world.people.owner.id,
    )
    # Without a mask, the populated fields are set.
    after = await world.update(task, description="New")
    assert (after.title, after.description, list(after.labels)) == ("Title", "New", ["a"])
    # Only named fields are set, and cleared where empty.
    after = await world.update(
        task, "labels", "due", "payload", "assignee_id", "priority", title="No"
    )
    assert after.title == "Title"
    assert (list(after.labels), after.assignee_id, after.priority) == ([], "", 0)
    assert not any(after.HasField(name) for name in ("due", "due_time", "payload"))
    # A star replaces all fields, with defaults for missing ones.
    after = await world.update(task, "*", title="Replaced")
    assert (after.title, after.description, after.status) == ("Replaced", "", TODO)
    # A path below a field means the whole field; output-only fields are ignored.
    after = await world.update(task, "due.date", "update_time", due=due_date(2030, 2, 2))
    assert after.due == due_date(2030, 2, 2)
    for mask in (["nothing"], ["title", "no.such"], ["*", "title"]):
        failed = await refusal(world.update(task, *mask, title="x"))
        assert (failed.reason, failed.fields) == ("INVALID_REQUEST", ["update_mask"])
    for mask in (["title"], ["*"]):
        failed = await refusal(world.update(task, *mask))
        assert (failed.reason, failed.fields) == ("INVALID_REQUEST", ["task.title"])


async def test_only_text_changes_raise_the_text_revision(world: RolesWorld) -> None:
    task = await world.create(await world.project())
    task = await world.update(task, labels=["a"])
    assert (task.revision, task.text_revision) == (2, 1)
    task = await world.update(task, description="More")
    assert (task.revision, task.text_revision) == (3, 2)
    task = await world.update(task, title="Other", description="Other")
    assert (task.revision, task.text_revision) == (4, 3)


async def test_finish_time_follows_the_status(world: RolesWorld) -> None:
    task = await world.create(await world.project())
    done = await world.set_status(task, DONE)
    assert done.finish_time == done.update_time
    canceled = await world.set_status(task, CANCELED)
    assert canceled.finish_time == done.finish_time
    reopened = await world.set_status(task, IN_PROGRESS)
    assert not reopened.HasField("finish_time")
    again = await world.update(task, "status", status=DONE)
    assert again.HasField("finish_time")
    assert not (await world.update(task, "status")).HasField("finish_time")


async def test_a_deleted_task_is_shown_only_on_request(world: RolesWorld) -> None:
    project = await world.project()
    task = await world.create(project)
    deleted = await world.delete(task)
    assert deleted.HasField("delete_time")
    assert await world.get(task.id) == deleted
    assert await world.get(task.key, project.workspace_id) == deleted
    assert await world.all(project.workspace_id) == []
    everything = task_pb2.TaskFilter(include_deleted=True)
    assert await world.all(project.workspace_id, filter=everything) == [deleted]
    assert (await refusal(world.delete(task))).code is _Code.NOT_FOUND
    for write in (
        world.update(task, title="x"),
        world.assign(task, world.people.owner.id),
        world.set_status(task, DONE),
    ):
        failed = await refusal(write)
        assert (failed.code, failed.reason) == (_Code.FAILED_PRECONDITION, "TASK_DELETED")
    back = await world.undelete(task)
    assert not back.HasField("delete_time")
    assert await world.all(project.workspace_id) == [back]
    failed = await refusal(world.undelete(task))
    assert (failed.code, failed.reason) == (_Code.ALREADY_EXISTS, "TASK_NOT_DELETED")


async def test_a_stale_etag_is_refused_and_the_current_one_returned(world: RolesWorld) -> None:
    task = await world.create(await world.project())
    other = await world.create(await world.project())
    now = await world.update(task, title="New", etag=task.etag)
    assert now.etag != task.etag
    for etag in (task.etag, other.etag, "x"):
        for write in (
            world.update(task, title="x", etag=etag),
            world.assign(task, world.people.owner.id, etag=etag),
            world.set_status(task, DONE, etag=etag),
            world.delete(task, etag=etag),
        ):
            failed = await refusal(write)
            assert (failed.code, failed.reason) == (_Code.ABORTED, "ETAG_MISMATCH")
            assert failed.metadata == {"etag": now.etag}
    assert await world.get(task.id) == now
    assert (await world.delete(task, etag=now.etag)).HasField("delete_time")


async def test_of_concurrent_changes_with_one_etag_one_wins(world: RolesWorld) -> None:
    task = await world.create(await world.project())
    results = await asyncio.gather(
        *(world.update(task, title=f"Title {n}", etag=task.etag) for n in range(10)),
        return_exceptions=True,
    )
    won = [result for result in results if isinstance(result, Task)]
    assert len(won) == 1
    assert await world.get(task.id) == won[0]


async def test_concurrent_changes_of_different_fields_all_take_effect(world: RolesWorld) -> None:
    task = await world.create(await world.project())
    await asyncio.gather(
        world.update(task, title="Title"),
        world.update(task, description="Text"),
        world.update(task, labels=["a"]),
        world.set_status(task, IN_PROGRESS),
        world.assign(task, world.people.owner.id),
    )
    after = await world.get(task.id)
    assert (after.title, after.description, list(after.labels)) == ("Title", "Text", ["a"])
    assert (after.status, after.assignee_id) == (IN_PROGRESS, world.people.owner.id)
    assert after.revision == 6
    assert [event.revision for event in await world.events(task.id)] == [1, 2, 3, 4, 5, 6]


async def test_a_repeated_create_has_the_first_answer(world: RolesWorld) -> None:
    project = await world.project()
    request_id = str(uuid4())
    first = await world.create(project, request_id=request_id, title="Once")
    await world.update(first, title="Changed since")
    assert await world.create(project, request_id=request_id, title="Once") == first
    failed = await refusal(world.create(project, request_id=request_id, title="Twice"))
    assert (failed.code, failed.reason) == (_Code.INVALID_ARGUMENT, "REQUEST_ID_REUSED")
    assert failed.metadata == {"request_id": request_id}
    # Request ids are separate per caller.
    theirs = await world.create(project, by=world.people.owner, request_id=request_id, title="Once")
    assert theirs.id != first.id
    # The repeat gets the first answer even if a new create would fail by now.
    await world.archive(project)
    assert await world.create(project, request_id=request_id, title="Once") == first


async def test_a_create_that_only_validates_creates_nothing_and_fails_like_a_create(
    world: RolesWorld,
) -> None:
    project = await world.project()
    wanted = task_service_pb2.CreateTaskRequest(
        project_id=project.id, task=Task(title="Once"), request_id=str(uuid4()), validate_only=True
    )

    async def validate() -> task_service_pb2.CreateTaskResponse:
        return await world.tasks.CreateTask(wanted, metadata=world.people.member.credentials)

    assert not (await validate()).HasField("task")
    listing = task_service_pb2.ListTasksRequest(workspace_id=project.workspace_id)
    listed = await world.tasks.ListTasks(listing, metadata=world.people.member.credentials)
    assert not listed.tasks
    created = await world.create(project, request_id=wanted.request_id, title="Once")
    assert created.key == "OPS-1"
    assert (await validate()).task == created
    wanted.task.assignee_id = world.people.stranger.id
    wanted.request_id = str(uuid4())
    refused = await refusal(validate())
    assert refused.reason == "ASSIGNEE_NOT_MEMBER"
    wanted.task.assignee_id = ""
    wanted.task.title = " "
    refused = await refusal(validate())
    assert (refused.reason, refused.fields) == ("INVALID_REQUEST", ["task.title"])
    with pytest.raises(grpc.aio.AioRpcError):
        await world.tasks.CreateTask(wanted, metadata=world.people.viewer.credentials)


async def test_concurrent_duplicates_of_a_create_create_one_task(world: RolesWorld) -> None:
    project = await world.project()
    request_id = str(uuid4())
    answers = await asyncio.gather(
        *(
            world.create(project, request_id=request_id, payload=struct({"message": "hi"}))
            for _ in range(12)
        )
    )
    assert len({answer.id for answer in answers}) == 1
    assert await world.all(project.workspace_id) == [answers[0]]
    assert len(await world.events(answers[0].id)) == 1


async def test_a_payload_creates_a_job_each_time_it_is_set(world: RolesWorld) -> None:
    project = await world.project()

    async def jobs(task: Task) -> int:
        return sum(
            event.job_changed.job.task_id == task.id
            for event in await world.events("")
            if event.type == "job.created"
        )

    task = await world.create(project, payload=struct({"message": "one"}))
    assert await jobs(task) == 1
    await world.update(task, title="Other")
    assert await jobs(task) == 1
    await world.update(task, payload=struct({"message": "two"}))
    assert await jobs(task) == 2
    await world.update(task, "payload")
    assert await jobs(task) == 2
    plain = await world.create(project)
    assert await jobs(plain) == 0


def _nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {"x": 1}
    for _ in range(levels - 1):
        value = {"x": value}
    return value


def _lists(levels: int) -> dict[str, Any]:
    value: Any = 1
    for _ in range(levels - 1):
        value = [value]
    return {"x": value}


async def test_a_payload_with_true_in_place_of_1_is_a_change(world: RolesWorld) -> None:
    task = await world.create(await world.project(), payload=struct({"flag": 1}))
    changed = await world.update(task, payload=struct({"flag": True}))
    assert changed.payload == struct({"flag": True})
    assert (await world.get(task.id)).payload == struct({"flag": True})


@pytest.mark.parametrize(
    "value",
    [
        _nested(16),
        _lists(16),
        {"text": "\u202e \ud7ff \U0010ffff", "": 0.1, "big": -1.7976931348623157e308},
        {"x": "a" * 65_000},
        {"small": 5e-324, "list": [], "object": {}, "none": None, "yes": True},
    ],
)
async def test_a_payload_is_returned_unchanged(world: RolesWorld, value: dict[str, Any]) -> None:
    task = await world.create(await world.project(), payload=struct(value))
    assert (await world.get(task.id)).payload == struct(value)


@pytest.mark.parametrize(
    "value",
    [
        _nested(17),
        _lists(17),
        {"x": "a" * 66_000},
        {"x": "a\0b"},
        {"a\0b": 1},
        {"x": float("nan")},
        {"x": [float("inf")]},
    ],
)
async def test_a_payload_that_cannot_be_stored_is_refused(
    world: RolesWorld, value: dict[str, Any]
) -> None:
    project = await world.project()
    failed = await refusal(world.create(project, payload=struct(value)))
    assert (failed.reason, failed.fields) == ("INVALID_REQUEST", ["task.payload"])
    task = await world.create(project)
    failed = await refusal(world.update(task, payload=struct(value)))
    assert (failed.reason, failed.fields) == ("INVALID_REQUEST", ["task.payload"])


async def test_a_payload_value_without_a_kind_is_refused(world: RolesWorld) -> None:
    payload = struct({})
    payload.fields["x"].SetInParent()
    failed = await refusal(world.create(await world.project(), payload=payload))
    assert (failed.reason, failed.fields) == ("INVALID_REQUEST", ["task.payload"])


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("task.title", {"title": " \u00a0\u3000"}),
        ("task.title", {"title": "a\u202eb"}),
        ("task.title", {"title": "a\u2028b"}),
        ("task.title", {"title": "a\u2029b"}),
        *(("task.title", {"title": blank}) for blank in ("\u200b", "\u3164", "\ufeff", "\u00ad")),
        ("task.labels[0]", {"labels": ["\u200b"]}),
        ("task.title", {"title": "a\nb"}),
        ("task.title", {"title": "a" * 256}),
        # 100 characters, but 300 in NFC: over the limit.
        ("task.title", {"title": "\U0001d160" * 100}),
        ("task.description", {"description": "a\0"}),
        ("task.description", {"description": "a" * 20_001}),
        ("task.labels[1]", {"labels": ["a", " "]}),
        ("task.labels[0]", {"labels": ["a" * 65]}),
        ("task.labels", {"labels": [str(n) for n in range(21)]}),
        ("task.assignee_id", {"assignee_id": "nobody"}),
        ("task.status", {"status": 77}),
        ("task.priority", {"priority": -1}),
        ("task.due", {"due": task_pb2.Due()}),
    ],
)
async def test_invalid_values_are_refused_with_the_field_name(
    world: RolesWorld, field: str, fields: dict[str, Any]
) -> None:
    project = await world.project()
    failed = await refusal(world.create(project, **fields))
    assert (failed.code, failed.reason) == (_Code.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert failed.fields[0].startswith(field)
    task = await world.create(project)
    failed = await refusal(world.update(task, **fields))
    assert (failed.code, failed.reason) == (_Code.INVALID_ARGUMENT, "INVALID_REQUEST")


async def test_a_parent_must_be_a_live_task_of_the_same_project_and_no_descendant(
    world: RolesWorld,
) -> None:
    project = await world.project()
    elsewhere = await world.create(await world.project(project.workspace_id, "OTHER"))
    deleted = await world.create(project)
    await world.delete(deleted)
    root = await world.create(project)
    child = await world.create(project, parent_id=root.id)
    grandchild = await world.create(project, parent_id=child.id)
    for wrong in (elsewhere.id, deleted.id, str(uuid4())):
        for write in (
            world.create(project, parent_id=wrong),
            world.update(root, parent_id=wrong),
        ):
            failed = await refusal(write)
            assert (failed.code, failed.reason) == (_Code.FAILED_PRECONDITION, "PARENT_INVALID")
    for below in (root, child, grandchild):
        failed = await refusal(world.update(root, parent_id=below.id))
        assert failed.reason == "PARENT_INVALID"
    moved = await world.update(grandchild, parent_id=root.id)
    assert moved.parent_id == root.id
    assert not (await world.update(grandchild, "parent_id")).parent_id
    # A parent that is deleted later stays the parent.
    await world.delete(root)
    assert (await world.update(child, title="Still there")).parent_id == root.id


async def test_concurrent_changes_never_create_a_cycle_of_parents(world: RolesWorld) -> None:
    project = await world.project()
    for _ in range(10):
        tasks = [await world.create(project) for _ in range(4)]
        around = zip(tasks, [*tasks[1:], tasks[0]], strict=True)
        results = await asyncio.gather(
            *(world.update(task, parent_id=parent.id) for task, parent in around),
            return_exceptions=True,
        )
        assert sum(isinstance(result, Task) for result in results) == 3
