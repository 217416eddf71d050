"""Promises of the relay when NATS restarts with an older disk."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from uuid_utils.compat import uuid7

from deploy.local.stack import Stack, running_stack
from services.platform.data.db import Database
from services.platform.events import pull
from services.platform.events.bus import Bus
from services.platform.events.outbox import add_event
from services.platform.events.relay import Relay
from taskflow.event.v1.event_pb2 import Event, TaskCreated
from tests.conftest import settings_for


@pytest.fixture(scope="module")
async def stores(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Postgres, and a NATS that the test stops."""
    chosen = settings_for(tmp_path_factory.mktemp("rollback") / "data")
    async with running_stack(chosen, only={"postgres", "nats", "migrate"}) as stack:
        yield stack


async def _write(db: Database, workspace: str, revisions: range) -> None:
    for revision in revisions:
        async with db.transaction() as tx:
            await add_event(
                tx,
                Event(
                    type="task.created",
                    workspace_id=workspace,
                    aggregate_id=workspace,
                    revision=revision,
                    task_created=TaskCreated(),
                ),
            )


async def _revisions(bus: Bus, workspace: str, count: int) -> list[int]:
    """The revisions in the stream, in order: the first `count`, and any that follow within a moment."""
    found: list[int] = []
    messages = pull.messages(bus, pull.ordered([f"taskflow.{workspace}.>"], 1))
    try:
        while True:
            async with asyncio.timeout(20 if len(found) < count else 0.3):
                found.append(Event.FromString((await anext(messages)).data).revision)
    except TimeoutError:
        return found


async def test_events_written_during_a_broker_rollback_do_not_hide_its_loss(
    stores: Stack, tmp_path: Path
) -> None:
    workspace = str(uuid7())
    disk, backup = stores.settings.data_dir / "nats", tmp_path / "backup"
    db, bus = Database(stores.settings, application="test"), Bus(stores.settings, name="test")
    await db.open()
    await bus.connect()
    await bus.ensure_stream()
    relay = asyncio.create_task(Relay(stores.settings, db, bus).run())
    try:
        await _write(db, workspace, range(1, 11))
        assert await _revisions(bus, workspace, 10) == list(range(1, 11))

        await stores.hold("nats")
        shutil.copytree(disk, backup)
        stores.release("nats")
        await stores.wait_ready("nats")
        await _write(db, workspace, range(11, 21))
        assert await _revisions(bus, workspace, 20) == list(range(1, 21))

        await stores.hold("nats")
        # The NATS client buffers messages published during the outage and sends them when it reconnects.
        await _write(db, workspace, range(21, 26))
        await asyncio.sleep(1)
        shutil.rmtree(disk)
        shutil.copytree(backup, disk)
        stores.release("nats")
        assert await _revisions(bus, workspace, 25) == list(range(1, 26))
    finally:
        relay.cancel()
        await asyncio.gather(relay, return_exceptions=True)
        await bus.close()
        await db.close()
