"""The consumers are down while more events are written than the event stream holds."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from google.type import date_pb2, datetime_pb2
from nats.js import JetStreamContext
from temporalio.client import Client

from deploy.local.probes import http_get
from services.platform.events.subjects import STREAM
from taskflow.event.v1.event_pb2 import Event
from taskflow.task.v1.task_pb2 import TASK_STATUS_IN_PROGRESS, TASK_STATUS_TODO, Due, Task
from taskflow.task.v1.task_service_pb2 import ChangeTaskStatusRequest, CreateTaskRequest
from tests.faults.harness import events
from tests.faults.harness.reminder_timers import has_timer
from tests.faults.harness.scenario import Run, Tally
from tests.faults.harness.world import World, a_world

PROMISE = "A full event stream loses nothing"
LIMIT_SECONDS = {"short": 240.0, "long": 1800.0}

# The stream's size limit during the scenario (bytes), and the task text that makes up most of an event.
_LIMIT = 1024 * 1024
_TEXT = "Salt, wind and a rusty hinge. " * 130
_WORKERS = ("worker", "worker-2")
# The processes that are stopped during the overflow, and those started afterwards. Only one notification process
# returns, because two could order the waiting notifications differently (docs/adr/0009).
_STARTED_AGAIN = (*_WORKERS, "notification")
_STOPPED = (*_STARTED_AGAIN, "notification-2")
_RELAYS = ("relay", "relay-2")
_CONSUMERS = ("dispatcher", "notification")
# One task in this many has a deadline years ahead, and one in this many a deadline this long (seconds) after the
# consumers' return.
_FAR_EVERY, _SOON_EVERY = 4, 10
_SOON = 8.0
# Seconds after the consumers' return within which everything is promised, and after which it counts as lost.
_PROMISED = {"short": 60.0, "long": 600.0}
_LOST = {"short": 120.0, "long": 1200.0}
_DEADLINE = 20.0
_SHARE = re.compile(r'^taskflow_consumer_unread_share\{consumer="(\w+)"\} (\S+)$', re.MULTILINE)


async def run(run: Run, tally: Tally) -> None:
    tasks = run.choose(100, 2_000)
    async with AsyncExitStack() as opened:
        world = await opened.enter_async_context(a_world(run, people=3, ai=True))
        client = await opened.enter_async_context(events.nats_client(world.settings))
        jetstream = client.jetstream()
        await events.settled(world.settings, 30)
        await opened.enter_async_context(_small_stream(jetstream, world))
        temporal = await Client.connect(run.stack.settings.temporal)
        for name in _STOPPED:
            await run.stack.hold(name)
            tally.faults += 1
        warned: dict[str, float] = {}
        run.say("the consumers are away")
        due = await _write(run, world, jetstream, tasks, warned, tally)
        run.say("they return")
        for name in _STARTED_AGAIN:
            run.stack.release(name)
        await _kill_while_catching_up(run, tally)
        returned = time.monotonic()
        run.say("a worker and the relays have been killed")
        await _agreement(run, world, temporal, due, returned, tally)
        tally.expect(
            await events.settled(world.settings, 30) is not None,
            "the consumers aren't back on the event stream after 30 s",
        )
        await _check(world, tally)
        run.stack.release("notification-2")
        await run.stack.wait_ready("notification-2", 60)
    for consumer in _CONSUMERS:
        tally.expect(
            warned.get(consumer, 0) > 0.5,
            f"no warning that {consumer} fell behind came before events were discarded",
        )


@asynccontextmanager
async def _small_stream(jetstream: JetStreamContext, world: World) -> AsyncIterator[None]:
    """Lower the stream's limit, which the relay follows."""
    config = (await jetstream.stream_info(STREAM)).config
    config.max_bytes = _LIMIT
    await jetstream.update_stream(config)
    try:
        yield
    finally:
        config.max_bytes = world.settings.event_stream_bytes
        await jetstream.update_stream(config)


# Writes while the consumers are down.


async def _write(
    run: Run,
    world: World,
    jetstream: JetStreamContext,
    count: int,
    warned: dict[str, float],
    tally: Tally,
) -> float:
    """Write tasks and status changes up to twice the limit; returns when the near deadlines are due.

    `warned` is the largest share per consumer that the relay reported before discarding unread events.
    """
    end = (await jetstream.stream_info(STREAM)).state.last_seq
    due = time.time() + count / 25 + _SOON
    discarded = False
    for begin in range(0, count, 10):
        chunk = range(begin, min(begin + 10, count))
        await asyncio.gather(*(_one(world, number, due) for number in chunk))
        tally.operations += 2 * len(chunk)
        # Let the relay publish the whole chunk. Its reported shares have to be read before a later chunk makes the
        # stream discard events.
        while await _unpublished(world):
            await asyncio.sleep(0.02)
        shares = await _shares(run)
        discarded = discarded or (await jetstream.stream_info(STREAM)).state.first_seq > end + 1
        if not discarded:
            for consumer, share in shares.items():
                warned[consumer] = max(share, warned.get(consumer, 0.0))
    while await _unpublished(world):
        await asyncio.sleep(0.1)
    state = (await jetstream.stream_info(STREAM)).state
    tally.figures["events while the consumers were away"] = (
        f"{state.last_seq - end:,}, of which the stream discarded {max(0, state.first_seq - 1 - end):,}"
    )
    tally.expect(state.first_seq > end + 1, "the stream discarded no unread events")
    return due


