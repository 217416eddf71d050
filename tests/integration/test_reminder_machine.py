"""After any sequence of moves, assignments, archivings, departures and new zone rules, each reminder was sent once or
skipped for a reason, and reached somebody."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Interval, bindparam, update

from services.platform.config import Settings
from services.platform.data.db import Statement, Transaction
from services.platform.rpc import zones
from services.task.reminders import logic
from services.task.reminders.queries import RemindedTask
from services.task.reminders.schedule import Rules, Slot, rules, slots
from services.task.tasks import bulk, due
from services.task.tasks.models import tasks
from taskflow.auth.v1.workspace_pb2 import ROLE_ADMIN, ROLE_MEMBER
from taskflow.task.v1.project_service_pb2 import ArchiveProjectRequest, UnarchiveProjectRequest
from taskflow.task.v1.task_pb2 import Due, Task, TaskFilter
from taskflow.task.v1.task_service_pb2 import AssignTaskRequest
from tests.integration.notification_world import eventually
from tests.integration.people import Person, events
from tests.integration.reminding import move, run
from tests.integration.roles_world import due_at, due_date
from tests.integration.task_world import TaskWorld, a_task_world

_ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Beirut", "Pacific/Kiritimati"]
# Its rules change as by an upgrade of tzdata.
_RULED_ANEW, _OTHER_RULES = "Asia/Beirut", "Asia/Tokyo"
_NAMES = ["olga", "manu", "ann", "ben"]
_SET_LATER = Statement(
    update(tasks)
    .where(tasks.c.id == bindparam("task_id"))
    .values(due_set_at=tasks.c.due_set_at + bindparam("shift", type_=Interval))
)


@dataclass
class Model:
    """The expected state of a task, and the offsets of its deadlines' reminders that were sent or skipped."""

    project: str
    creator: str
    assignee: str
    said: due.Due
    set_at: datetime
    done: set[tuple[str | None, int]] = field(default_factory=set)


@dataclass
class Clock:
    """The reminders' clock is ahead of the machine's by `shift`, so that days pass."""

    shift: timedelta = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.shift


