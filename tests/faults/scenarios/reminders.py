"""Deadlines move, and tasks are finished and deleted, within two seconds of their reminders, while workers die."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple

import grpc.aio
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from google.type import datetime_pb2

from taskflow.event.v1.event_pb2 import Event
from taskflow.task.v1.task_pb2 import (
    TASK_STATUS_CANCELED,
    TASK_STATUS_DONE,
    TASK_STATUS_TODO,
    Due,
    Task,
)
from taskflow.task.v1.task_service_pb2 import (
    AssignTaskRequest,
    ChangeTaskStatusRequest,
    DeleteTaskRequest,
    UpdateTaskRequest,
)
from tests.faults.harness import events
from tests.faults.harness.oplog import OperationLog
from tests.faults.harness.scenario import Run, Tally
from tests.faults.harness.world import World, a_world

PROMISE = "A reminder fires once, on time, and never for a moved, finished or deleted task"
LIMIT_SECONDS = {"short": 150.0, "long": 2400.0}

_WORKERS: Final = ("worker", "worker-2")
# Seconds around a reminder's instant within which its task is edited.
_AROUND: Final = 2.0
# The allowed lateness of a reminder (seconds), normally and after the end of an outage.
_LATE: Final = 10.0
_LATE_AFTER_OUTAGE: Final = 60.0
# When this process got no CPU for this long (seconds), the scenario assumes that the whole machine stood still.
_STANDSTILL: Final = 3.0
# Seconds from setting a deadline to the deadline.
_LEAD: Final = (5.0, 9.0)

Edit = Literal[
    "nothing", "moved", "moved far", "finished", "canceled", "deleted", "assigned", "reopened"
]
_EDITS: Final[Sequence[Edit]] = (
    "nothing",
    "moved",
    "moved far",
    "finished",
    "canceled",
    "deleted",
    "assigned",
    "reopened",
)


class Outage(NamedTuple):
    """An outage of one or both workers, or of the whole machine, in wall-clock seconds."""

    begun: float
    ended: float


class Sent(NamedTuple):
    """A sent reminder; times are wall-clock seconds."""

    due: float
    offset: int
    at: float


@dataclass
class Span:
    """A period in which a task was open with this deadline, in wall-clock seconds. `said` is when a user set it."""

    due: float
    said: float
    begun: float
    ended: float
    reminders: list[Sent] = field(default_factory=list)

    @property
    def reminds(self) -> bool:
        """Whether a reminder has to come. A slow call can set a deadline that has passed; that one has none."""
        return self.due > self.said

    @property
    def expected(self) -> float:
        """The time at which the reminder at the deadline should come."""
        return max(self.due, self.begun)


@dataclass
class Life:
    """The history of a task, by its events."""

    spans: list[Span] = field(default_factory=list)
    # Sentences about reminders that shouldn't have been sent.
    wrong: list[str] = field(default_factory=list)


async def run(run: Run, tally: Tally) -> None:
    count, rate = run.choose((60, 10.0), (2000, 5.0))
    outages: list[Outage] = []
    async with a_world(run, people=4) as world:
        tasks = await world.write_tasks(count)
        with OperationLog(run.folder / "operations") as log:
            begin = time.time() + _LEAD[1] + 1
            watching = asyncio.create_task(_watch(outages, tally))
            killing = asyncio.create_task(_kill_workers(run, outages, tally, count / rate))
            async with asyncio.TaskGroup() as edits:
                for number, task_id in enumerate(tasks):
                    life = _live(run, world, log, task_id, begin + number / rate)
                    edits.create_task(life)
            await killing
            run.say("waiting for outstanding reminders")
            await _complete(world, outages)
            watching.cancel()
            tally.operations = sum(1 for _ in log)
        await _check(world, outages, tally)


# Edits near the deadlines.


async def _live(run: Run, world: World, log: OperationLog, task_id: str, due: float) -> None:
    """Set a deadline some seconds ahead, and edit the task near it."""
    edit = run.random.choice(_EDITS)
    ahead = run.random.uniform(*_LEAD)
    around = run.random.uniform(-_AROUND, _AROUND)
    later = run.random.uniform(3, run.choose(5, 9))
    call = _Calls(world, log, task_id, run.random.randrange(1, 4))
    await _sleep_until(due - ahead)
    await call.due(due)
    await _sleep_until(due + around)
    match edit:
        case "moved":
            await call.due(time.time() + later)
        case "moved far":
            await call.due(time.time() + 86_400)
        case "finished":
            await call.status(TASK_STATUS_DONE)
        case "canceled":
            await call.status(TASK_STATUS_CANCELED)
        case "deleted":
            await call.delete()
        case "assigned":
            await call.assign()
        case "reopened":
            await call.status(TASK_STATUS_DONE)
            await asyncio.sleep(later / 6)
            await call.status(TASK_STATUS_TODO)


async def _sleep_until(at: float) -> None:
    await asyncio.sleep(max(0.0, at - time.time()))


class _Calls:
    """The edits of one task."""

    def __init__(self, world: World, log: OperationLog, task_id: str, colleague: int) -> None:
        self._world = world
        self._log = log
        self._id = task_id
        self._colleague = world.people[colleague].id

    async def due(self, at: float) -> None:
        local = datetime.fromtimestamp(at, UTC)
        said = datetime_pb2.DateTime(
            year=local.year,
            month=local.month,
            day=local.day,
            hours=local.hour,
            minutes=local.minute,
            seconds=local.second,
            nanos=local.microsecond * 1000,
            time_zone=datetime_pb2.TimeZone(id="UTC"),
        )
        await self._call(
            "due",
            self._world.stubs.tasks.UpdateTask,
            UpdateTaskRequest(
                task=Task(id=self._id, due=Due(date_time=said)),
                update_mask=FieldMask(paths=["due"]),
            ),
        )

    async def status(self, status: Any) -> None:
        request = ChangeTaskStatusRequest(id=self._id, status=status)
        await self._call("status", self._world.stubs.tasks.ChangeTaskStatus, request)

    async def delete(self) -> None:
        request = DeleteTaskRequest(id=self._id)
        await self._call("delete", self._world.stubs.tasks.DeleteTask, request)

    async def assign(self) -> None:
        request = AssignTaskRequest(id=self._id, assignee_id=self._colleague)
        await self._call("assign", self._world.stubs.tasks.AssignTask, request)

    async def _call(self, op: str, method: Any, request: Any) -> None:
        entry = self._log.begin(op, task=self._id)
        try:
            answer = await method(
                request, metadata=self._world.people[0].credentials, timeout=20, wait_for_ready=True
            )
        except grpc.aio.AioRpcError as error:
            entry.raised(error)
        else:
            entry.ok(revision=answer.task.revision)


async def _kill_workers(run: Run, outages: list[Outage], tally: Tally, seconds: float) -> None:
    """Kill one or both workers every 20 s, after a first period without kills."""
    instants = run.choose(
        [_LEAD[1] + 0.4 * seconds, _LEAD[1] + 0.8 * seconds],
        [_LEAD[1] + 0.1 * seconds + 20.0 * n for n in range(int(0.9 * seconds / 20))],
    )
    started = time.time()
    for instant in instants:
        await _sleep_until(started + instant + run.random.uniform(-0.5, 0.5))
        victims = run.random.choice([_WORKERS[:1], _WORKERS[1:], _WORKERS])
        begun = time.time()
        for name in victims:
            await run.stack.hold(name)
            tally.faults += 1
        run.say(f"killed {' and '.join(victims)}")
        for name in victims:
            run.stack.release(name)
        for name in victims:
            await run.stack.wait_ready(name, 60)
        outages.append(Outage(begun, time.time()))


async def _watch(outages: list[Outage], tally: Tally) -> None:
    """Record standstills of the machine, as happen on a shared one: no reminder can be on time then."""
    before = time.time()
    while True:
        await asyncio.sleep(0.5)
        now = time.time()
        if now - before > _STANDSTILL:
            outages.append(Outage(before, now))
            tally.figures["this machine stood still"] = f"for {now - before:.1f} s, the last time"
        before = now


# Checks at the end.


def _latest(expected: float, outages: Sequence[Outage]) -> float:
    """The latest allowed time of a reminder."""
    concerned = [
        outage.ended + _LATE_AFTER_OUTAGE
        for outage in outages
        if outage.begun <= expected + _LATE and expected <= outage.ended + _LATE_AFTER_OUTAGE
    ]
    return max([expected + _LATE, *concerned])


async def _complete(world: World, outages: Sequence[Outage]) -> None:
    """Wait until no reminder is outstanding, or the latest allowed time is over."""
    while True:
        lives = await _lives(world)
        now = time.time()
        open_spans = [
            span
            for life in lives.values()
            for span in life.spans
            if span.ended == float("inf")
            and span.reminds
            and span.due < now + 3600
            and not _sent_at(life, span.due)
        ]
        if all(now > _latest(span.expected, outages) for span in open_spans):
            break
        await asyncio.sleep(1)
    await events.settled(world.settings, 60)


async def _lives(world: World) -> dict[str, Life]:
    histories: dict[str, list[Event]] = {}
    for stored in await events.outbox(world.settings, world.workspace.id):
        event = stored.event
        if event.type.startswith("task."):
            histories.setdefault(event.aggregate_id, []).append(event)
    return {task_id: _life(history) for task_id, history in histories.items()}


def _life(history: Sequence[Event]) -> Life:
    """Build a task's history from its events, which are in the order of its changes."""
    life = Life()
    state: Task | None = None
    span: Span | None = None
    said = 0.0
    for event in history:
        at = _seconds(event.occur_time)
        if event.WhichOneof("facts") == "task_reminder_due":
            reminder = event.task_reminder_due
            sent = Sent(_seconds(reminder.task.due_time), reminder.offset_seconds, at)
            life.wrong += _faults(event, state, span, sent)
            if span is not None:
                span.reminders.append(sent)
            continue
        before, state = state, getattr(event, event.WhichOneof("facts") or "task_updated").task
        if before is None or before.due != state.due:
            said = at
        due = _seconds(state.due_time) if _counts(state) else None
        if span is not None and span.due != due:
            span.ended = at
            span = None
        if span is None and due is not None:
            span = Span(due, said, at, float("inf"))
            life.spans.append(span)
    return life


