"""Promises of the outbox and the relay: every committed event is published, once, in order per aggregate."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from nats.js.api import ConsumerConfig, StreamInfo
from nats.js.errors import APIError
from sqlalchemy import Integer, Text, bindparam, func, select, text, update
from uuid_utils.compat import uuid7

from deploy.local.stack import running_stack
from services.platform.config import Settings
from services.platform.data.db import Database, Row, Statement
from services.platform.data.tables import outbox, relay_position
from services.platform.events import pull
from services.platform.events import relay_queries as queries
from services.platform.events.bus import Bus
from services.platform.events.outbox import add_event
from services.platform.events.relay import Relay
from services.platform.events.subjects import STREAM
from taskflow.event.v1.event_pb2 import Event, TaskCreated
from tests.conftest import settings_for

_WAITING = Statement(
    select(func.count().label("events")).select_from(outbox).where(outbox.c.published_at.is_(None))
)
_OLDEST = Statement(
    select(outbox).where(outbox.c.published_at.is_(None)).order_by(outbox.c.id).limit(2)
)
_POSITION = Statement(select(relay_position.c.last_sequence))
_SET_POSITION = Statement(update(relay_position).values(last_sequence=bindparam("sequence")))
_UNMARK = Statement(
    update(outbox)
    .where(outbox.c.stream_sequence > bindparam("after"))
    .values(published_at=None, stream_sequence=None)
)
_LOCK_ROW = Statement(text("SELECT pg_advisory_xact_lock(hashtext(:name))"))


@pytest.fixture(scope="module")
async def settings(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Settings]:
    """Separate stores: on the shared ones another relay may be running."""
    chosen = settings_for(tmp_path_factory.mktemp("relay") / "data")
    async with running_stack(chosen, only={"postgres", "nats", "migrate"}) as stack:
        yield stack.settings


@pytest.fixture
async def db(settings: Settings) -> AsyncIterator[Database]:
    database = Database(settings, application="test")
    await database.open()
    yield database
    await database.close()


@pytest.fixture
async def bus(settings: Settings) -> AsyncIterator[Bus]:
    connected = Bus(settings, name="test")
    await connected.connect()
    yield connected
    await connected.close()


@pytest.fixture
async def relay(settings: Settings, db: Database, bus: Bus) -> Relay:
    """A relay without its loop: tests call its steps themselves."""
    relay = Relay(settings, db, bus)
    await relay.refill()
    return relay


async def _write(db: Database, aggregate: UUID, revision: int, workspace: str) -> None:
    async with db.transaction() as tx:
        # Stands in for the row lock that a service takes on the aggregate.
        await tx.run(_LOCK_ROW, name=str(aggregate))
        await add_event(
            tx,
            Event(
                type="task.created",
                workspace_id=workspace,
                aggregate_id=str(aggregate),
                revision=revision,
                task_created=TaskCreated(),
            ),
        )


async def _drain(relay: Relay) -> None:
    while await relay.drain_once():
        pass


async def _published(bus: Bus, workspace: str, count: int) -> list[Event]:
    """The first `count` events of a workspace, and any that follow within a moment."""
    config: ConsumerConfig = pull.ordered([f"taskflow.{workspace}.>"], 1)
    events: list[Event] = []
    messages = pull.messages(bus, config)
    try:
        while True:
            async with asyncio.timeout(5 if len(events) < count else 0.3):
                message = await anext(messages)
            events.append(Event.FromString(message.data))
    except TimeoutError:
        return events


async def test_events_of_concurrent_writers_are_published_once_and_in_order_of_revision(
    db: Database, bus: Bus, relay: Relay
) -> None:
    workspace = str(uuid7())
    aggregates = [uuid7() for _ in range(8)]

    async def writer(aggregate: UUID) -> None:
        for revision in range(1, 26):
            await _write(db, aggregate, revision, workspace)

    writing = asyncio.gather(*(writer(aggregate) for aggregate in aggregates))
    while not writing.done():
        await relay.drain_once()
    await _drain(relay)

    events = await _published(bus, workspace, 200)
    assert len(events) == 200
    for aggregate in aggregates:
        revisions = [event.revision for event in events if event.aggregate_id == str(aggregate)]
        assert revisions == list(range(1, 26))


async def test_a_late_commit_loses_no_event(db: Database, bus: Bus, relay: Relay) -> None:
    workspace = str(uuid7())
    late = uuid7()
    async with db.transaction() as tx:
        await add_event(
            tx,
            Event(
                type="task.created",
                workspace_id=workspace,
                aggregate_id=str(late),
                revision=1,
                task_created=TaskCreated(),
            ),
        )
        for _ in range(20):
            await _write(db, uuid7(), 1, workspace)
        await _drain(relay)
    await _drain(relay)

    events = await _published(bus, workspace, 21)
    assert [event.aggregate_id for event in events][-1] == str(late)
    assert len(events) == 21


async def test_a_relay_killed_between_ack_and_mark_publishes_nothing_twice(
    settings: Settings, db: Database, bus: Bus, relay: Relay
) -> None:
    workspace = str(uuid7())
    for _ in range(10):
        await _write(db, uuid7(), 1, workspace)
    await _drain(relay)
    async with db.transaction() as tx:
        await tx.run(_UNMARK, after=0)
        await tx.run(_SET_POSITION, sequence=0)
    # The killed relay never learned that its mark was stored.
    next_relay = Relay(settings, db, bus)
    await next_relay.refill()
    await _drain(next_relay)

    assert len(await _published(bus, workspace, 10)) == 10


async def test_an_event_committed_while_the_relay_dies_keeps_its_order_in_its_aggregate(
    settings: Settings, db: Database, bus: Bus, relay: Relay
) -> None:
    workspace = str(uuid7())
    late = uuid7()
    await _drain(relay)
    async with db.read() as tx:
        position: Row = await tx.one(_POSITION)
    await _write(db, uuid7(), 1, workspace)
    async with db.transaction() as tx:
        await add_event(
            tx,
            Event(
                type="task.created",
                workspace_id=workspace,
                aggregate_id=str(late),
                revision=1,
                task_created=TaskCreated(),
            ),
        )
        await _write(db, uuid7(), 1, workspace)
        await _drain(relay)
    await _write(db, late, 2, workspace)
    # The state left by a relay killed after NATS's acks and before marking the rows.
    async with db.transaction() as tx:
        await tx.run(_UNMARK, after=position.last_sequence)
        await tx.run(_SET_POSITION, sequence=position.last_sequence)

    successor = Relay(settings, db, bus)
    await successor.refill()
    await _drain(successor)
    events = await _published(bus, workspace, 4)
    assert len(events) == 4
    assert [one.revision for one in events if one.aggregate_id == str(late)] == [1, 2]


async def test_a_relay_that_resumes_after_a_pause_undoes_no_work_of_its_successor(
    settings: Settings, db: Database, bus: Bus, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = str(uuid7())
    await _drain(relay)
    look = bus.ensure_stream

    async def look_and_pause() -> StreamInfo:
        info = await look()
        monkeypatch.setattr(bus, "ensure_stream", look)
        other = Relay(settings, db, bus)
        await other.refill()
        await _write(db, uuid7(), 1, workspace)
        await _drain(other)
        return info

    monkeypatch.setattr(bus, "ensure_stream", look_and_pause)
    await relay.refill()
    async with db.read() as tx:
        assert await tx.all(_OLDEST) == []
    await relay.refill()
    await _write(db, uuid7(), 1, workspace)
    await _drain(relay)
    assert len(await _published(bus, workspace, 2)) == 2


async def test_messages_of_a_dead_relay_may_arrive_during_a_batch_without_harm(
    db: Database, bus: Bus, relay: Relay
) -> None:
    workspace = str(uuid7())
    await _drain(relay)
    await relay.refill()
    aggregate = uuid7()
    for revision in range(1, 5):
        await _write(db, aggregate, revision, workspace)
    async with db.read() as tx:
        oldest = await tx.all(_OLDEST)
    for row in oldest:
        await bus.jetstream.publish(
            row.subject, row.payload, headers={"Nats-Msg-Id": str(row.event_id)}
        )
    with pytest.raises(APIError):
        await relay.drain_once()

    await relay.refill()
    await _drain(relay)
    events = await _published(bus, workspace, 4)
    assert [event.revision for event in events] == [1, 2, 3, 4]


async def test_an_event_stream_that_lost_its_disk_is_refilled(
    db: Database, bus: Bus, relay: Relay
) -> None:
    workspace = str(uuid7())
    for _ in range(10):
        await _write(db, uuid7(), 1, workspace)
    await _drain(relay)
    await bus.jetstream.delete_stream(STREAM)
    await relay.refill()
    await _drain(relay)

    assert len(await _published(bus, workspace, 10)) == 10


async def test_a_standby_relay_takes_over_when_the_active_one_ends(
    settings: Settings, db: Database, bus: Bus
) -> None:
    first, second = Relay(settings, db, bus), Relay(settings, db, bus)
    working = asyncio.create_task(first.run())
    async with asyncio.timeout(5):
        while not first.active:
            await asyncio.sleep(0.05)
    standby = asyncio.create_task(second.run())
    await asyncio.sleep(1.5)
    assert not second.active

    working.cancel()
    async with asyncio.timeout(5):
        while not second.active:
            await asyncio.sleep(0.05)
    workspace = str(uuid7())
    await _write(db, uuid7(), 1, workspace)
    async with asyncio.timeout(5):
        while True:
            async with db.read() as tx:
                row = await tx.one(_WAITING)
            if row.events == 0:
                break
            await asyncio.sleep(0.05)
    standby.cancel()
    await asyncio.gather(working, standby, return_exceptions=True)
    assert len(await _published(bus, workspace, 1)) == 1


_BACKLOG = text("""
INSERT INTO platform.outbox (event_id, subject, payload)
SELECT gen_random_uuid(), 'taskflow.' || :workspace || '.task.created', convert_to(n::text, 'UTF8')
FROM generate_series(1, :count) AS n
""").bindparams(bindparam("workspace", type_=Text), bindparam("count", type_=Integer))
_ADD_BACKLOG = Statement(_BACKLOG)
_FORGET = Statement(text("DELETE FROM platform.outbox WHERE published_at IS NULL"))


async def test_a_workspace_with_a_long_backlog_does_not_hold_up_the_events_of_another_one(
    db: Database, bus: Bus, relay: Relay
) -> None:
    while await relay.drain_once():
        pass
    busy, quiet = f"busy-{uuid7()}", f"quiet-{uuid7()}"
    async with db.transaction() as tx:
        await tx.run(_ADD_BACKLOG, workspace=busy, count=100_000)
        await tx.run(_ADD_BACKLOG, workspace=quiet, count=3)
    after = (await bus.jetstream.stream_info(STREAM)).state.last_seq
    await relay.drain_once()
    await relay.drain_once()
    last = (await bus.jetstream.stream_info(STREAM)).state.last_seq
    published: dict[str, list[int]] = {busy: [], quiet: []}
    for sequence in range(after + 1, last + 1):
        message = await bus.jetstream.get_msg(STREAM, sequence)
        assert message.subject is not None
        assert message.data is not None
        published[message.subject.split(".")[1]].append(int(message.data))
    assert published[quiet] == [1, 2, 3]
    assert published[busy] == list(range(1, len(published[busy]) + 1))
    assert len(published[busy]) > 200
    async with db.transaction() as tx:
        await tx.run(_FORGET)


async def test_more_backlogged_workspaces_than_a_batch_holds_all_get_their_turn(
    db: Database, bus: Bus, relay: Relay
) -> None:
    workspaces = [f"many-{number:04}" for number in range(queries.BATCH + 50)]
    async with db.transaction() as tx:
        for workspace in workspaces:
            await tx.run(_ADD_BACKLOG, workspace=workspace, count=20)
    after = (await bus.jetstream.stream_info(STREAM)).state.last_seq
    for _ in range(2):
        await relay.drain_once()
    last = (await bus.jetstream.stream_info(STREAM)).state.last_seq
    served = {
        (await bus.jetstream.get_msg(STREAM, sequence)).subject
        for sequence in range(after + 1, last + 1)
    }
    assert served == {f"taskflow.{workspace}.task.created" for workspace in workspaces}
    async with db.transaction() as tx:
        await tx.run(_FORGET)
