"""Promises about deadlines that depend on a user's time zone, and about changes of that zone."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

from services.platform.config import Settings
from services.task.tasks import bulk
from taskflow.task.v1 import task_pb2
from tests.integration.people import refusal
from tests.integration.roles_world import (
    People,
    RolesWorld,
    due_at,
    due_date,
    people_of,
    roles_world_at,
)

DONE = task_pb2.TASK_STATUS_DONE
TODO = task_pb2.TASK_STATUS_TODO


@pytest.fixture(scope="module")
async def people(services: Settings) -> People:
    return await people_of(services)


@pytest.fixture
async def world(services: Settings, people: People) -> AsyncIterator[RolesWorld]:
    async with roles_world_at(services, people) as world:
        yield world


def _iso(task: task_pb2.Task) -> str:
    return task.due_time.ToJsonString()


async def test_a_date_is_due_at_the_end_of_the_assignees_day(world: RolesWorld) -> None:
    project = await world.project()
    tokyo = await world.newcomer(project.workspace_id, "Asia/Tokyo")
    task = await world.create(project, due=due_date(2031, 6, 1))
    assert _iso(task) == "2031-06-01T23:59:59Z"
    task = await world.assign(task, tokyo.id)
    assert _iso(task) == "2031-06-01T14:59:59Z"
    assert task.due == due_date(2031, 6, 1)
    told = (await world.events(task.id))[-1].task_updated
    assert list(told.changed_fields.paths) == ["assignee_id", "due_time"]
    assert told.before.due_time.ToJsonString() == "2031-06-01T23:59:59Z"
    # Unassigned: the creator's day counts again.
    assert _iso(await world.assign(task, "")) == "2031-06-01T23:59:59Z"
    # The same holds for a task created with an assignee, and for a due date set later.
    assert _iso(await world.create(project, assignee_id=tokyo.id, due=due_date(2031, 6, 1))) == (
        "2031-06-01T14:59:59Z"
    )
    bare = await world.create(project, by=tokyo)
    assert _iso(await world.update(bare, due=due_date(2031, 6, 2))) == "2031-06-02T14:59:59Z"


async def test_a_deadline_with_a_zone_is_the_same_instant_for_everybody(world: RolesWorld) -> None:
    project = await world.project()
    tokyo = await world.newcomer(project.workspace_id, "Asia/Tokyo")
    skipped = due_at("Europe/Berlin", 2026, 3, 29, 2, 30)
    task = await world.create(project, due=skipped)
    assert (_iso(task), task.due) == ("2026-03-29T01:00:00Z", skipped)
    task = await world.assign(task, tokyo.id)
    assert _iso(task) == "2026-03-29T01:00:00Z"
    twice = due_at("Europe/Berlin", 2026, 10, 25, 2, 30)
    task = await world.update(task, due=twice)
    assert (_iso(task), task.due) == ("2026-10-25T00:30:00Z", twice)
    told = (await world.events(task.id))[-1].task_updated
    assert list(told.changed_fields.paths) == ["due", "due_time"]
    assert told.before.due == skipped
    # Change the deadline from one kind to the other, then remove it.
    assert _iso(await world.update(task, due=due_date(2026, 10, 25))) == "2026-10-25T14:59:59Z"
    assert not (await world.update(task, "due")).HasField("due_time")


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
async def test_an_invalid_deadline_is_refused(
    world: RolesWorld, due: task_pb2.Due, field: str
) -> None:
    project = await world.project()
    failed = await refusal(world.create(project, due=due))
    assert (failed.reason, failed.fields) == ("INVALID_REQUEST", [field])


async def test_the_last_days_of_the_calendar_can_be_deadlines(world: RolesWorld) -> None:
    project = await world.project()
    honolulu = await world.newcomer(project.workspace_id, "Pacific/Honolulu")
    task = await world.create(project, due=due_date(9999, 12, 31), assignee_id=honolulu.id)
    assert _iso(await world.get(task.id)) == "9999-12-31T23:59:59Z"


async def test_date_deadlines_move_when_a_user_changes_time_zone(world: RolesWorld) -> None:
    project = await world.project()
    person = await world.newcomer(project.workspace_id)
    by_date: dict[str, Any] = {"due": due_date(2031, 6, 1)}
    assigned = [await world.create(project, assignee_id=person.id, **by_date) for _ in range(5)]
    own = await world.create(project, by=person, **by_date)
    done = await world.create(project, assignee_id=person.id, status=DONE, **by_date)
    deleted = await world.create(project, assignee_id=person.id, **by_date)
    await world.delete(deleted)
    handed_over = await world.create(
        project, by=person, assignee_id=world.people.owner.id, **by_date
    )
    zoned = await world.create(project, assignee_id=person.id, due=due_at("UTC", 2031, 6, 1))

    await world.move(person, "Asia/Tokyo")
    moved = []
    more = True
    while more:
        async with world.db.transaction() as tx:
            count, more = await bulk.move_due_times(tx, UUID(person.id), 2)
        moved.append(count)
    assert sum(moved) == 6
    for task in [*assigned, own]:
        now = await world.get(task.id)
        assert (_iso(now), now.revision) == ("2031-06-01T14:59:59Z", 2)
        event = (await world.events(task.id))[-1]
        assert (event.type, event.actor_id) == ("task.updated", "")
        assert list(event.task_updated.changed_fields.paths) == ["due_time"]
    for task in (done, handed_over, zoned):
        assert await world.get(task.id) == task
    # A task undeleted later is due in the new zone too.
    assert _iso(await world.undelete(deleted)) == "2031-06-01T14:59:59Z"
    assert _iso(await world.set_status(done, TODO)) == "2031-06-01T14:59:59Z"


async def test_a_time_zone_change_that_keeps_the_due_time_changes_no_task(
    world: RolesWorld,
) -> None:
    project = await world.project()
    person = await world.newcomer(project.workspace_id, "Europe/Berlin")
    task = await world.create(project, assignee_id=person.id, due=due_date(2031, 6, 1))
    await world.move(person, "Europe/Paris")
    async with world.db.transaction() as tx:
        assert await bulk.move_due_times(tx, UUID(person.id), 10) == (1, False)
    async with world.db.transaction() as tx:
        assert await bulk.move_due_times(tx, UUID(person.id), 10) == (0, False)
    assert await world.get(task.id) == task
    assert len(await world.events(task.id)) == 1
