"""One event in a hundred can't be processed. It is retried, parked and can be replayed; the others continue."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from uuid_utils.compat import uuid7

from services.platform.events.outbox import subject
from taskflow.event.v1.dead_letter_service_pb2 import (
    DeadLetter,
    ListDeadLettersRequest,
    ReplayDeadLetterRequest,
)
from taskflow.event.v1.event_pb2 import Event, ReminderDue
from taskflow.task.v1.task_pb2 import Task
from tests.faults.harness import events
from tests.faults.harness.board import a_board, revisions
from tests.faults.harness.oplog import OperationLog
from tests.faults.harness.scenario import Run, Tally
from tests.faults.harness.task_changers import Changes
from tests.faults.harness.world import World, a_world

PROMISE = "A poison event blocks nobody"
LIMIT_SECONDS = {"short": 120.0, "long": 1800.0}

# Seconds until the good events took effect, and until the poison events are dead letters after ten tries. The tries
# take two minutes in the product and four seconds in the short profile.
_GOOD: Final = 30.0
_PARKED: Final = {"short": 40.0, "long": 300.0}
# A title that Postgres rejects while the injected fault lasts.
_CURSED: Final = "cursed by the harness"
_LETTERS_PAGE: Final = 1000


@dataclass
class Poison:
    """Ids of poison events, with the consumers that can't process them."""

    letters: set[tuple[str, str]] = field(default_factory=set)
    # Events that can be processed after the database is repaired.
    curable: set[str] = field(default_factory=set)

    @property
    def ids(self) -> set[str]:
        return {event_id for _, event_id in self.letters}