class Reminders(RuleBasedStateMachine):
    loop: asyncio.AbstractEventLoop
    world: TaskWorld
    people: dict[str, Person]
    clock: Clock
    ruled_as: dict[str, str]
    of_reminders: Rules

    made = Bundle("made")

    def __init__(self) -> None:
        super().__init__()
        # Half past the hour: all reminders are on the hour, so the time that a step takes changes nothing.
        self.clock.shift = timedelta(minutes=30 - datetime.now(UTC).minute)
        self.ruled_as.clear()
        self.models: dict[str, Model] = {}
        self.archived: set[str] = set()
        self.zones = dict.fromkeys(_NAMES, "UTC")
        self.members = set(_NAMES)
        self.expected: list[tuple[str, str | None, int, tuple[str, ...]]] = []
        self.projects: dict[str, str] = {}
        self.wait(self.start())

    def wait(self, call: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(call, self.loop).result(60)

    async def call(self, method: Any, request: Any) -> Any:
        return await method(request, metadata=self.world.me)

    async def start(self) -> None:
        """A new workspace of the same people, all in UTC, with a project of the owner and one of the manager."""
        world, people = self.world, self.people
        world.me = people["olga"].credentials
        world.workspace_id = (await world.team.workspace(people["olga"])).id
        for name in _NAMES:
            await move(world, people[name], "UTC")
            if name != "olga":
                await self.admit(name)
        for name, key in (("olga", "OWN"), ("manu", "MAN")):
            world.me = people[name].credentials
            self.projects[name] = await world.new_project(key)
        world.me = people["olga"].credentials

    async def remove(self, user_id: str) -> None:
        """Returns once the open tasks of the user are unassigned."""
        workspace_id = self.world.workspace_id
        await self.world.team.remove(self.people["olga"], workspace_id, user_id)

        async def unassigned() -> bool:
            wanted = TaskFilter(assignee_ids=[user_id])
            return not await self.world.listed(wanted)

        await eventually(unassigned)

    async def admit(self, name: str) -> None:
        role = ROLE_ADMIN if name == "manu" else ROLE_MEMBER
        email = self.people[name].email
        await self.world.team.add(self.people["olga"], self.world.workspace_id, email, role)

    @rule(
        target=made,
        project=st.sampled_from(["olga", "manu"]),
        creator=st.sampled_from(_NAMES),
        assignee=st.sampled_from(["", *_NAMES]),
        days=st.integers(-3, 3),
        hours=st.sampled_from([None, -2, 2, 26, 50]),
        zone=st.sampled_from(["UTC", _RULED_ANEW]),
    )
    def create(
        self, project: str, creator: str, assignee: str, days: int, hours: int | None, zone: str
    ) -> str | None:
        if project in self.archived or not {creator, assignee or creator} <= self.members:
            return None
        said, sent = self.deadline(days, hours, zone)
        self.world.me = self.people[creator].credentials
        task: Task = self.wait(
            self.world.create(
                project_id=self.projects[project],
                due=sent,
                assignee_id=self.people[assignee].id if assignee else "",
            )
        )
        self.world.me = self.people["olga"].credentials
        self.models[task.id] = Model(project, creator, assignee, said, self.clock.now())
        self.wait(self.set_now(task.id))
        return task.id

    @rule(task_id=made, days=st.integers(-2, 3), hours=st.sampled_from([None, 2, 26]))
    def set_due(self, task_id: str | None, days: int, hours: int | None) -> None:
        if task_id is None or self.models[task_id].project in self.archived:
            return
        model = self.models[task_id]
        said, sent = self.deadline(days, hours, "UTC")
        self.wait(self.world.update(Task(id=task_id), due=sent))
        if said != model.said:
            model.said, model.set_at = said, self.clock.now()
            self.wait(self.set_now(task_id))

    def deadline(self, days: int, hours: int | None, zone: str) -> tuple[due.Due, Due]:
        """A day, or with `hours` a local time on the hour."""
        now = self.clock.now().replace(minute=0, second=0, microsecond=0)
        if hours is None:
            day = (now + timedelta(days=days)).date()
            return due.Due(day=day), due_date(day.year, day.month, day.day)
        local = (now + timedelta(hours=hours)).astimezone(zones.load(zone)).replace(tzinfo=None)
        parts = local.year, local.month, local.day, local.hour
        return due.Due(local=datetime(*parts), zone=zone), due_at(zone, *parts)

    async def set_now(self, task_id: str) -> None:
        """The deadline was set by the reminders' clock."""
        async with self.world.db.transaction() as tx:
            await tx.run(_SET_LATER, task_id=task_id, shift=self.clock.shift)

    @rule(task_id=made, assignee=st.sampled_from(["", *_NAMES]))
    def assign(self, task_id: str | None, assignee: str) -> None:
        if task_id is None or self.models[task_id].project in self.archived:
            return
        if not assignee or assignee in self.members:
            user_id = self.people[assignee].id if assignee else ""
            request = AssignTaskRequest(id=task_id, assignee_id=user_id)
            self.wait(self.call(self.world.tasks.AssignTask, request))
            self.models[task_id].assignee = assignee

    @rule(name=st.sampled_from(_NAMES), zone=st.sampled_from(_ZONES))
    def move_person(self, name: str, zone: str) -> None:
        self.wait(move(self.world, self.people[name], zone))
        self.zones[name] = zone

    @rule(project=st.sampled_from(["olga", "manu"]), archived=st.booleans())
    def archive(self, project: str, archived: bool) -> None:
        projects, project_id = self.world.projects, self.projects[project]
        if archived:
            request = ArchiveProjectRequest(id=project_id)
            self.wait(self.call(projects.ArchiveProject, request))
            self.archived.add(project)
        else:
            again = UnarchiveProjectRequest(id=project_id)
            self.wait(self.call(projects.UnarchiveProject, again))
            self.archived.discard(project)

    @rule(name=st.sampled_from(_NAMES[1:]))
    def leave(self, name: str) -> None:
        if name not in self.members:
            return
        self.wait(self.remove(self.people[name].id))
        self.members.remove(name)
        for model in self.models.values():
            if model.assignee == name:
                model.assignee = ""

    @rule(name=st.sampled_from(_NAMES[1:]))
    def come_back(self, name: str) -> None:
        if name not in self.members:
            self.wait(self.admit(name))
            self.members.add(name)

    @rule()
    def upgrade_zone_rules(self) -> None:
        if self.ruled_as.pop(_RULED_ANEW, None) is None:
            self.ruled_as[_RULED_ANEW] = _OTHER_RULES
        self.wait(self.derive())

    async def derive(self) -> None:
        after: UUID | None = UUID(int=0)
        while after is not None:
            async with self.world.db.transaction() as tx:
                after = await bulk.derive_due_times(tx, after)

    @rule(hours=st.sampled_from([1, 3, 12, 24, 72]))
    def pass_time(self, hours: int) -> None:
        self.clock.shift += timedelta(hours=hours)

    @invariant()
    def work(self) -> None:
        """The worker sends what is due, and the events are exactly the expected ones."""
        for task_id, model in self.models.items():
            self.wait(run(self.world, Task(id=task_id)))
            self.expect(task_id, model)
        subject = f"taskflow.{self.world.workspace_id}.task.reminder_due"
        found = []
        for event in self.wait(events(self.world.db, subject)):
            facts = event.task_reminder_due
            said = due.parse(facts.task.due).said
            told = tuple(facts.substitute_ids)
            found.append((facts.task.id, said, facts.offset_seconds, told))
        assert found == self.expected
        reminders = [reminder[:3] for reminder in found]
        assert len(set(reminders)) == len(reminders)

    def expect(self, task_id: str, model: Model) -> None:
        """Which reminders are sent and skipped now."""
        now, zone = self.clock.now(), model.said.zone or self.zones[model.assignee or model.creator]
        due_at = model.said.instant(zone)
        assert due_at is not None
        planned = slots(model.said, due_at, zone, self.of_reminders)
        for slot in planned:
            if (model.said.said, slot.offset) in model.done:
                continue
            later = [other.at for other in planned if other.offset < slot.offset]
            outdated = slot.offset > 0 and min(due_at, *later) <= now
            if not outdated and not _past_when_set(model, slot, due_at):
                if slot.at > now or model.project in self.archived:
                    break
                self.expected.append((task_id, model.said.said, slot.offset, self.told(model)))
            model.done.add((model.said.said, slot.offset))

    def told(self, model: Model) -> tuple[str, ...]:
        """Who is reminded instead of assignee and creator."""
        if {model.assignee, model.creator} & self.members:
            return ()
        creator = model.project if model.project in self.members else "olga"
        return (self.people[creator].id,)


def _past_when_set(model: Model, slot: Slot, due_at: datetime) -> bool:
    if due_at <= model.set_at:
        return True
    return isinstance(model.said.day, date) and slot.at <= model.set_at


@pytest.fixture
async def world(services: Settings) -> AsyncIterator[TaskWorld]:
    async with a_task_world(services) as made:
        yield made


async def test_every_reminder_is_sent_once_or_skipped_after_any_sequence_of_changes(
    world: TaskWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, ruled_as, load, lock = Clock(), dict[str, str](), zones.load, logic._lock

    def ruled(name: str) -> ZoneInfo:
        return load(ruled_as.get(name, name))

    async def ahead(tx: Transaction, task_id: UUID) -> RemindedTask | None:
        task = await lock(tx, task_id)
        return task and task._replace(now=task.now + clock.shift)

    monkeypatch.setattr(zones, "load", ruled)
    monkeypatch.setattr(logic, "_lock", ahead)

    class Here(Reminders):
        pass

    Here.loop, Here.world, Here.clock, Here.ruled_as = (
        asyncio.get_running_loop(),
        world,
        clock,
        ruled_as,
    )
    Here.people = {"olga": world.owner} | {
        name: await world.team.person(name) for name in _NAMES[1:]
    }
    Here.of_reminders = rules(world.settings)
    profile = settings(max_examples=12, stateful_step_count=25, deadline=None)
    # In a thread, because its steps block on this event loop.
    await asyncio.to_thread(run_state_machine_as_test, Here, settings=profile)
