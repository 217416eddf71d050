"""A reminder's identity is the deadline as said: its instant may move, but each reminder is sent once or skipped."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from google.type.date_pb2 import Date
from google.type.datetime_pb2 import DateTime, TimeZone
from sqlalchemy import bindparam, text

from services.platform.config import Settings
from services.platform.data.db import Statement
from services.platform.rpc import zones
from services.task.reminders import walks
from services.task.reminders.schedule import rules
from taskflow.event.v1.event_pb2 import Event
from taskflow.task.v1.project_service_pb2 import ArchiveProjectRequest, UnarchiveProjectRequest
from taskflow.task.v1.task_pb2 import Due, Task
from taskflow.task.v1.task_service_pb2 import AssignTaskRequest
from tests.integration.notification_world import eventually
from tests.integration.people import Person
from tests.integration.reminding import (
    LEDGER,
    emit,
    emit_raw,
    ledger,
    missed,
    move,
    outcome,
    plan,
    run,
    sent,
)
from tests.integration.task_world import TaskWorld, a_task_world, due_at

_DAY, _HOUR = 86400, 3600
# The offsets of a day's reminders.
_DAY_BEFORE, _ON_THE_DAY, _OVERDUE = 2 * _DAY, _DAY, 0

_FOR_DISPATCHER = Statement(
    text(
        "SELECT payload FROM platform.outbox WHERE subject LIKE 'taskflow._.replay.dispatcher.%' ORDER BY id"
    )
)
_FORGET_WALKS = Statement(text("UPDATE task.walks SET rules = '', after = NULL"))
_WALKS_LEFT = Statement(text("SELECT count(*) AS count FROM task.walks WHERE after IS NOT NULL"))
_FORGET_IDENTITIES = Statement(
    text("UPDATE task.reminders SET due_said = NULL WHERE task_id = :task_id").bindparams(
        bindparam("task_id")
    )
)


@pytest.fixture
async def world(services: Settings) -> AsyncIterator[TaskWorld]:
    async with a_task_world(services) as made:
        yield made


def day(on: date) -> Due:
    return Due(date=Date(year=on.year, month=on.month, day=on.day))


def today() -> date:
    return datetime.now(UTC).date()


async def assign(world: TaskWorld, task: Task, person: Person) -> None:
    request = AssignTaskRequest(id=task.id, assignee_id=person.id)
    await world.tasks.AssignTask(request, metadata=world.me)


async def archive(world: TaskWorld) -> None:
    request = ArchiveProjectRequest(id=world.project_id)
    await world.projects.ArchiveProject(request, metadata=world.me)


async def unarchive(world: TaskWorld) -> None:
    request = UnarchiveProjectRequest(id=world.project_id)
    await world.projects.UnarchiveProject(request, metadata=world.me)


async def planned_again(world: TaskWorld) -> list[Event]:
    """The events that have the dispatcher plan reminders of this workspace again."""
    async with world.db.read() as tx:
        rows = await tx.all(_FOR_DISPATCHER)
    found = [Event.FromString(row.payload) for row in rows]
    return [event for event in found if event.workspace_id == world.workspace_id]


async def walk(world: TaskWorld) -> None:
    """What a process does when it starts with other rules, and until it has visited all tasks."""
    wanted = rules(world.settings)
    async with world.db.transaction() as tx:
        await tx.run(_FORGET_WALKS)
        await walks.begin(tx, wanted)

    async def over() -> bool:
        # The service takes steps, too.
        async with world.db.transaction() as tx:
            await walks.step(tx, wanted)
            [row] = await tx.all(_WALKS_LEFT)
        return bool(row.count == 0)

    await eventually(over)


# Time zones.


async def test_a_day_is_overdue_once_in_whatever_zone_it_ends(world: TaskWorld) -> None:
    task = await missed(world, await world.create(due=day(today() - timedelta(days=7))))
    assert await run(world, task) == [_OVERDUE]
    due_times = {(await world.get(task)).due_time.seconds}
    for zone in ("Europe/Berlin", "America/New_York"):
        await move(world, world.owner, zone)
        assert await run(world, task) == []
        due_times.add((await world.get(task)).due_time.seconds)
    colleague = await world.member("lee")
    await move(world, colleague, "America/Los_Angeles")
    await assign(world, task, colleague)
    assert await run(world, task) == []
    due_times.add((await world.get(task)).due_time.seconds)
    assert len(due_times) == 4
    assert len(await sent(world, task)) == 1


async def test_a_local_time_in_another_zone_is_another_deadline(world: TaskWorld) -> None:
    instant = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=30)
    task = await world.create(due=due_at(instant))
    assert await run(world, task) == [_HOUR]
    moved = due_at(instant)
    moved.date_time.time_zone.id = "Etc/UTC"
    await world.update(task, due=moved)
    assert await run(world, task) == [_HOUR]
    await world.update(task, due=due_at(instant))
    assert await run(world, task) == []


# The mornings of a day.


async def test_a_day_reminds_in_the_mornings_of_the_assignee(world: TaskWorld) -> None:
    colleague = await world.member("kim")
    await move(world, colleague, "Asia/Tokyo")
    on = today() + timedelta(days=40)
    task = await world.create(due=day(on), assignee_id=colleague.id)
    tokyo = ZoneInfo("Asia/Tokyo")
    expected = [
        (_DAY_BEFORE, datetime(on.year, on.month, on.day, 9, tzinfo=tokyo) - timedelta(days=1)),
        (_ON_THE_DAY, datetime(on.year, on.month, on.day, 9, tzinfo=tokyo)),
        (_OVERDUE, datetime(on.year, on.month, on.day, 9, tzinfo=tokyo) + timedelta(days=1)),
    ]
    for offset, at in expected:
        reminder = await plan(world, task)
        assert reminder is not None
        assert (reminder.offset_seconds, reminder.remind_time.ToDatetime(UTC)) == (offset, at)
        assert outcome(await emit_raw(world, task, reminder)) == "EARLY"
        # This one has been sent; the next one is planned.
        await _record(world, task, offset)
    assert await plan(world, task) is None


async def _record(world: TaskWorld, task: Task, offset: int) -> None:
    statement = text(
        "INSERT INTO task.reminders (task_id, due_said, due_at, offset_seconds, outcome, remind_at, zone, rule,"
        " recorded_at) SELECT id, due_date::text, due_at, :day_offset, 1, now(), due_zone, '', now() FROM task.tasks"
        " WHERE id = :task_id"
    ).bindparams(bindparam("task_id"), bindparam("day_offset"))
    async with world.db.transaction() as tx:
        await tx.run(Statement(statement), task_id=task.id, day_offset=offset)


async def test_the_ledger_says_how_a_mornings_time_was_computed(world: TaskWorld) -> None:
    on = today() - timedelta(days=7)
    task = await missed(world, await world.create(due=day(on)))
    await run(world, task)
    async with world.db.read() as tx:
        rows = await tx.all(LEDGER, task_id=task.id)
    nine = datetime(on.year, on.month, on.day, 9, tzinfo=UTC)
    assert [(row.due_said, row.remind_at - nine, row.rule) for row in rows] == [
        (on.isoformat(), timedelta(days=1), "on the morning after, at 09:00"),
        (on.isoformat(), timedelta(0), "on the day, at 09:00"),
        (on.isoformat(), timedelta(days=-1), "on the morning before the day, at 09:00"),
    ]


async def test_a_reminder_that_an_earlier_version_planned_is_planned_anew(
    world: TaskWorld,
) -> None:
    on = today() + timedelta(days=40)
    task = await world.create(due=day(on))
    ends = task.due_time.ToDatetime(UTC)
    for offset in (_DAY, _HOUR, 0):
        answer = await emit(world, task, ends, offset)
        assert answer == "MOVED"


# Archived projects.


async def test_unarchiving_has_held_back_reminders_planned_again(world: TaskWorld) -> None:
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=30)
    held_back = await world.create(due=due_at(soon))
    far = await world.create(due=due_at(soon + timedelta(days=60)))
    finished = await world.create(due=due_at(soon))
    await world.set_status(finished)
    await archive(world)
    assert await emit(world, held_back, soon, _HOUR) == "ARCHIVED"
    before = await planned_again(world)
    await unarchive(world)

    async def asked() -> bool:
        return len(await planned_again(world)) > len(before)

    await eventually(asked)
    new = (await planned_again(world))[len(before) :]
    assert {event.task_updated.task.id for event in new} == {held_back.id}
    assert all(event.task_updated.plan_reminders for event in new)
    assert far.id != held_back.id
    assert await run(world, held_back) == [_HOUR]


# The past.


async def test_tasks_created_long_overdue_remind_nobody(world: TaskWorld) -> None:
    colleague = await world.member("kim")
    last_week = today() - timedelta(days=7)
    instant = datetime.now(UTC).replace(microsecond=0) - timedelta(days=7)
    made = [
        await world.create(due=said, assignee_id=colleague.id)
        for said in [day(last_week), due_at(instant)] * 30
    ]
    for task in made:
        assert await run(world, task) == []
        assert await sent(world, task) == []
        assert set((await ledger(world, task)).values()) == {"SKIPPED_PAST"}
        assert len(await ledger(world, task)) == 3


async def test_a_deadline_set_into_the_past_reminds_nobody(world: TaskWorld) -> None:
    task = await world.create()
    await world.update(task, due=due_at(datetime.now(UTC) - timedelta(days=3)))
    assert await run(world, task) == []
    await world.update(task, due=day(today() - timedelta(days=3)))
    assert await run(world, task) == []


async def test_a_morning_that_was_over_when_the_day_was_set_is_skipped(world: TaskWorld) -> None:
    """In a zone where it is the end of the day, so that its morning is over."""
    behind = datetime.now(UTC).hour < 12
    zone = "Etc/GMT-12" if behind else "UTC"
    await move(world, world.owner, zone)
    task = await world.create(due=day(datetime.now(ZoneInfo(zone)).date()))
    reminder = await plan(world, task)
    assert reminder is not None
    assert reminder.offset_seconds == _OVERDUE
    assert set((await ledger(world, task)).values()) == {"SKIPPED_PAST"}


async def test_a_deadline_that_passes_during_an_outage_is_reminded_of(world: TaskWorld) -> None:
    instant = datetime.now(UTC) + timedelta(seconds=1)
    task = await world.create(due=due_at(instant))
    async with asyncio.timeout(10):
        while not await run(world, task) or datetime.now(UTC) <= instant:
            await asyncio.sleep(0.05)
            if (instant, 0) in await ledger(world, task):
                break
    assert (await ledger(world, task))[instant, 0] == "SENT"


# Other zone rules.


@pytest.fixture
def other_rules(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Zones → the zones whose rules they get, as after an upgrade of tzdata."""
    renamed: dict[str, str] = {}
    load = zones.load

    def loaded(name: str) -> ZoneInfo:
        return load(renamed.get(name, name))

    monkeypatch.setattr(zones, "load", loaded)
    return renamed


