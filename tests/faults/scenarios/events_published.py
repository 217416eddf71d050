"""The relay is killed at various moments, a transaction stays open, and events repeat after the dedupe window."""

import asyncio
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
from google.protobuf.field_mask_pb2 import FieldMask
from uuid_utils.compat import uuid7

from services.platform.events import outbox
from services.platform.events.subjects import STREAM
from taskflow.event.v1.event_pb2 import Event, TaskUpdated
from taskflow.task.v1.task_pb2 import Task
from tests.faults.harness import events
from tests.faults.harness.injectors import paused
from tests.faults.harness.oplog import OperationLog
from tests.faults.harness.scenario import Run, Tally
from tests.faults.harness.task_changers import Changes
from tests.faults.harness.world import World, a_world

PROMISE = "Every committed event is published, in order per task, applied once"
LIMIT_SECONDS = {"short": 150.0, "long": 2400.0}

_RELAYS: Final = ("relay", "relay-2")
# One change in this many notifies a user.
_NOTIFYING_EVERY: Final = 4
# Seconds between a writer's changes, while no transaction is held open.
_PAUSE: Final = 0.04
# Time limits (seconds) until another relay publishes, and until the consumers have processed everything.
_TAKEOVER: Final = 15.0
_DRAIN: Final = 60.0
# The dedupe window (seconds) during the scenario: the shortest that NATS accepts.
_SMALLEST_WINDOW: Final = 0.1


@dataclass
class Moments:
    """How often the relay was killed at which moment, as seen from outside."""

    # The relay had read events that NATS hadn't acknowledged yet.
    selected: int = 0
    # NATS had acknowledged events that the relay hadn't marked as published yet.
    acked: int = 0
    # Postgres was running the relay's statement that marks events, and finished it after the relay's death.
    marking: int = 0
    # The relay died a random short time after it started.
    anywhere: int = 0


async def run(run: Run, tally: Tally) -> None:
    moments = Moments()
    async with a_world(run, people=2) as world:
        with OperationLog(run.folder / "operations") as log:
            changes = Changes(run, world, log, notifying_every=_NOTIFYING_EVERY, pause=_PAUSE)
            async with changes.going_on():
                holding = asyncio.create_task(_hold_open(run, world, changes, tally))
                try:
                    await _kill_relays(run, tally, moments)
                    await holding
                finally:
                    holding.cancel()
                    await asyncio.gather(holding, return_exceptions=True)
            run.say("waiting for the consumers")
            drained = await events.settled(world.settings, _DRAIN)
            tally.expect(drained is not None, f"events are left {_DRAIN:g} s after the load")
            await _check(world, log, tally)
            await _replay(run, world, tally)
    tally.figures["relay killed"] = (
        f"{moments.selected} with events selected, {moments.acked} with events acked, "
        f"{moments.marking} while marking, {moments.anywhere} anywhere"
    )


# A transaction that commits late.


async def _hold_open(run: Run, world: World, changes: Changes, tally: Tally) -> None:
    """A transaction writes its event, as the service does, and commits after many others."""
    others, seconds = run.choose((200, 3.0), (1000, 10.0))
    await asyncio.sleep(1)
    started, before = time.monotonic(), changes.acknowledged
    changes.pause = 0
    async with await psycopg.AsyncConnection.connect(world.settings.postgres) as connection:
        cursor = await connection.execute(
            "SELECT revision FROM task.tasks WHERE id = %s FOR NO KEY UPDATE", (changes.spare.id,)
        )
        (revision,) = await cursor.fetchone() or (0,)
        after = Task()
        after.CopyFrom(changes.spare)
        after.revision = revision + 1
        changed = TaskUpdated(task=after, changed_fields=FieldMask(paths=["labels"]))
        await connection.execute(
            "UPDATE task.tasks SET revision = revision + 1, updated_at = now() WHERE id = %s",
            (changes.spare.id,),
        )
        row = outbox.row(
            Event(
                type="task.updated",
                workspace_id=world.workspace.id,
                aggregate_id=changes.spare.id,
                revision=after.revision,
                actor_id=world.people[0].id,
                task_updated=changed,
            )
        )
        await connection.execute(
            "INSERT INTO platform.outbox (event_id, subject, payload)"
            " VALUES (%(event_id)s, %(subject)s, %(payload)s)",
            row,
        )
        while time.monotonic() - started < seconds or changes.acknowledged - before < others:
            await asyncio.sleep(0.05)
    changes.pause = _PAUSE
    tally.faults += 1
    tally.figures["transaction held open"] = (
        f"{time.monotonic() - started:.1f} s, while {changes.acknowledged - before:,} others committed"
    )
    # Write an event with a higher revision of the same task, which must not overtake the late one.
    await changes.change(changes.spare, telling=True)


