"""Cut notification streams in every way, then compare what each client shows with the list."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc.aio

from taskflow.notification.v1.notification_pb2 import (
    NOTIFICATION_KIND_ASSIGNED,
    NOTIFICATION_KIND_STATUS_CHANGED,
)
from taskflow.notification.v1.notification_service_pb2 import MarkAllReadRequest, MarkReadRequest
from taskflow.task.v1.task_pb2 import TASK_STATUS_IN_PROGRESS, Task
from taskflow.task.v1.task_service_pb2 import ChangeTaskStatusRequest, CreateTaskRequest
from tests.faults.harness.inbox import Inbox
from tests.faults.harness.injectors import paused
from tests.faults.harness.load import at_rate
from tests.faults.harness.scenario import Run, Tally
from tests.faults.harness.world import World, a_world

PROMISE = "A notification stream has no gap"
LIMIT_SECONDS = {"short": 120.0, "long": 1800.0}

# User actions per second.
_RATE = 100.0
_DEADLINE = 10.0
# The promised 99th percentile (seconds): without a fault, and after one.
_LIVE = 1.0
_AFTER_FAULT = 10.0
# A change within this time (seconds) of a fault counts as after it.
_SHADOW = 15.0
_SETTLE_SECONDS = 45.0
_NOTIFIERS = ("notification", "notification-2")

Key = tuple[str, str]


@dataclass
class UserActions:
    """Actions of the owner and the users, with the time of each acknowledgement: (user's number, key) → seconds."""

    run: Run
    world: World
    inboxes: Sequence[Inbox]
    answered: dict[tuple[int, Key], float] = field(default_factory=dict)
    tasks: list[tuple[str, int]] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)

    async def one(self, number: int) -> None:
        user = self.run.random.randrange(len(self.inboxes))
        kind = self.run.random.random()
        try:
            if kind < 0.2 and (unread := self.inboxes[user].unread):
                await self._read(user, self.run.random.choice(unread))
            elif kind < 0.22 and self.inboxes[user].unread:
                await self._read_all(user)
            elif kind < 0.3 and self.tasks:
                await self._begin(*self.tasks.pop(self.run.random.randrange(len(self.tasks))))
            else:
                await self._assign(user, number)
            self.codes["OK"] += 1
        except grpc.aio.AioRpcError as error:
            self.codes[error.code().name] += 1

    async def _assign(self, user: int, number: int) -> None:
        task = Task(title=f"Rope {number}", assignee_id=self.inboxes[user].person.id)
        answer = await self.world.stubs.tasks.CreateTask(
            CreateTaskRequest(
                project_id=self.run.random.choice(self.world.workspace.projects), task=task
            ),
            **self._by_owner(),
        )
        self._done(user, (answer.task.id, str(NOTIFICATION_KIND_ASSIGNED)))
        self.tasks.append((answer.task.id, user))

    async def _begin(self, task_id: str, user: int) -> None:
        await self.world.stubs.tasks.ChangeTaskStatus(
            ChangeTaskStatusRequest(id=task_id, status=TASK_STATUS_IN_PROGRESS), **self._by_owner()
        )
        self._done(user, (task_id, str(NOTIFICATION_KIND_STATUS_CHANGED)))

    async def _read(self, user: int, id: str) -> None:
        answer = await self.world.stubs.notifications.MarkRead(
            MarkReadRequest(ids=[id]), **self._by(user)
        )
        if answer.marked_count:
            self._done(user, ("read", id))

    async def _read_all(self, user: int) -> None:
        up_to = self.inboxes[user].sequence
        await self.world.stubs.notifications.MarkAllRead(
            MarkAllReadRequest(up_to_sequence=up_to), **self._by(user)
        )

    def missing(self) -> list[tuple[int, Key]]:
        """Acknowledged changes that haven't arrived at their user's streams."""
        return [one for one in self.answered if one[1] not in self.inboxes[one[0]].arrived]

    def _done(self, user: int, key: Key) -> None:
        self.answered[user, key] = time.monotonic()

    def _by(self, user: int) -> dict[str, Any]:
        return {"metadata": self.inboxes[user].person.credentials, "timeout": _DEADLINE}

    def _by_owner(self) -> dict[str, Any]:
        return {"metadata": self.world.workspace.owner.credentials, "timeout": _DEADLINE}


async def run(run: Run, tally: Tally) -> None:
    users = run.choose(40, 200)
    count = run.choose(1_000, 50_000)
    calm = run.choose(2.0, 120.0)
    faults: list[tuple[float, float]] = []
    async with a_world(run, people=users + 1, projects=10) as world:
        inboxes = [Inbox(person, world.stubs, run.random, tally) for person in world.people[1:]]
        async with _following(inboxes):
            changes = UserActions(run, world, inboxes)
            async with at_rate(_RATE, changes.one) as load:
                run.say("no faults yet")
                await asyncio.sleep(calm)
                until = time.monotonic() + count / _RATE - calm
                async with _disconnecting(run, inboxes, tally):
                    await _break(run, tally, faults, until)
            run.say("waiting until streams and lists agree")
            unequal = await _settled(changes)
        tally.operations = load.begun
        _count(changes, unequal, tally)
    _judge(list(_delays(changes, faults)), tally)
    ends = sum((inbox.ends for inbox in inboxes), Counter())
    tally.figures["answers"] = _said(changes.codes)
    tally.figures["streams ended"] = _said(ends)