async def test_new_zone_rules_move_stored_deadlines_and_no_reminder_is_sent_again(
    world: TaskWorld, other_rules: dict[str, str]
) -> None:
    last_week = today() - timedelta(days=7)
    await move(world, world.owner, "Asia/Beirut")
    said = Due(
        date_time=DateTime(
            year=2040, month=7, day=1, hours=12, time_zone=TimeZone(id="Asia/Beirut")
        )
    )
    tasks = [
        await world.create(due=said),
        await world.create(due=day(date(2040, 7, 1))),
        await world.create(due=day(last_week)),
    ]
    elsewhere = await world.create(due=due_at(datetime(2040, 7, 1, tzinfo=UTC)))
    await missed(world, tasks[2])
    assert await run(world, tasks[2]) == [_OVERDUE]
    saved = await world.create(due=said)

    other_rules["Asia/Beirut"] = "Asia/Tokyo"
    # Saving it computes its instant again, before the walk does.
    saved = await world.update(saved, title="Saved")
    new = await world.create(due=said)
    assert saved.due_time == new.due_time != tasks[0].due_time
    await walk(world)
    moved = [await world.get(task) for task in tasks]
    tokyo = ZoneInfo("Asia/Tokyo")
    assert [now.due_time.ToDatetime(UTC) for now in moved] == [
        datetime(2040, 7, 1, 12, tzinfo=tokyo),
        datetime(2040, 7, 1, 23, 59, 59, tzinfo=tokyo),
        datetime(*last_week.timetuple()[:3], 23, 59, 59, tzinfo=tokyo),
    ]
    assert moved[0].due_time == new.due_time
    assert await world.get(elsewhere) == elsewhere
    assert [now.revision for now in moved] == [2, 2, 2]
    assert await run(world, tasks[2]) == []
    # The second walk finds nothing to change.
    await walk(world)
    assert [await world.get(task) for task in tasks] == moved