async def run(run: Run, tally: Tally) -> None:
    total = run.choose(500, 10_000)
    bad = total // 100
    poison = Poison()
    async with a_world(run, people=2) as world, a_board(world) as board, _fault(world) as mend:
        await _make_operator(world)
        with OperationLog(run.folder / "operations") as log:
            changes = Changes(run, world, log, notifying_every=1, pause=0)
            async with changes.going_on():
                for number in range(bad):
                    await changes.reach((number + 1) * (total - bad) // bad)
                    await _publish(run, world, poison, number, changes.spare)
                    tally.faults += 1
                    run.say(f"{changes.acknowledged:,} good, {tally.faults} bad")
            tally.operations = sum(1 for _ in log)
        await _good_ones(world, poison, tally)
        parked = await _parked(world, poison, _PARKED[run.profile])
        tally.lost += len(poison.letters - parked)
        tally.expect(parked <= poison.letters, "good events are among the dead letters")
        await mend()
        await _replay(world, poison, tally)
        async with asyncio.timeout(_GOOD):
            while board.tasks != await revisions(world):
                await asyncio.sleep(0.1)
    tally.lost += board.holes
    tally.expect(not board.interruptions, "a WatchTasks stream ended because of a bad event")
    tally.figures["dead letters"] = f"{len(parked)} of {len(poison.letters)}, of {bad} bad events"


# Poison events.


async def _publish(run: Run, world: World, poison: Poison, number: int, task: Task) -> None:
    """Write a poison event to the outbox, as a bug of ours would."""
    workspace_id, user_id = world.workspace.id, world.people[1].id
    event_id = uuid7()
    event = Event(id=str(event_id), workspace_id=workspace_id, aggregate_id=task.id)
    consumers = ["notification"]
    match number % 5:
        case 0:
            # This event looks like a task event to both consumers and to the streams.
            event.type = run.random.choice(["task.created", "task.updated"])
            consumers.append("dispatcher")
            payload = b"\xff" + run.random.randbytes(50)
        case 1:
            event.type = "task.updated"
            consumers.append("dispatcher")
            payload = event.SerializeToString()
        case 2:
            payload = _reminder(event, Task(id=task.id, assignee_id="nobody")).SerializeToString()
        case 3:
            text = Task(id=task.id, title="NUL \0 in it", assignee_id=user_id)
            payload = _reminder(event, text).SerializeToString()
        case _:
            cursed = Task(id=task.id, key=task.key, title=_CURSED, assignee_id=user_id)
            payload = _reminder(event, cursed).SerializeToString()
            poison.curable.add(event.id)
    poison.letters |= {(consumer, event.id) for consumer in consumers}
    await _insert(world, event_id, subject(event), payload)
    # No consumer parks this event, and streams skip it.
    garbage = f"taskflow.{workspace_id}.member.removed"
    await _insert(world, uuid7(), garbage, b"\xff")


def _reminder(event: Event, task: Task) -> Event:
    event.type = "task.reminder_due"
    event.task_reminder_due.CopyFrom(ReminderDue(task=task))
    return event


async def _insert(world: World, event_id: UUID, to: str, payload: bytes) -> None:
    await world.fetch(
        "INSERT INTO platform.outbox (event_id, subject, payload)"
        " VALUES (%(event_id)s, %(subject)s, %(payload)s)",
        {"event_id": event_id, "subject": to, "payload": payload},
    )


@asynccontextmanager
async def _fault(world: World) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Make the database reject notifications with a certain title until it is repaired."""

    async def mend() -> None:
        await world.fetch(
            "ALTER TABLE notification.notifications DROP CONSTRAINT IF EXISTS harness_curse"
        )

    await world.fetch(
        "ALTER TABLE notification.notifications ADD CONSTRAINT harness_curse"
        " CHECK (task_title <> 'cursed by the harness') NOT VALID"
    )
    try:
        yield mend
    finally:
        await mend()
        await world.fetch(
            "DELETE FROM platform.dead_letters WHERE subject LIKE %(subjects)s",
            {"subjects": f"taskflow.{world.workspace.id}.%"},
        )


# Checks at the end.


async def _good_ones(world: World, poison: Poison, tally: Tally) -> None:
    """Check that good events take effect while poison events are still being retried."""
    settings, workspace_id = world.settings, world.workspace.id
    started = time.monotonic()
    while True:
        had = await events.effects(settings, workspace_id, poison.ids)
        if not had.missing or time.monotonic() - started > _GOOD:
            break
        await asyncio.sleep(0.2)
    tally.recovered_after(time.monotonic() - started)
    tally.lost += had.missing
    tally.doubled += had.surplus
    tally.expect(
        not had.missing,
        f"{had.missing} good events had no effect within {_GOOD:g} s of the last one",
    )
    tally.figures["good events applied"] = f"{had.total:,}"
    delays = sorted(await _delays(world))
    if delays:
        tally.figures["from a good event to its notification"] = (
            f"p50 {delays[len(delays) // 2]:.2f} s, p99 {delays[len(delays) * 99 // 100]:.2f} s, "
            f"max {delays[-1]:.2f} s"
        )


async def _delays(world: World) -> list[float]:
    """Seconds from each event, whose id contains its time, to its notification."""
    rows = await world.fetch(
        "SELECT event_id, extract(epoch FROM created_at)::float8 FROM notification.notifications"
        " WHERE workspace_id = %(workspace)s",
        {"workspace": world.workspace.id},
    )
    return [at - (UUID(str(event_id)).int >> 80) / 1000 for event_id, at in rows]


async def _parked(world: World, poison: Poison, seconds: float) -> set[tuple[str, str]]:
    """The workspace's dead letters, as soon as all are there or the time is over."""
    give_up = time.monotonic() + seconds
    while True:
        found = {(letter.consumer, letter.event_id) for letter in await _letters(world)}
        if found >= poison.letters or time.monotonic() > give_up:
            return found
        await asyncio.sleep(0.3)


async def _letters(world: World) -> list[DeadLetter]:
    """Waiting dead letters as an operator sees them. All are this scenario's: others leave none."""
    request = ListDeadLettersRequest(page_size=_LETTERS_PAGE)
    found: list[DeadLetter] = []
    while True:
        page = await world.stubs.dead_letters.ListDeadLetters(
            request, metadata=world.people[0].credentials
        )
        found += page.dead_letters
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


async def _replay(world: World, poison: Poison, tally: Tally) -> None:
    """Replay all: repaired events take effect once, the others become dead letters again."""
    hopeless: tuple[str, str] | None = None
    for letter in await _letters(world):
        if letter.event_id in poison.curable:
            await _hand_back(world, letter)
        elif not hopeless and letter.consumer == "notification":
            hopeless = letter.consumer, letter.event_id
            await _hand_back(world, letter)
    wanted = {(event_id, world.people[1].id) for event_id in poison.curable}
    give_up = time.monotonic() + _PARKED["long"]
    while time.monotonic() < give_up:
        had = await events.notification_counts(world.settings, world.workspace.id)
        back = {(letter.consumer, letter.event_id) for letter in await _letters(world)}
        if wanted <= had.keys() and hopeless in back:
            break
        await asyncio.sleep(0.3)
    tally.lost += len(wanted - had.keys())
    tally.doubled += sum(had[telling] > 1 for telling in wanted)
    tally.expect(hopeless in back, "a replayed event that failed again didn't become a dead letter")
    tally.expect(
        not {event_id for _, event_id in back} & poison.curable,
        "replayed events that took effect are still dead letters",
    )
    tally.figures["replayed"] = (
        f"{len(wanted & had.keys())} of {len(wanted)} repaired events took effect"
    )


async def _hand_back(world: World, letter: DeadLetter) -> None:
    await world.stubs.dead_letters.ReplayDeadLetter(
        ReplayDeadLetterRequest(id=letter.id), metadata=world.people[0].credentials
    )


async def _make_operator(world: World) -> None:
    await world.fetch(
        "UPDATE auth.users SET operator = true WHERE id = %(id)s", {"id": world.people[0].id}
    )