def _counts(task: Task) -> bool:
    return (
        task.HasField("due_time")
        and not task.HasField("finish_time")
        and not task.HasField("delete_time")
    )


def _faults(event: Event, state: Task | None, span: Span | None, sent: Sent) -> Iterator[str]:
    """What is wrong with a reminder, given the task's state at its time."""
    task = event.task_reminder_due.task
    if span is None or state is None:
        yield f"task {task.id} got a reminder while finished, deleted or without a deadline"
    elif sent.due != span.due:
        yield f"task {task.id} got a reminder for an outdated deadline"
    elif event.revision != state.revision or task.assignee_id != state.assignee_id:
        yield f"a reminder shows task {task.id} as it was at revision {event.revision}"
    elif sent.at < sent.due - sent.offset:
        yield f"task {task.id} got its reminder {sent.due - sent.offset - sent.at:.3f} s early"


def _seconds(at: Timestamp) -> float:
    return at.seconds + at.nanos / 1e9


def _sent_at(life: Life, due: float) -> list[float]:
    """When the reminder for this deadline was sent, possibly in an earlier span."""
    return [
        sent.at
        for span in life.spans
        for sent in span.reminders
        if sent.due == due and sent.offset == 0
    ]


async def _check(world: World, outages: Sequence[Outage], tally: Tally) -> None:
    lives = await _lives(world)
    lateness: list[float] = []
    before_outages: list[float] = []
    first_outage = min((outage.begun for outage in outages), default=float("inf"))
    for task_id, life in lives.items():
        for sentence in life.wrong:
            tally.expect(False, sentence)
        sent = Counter((one.due, one.offset) for span in life.spans for one in span.reminders)
        tally.doubled += sum(count - 1 for count in sent.values())
        for span in life.spans:
            at = [one.at for one in span.reminders if one.offset == 0]
            latest = _latest(span.expected, outages)
            if not at:
                missing = span.reminds and not _sent_at(life, span.due)
                if missing and span.ended > latest and latest < time.time():
                    tally.lost += 1
                continue
            late = at[0] - span.expected
            lateness.append(late)
            if at[0] < first_outage:
                before_outages.append(late)
            tally.expect(at[0] <= latest, f"task {task_id} got its reminder {late:.1f} s late")
    had = await events.effects(world.settings, world.workspace.id)
    tally.lost += had.missing
    tally.doubled += had.surplus
    tally.recovered_after(max(lateness, default=0.0))
    tally.figures["reminders at the deadline"] = f"{len(lateness):,} of {len(lives):,} tasks"
    tally.figures["late, before the first outage"] = _spread(before_outages)
    tally.figures["late, all"] = _spread(lateness)
    tally.figures["notifications"] = f"{had.total:,}"
    acknowledged = sum(len(life.spans) for life in lives.values())
    tally.figures["deadlines"] = f"{acknowledged:,}"


def _spread(seconds: list[float]) -> str:
    if not seconds:
        return "none"
    ordered = sorted(seconds)
    p50, p99 = (ordered[int(len(ordered) * part)] for part in (0.5, 0.99))
    beyond = sum(one > _LATE for one in ordered)
    return f"p50 {p50:.2f} s, p99 {p99:.2f} s, max {ordered[-1]:.2f} s; {beyond} by more than {_LATE:g} s"