# Kills of the relay.


async def _kill_relays(run: Run, tally: Tally, moments: Moments) -> None:
    wanted = run.choose(5, 200)
    kinds = [_selected, _acked, _anywhere]
    url = run.stack.settings.postgres
    async with (
        await psycopg.AsyncConnection.connect(url, autocommit=True) as looking,
        await psycopg.AsyncConnection.connect(url) as locking,
    ):
        for number in range(wanted):
            run.say(f"kill {number + 1} of {wanted}")
            victim = await _active(run, looking)
            await kinds[number % len(kinds)](run, victim, looking, locking, moments)
            killed = time.monotonic()
            tally.faults += 1
            run.stack.release(victim)
            await _published(looking)
            tally.recovered_after(time.monotonic() - killed)
    for name in _RELAYS:
        await run.stack.wait_ready(name)


async def _selected(
    run: Run,
    victim: str,
    looking: psycopg.AsyncConnection[Any],
    locking: psycopg.AsyncConnection[Any],
    moments: Moments,
) -> None:
    """Stop NATS, so that events read by the relay stay in its sockets."""
    with paused(run.stack, "nats"):
        while not await _waiting(looking):
            await asyncio.sleep(0.002)
        # The relay polls the outbox at least every 200 ms.
        await asyncio.sleep(run.random.uniform(0.0, 0.3))
        await run.stack.hold(victim)
        moments.selected += 1


async def _acked(
    run: Run,
    victim: str,
    looking: psycopg.AsyncConnection[Any],
    locking: psycopg.AsyncConnection[Any],
    moments: Moments,
) -> None:
    """Lock the outbox table, so that the relay can't mark the events that NATS acknowledged."""
    async with locking.transaction(force_rollback=True):
        await locking.execute("LOCK TABLE platform.relay_position IN EXCLUSIVE MODE")
        async with asyncio.timeout(_TAKEOVER):
            while not (marking := await _marking(looking)):
                await asyncio.sleep(0.002)
        await run.stack.hold(victim)
        if run.random.random() < 0.5:
            await looking.execute("SELECT pg_terminate_backend(%s)", (marking,))
            moments.acked += 1
        else:
            moments.marking += 1


async def _anywhere(
    run: Run,
    victim: str,
    looking: psycopg.AsyncConnection[Any],
    locking: psycopg.AsyncConnection[Any],
    moments: Moments,
) -> None:
    while not await _waiting(looking):
        await asyncio.sleep(0.001)
    await asyncio.sleep(run.random.uniform(0.0, 0.03))
    await run.stack.hold(victim)
    moments.anywhere += 1


async def _active(run: Run, looking: psycopg.AsyncConnection[Any]) -> str:
    """The active relay: it holds the lock, over a connection from its own port."""
    async with asyncio.timeout(_TAKEOVER):
        while True:
            cursor = await looking.execute(
                "SELECT client_port FROM pg_stat_activity JOIN pg_locks USING (pid)"
                " WHERE application_name = 'taskflow-relay-lock' AND locktype = 'advisory' AND granted"
            )
            row = await cursor.fetchone()
            for name in _RELAYS if row else ():
                try:
                    if row and row[0] in _ports(run.stack.pid(name)):
                        return name
                except OSError:
                    continue
            await asyncio.sleep(0.02)


