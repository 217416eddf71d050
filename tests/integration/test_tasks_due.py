"""Promises about deadlines that depend on people: whose day it is, and what happens when they move."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

from services.platform.config import Settings
from services.task import logic
from taskflow.task.v1 import task_pb2
from tests.integration.desk import Desk, People, desk_at, due_at, due_date, people_of
from tests.integration.people import refusal

DONE = task_pb2.TASK_STATUS_DONE
TODO = task_pb2.TASK_STATUS_TODO


@pytest.fixture(scope="module")
async def people(services: Settings) -> People:
    return await people_of(services)


@pytest.fixture
async def desk(services: Settings, people: People) -> AsyncIterator[Desk]:
    async with desk_at(services, people) as desk:
        yield desk


def _iso(task: task_pb2.Task) -> str:
    return task.due_time.ToJsonString()


async def test_a_date_is_due_at_the_end_of_the_assignees_day(desk: Desk) -> None:
    project = await desk.project()
    tokyo = await desk.newcomer(project.workspace_id, "Asia/Tokyo")
    task = await desk.create(project, due=due_date(2031, 6, 1))
    assert _iso(task) == "2031-06-01T23:59:59Z"
    task = await desk.assign(task, tokyo.id)
    assert _iso(task) == "2031-06-01T14:59:59Z"
    assert task.due == due_date(2031, 6, 1)
    told = (await desk.events(task.id))[-1].task_updated
    assert list(told.changed_fields.paths) == ["assignee_id", "due_time"]
    assert told.before.due_time.ToJsonString() == "2031-06-01T23:59:59Z"
    # Nobody's: the creator's day again.
    assert _iso(await desk.assign(task, "")) == "2031-06-01T23:59:59Z"
    # Created so right away; and with a due date that comes later.
    assert _iso(await desk.create(project, assignee_id=tokyo.id, due=due_date(2031, 6, 1))) == (
        "2031-06-01T14:59:59Z"
    )
    bare = await desk.create(project, by=tokyo)
    assert _iso(await desk.update(bare, due=due_date(2031, 6, 2))) == "2031-06-02T14:59:59Z"


async def test_a_zoned_deadline_is_the_same_for_everybody(desk: Desk) -> None:
    project = await desk.project()
    tokyo = await desk.newcomer(project.workspace_id, "Asia/Tokyo")
    skipped = due_at("Europe/Berlin", 2026, 3, 29, 2, 30)
    task = await desk.create(project, due=skipped)
    assert (_iso(task), task.due) == ("2026-03-29T01:00:00Z", skipped)
    task = await desk.assign(task, tokyo.id)
    assert _iso(task) == "2026-03-29T01:00:00Z"
    twice = due_at("Europe/Berlin", 2026, 10, 25, 2, 30)
    task = await desk.update(task, due=twice)
    assert (_iso(task), task.due) == ("2026-10-25T00:30:00Z", twice)
    told = (await desk.events(task.id))[-1].task_updated
    assert list(told.changed_fields.paths) == ["due", "due_time"]
    assert told.before.due == skipped
    # From one kind to the other, and away.
    assert _iso(await desk.update(task, due=due_date(2026, 10, 25))) == "2026-10-25T14:59:59Z"
    assert not (await desk.update(task, "due")).HasField("due_time")


@pytest.mark.parametrize(
    ("due", "field"),
    [
        (due_date(2026, 2, 30), "task.due.date"),
        (due_date(2026, 0, 1), "task.due.date"),
        (due_date(10000, 1, 1), "task.due.date"),
        (due_at("Nowhere/Land", 2026, 1, 1), "task.due.date_time.time_zone.id"),
        (due_at("../../etc/passwd", 2026, 1, 1), "task.due.date_time.time_zone.id"),
        (due_at("", 2026, 1, 1), "task.due.date_time"),
        (due_at("UTC", 2026, 1, 1, 24), "task.due.date_time"),
        (due_at("America/New_York", 9999, 12, 31, 23), "task.due.date_time"),
    ],
)
async def test_what_is_no_deadline_is_refused(desk: Desk, due: task_pb2.Due, field: str) -> None:
    project = await desk.project()
    failed = await refusal(desk.create(project, due=due))
    assert (failed.reason, failed.fields) == ("INVALID_REQUEST", [field])


async def test_the_last_days_of_the_calendar_can_be_deadlines(desk: Desk) -> None:
    project = await desk.project()
    honolulu = await desk.newcomer(project.workspace_id, "Pacific/Honolulu")
    task = await desk.create(project, due=due_date(9999, 12, 31), assignee_id=honolulu.id)
    assert _iso(await desk.get(task.id)) == "9999-12-31T23:59:59Z"


async def test_dates_move_with_somebody_who_moves(desk: Desk) -> None:
    project = await desk.project()
    person = await desk.newcomer(project.workspace_id)
    by_date: dict[str, Any] = {"due": due_date(2031, 6, 1)}
    assigned = [await desk.create(project, assignee_id=person.id, **by_date) for _ in range(5)]
    own = await desk.create(project, by=person, **by_date)
    done = await desk.create(project, assignee_id=person.id, status=DONE, **by_date)
    deleted = await desk.create(project, assignee_id=person.id, **by_date)
    await desk.delete(deleted)
    handed_over = await desk.create(project, by=person, assignee_id=desk.people.owner.id, **by_date)
    zoned = await desk.create(project, assignee_id=person.id, due=due_at("UTC", 2031, 6, 1))

    await desk.move(person, "Asia/Tokyo")
    moved = []
    more = True
    while more:
        async with desk.db.transaction() as tx:
            count, more = await logic.move_due_times(tx, UUID(person.id), 2)
        moved.append(count)
    assert sum(moved) == 6
    for task in [*assigned, own]:
        now = await desk.get(task.id)
        assert (_iso(now), now.revision) == ("2031-06-01T14:59:59Z", 2)
        event = (await desk.events(task.id))[-1]
        assert (event.type, event.actor_id) == ("task.updated", "")
        assert list(event.task_updated.changed_fields.paths) == ["due_time"]
    for task in (done, handed_over, zoned):
        assert await desk.get(task.id) == task
    # What comes back later is due in the new zone too.
    assert _iso(await desk.undelete(deleted)) == "2031-06-01T14:59:59Z"
    assert _iso(await desk.set_status(done, TODO)) == "2031-06-01T14:59:59Z"


async def test_a_move_that_leaves_the_instants_alone_changes_nothing(desk: Desk) -> None:
    project = await desk.project()
    person = await desk.newcomer(project.workspace_id, "Europe/Berlin")
    task = await desk.create(project, assignee_id=person.id, due=due_date(2031, 6, 1))
    await desk.move(person, "Europe/Paris")
    async with desk.db.transaction() as tx:
        assert await logic.move_due_times(tx, UUID(person.id), 10) == (1, False)
    async with desk.db.transaction() as tx:
        assert await logic.move_due_times(tx, UUID(person.id), 10) == (0, False)
    assert await desk.get(task.id) == task
    assert len(await desk.events(task.id)) == 1
