"""P7: how fast the relay publishes a backlog, in events per second, until all events are published or the time is over.

JetStream syncs each message to disk before it acknowledges it, in the measurement and in its floor.
"""

import asyncio
import base64
import time

import psycopg

from services.platform.config import Settings
from taskflow.event.v1.event_pb2 import Event, TaskCreated
from taskflow.task.v1 import task_pb2
from taskflow.task.v1.task_pb2 import Task
from tests.bench import dataset
from tests.bench.dataset import LARGE, WORKSPACES, name_id
from tests.bench.processes import load
from tests.bench.rows import ROUNDS, Bench, Result, compared
from tests.bench.stacks import RELAY
from tests.conftest import superuser

_BACKLOG = 50_000
_LOOK = 0.02
_SECONDS = 5.0

# One transaction writes all events, so that the relay sees all of them at once.
_ADD = """
INSERT INTO platform.outbox (event_id, subject, payload)
SELECT uuidv7(), %(subject)s, %(payload)s FROM generate_series(1, %(count)s)
"""
_LEFT = "SELECT count(*) FROM platform.outbox WHERE published_at IS NULL"


async def backlog(bench: Bench) -> Result:
    """Measures P7: the events per second that the relay publishes from a backlog."""
    # A separate database: consumers of another stack would have to read all these events first.
    stacks = await bench.stacks.need(outbox=RELAY)
    settings = stacks["outbox"].settings
    payload = _event().SerializeToString()
    rates, floors = [], []
    for number in range(ROUNDS):
        await dataset.forget_events(superuser(settings))
        bench.say(f"round {number + 1}: the relay")
        rates.append(await _drained(settings, payload))
        bench.say(f"round {number + 1}: publish_async")
        [found] = await load(
            {
                "kind": "publish",
                "nats": settings.nats,
                "payload": base64.b64encode(payload).decode(),
                "count": _BACKLOG,
                "seconds": _SECONDS,
            }
        )
        floors.append(found["rate"])
    await dataset.forget_events(superuser(settings))
    result = compared(rates, floors, "events/s", least=0.3)
    result.details["event_bytes"] = len(payload)
    return result


async def _drained(settings: Settings, payload: bytes) -> float:
    """Events per second, up to the last batch that was marked as published."""
    async with await psycopg.AsyncConnection.connect(
        superuser(settings), autocommit=True
    ) as connection:
        subject = f"taskflow.{WORKSPACES[LARGE]}.task.created"
        await connection.execute(_ADD, {"subject": subject, "payload": payload, "count": _BACKLOG})
        begin = now = last = time.monotonic()
        left = _BACKLOG
        while left and now < begin + _SECONDS:
            await asyncio.sleep(_LOOK)
            cursor = await connection.execute(_LEFT)
            row = await cursor.fetchone()
            now = time.monotonic()
            if row is not None and row[0] < left:
                left, last = row[0], now
    if left == _BACKLOG:
        raise RuntimeError("the relay published nothing")
    return (_BACKLOG - left) / (last - begin)


def _event() -> Event:
    """An event of the size that CreateTask writes."""
    task = Task(
        id=str(name_id("task")),
        workspace_id=WORKSPACES[LARGE],
        project_id=str(name_id("project 1")),
        key="P1-1001",
        title="Check pump 7 of the east pier",
        description="The bearing runs warm. Look at the seal and the coupling, and note what was found.",
        status=task_pb2.TASK_STATUS_TODO,
        creator_id=str(name_id("user 1")),
        assignee_id=str(name_id("user 2")),
        labels=["area 7", "kind 3"],
        revision=1,
        text_revision=1,
        etag="0123456789abcdef",
    )
    task.create_time.GetCurrentTime()
    task.update_time.GetCurrentTime()
    event = Event(
        id=str(name_id("event")),
        type="task.created",
        workspace_id=task.workspace_id,
        aggregate_id=task.id,
        revision=1,
        actor_id=task.creator_id,
        task_created=TaskCreated(task=task),
    )
    event.occur_time.GetCurrentTime()
    return event
