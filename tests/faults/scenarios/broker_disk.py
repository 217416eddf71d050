"""NATS is killed under load and restarts with an empty disk, or with an older copy of its disk."""

import asyncio
import shutil
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Literal

import grpc.aio
from google.type import date_pb2
from temporalio.client import Client

from taskflow.task.v1.task_pb2 import TASK_STATUS_IN_PROGRESS, TASK_STATUS_TODO, Due, Task
from taskflow.task.v1.task_service_pb2 import (
    ChangeTaskStatusRequest,
    CreateTaskRequest,
)
from tests.faults.harness import events
from tests.faults.harness.board import Board, a_board, revisions
from tests.faults.harness.oplog import OperationLog
from tests.faults.harness.reminder_timers import has_timer
from tests.faults.harness.scenario import Run, Tally
from tests.faults.harness.world import World, a_world

PROMISE = "A broker that lost its disk loses no event"
# Runs first: a new stream is refilled with all events, including those of other scenarios.
ORDER = ""
LIMIT_SECONDS = {"short": 150.0, "long": 1200.0}

# Seconds after the broker's return within which all consumers must match the database.
_PROMISED = 60.0
_WRITERS = 4
_BOARDS = 4
# One write in this many creates a task, which starts one or two workflows; the others change a status.
_CREATE_EVERY = {"short": 15, "long": 6}
# Seconds of load before the disk is lost, and after the broker's return.
_BEFORE, _AFTER = 1.5, 1.0

Loss = Literal["deleted", "rolled back"]


async def run(run: Run, tally: Tally) -> None:
    rounds: list[Loss] = run.choose(["rolled back", "deleted"], ["rolled back", "deleted"] * 3)
    async with AsyncExitStack() as opened:
        world = await opened.enter_async_context(a_world(run, people=3, ai=True))
        log = opened.enter_context(OperationLog(run.folder / "operations"))
        boards = [await opened.enter_async_context(a_board(world)) for _ in range(_BOARDS)]
        temporal = await Client.connect(run.stack.settings.temporal)
        slowest: dict[Loss, float] = {}
        for number, loss in enumerate(rounds, start=1):
            run.say(f"round {number}: the disk is {loss}")
            writers = asyncio.create_task(_load(run, world, log))
            try:
                await _lose(run, loss, tally)
                returned = time.monotonic()
                await asyncio.sleep(_AFTER)
            finally:
                writers.cancel()
                await asyncio.gather(writers, return_exceptions=True)
            took = await _agreement(run, world, boards, temporal, returned, tally, loss)
            slowest[loss] = max(slowest.get(loss, 0.0), took)
        await _check(world, log, tally)
    tally.lost += sum(board.holes for board in boards)
    for loss, seconds in slowest.items():
        tally.figures[f"consumers match the database, disk {loss}"] = f"{seconds:.1f} s at most"
    tally.figures["WatchTasks"] = (
        f"{sum(board.resets for board in boards)} resets, {sum(board.interruptions for board in boards)} "
        f"interruptions, {sum(board.holes for board in boards)} gaps on {_BOARDS} streams"
    )


# Loss of the broker's disk.


async def _lose(run: Run, loss: Loss, tally: Tally) -> None:
    """Lose the disk under load; returns when NATS serves again."""
    disk, copy = run.stack.settings.data_dir / "nats", run.folder / "copy"
    await asyncio.sleep(_BEFORE)
    if loss == "rolled back":
        # Copy the disk while NATS doesn't write to it, like a volume backup.
        await run.stack.hold("nats")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(disk, copy)
        await _release(run)
        tally.faults += 1
        await asyncio.sleep(_BEFORE)
    await run.stack.hold("nats")
    # Events written while NATS is down wait in the outbox, some in the relay's NATS client.
    await asyncio.sleep(run.random.uniform(0.1, 2.0))
    shutil.rmtree(disk)
    if loss == "rolled back":
        shutil.copytree(copy, disk)
    await _release(run)
    tally.faults += 1


async def _release(run: Run) -> None:
    run.stack.release("nats")
    await run.stack.wait_ready("nats")


# Writers.


async def _load(run: Run, world: World, log: OperationLog) -> None:
    async with asyncio.TaskGroup() as writers:
        for number in range(_WRITERS):
            writers.create_task(_write(run, world, log, number))


