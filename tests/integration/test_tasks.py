"""Promises about one task: created once, changed field by field, deleted and brought back, each with its event."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from sqlalchemy import text

from services.platform.config import Settings
from services.platform.db import Statement
from services.task.creation_queries import TAKE_PLACES
from taskflow.task.v1 import task_pb2
from tests.integration.desk import Desk, People, Task, desk_at, due_date, people_of, struct
from tests.integration.people import refusal

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
async def desk(services: Settings, people: People) -> AsyncIterator[Desk]:
    async with desk_at(services, people) as desk:
        yield desk


async def test_a_created_task_has_all_that_was_said_and_sensible_defaults(desk: Desk) -> None:
    project = await desk.project()
    task = await desk.create(project, title="  Cafe\u0301 ")
    assert task.title == "Caf\u00e9"
    assert task.status == TODO
    assert task.priority == task_pb2.TASK_PRIORITY_UNSPECIFIED
    assert task.workspace_id == project.workspace_id
    assert task.creator_id == desk.people.member.id
    assert (task.assignee_id, task.revision, task.text_revision) == ("", 1, 1)
    assert UUID(task.id).version == 7
    assert task.create_time == task.update_time
    assert not task.HasField("finish_time")
    assert not task.HasField("delete_time")
    assert not task.HasField("payload")

    parent = task
    full = await desk.create(
        project,
        title="All of it",
        description="One\nline and another",
        status=DONE,
        priority=task_pb2.TASK_PRIORITY_HIGH,
        assignee_id=desk.people.viewer.id,
        labels=["b", "a", " b ", "e\u0301", "\u00e9"],
        due=due_date(2031, 3, 5),
        payload=struct({"message": "hi", "deep": [{"a": None}]}),
        parent_id=parent.id,
    )
    assert full.labels == ["b", "a", "\u00e9"]
    assert full.HasField("finish_time")
    assert full.parent_id == parent.id
    assert full.payload == struct({"message": "hi", "deep": [{"a": None}]})
    assert await desk.get(full.id) == full


async def test_what_the_server_gives_cannot_be_set(desk: Desk) -> None:
    project = await desk.project()
    forged: dict[str, Any] = {
        "id": str(uuid4()),
        "workspace_id": str(uuid4()),
        "project_id": str(uuid4()),
        "creator_id": desk.people.owner.id,
        "key": "X-1",
        "revision": 9,
        "text_revision": 9,
    }
    task = await desk.create(project, **forged)
    assert all(getattr(task, name) != value for name, value in forged.items())
    del forged["id"]
    assert await desk.update(task, "*", title=task.title, **forged) == task
    assert await desk.update(task, *forged, **forged) == task


async def test_a_task_is_found_by_its_key_within_its_workspace(desk: Desk) -> None:
    project = await desk.project()
    first, second = [await desk.create(project) for _ in range(2)]
    assert (first.key, second.key) == ("OPS-1", "OPS-2")
    assert await desk.get("OPS-2", project.workspace_id) == second
    other = await desk.project()
    assert (await refusal(desk.get("OPS-2", other.workspace_id))).code is _Code.NOT_FOUND
    without = await refusal(desk.get("OPS-2"))
    assert (without.reason, without.fields) == ("INVALID_REQUEST", ["workspace_id"])
    for nothing in ("OPS-3", "OPSX-1", "OPS-999999999999999999"):
        assert (await refusal(desk.get(nothing, project.workspace_id))).code is _Code.NOT_FOUND
    assert await desk.get(first.id.upper(), project.workspace_id) == first
    assert (await refusal(desk.get(first.id, other.workspace_id))).code is _Code.NOT_FOUND


async def test_numbers_of_concurrent_tasks_are_each_used_once(desk: Desk) -> None:
    project = await desk.project()
    tasks = await asyncio.gather(*(desk.create(project) for _ in range(60)))
    assert {task.key for task in tasks} == {f"OPS-{n}" for n in range(1, 61)}
    assert len({task.id for task in tasks}) == 60


async def test_tasks_that_are_asked_for_at_once_are_refused_one_by_one(desk: Desk) -> None:
    project, archived = await desk.project(), await desk.project()
    await desk.archive(archived)
    other = await desk.create(await desk.project())
    request_id = str(uuid4())
    asked = [
        desk.create(project, title="One"),
        desk.create(archived),
        desk.create(project, assignee_id=str(uuid4())),
        desk.create(project, parent_id=other.id),
        desk.create(project, by=desk.people.stranger),
        desk.create(project, by=desk.people.viewer),
        desk.create(project, title="Repeated", request_id=request_id),
        desk.create(project, title="Repeated", request_id=request_id),
        desk.create(project, title="Two", assignee_id=desk.people.owner.id),
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
    # Of a request that comes twice at once both may take a number, and one is left out then.
    assert len({one.key, first.key, two.key}) == 3
    assert len(await desk.all(project.workspace_id)) == 3


async def _raised(failure: object) -> None:
    assert isinstance(failure, BaseException)
    raise failure


async def test_changing_an_open_task_does_not_wait_for_the_removal_of_its_assignee(
    desk: Desk,
) -> None:
    # The removal waits for the assignee's open tasks: the two would wait for each other.
    project = await desk.project()
    assignee = desk.people.member
    task = await desk.create(project, assignee_id=assignee.id)
    async with desk.db.transaction() as tx:
        await tx.run(_HOLD_MEMBERSHIPS, user_id=UUID(assignee.id))
        async with asyncio.timeout(5):
            changed = await desk.set_status(task, task_pb2.TASK_STATUS_IN_PROGRESS)
    assert changed.status == task_pb2.TASK_STATUS_IN_PROGRESS


@pytest.mark.parametrize("comeback", ["undelete", "reopen", "update"])
async def test_a_task_that_comes_back_waits_for_the_removal_of_its_assignee_before_it_is_locked(
    desk: Desk, comeback: str
) -> None:
    project = await desk.project()
    assignee = desk.people.member
    task = await desk.create(project, assignee_id=assignee.id)
    if comeback == "undelete":
        await desk.delete(task)
        back = desk.undelete(task)
    elif comeback == "update":
        await desk.set_status(task, DONE)
        back = desk.update(task, status=task_pb2.TASK_STATUS_TODO)
    else:
        await desk.set_status(task, DONE)
        back = desk.set_status(task, task_pb2.TASK_STATUS_TODO)
    async with desk.db.transaction() as removal:
        await removal.run(_HOLD_MEMBERSHIPS, user_id=UUID(assignee.id))
        waiting = asyncio.ensure_future(back)
        await asyncio.sleep(0.3)
        assert not waiting.done()
        # What a removal does next: it doesn't wait for who waits for it.
        await removal.run(_LOCK_TASK_AT_ONCE, task_id=UUID(task.id))
    assert (await waiting).assignee_id == assignee.id


async def test_creating_for_somebody_who_is_being_removed_keeps_nobody_else_waiting(
    desk: Desk,
) -> None:
    workspace = await desk.workspace()
    leaving = await desk.newcomer(workspace)
    project = await desk.project(workspace)
    async with desk.db.transaction() as removal:
        await removal.run(_HOLD_MEMBERSHIPS, user_id=UUID(leaving.id))
        waiting = asyncio.ensure_future(desk.create(project, assignee_id=leaving.id))
        await asyncio.sleep(0.1)
        async with asyncio.timeout(5):
            await asyncio.gather(*(desk.create(project) for _ in range(20)))
        assert not waiting.done()
    assert (await waiting).assignee_id == leaving.id


async def test_taking_a_number_leaves_the_commit_of_the_task_durable(desk: Desk) -> None:
    setting = Statement(text("SHOW synchronous_commit"))
    project = await desk.project()
    async with desk.db.read() as tx:
        member = UUID(desk.people.member.id)
        session = await tx.one(_SESSION, user_id=member)
        assert session
        asked = {
            "n": 0,
            "project_id": project.id,
            "caller_id": str(member),
            "session_id": str(session.id),
            "needs": 0,
        }
        place = await tx.one(TAKE_PLACES, given=json.dumps([asked]))
        assert place
        assert place.number == 1
        assert await tx.one(setting) == ("on",)
    assert (await desk.create(project)).key == "OPS-2"


async def test_every_change_has_its_event_with_the_revision_it_made(desk: Desk) -> None:
    project = await desk.project()
    task = await desk.create(project, title="One")
    changed = await desk.update(task, title="Two", labels=["x"])
    await desk.set_status(task, DONE)
    await desk.delete(task)
    last = await desk.undelete(task)
    events = await desk.events(task.id)
    assert [event.type for event in events] == [
        "task.created",
        "task.updated",
        "task.updated",
        "task.deleted",
        "task.undeleted",
    ]
    assert [event.revision for event in events] == [1, 2, 3, 4, 5]
    assert {event.workspace_id for event in events} == {project.workspace_id}
    assert {event.actor_id for event in events} == {desk.people.member.id}
    assert events[0].task_created.task == task
    updated = events[1].task_updated
    assert updated.task == changed
    assert updated.before == Task(title="One")
    assert list(updated.changed_fields.paths) == ["labels", "title"]
    assert list(events[2].task_updated.changed_fields.paths) == ["status"]
    assert events[2].task_updated.before == Task(status=TODO)
    assert events[4].task_undeleted.task == last


async def test_what_changes_nothing_leaves_no_trace(desk: Desk) -> None:
    project = await desk.project()
    task = await desk.create(
        project,
        title="Same",
        labels=["a"],
        due=due_date(2030, 1, 1),
        payload=struct({"n": 1e300}),
        assignee_id=desk.people.owner.id,
    )
    before = len(await desk.events(task.id))
    assert await desk.update(task, "*", **_writable(task)) == task
    assert await desk.set_status(task, TODO) == task
    assert await desk.assign(task, desk.people.owner.id) == task
    assert await desk.update(task) == task
    assert await desk.get(task.id) == task
    assert len(await desk.events(task.id)) == before


def _writable(task: Task) -> dict[str, Any]:
    names = (
        *("title", "description", "status", "priority", "assignee_id"),
        *("labels", "due", "payload", "parent_id"),
    )
    return {name: getattr(task, name) for name in names}


async def test_a_mask_says_what_is_set_and_what_is_cleared(desk: Desk) -> None:
    project = await desk.project()
    task = await desk.create(
        project,
        title="Title",
        description="Text",
        status=IN_PROGRESS,
        priority=task_pb2.TASK_PRIORITY_LOW,
        labels=["a"],
        due=due_date(2030, 1, 1),
        payload=struct({}),
        assignee_id=desk.people.owner.id,
    )
    # Without a mask: what is set.
    after = await desk.update(task, description="New")
    assert (after.title, after.description, list(after.labels)) == ("Title", "New", ["a"])
    # Only what is named, and cleared where it's empty.
    after = await desk.update(
        task, "labels", "due", "payload", "assignee_id", "priority", title="No"
    )
    assert after.title == "Title"
    assert (list(after.labels), after.assignee_id, after.priority) == ([], "", 0)
    assert not any(after.HasField(name) for name in ("due", "due_time", "payload"))
    # All: replaced, with the default where nothing is said.
    after = await desk.update(task, "*", title="Replaced")
    assert (after.title, after.description, after.status) == ("Replaced", "", TODO)
    # A path below a field means the field; output-only ones are passed over.
    after = await desk.update(task, "due.date", "update_time", due=due_date(2030, 2, 2))
    assert after.due == due_date(2030, 2, 2)
    for mask in (["nothing"], ["title", "no.such"], ["*", "title"]):
        failed = await refusal(desk.update(task, *mask, title="x"))
        assert (failed.reason, failed.fields) == ("INVALID_REQUEST", ["update_mask"])
    for mask in (["title"], ["*"]):
        failed = await refusal(desk.update(task, *mask))
        assert (failed.reason, failed.fields) == ("INVALID_REQUEST", ["task.title"])


async def test_only_changes_of_the_text_count_as_such(desk: Desk) -> None:
    task = await desk.create(await desk.project())
    task = await desk.update(task, labels=["a"])
    assert (task.revision, task.text_revision) == (2, 1)
    task = await desk.update(task, description="More")
    assert (task.revision, task.text_revision) == (3, 2)
    task = await desk.update(task, title="Other", description="Other")
    assert (task.revision, task.text_revision) == (4, 3)


async def test_finish_time_follows_the_status(desk: Desk) -> None:
    task = await desk.create(await desk.project())
    done = await desk.set_status(task, DONE)
    assert done.finish_time == done.update_time
    canceled = await desk.set_status(task, CANCELED)
    assert canceled.finish_time == done.finish_time
    reopened = await desk.set_status(task, IN_PROGRESS)
    assert not reopened.HasField("finish_time")
    again = await desk.update(task, "status", status=DONE)
    assert again.HasField("finish_time")
    assert not (await desk.update(task, "status")).HasField("finish_time")


async def test_a_deleted_task_is_shown_to_those_who_ask_for_it_only(desk: Desk) -> None:
    project = await desk.project()
    task = await desk.create(project)
    deleted = await desk.delete(task)
    assert deleted.HasField("delete_time")
    assert await desk.get(task.id) == deleted
    assert await desk.get(task.key, project.workspace_id) == deleted
    assert await desk.all(project.workspace_id) == []
    everything = task_pb2.TaskFilter(include_deleted=True)
    assert await desk.all(project.workspace_id, filter=everything) == [deleted]
    assert (await refusal(desk.delete(task))).code is _Code.NOT_FOUND
    for write in (
        desk.update(task, title="x"),
        desk.assign(task, desk.people.owner.id),
        desk.set_status(task, DONE),
    ):
        failed = await refusal(write)
        assert (failed.code, failed.reason) == (_Code.FAILED_PRECONDITION, "TASK_DELETED")
    back = await desk.undelete(task)
    assert not back.HasField("delete_time")
    assert await desk.all(project.workspace_id) == [back]
    failed = await refusal(desk.undelete(task))
    assert (failed.code, failed.reason) == (_Code.ALREADY_EXISTS, "TASK_NOT_DELETED")


async def test_a_stale_etag_is_refused_with_the_current_one(desk: Desk) -> None:
    task = await desk.create(await desk.project())
    other = await desk.create(await desk.project())
    now = await desk.update(task, title="New", etag=task.etag)
    assert now.etag != task.etag
    for etag in (task.etag, other.etag, "x"):
        for write in (
            desk.update(task, title="x", etag=etag),
            desk.assign(task, desk.people.owner.id, etag=etag),
            desk.set_status(task, DONE, etag=etag),
            desk.delete(task, etag=etag),
        ):
            failed = await refusal(write)
            assert (failed.code, failed.reason) == (_Code.ABORTED, "ETAG_MISMATCH")
            assert failed.metadata == {"etag": now.etag}
    assert await desk.get(task.id) == now
    assert (await desk.delete(task, etag=now.etag)).HasField("delete_time")


async def test_of_concurrent_changes_with_one_etag_one_wins(desk: Desk) -> None:
    task = await desk.create(await desk.project())
    results = await asyncio.gather(
        *(desk.update(task, title=f"Title {n}", etag=task.etag) for n in range(10)),
        return_exceptions=True,
    )
    won = [result for result in results if isinstance(result, Task)]
    assert len(won) == 1
    assert await desk.get(task.id) == won[0]


async def test_concurrent_changes_of_different_fields_all_win(desk: Desk) -> None:
    task = await desk.create(await desk.project())
    await asyncio.gather(
        desk.update(task, title="Title"),
        desk.update(task, description="Text"),
        desk.update(task, labels=["a"]),
        desk.set_status(task, IN_PROGRESS),
        desk.assign(task, desk.people.owner.id),
    )
    after = await desk.get(task.id)
    assert (after.title, after.description, list(after.labels)) == ("Title", "Text", ["a"])
    assert (after.status, after.assignee_id) == (IN_PROGRESS, desk.people.owner.id)
    assert after.revision == 6
    assert [event.revision for event in await desk.events(task.id)] == [1, 2, 3, 4, 5, 6]


async def test_a_repeated_create_has_the_first_answer(desk: Desk) -> None:
    project = await desk.project()
    request_id = str(uuid4())
    first = await desk.create(project, request_id=request_id, title="Once")
    await desk.update(first, title="Changed since")
    assert await desk.create(project, request_id=request_id, title="Once") == first
    failed = await refusal(desk.create(project, request_id=request_id, title="Twice"))
    assert (failed.code, failed.reason) == (_Code.INVALID_ARGUMENT, "REQUEST_ID_REUSED")
    assert failed.metadata == {"request_id": request_id}
    # Another caller's request_ids are their own.
    theirs = await desk.create(project, by=desk.people.owner, request_id=request_id, title="Once")
    assert theirs.id != first.id
    # Also when nothing could be created there by now.
    await desk.archive(project)
    assert await desk.create(project, request_id=request_id, title="Once") == first


async def test_concurrent_duplicates_of_a_create_make_one_task(desk: Desk) -> None:
    project = await desk.project()
    request_id = str(uuid4())
    answers = await asyncio.gather(
        *(
            desk.create(project, request_id=request_id, payload=struct({"message": "hi"}))
            for _ in range(12)
        )
    )
    assert len({answer.id for answer in answers}) == 1
    assert await desk.all(project.workspace_id) == [answers[0]]
    assert len(await desk.events(answers[0].id)) == 1


async def test_a_payload_makes_a_job_each_time_it_is_set(desk: Desk) -> None:
    project = await desk.project()

    async def jobs(task: Task) -> int:
        return sum(
            event.job_changed.job.task_id == task.id
            for event in await desk.events("")
            if event.type == "job.created"
        )

    task = await desk.create(project, payload=struct({"message": "one"}))
    assert await jobs(task) == 1
    await desk.update(task, title="Other")
    assert await jobs(task) == 1
    await desk.update(task, payload=struct({"message": "two"}))
    assert await jobs(task) == 2
    await desk.update(task, "payload")
    assert await jobs(task) == 2
    plain = await desk.create(project)
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
async def test_a_payload_comes_back_as_it_was(desk: Desk, value: dict[str, Any]) -> None:
    task = await desk.create(await desk.project(), payload=struct(value))
    assert (await desk.get(task.id)).payload == struct(value)


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
async def test_a_payload_that_cannot_be_kept_is_refused(desk: Desk, value: dict[str, Any]) -> None:
    project = await desk.project()
    failed = await refusal(desk.create(project, payload=struct(value)))
    assert (failed.reason, failed.fields) == ("INVALID_REQUEST", ["task.payload"])
    task = await desk.create(project)
    failed = await refusal(desk.update(task, payload=struct(value)))
    assert (failed.reason, failed.fields) == ("INVALID_REQUEST", ["task.payload"])


async def test_a_payload_value_of_no_kind_is_refused(desk: Desk) -> None:
    payload = struct({})
    payload.fields["x"].SetInParent()
    failed = await refusal(desk.create(await desk.project(), payload=payload))
    assert (failed.reason, failed.fields) == ("INVALID_REQUEST", ["task.payload"])


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("task.title", {"title": " \u00a0\u3000"}),
        ("task.title", {"title": "a\u202eb"}),
        ("task.title", {"title": "a\nb"}),
        ("task.title", {"title": "a" * 256}),
        # Four characters, twelve in NFC.
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
async def test_what_breaks_a_rule_is_refused_by_the_name_of_its_field(
    desk: Desk, field: str, fields: dict[str, Any]
) -> None:
    project = await desk.project()
    failed = await refusal(desk.create(project, **fields))
    assert (failed.code, failed.reason) == (_Code.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert failed.fields[0].startswith(field)
    task = await desk.create(project)
    failed = await refusal(desk.update(task, **fields))
    assert (failed.code, failed.reason) == (_Code.INVALID_ARGUMENT, "INVALID_REQUEST")


async def test_a_parent_is_a_live_task_of_the_same_project_and_not_below(desk: Desk) -> None:
    project = await desk.project()
    elsewhere = await desk.create(await desk.project(project.workspace_id, "OTHER"))
    deleted = await desk.create(project)
    await desk.delete(deleted)
    root = await desk.create(project)
    child = await desk.create(project, parent_id=root.id)
    grandchild = await desk.create(project, parent_id=child.id)
    for wrong in (elsewhere.id, deleted.id, str(uuid4())):
        for write in (
            desk.create(project, parent_id=wrong),
            desk.update(root, parent_id=wrong),
        ):
            failed = await refusal(write)
            assert (failed.code, failed.reason) == (_Code.FAILED_PRECONDITION, "PARENT_INVALID")
    for below in (root, child, grandchild):
        failed = await refusal(desk.update(root, parent_id=below.id))
        assert failed.reason == "PARENT_INVALID"
    moved = await desk.update(grandchild, parent_id=root.id)
    assert moved.parent_id == root.id
    assert not (await desk.update(grandchild, "parent_id")).parent_id
    # A parent that is deleted later stays one.
    await desk.delete(root)
    assert (await desk.update(child, title="Still there")).parent_id == root.id


async def test_concurrent_changes_never_close_a_circle_of_parents(desk: Desk) -> None:
    project = await desk.project()
    for _ in range(10):
        tasks = [await desk.create(project) for _ in range(4)]
        around = zip(tasks, [*tasks[1:], tasks[0]], strict=True)
        results = await asyncio.gather(
            *(desk.update(task, parent_id=parent.id) for task, parent in around),
            return_exceptions=True,
        )
        assert sum(isinstance(result, Task) for result in results) == 3