async def test_other_settings_have_the_reminders_of_all_open_tasks_planned_again(
    world: TaskWorld,
) -> None:
    far = await world.create(due=day(date(2040, 7, 1)))
    over = await missed(world, await world.create(due=day(today() - timedelta(days=7))))
    await run(world, over)
    await world.create()
    await walk(world)
    asked = [event.task_updated.task.id for event in await planned_again(world)]
    assert set(asked) == {far.id}


# People who have left.


async def reminded(world: TaskWorld, task: Task) -> set[str]:
    await missed(world, task)
    assert await run(world, task) == [_OVERDUE]
    [event] = await sent(world, task)
    return set(event.task_reminder_due.substitute_ids)


async def test_reminders_of_people_who_left_reach_the_projects_creator_else_the_owners(
    world: TaskWorld,
) -> None:
    leaver, manager = await world.member("lee"), await world.member("max", role=3)
    past = day(today() - timedelta(days=7))

    async def by_leaver(project_id: str) -> Task:
        mine, world.me = world.me, leaver.credentials
        task = await world.create(due=past, assignee_id=leaver.id, project_id=project_id)
        world.me = mine
        return task

    world.me = manager.credentials
    managed = await world.new_project("MAN")
    world.me = world.owner.credentials
    first, second, third = [await by_leaver(managed) for _ in range(3)]
    assert await reminded(world, first) == set()
    await world.team.remove(world.owner, world.workspace_id, leaver.id)
    assert await reminded(world, second) == {manager.id}
    await world.team.remove(world.owner, world.workspace_id, manager.id)
    assert await reminded(world, third) == {world.owner.id}


# Outcomes of an earlier version.


async def test_an_outcome_that_an_earlier_version_recorded_counts_for_the_same_instant(
    world: TaskWorld,
) -> None:
    task = await missed(world, await world.create(due=day(today() - timedelta(days=7))))
    timed = await missed(
        world, await world.create(due=due_at(datetime.now(UTC) - timedelta(days=2)))
    )
    for one in (task, timed):
        assert await run(world, one) == [_OVERDUE]
        async with world.db.transaction() as tx:
            await tx.run(_FORGET_IDENTITIES, task_id=one.id)
        assert await run(world, one) == []