async def _write(run: Run, world: World, log: OperationLog, number: int) -> None:
    """Create tasks for others, some with a deadline, and change their status back and forth."""
    owner, *others = world.people
    mine: list[Task] = []
    count = number
    while True:
        count += 1
        try:
            if not mine or count % _CREATE_EVERY[run.profile] == 0:
                entry = log.begin("create")
                task = Task(
                    title="Seal the valve as soon as possible", assignee_id=others[count % 2].id
                )
                if count % 4 == 0:
                    task.due.CopyFrom(Due(date=date_pb2.Date(year=2090, month=1, day=1)))
                created = await world.stubs.tasks.CreateTask(
                    CreateTaskRequest(project_id=world.project, task=task),
                    metadata=owner.credentials,
                    timeout=10,
                )
                mine.append(created.task)
                entry.ok(task=created.task.id, revision=created.task.revision)
            else:
                task = run.random.choice(mine)
                entry = log.begin("status")
                todo = task.status == TASK_STATUS_TODO
                changed = await world.stubs.tasks.ChangeTaskStatus(
                    ChangeTaskStatusRequest(
                        id=task.id, status=TASK_STATUS_IN_PROGRESS if todo else TASK_STATUS_TODO
                    ),
                    metadata=owner.credentials,
                    timeout=10,
                )
                task.CopyFrom(changed.task)
                entry.ok(task=task.id, revision=task.revision)
        except grpc.aio.AioRpcError as error:
            entry.raised(error)
        await asyncio.sleep(0.03)


# Agreement of consumers with the database.


async def _agreement(
    run: Run,
    world: World,
    boards: Sequence[Board],
    temporal: Client,
    returned: float,
    tally: Tally,
    loss: Loss,
) -> float:
    """Wait until every consumer matches the database; returns the seconds since NATS came back."""
    while True:
        differences = await _differences(world, boards, temporal)
        took = time.monotonic() - returned
        if not differences:
            tally.recovered_after(took)
            return took
        run.say(f"disk {loss}, {took:.0f} s: {'; '.join(differences)}")
        if took > _PROMISED:
            tally.lost += 1
            tally.broken.append(
                f"{_PROMISED:g} s after NATS was back with its disk {loss}: {'; '.join(differences)}"
            )
            return took
        await asyncio.sleep(0.3)


async def _differences(world: World, boards: Sequence[Board], temporal: Client) -> list[str]:
    settings, workspace_id = world.settings, world.workspace.id
    rows = await world.fetch(
        """
        SELECT id::text, due_at IS NOT NULL,
          EXISTS (SELECT FROM task.suggestions AS s WHERE s.task_id = tasks.id)
        FROM task.tasks WHERE workspace_id = %(workspace)s
        """,
        {"workspace": workspace_id},
    )
    found = []
    had = await events.effects(settings, workspace_id)
    if had.missing or had.surplus:
        found.append(f"{had.missing} notifications missing, {had.surplus} too many")
    kept = await revisions(world)
    if stale := sum(board.tasks != kept for board in boards):
        found.append(f"{stale} boards differ")
    if bare := sum(not suggested for _, _, suggested in rows):
        found.append(f"{bare} tasks without a suggestion")
    due = [task_id for task_id, has_deadline, _ in rows if has_deadline]
    if silent := len(due) - sum([await has_timer(temporal, task_id) for task_id in due]):
        found.append(f"{silent} deadlines without a timer")
    return found


async def _check(world: World, log: OperationLog, tally: Tally) -> None:
    """Check that every written event is in the stream, and every acknowledged write has its event."""
    settings, workspace_id = world.settings, world.workspace.id
    written = await events.outbox(settings, workspace_id)
    published = await events.stream(settings, workspace_id)
    tally.lost += len({one.id for one in written} - {one.id for one in published})
    known = {(one.event.aggregate_id, one.event.revision) for one in written}
    for operation in log:
        tally.operations += 1
        if operation.outcome == "ok":
            tally.lost += (operation.facts["task"], operation.facts["revision"]) not in known
    tally.inverted += events.inverted(published)
    had = await events.effects(settings, workspace_id)
    tally.doubled += had.surplus
    tally.figures["events"] = f"{len(written):,} written, {len(published):,} in the stream"
    tally.figures["notifications"] = f"{had.total:,}"