@asynccontextmanager
async def _following(inboxes: Sequence[Inbox]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(inbox.follow()) for inbox in inboxes]
    try:
        async with asyncio.timeout(30):
            await asyncio.gather(*(inbox.opened.wait() for inbox in inboxes))
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def _disconnecting(run: Run, inboxes: Sequence[Inbox], tally: Tally) -> AsyncIterator[None]:
    async def repeat() -> None:
        while True:
            await asyncio.sleep(run.random.uniform(0.1, 0.9))
            run.random.choice(inboxes).disconnect()
            tally.faults += 1

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _break(run: Run, tally: Tally, faults: list[tuple[float, float]], until: float) -> None:
    """Inject one fault after the other; `faults` gets the start and end of each."""
    kinds = [_kill, _pause, _cut_nats, _pause_nats]
    while time.monotonic() < until:
        run.random.shuffle(kinds)
        for kind in kinds:
            rest = until - time.monotonic()
            if rest <= 0:
                return
            began = time.monotonic()
            tally.faults += 1
            over = await kind(run)
            faults.append((began, over))
            await asyncio.sleep(run.choose(1.0, run.random.uniform(5.0, 20.0)))


async def _kill(run: Run) -> float:
    """Kill a process; returns the time of its end, from which the other processes do its work."""
    name = run.random.choice((*_NOTIFIERS, "relay", "relay-2"))
    run.say(f"killing {name}")
    await run.stack.hold(name)
    over = time.monotonic()
    run.stack.release(name)
    await run.stack.wait_ready(name, 60)
    return over


async def _pause(run: Run) -> float:
    name = run.random.choice(_NOTIFIERS)
    run.say(f"pausing {name}")
    with paused(run.stack, name):
        await asyncio.sleep(run.choose(1.5, run.random.uniform(2.0, 8.0)))
    return time.monotonic()


async def _cut_nats(run: Run) -> float:
    run.say("killing nats")
    await run.stack.hold("nats")
    await asyncio.sleep(run.choose(0.5, run.random.uniform(1.0, 5.0)))
    run.stack.release("nats")
    await run.stack.wait_ready("nats", 60)
    return time.monotonic()


async def _pause_nats(run: Run) -> float:
    run.say("pausing nats")
    pid = run.stack.pid("nats")
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(run.choose(1.0, run.random.uniform(2.0, 8.0)))
    finally:
        os.kill(pid, signal.SIGCONT)
    return time.monotonic()


async def _settled(changes: UserActions) -> list[Inbox]:
    """Inboxes that differ from their list, after all acknowledged changes arrived or the time is over."""
    give_up = time.monotonic() + _SETTLE_SECONDS
    while True:
        unequal = [inbox for inbox in changes.inboxes if await inbox.listed() != inbox.shown()]
        if not (unequal or changes.missing()) or time.monotonic() > give_up:
            return unequal
        await asyncio.sleep(1)


def _count(changes: UserActions, unequal: list[Inbox], tally: Tally) -> None:
    for inbox in unequal:
        tally.broken.append(f"the stream of user {inbox.person.id} and the list don't agree")
    tally.lost += len(changes.missing())
    for inbox in changes.inboxes:
        told = Counter((one.task_id, one.kind) for one in inbox.shown())
        tally.doubled += sum(count - 1 for count in told.values())


def _delays(
    changes: UserActions, faults: list[tuple[float, float]]
) -> Iterator[tuple[float, bool]]:
    """For each change the delay until its user saw it, and whether a fault was near."""
    for (user, key), answered in changes.answered.items():
        inbox = changes.inboxes[user]
        arrived = inbox.arrived.get(key)
        if arrived is None:
            continue
        near = [over for began, over in faults if began < arrived and over > answered - _SHADOW]
        possible = max(answered, inbox.asked[key], *(over for over in near if over < arrived))
        yield max(0.0, arrived - possible), bool(near)


def _judge(delays: list[tuple[float, bool]], tally: Tally) -> None:
    calm = sorted(seconds for seconds, near in delays if not near)
    after = sorted(seconds for seconds, near in delays if near)
    for name, found, limit in (
        ("without a fault", calm, _LIVE),
        ("after a fault", after, _AFTER_FAULT),
    ):
        if not found:
            tally.broken.append(f"nothing was measured {name}")
            continue
        p99 = found[int(0.99 * (len(found) - 1))]
        tally.expect_speed(p99 <= limit, f"p99 {name} is {p99:.2f} s, not {limit:g} s")
        tally.figures[f"delay {name} (s)"] = (
            f"median {found[len(found) // 2]:.3f}, p99 {p99:.3f}, longest {found[-1]:.2f}"
            f" of {len(found):,}"
        )
    if after:
        tally.recovered_after(after[-1])


def _said(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.most_common())