async def _one(world: World, number: int, due: float) -> None:
    owner, *others = world.people
    task = Task(
        title="Seal the valve as soon as possible",
        description=_TEXT,
        assignee_id=others[number % 2].id,
    )
    if number % _SOON_EVERY == 1:
        task.due.CopyFrom(_instant(due))
    elif number % _FAR_EVERY == 0:
        task.due.CopyFrom(Due(date=date_pb2.Date(year=2090, month=1, day=1)))
    how: dict[str, Any] = {"metadata": owner.credentials, "timeout": _DEADLINE}
    request = CreateTaskRequest(project_id=world.project, task=task)
    created = await world.stubs.tasks.CreateTask(request, **how)
    for status in (TASK_STATUS_IN_PROGRESS, TASK_STATUS_TODO):
        change = ChangeTaskStatusRequest(id=created.task.id, status=status)
        await world.stubs.tasks.ChangeTaskStatus(change, **how)


def _instant(at: float) -> Due:
    moment = datetime.fromtimestamp(at, UTC)
    said = datetime_pb2.DateTime(
        year=moment.year,
        month=moment.month,
        day=moment.day,
        hours=moment.hour,
        minutes=moment.minute,
        seconds=moment.second,
        time_zone=datetime_pb2.TimeZone(id="UTC"),
    )
    return Due(date_time=said)


async def _unpublished(world: World) -> int:
    ((count,),) = await world.fetch(
        "SELECT count(*) FROM platform.outbox WHERE published_at IS NULL"
    )
    return int(count)


async def _shares(run: Run) -> dict[str, float]:
    """The share of the limit per consumer, from the active relay's metrics."""
    settings = run.stack.settings
    found: dict[str, float] = {}
    for port in (settings.relay_http_port, settings.relay_http_port + 10):
        _, body = await http_get(settings.host, port, "/metrics")
        found |= {name: float(share) for name, share in _SHARE.findall(body.decode())}
    return found


# The consumers' return.


async def _kill_while_catching_up(run: Run, tally: Tally) -> None:
    """Kills processes. Not the notification service: JetStream redelivers a killed consumer's events only after 8 s."""
    for name in _STARTED_AGAIN:
        await run.stack.wait_ready(name, 60)
    for name in (run.random.choice(_WORKERS), *_RELAYS):
        await asyncio.sleep(run.random.uniform(0.1, 0.5))
        run.stack.kill(name)
        tally.faults += 1
    for name in _STARTED_AGAIN:
        await run.stack.wait_ready(name, 60)


async def _agreement(
    run: Run, world: World, temporal: Client, due: float, returned: float, tally: Tally
) -> None:
    """Wait until everything that the events call for has happened."""
    while True:
        missing = await _missing(world, temporal, time.time() > due)
        took = time.monotonic() - returned
        if not missing and time.time() > due:
            tally.recovered_after(took)
            limit = _PROMISED[run.profile]
            tally.expect_speed(
                took <= limit, f"everything arrived only {took:.0f} s after the return"
            )
            return
        if missing:
            run.say(f"{took:.0f} s: {'; '.join(f'{count} {what}' for what, count in missing)}")
        if took > _LOST[run.profile]:
            tally.lost += sum(count for _, count in missing)
            tally.broken += [f"{count} {what}, {took:.0f} s later" for what, count in missing]
            return
        await asyncio.sleep(0.5)


async def _missing(world: World, temporal: Client, all_due: bool) -> list[tuple[str, int]]:
    """What is missing, as sentences with counts."""
    rows = await world.fetch(
        """
        SELECT id::text, coalesce(due_at > now() + interval '1 day', false),
          EXISTS (SELECT FROM task.suggestions AS s WHERE s.task_id = tasks.id),
          coalesce(due_at <= now() AND due_at > due_set_at, false)
        FROM task.tasks WHERE workspace_id = %(workspace)s
        """,
        {"workspace": world.workspace.id},
    )
    reminded = await _reminded(world)
    found = {
        "tasks without a suggestion": sum(not suggested for _, _, suggested, _ in rows),
        "deadlines without a timer": sum(
            [not await has_timer(temporal, task_id) for task_id, far, _, _ in rows if far]
        ),
        "reminders missing": sum(over and task_id not in reminded for task_id, _, _, over in rows)
        if all_due
        else 0,
        "notifications missing": (await events.effects(world.settings, world.workspace.id)).missing,
    }
    return [(what, count) for what, count in found.items() if count]


async def _reminded(world: World) -> set[str]:
    rows = await world.fetch(
        "SELECT payload FROM platform.outbox WHERE subject = %(subject)s",
        {"subject": f"taskflow.{world.workspace.id}.task.reminder_due"},
    )
    return {Event.FromString(bytes(payload)).aggregate_id for (payload,) in rows}


async def _check(world: World, tally: Tally) -> None:
    """Check that nobody was notified twice, and everybody of each task's changes in order."""
    had = await events.effects(world.settings, world.workspace.id)
    tally.doubled += had.surplus
    rows = await world.fetch(
        """
        SELECT n.user_id::text, n.task_id::text, o.id
        FROM notification.notifications AS n JOIN platform.outbox AS o USING (event_id)
        WHERE n.workspace_id = %(workspace)s ORDER BY n.user_id, n.sequence
        """,
        {"workspace": world.workspace.id},
    )
    newest: dict[tuple[str, str], int] = {}
    for user_id, task_id, place in rows:
        tally.inverted += place < newest.get((user_id, task_id), 0)
        newest[user_id, task_id] = max(place, newest.get((user_id, task_id), 0))
    tally.figures["notifications"] = f"{had.total:,}"
