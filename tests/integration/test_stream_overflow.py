"""Promises to a consumer that has missed more events than the event stream holds."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

import nats.errors
import pytest
from nats.aio.msg import Msg
from nats.js.errors import NotFoundError
from prometheus_client import REGISTRY
from sqlalchemy import bindparam, func, select, text, update
from structlog.testing import capture_logs
from uuid_utils.compat import uuid7

from deploy.local.stack import running_stack
from services.platform.config import Settings
from services.platform.data import retention
from services.platform.data.db import Database, Row, Statement
from services.platform.data.tables import consumers as table
from services.platform.data.tables import outbox
from services.platform.events import retention as platform_retention
from services.platform.events.bus import Bus
from services.platform.events.consumer import DurableConsumer, PoisonEvent
from services.platform.events.outbox import add_events
from services.platform.events.relay import Relay
from services.platform.events.subjects import STREAM, copies_stream, copy_subject, event_id, pattern
from taskflow.event.v1.event_pb2 import Event, TaskCreated
from taskflow.task.v1.task_pb2 import Task
from tests.conftest import settings_for

_LIMIT = 1024 * 1024
_SIZE = 4_000
# The stream holds about 240 of these events.
_MANY = 500

_WAITING = Statement(
    select(func.count().label("events")).select_from(outbox).where(outbox.c.published_at.is_(None))
)
_ROW = Statement(select(table).where(table.c.name == bindparam("consumer")))
_FORGET = Statement(text("DELETE FROM platform.consumers"))
_CLEAR = Statement(text("DELETE FROM platform.outbox"))
_AGE = Statement(
    update(outbox)
    .where(outbox.c.published_at.is_not(None))
    .values(published_at=func.now() - text("interval '8 days'"))
)


@pytest.fixture(scope="module")
async def settings(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Settings]:
    chosen = settings_for(
        tmp_path_factory.mktemp("overflow") / "data",
        event_stream_bytes=_LIMIT,
        event_retry_pause=0.05,
    )
    async with running_stack(chosen, only={"postgres", "nats", "migrate"}) as stack:
        yield stack.settings


@pytest.fixture
async def db(settings: Settings) -> AsyncIterator[Database]:
    database = Database(settings, application="test")
    await database.open()
    yield database
    async with database.transaction() as tx:
        await tx.run(_FORGET)
        await tx.run(_CLEAR)
    await database.close()


@pytest.fixture
async def bus(settings: Settings) -> AsyncIterator[Bus]:
    connected = Bus(settings, name="test")
    await connected.connect()
    yield connected
    await connected.close()


@pytest.fixture
async def relay(settings: Settings, db: Database, bus: Bus) -> AsyncIterator[None]:
    async with relaying(settings, db):
        yield


@asynccontextmanager
async def relaying(settings: Settings, db: Database) -> AsyncIterator[None]:
    """A relay with its own connection, killed at the end."""
    connection = Bus(settings, name="relay")
    await connection.connect()
    running = asyncio.create_task(Relay(settings, db, connection).run())
    try:
        yield
    finally:
        await cancelled(running)
        await connection.close()


async def cancelled(task: asyncio.Task[None]) -> None:
    """Cancel until the task ends: nats-py sometimes swallows a cancellation."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.5)