def _ports(pid: int) -> Iterator[int]:
    """The local ports of a process's TCP connections."""
    sockets = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        try:
            sockets.add(os.readlink(file))
        except OSError:
            continue
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if f"socket:[{fields[9]}]" in sockets:
            yield int(fields[1].rpartition(":")[2], 16)


async def _waiting(looking: psycopg.AsyncConnection[Any]) -> bool:
    cursor = await looking.execute(
        "SELECT EXISTS (SELECT FROM platform.outbox WHERE published_at IS NULL)"
    )
    row = await cursor.fetchone()
    return bool(row and row[0])


async def _marking(looking: psycopg.AsyncConnection[Any]) -> int | None:
    """The backend that waits for the lock, if any."""
    cursor = await looking.execute(
        "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        " AND query LIKE '%relay_position%' AND query LIKE '%outbox%'"
    )
    row = await cursor.fetchone()
    return row[0] if row else None


async def _published(looking: psycopg.AsyncConnection[Any]) -> None:
    """Wait until all events written so far are published."""
    cursor = await looking.execute("SELECT max(id) FROM platform.outbox")
    row = await cursor.fetchone()
    async with asyncio.timeout(_DRAIN):
        while True:
            cursor = await looking.execute(
                "SELECT EXISTS (SELECT FROM platform.outbox WHERE published_at IS NULL AND id <= %s)",
                row,
            )
            left = await cursor.fetchone()
            if left and not left[0]:
                return
            await asyncio.sleep(0.01)


# Checks at the end.


async def _check(world: World, log: OperationLog, tally: Tally) -> None:
    settings, workspace_id = world.settings, world.workspace.id
    written = await events.outbox(settings, workspace_id)
    published = await events.stream(settings, workspace_id)
    known = {(one.event.aggregate_id, one.event.revision) for one in written}
    for operation in log:
        tally.operations += 1
        if operation.outcome == "ok":
            tally.lost += (operation.facts["task"], operation.facts["revision"]) not in known
    tally.lost += len({one.id for one in written} - {one.id for one in published})
    repeated = len(published) - len({one.id for one in published})
    tally.expect(not repeated, f"JetStream has {repeated} events twice within its dedupe window")
    tally.inverted += events.inverted(published)
    had = await events.effects(settings, workspace_id)
    tally.lost += had.missing
    tally.doubled += had.surplus
    tally.figures["events"] = f"{len(written):,} written, {len(published):,} in the stream"
    tally.figures["notifications"] = f"{had.total:,}"


async def _replay(run: Run, world: World, tally: Tally) -> None:
    """Repeat events after JetStream's dedupe window."""
    settings, workspace_id = world.settings, world.workspace.id
    published = await events.stream(settings, workspace_id)
    again = run.random.sample(published, min(len(published), run.choose(200, 2000)))
    new = 0
    async with events.nats_client(settings) as client:
        jetstream = client.jetstream(timeout=10)
        config = (await jetstream.stream_info(STREAM)).config
        window, config.duplicate_window = config.duplicate_window, _SMALLEST_WINDOW
        await jetstream.update_stream(config)
        await asyncio.sleep(2 * _SMALLEST_WINDOW)
        for stored in again:
            ack = await jetstream.publish(
                outbox.subject(stored.event), stored.payload, headers={"Nats-Msg-Id": stored.id}
            )
            if ack.duplicate:
                # NATS still knows this message id, so send the event under another one. Consumers see the same event
                # id.
                ack = await jetstream.publish(
                    outbox.subject(stored.event),
                    stored.payload,
                    headers={"Nats-Msg-Id": str(uuid7())},
                )
            new += not ack.duplicate
        config.duplicate_window = window
        await jetstream.update_stream(config)
    tally.faults += new
    tally.expect(new == len(again), f"{len(again) - new} replayed events didn't reach the stream")
    drained = await events.settled(settings, _DRAIN)
    tally.expect(drained is not None, f"replayed events are left after {_DRAIN:g} s")
    had = await events.effects(settings, workspace_id)
    tally.doubled += had.surplus
    tally.lost += had.missing
    tally.figures["replayed after the dedupe window"] = (
        f"{new:,} events, {had.surplus} second effects"
    )