@dataclass
class Worker:
    """Processes of one durable consumer, and the events they handled: aggregate and revision, in order."""

    settings: Settings
    workspace: str = field(default_factory=lambda: str(uuid7()))
    handled: list[tuple[str, int]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    parked: list[tuple[str, str]] = field(default_factory=list)
    by: list[str] = field(default_factory=list)
    poison: frozenset[int] = frozenset()
    # Seconds that handling a batch takes.
    pause: float = 0.0
    size: int = 10

    @property
    def name(self) -> str:
        return f"worker-{self.workspace}"

    @asynccontextmanager
    async def at_work(self, process: str = "one") -> AsyncIterator[None]:
        """Run a process; at the end it vanishes as by SIGKILL, without returning its events."""
        connection = Bus(self.settings, name=process)
        await connection.connect()

        async def handle(batch: list[Msg]) -> None:
            await asyncio.sleep(self.pause)
            events = [Event.FromString(message.data) for message in batch]
            if any(event.revision in self.poison for event in events):
                raise PoisonEvent("poison")
            self.handled += [(event.aggregate_id, event.revision) for event in events]
            self.ids += [event_id(message) for message in batch]
            self.by.append(process)

        async def park(message: Msg, error: str) -> None:
            self.parked.append((event_id(message), error))

        working = asyncio.create_task(
            DurableConsumer(
                connection,
                self.name,
                [f"taskflow.{self.workspace}.>"],
                handle,
                park,
                size=self.size,
            ).run()
        )
        try:
            yield
        finally:
            await connection.close()
            await cancelled(working)

    async def once(self, db: Database, bus: Bus) -> None:
        """Start a process, let it handle everything, and kill it."""
        async with self.at_work():
            await eventually(lambda: follows_the_stream(db, bus, self))

    def complete(self, aggregates: list[UUID], revisions: int) -> bool:
        wanted = {(str(a), n) for a in aggregates for n in range(1, revisions + 1)}
        return wanted - set(self.handled) == set()

    def inverted(self) -> list[tuple[str, int]]:
        """Events first handled after a later event of their aggregate."""
        highest: dict[str, int] = {}
        seen: set[tuple[str, int]] = set()
        found = []
        for aggregate, revision in self.handled:
            if (aggregate, revision) not in seen and revision < highest.get(aggregate, 0):
                found.append((aggregate, revision))
            seen.add((aggregate, revision))
            highest[aggregate] = max(revision, highest.get(aggregate, 0))
        return found


async def eventually(condition: Callable[[], object], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while True:
            met = condition()
            if await met if asyncio.iscoroutine(met) else met:
                return
            await asyncio.sleep(0.05)


async def write(
    db: Database, worker: Worker, aggregates: list[UUID], first: int, last: int, size: int = _SIZE
) -> None:
    """Write revisions of all aggregates in turn, one transaction per revision, and wait until they are published."""
    for revision in range(first, last + 1):
        async with db.transaction() as tx:
            await add_events(
                tx,
                [
                    Event(
                        type="task.created",
                        workspace_id=worker.workspace,
                        aggregate_id=str(aggregate),
                        revision=revision,
                        task_created=TaskCreated(task=Task(description="x" * size)),
                    )
                    for aggregate in aggregates
                ],
            )
    await eventually(lambda: published(db))


async def published(db: Database) -> bool:
    async with db.read() as tx:
        row: Row = await tx.one(_WAITING)
    return int(row.events) == 0


async def row_of(db: Database, worker: Worker) -> Row:
    async with db.read() as tx:
        return await tx.one(_ROW, consumer=worker.name)


def figure(name: str, worker: Worker) -> float:
    return REGISTRY.get_sample_value(name, {"consumer": worker.name}) or 0


def enough(worker: Worker, count: int) -> bool:
    return len(set(worker.handled)) >= count


def some(count: int = 10) -> list[UUID]:
    return [uuid7() for _ in range(count)]


async def follows_the_stream(db: Database, bus: Bus, worker: Worker) -> bool:
    row = await row_of(db, worker)
    try:
        await bus.jetstream.consumer_info(STREAM, worker.name)
    except NotFoundError:
        return False
    return row is not None and row.copied_to is None


async def first_sequence(bus: Bus) -> int:
    info = await bus.jetstream.stream_info(STREAM)
    return info.state.first_seq


async def test_a_consumer_offline_past_the_stream_limit_gets_every_event_in_order(
    settings: Settings, db: Database, bus: Bus, relay: None
) -> None:
    worker, aggregates = Worker(settings), some()
    await worker.once(db, bus)
    began = await first_sequence(bus)
    await write(db, worker, aggregates, 1, _MANY // 10)
    assert await first_sequence(bus) > began + _MANY // 3

    async with worker.at_work():
        await eventually(lambda: worker.complete(aggregates, _MANY // 10))
        await eventually(lambda: follows_the_stream(db, bus, worker))
        await write(db, worker, aggregates, _MANY // 10 + 1, _MANY // 10 + 2, size=10)
        await eventually(lambda: worker.complete(aggregates, _MANY // 10 + 2))
    assert worker.inverted() == []
    assert len(worker.handled) == len(set(worker.handled)) == _MANY + 20
    assert len(set(worker.ids)) == _MANY + 20
    with pytest.raises(NotFoundError):
        await bus.jetstream.stream_info(copies_stream(worker.name))


async def test_a_warning_precedes_any_discarded_event_and_the_lag_metric_is_right(
    settings: Settings, db: Database, bus: Bus, relay: None
) -> None:
    worker, aggregates = Worker(settings), some()
    await worker.once(db, bus)
    # Events that other tests left would be discarded first.
    await bus.jetstream.purge_stream(STREAM)
    began = await first_sequence(bus)
    with capture_logs() as logs:
        revision = 0
        while not any("falls behind" in line["event"] for line in logs):
            revision += 1
            await write(db, worker, aggregates, revision, revision)
            assert await first_sequence(bus) == began
        assert figure("taskflow_consumer_unread_share", worker) > 0.5
        await write(db, worker, aggregates, revision + 1, 60)
    assert sum("falls behind" in line["event"] for line in logs) == 1
    await eventually(lambda: figure("taskflow_consumer_lag", worker) >= 600)
    assert figure("taskflow_consumer_unread_share", worker) > 0.5

    async with worker.at_work():
        await eventually(lambda: worker.complete(aggregates, 60))
        await eventually(lambda: figure("taskflow_consumer_lag", worker) == 0)
    assert figure("taskflow_events_copied_total", worker) > 300
    assert figure("taskflow_consumer_unread_share", worker) == 0


async def test_newer_events_wait_until_the_consumer_has_caught_up(
    settings: Settings, db: Database, bus: Bus, relay: None
) -> None:
    worker, aggregates = Worker(settings, pause=0.02, size=4), some()
    await worker.once(db, bus)
    await write(db, worker, aggregates, 1, 50)
    async with worker.at_work():
        for revision in range(51, 91):
            await write(db, worker, aggregates, revision, revision, size=200)
        await eventually(lambda: worker.complete(aggregates, 90), 60)
        await eventually(lambda: follows_the_stream(db, bus, worker))
    assert worker.inverted() == []


async def test_a_poison_event_among_the_missed_ones_is_parked_and_delays_no_other(
    settings: Settings, db: Database, bus: Bus, relay: None
) -> None:
    worker, aggregates = Worker(settings, poison=frozenset({7})), some()
    await worker.once(db, bus)
    await write(db, worker, aggregates, 1, 50)
    async with worker.at_work():
        await eventually(lambda: len(worker.parked) == 10)
        await eventually(lambda: len(set(worker.handled)) == 490)
        await eventually(lambda: follows_the_stream(db, bus, worker))
    assert all("poison" in error for _, error in worker.parked)
    assert len({parked for parked, _ in worker.parked}) == 10
    assert worker.inverted() == []


async def test_a_consumer_and_a_relay_killed_while_catching_up_lose_nothing(
    settings: Settings, db: Database, bus: Bus
) -> None:
    worker, aggregates = Worker(settings, pause=0.01, size=5), some()
    async with relaying(settings, db):
        await worker.once(db, bus)
        await write(db, worker, aggregates, 1, 60)
    for part in (100, 200, 300, 400):
        async with relaying(settings, db), worker.at_work(f"after {part}"):
            await eventually(partial(enough, worker, part))
    async with relaying(settings, db), worker.at_work("last"):
        # Events that a killed process had received are redelivered after 8 s, as on the event stream.
        await eventually(lambda: worker.complete(aggregates, 60))
        await eventually(lambda: follows_the_stream(db, bus, worker))


async def test_two_consumer_processes_share_the_missed_events(
    settings: Settings, db: Database, bus: Bus, relay: None
) -> None:
    worker, aggregates = Worker(settings, pause=0.01, size=5), some()
    await worker.once(db, bus)
    await write(db, worker, aggregates, 1, 60)
    async with worker.at_work("one"), worker.at_work("two"):
        await eventually(lambda: worker.complete(aggregates, 60))
    assert set(worker.by) == {"one", "two"}
    assert len(worker.handled) == 600


@pytest.mark.parametrize(
    "step", ["make_copies_stream", "add_durable", "delete_stream", "delete_consumer"]
)
async def test_a_catch_up_step_that_fails_halfway_is_repeated(
    settings: Settings, db: Database, bus: Bus, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, aggregates = Worker(settings), some()
    async with relaying(settings, db):
        await worker.once(db, bus)
    failures = 0

    def failing(owner: type, name: str) -> None:
        original = getattr(owner, name)

        async def step_and_fail(*given: object, **named: object) -> object:
            nonlocal failures
            result = await original(*given, **named)
            if failures < 2:
                failures += 1
                raise nats.errors.TimeoutError
            return result

        monkeypatch.setattr(owner, name, step_and_fail)

    owner = type(bus.jetstream) if step == "delete_consumer" else Bus
    async with relaying(settings, db):
        failing(owner, step)
        await write(db, worker, aggregates, 1, 50)
        async with worker.at_work():
            await eventually(lambda: worker.complete(aggregates, 50))
            await eventually(lambda: follows_the_stream(db, bus, worker))
    assert failures
    assert worker.inverted() == []


async def test_events_discarded_between_two_checks_are_still_delivered(
    settings: Settings, db: Database, bus: Bus
) -> None:
    worker, aggregates = Worker(settings), some()
    async with relaying(settings, db):
        await worker.once(db, bus)
        await write(db, worker, aggregates, 1, 15)
    # No relay runs now. The lower limit makes the stream discard events before a relay checks it.
    info = await bus.jetstream.stream_info(STREAM)
    info.config.max_bytes = 200_000
    await bus.jetstream.update_stream(info.config)
    async with worker.at_work(), relaying(settings, db):
        await eventually(lambda: worker.complete(aggregates, 15))
        await eventually(lambda: follows_the_stream(db, bus, worker))


async def test_a_new_consumer_gets_events_that_the_stream_no_longer_holds(
    settings: Settings, db: Database, bus: Bus, relay: None
) -> None:
    worker, aggregates = Worker(settings), some()
    await write(db, worker, aggregates, 1, 50)
    async with worker.at_work():
        await eventually(lambda: worker.complete(aggregates, 50))
    assert worker.inverted() == []


async def test_a_consumer_of_an_older_version_gets_its_missed_events(
    settings: Settings, db: Database, bus: Bus, relay: None
) -> None:
    """The relay has no record of it. JetStream's ack floor shows how far it came, until it continues after the gap."""
    worker, aggregates = Worker(settings), some()
    info = await bus.jetstream.stream_info(STREAM)
    filters = [f"taskflow.{worker.workspace}.>"]
    await bus.add_durable(worker.name, filters, info.state.last_seq)
    await write(db, worker, aggregates, 1, 50)
    async with worker.at_work():
        await eventually(lambda: worker.complete(aggregates, 50))
    assert worker.inverted() == []


async def test_a_stream_recreated_while_a_consumer_catches_up_loses_nothing(
    settings: Settings, db: Database, bus: Bus
) -> None:
    worker, aggregates = Worker(settings, pause=0.02, size=4), some()
    async with relaying(settings, db):
        await worker.once(db, bus)
        await write(db, worker, aggregates, 1, 50)
        async with worker.at_work():
            await eventually(lambda: len(set(worker.handled)) >= 50)
    await bus.delete_stream()
    await bus.delete_stream(copies_stream(worker.name))
    worker.pause = 0
    async with relaying(settings, db), worker.at_work():
        await eventually(lambda: worker.complete(aggregates, 50))
        await eventually(lambda: follows_the_stream(db, bus, worker))


async def test_copies_of_missed_events_that_the_broker_lost_are_made_again(
    settings: Settings, db: Database, bus: Bus, relay: None
) -> None:
    worker, aggregates = Worker(settings, pause=0.02, size=4), some()
    await worker.once(db, bus)
    await write(db, worker, aggregates, 1, 50)
    async with worker.at_work():
        await eventually(lambda: len(set(worker.handled)) >= 50)
        await bus.jetstream.purge_stream(copies_stream(worker.name))
        await bus.jetstream.delete_stream(copies_stream(worker.name))
        await eventually(lambda: worker.complete(aggregates, 50))


async def test_events_that_expire_before_their_consumer_returns_are_counted(
    settings: Settings, db: Database, bus: Bus, relay: None
) -> None:
    worker, aggregates = Worker(settings), some()
    async with worker.at_work():
        await write(db, worker, aggregates, 1, 2)
        await eventually(lambda: worker.complete(aggregates, 2))
        await eventually(lambda: figure("taskflow_consumer_lag", worker) == 0)
        await asyncio.sleep(1.5)
    await write(db, worker, aggregates, 3, 5)
    async with db.transaction() as tx:
        await tx.run(_AGE)
    await retention.run_once(db, platform_retention.kinds(settings))
    assert figure("taskflow_events_lost_total", worker) == 30


def test_subjects_match_as_in_nats() -> None:
    found = re.compile(pattern(["taskflow.*.task.created", "a.>", "b_1.c"]))
    assert found.search("taskflow.w-1.task.created")
    assert found.search("a.b.c")
    assert found.search("b_1.c")
    for other in (
        "taskflow.w.x.task.created",
        "taskflow.w.task.created.x",
        "a",
        "b_1xc",
        "x.b_1.c",
    ):
        assert not found.search(other)


def test_copies_of_missed_events_are_not_part_of_the_event_stream() -> None:
    assert not copy_subject("worker", "1").startswith("taskflow.")
