"""Promises of `python -m services recover`: everything restarts from a restored database."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from google.protobuf.struct_pb2 import Struct
from sqlalchemy import text

from deploy.backup.make import make
from deploy.backup.restore import restore
from deploy.local.stack import running_stack
from services import migrations
from services.app import recover
from services.platform.config import Settings
from services.platform.data.db import Statement
from services.platform.events.bus import Bus
from services.platform.events.subjects import STREAM
from taskflow.event.v1.event_pb2 import Event
from taskflow.task.v1 import job_pb2
from taskflow.task.v1.internal_service_pb2 import ClaimJobRequest, PlanReminderRequest
from taskflow.task.v1.job_service_pb2 import ListJobsRequest
from tests.conftest import serving, settings_for
from tests.integration.notification_world import (
    NotificationWorld,
    a_notification_world,
    eventually,
    next_change,
)
from tests.integration.people import database
from tests.integration.people import events as outbox_events
from tests.integration.reminding import missed
from tests.integration.task_world import TaskWorld, a_task_world, due_at, next_event

_FOR_DISPATCHER = "taskflow._.replay.dispatcher.%"


@pytest.fixture(scope="module")
async def settings(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Settings]:
    """Separate stores with the services: recovery resets all streams."""
    chosen = settings_for(tmp_path_factory.mktemp("recovery") / "data")
    async with (
        running_stack(chosen, only={"postgres", "nats", "migrate"}) as stack,
        AsyncExitStack() as running,
    ):
        for name in ("auth", "task", "notification", "relay"):
            await running.enter_async_context(serving(name, stack.settings))
        yield stack.settings


@pytest.fixture
async def world(settings: Settings) -> AsyncIterator[TaskWorld]:
    async with a_task_world(settings) as made:
        yield made


@pytest.fixture
async def inbox(settings: Settings) -> AsyncIterator[NotificationWorld]:
    async with a_notification_world(settings) as made:
        yield made


async def rows(world: TaskWorld | NotificationWorld, statement: str) -> list[Any]:
    async with world.db.read() as tx:
        return await tx.all(Statement(text(statement)))


async def asked_of_dispatcher(world: TaskWorld) -> list[Event]:
    found = await rows(
        world,
        f"SELECT payload FROM platform.outbox WHERE subject LIKE '{_FOR_DISPATCHER}' ORDER BY id",
    )
    told = [Event.FromString(row.payload) for row in found]
    return [event for event in told if event.workspace_id == world.workspace_id]


async def test_board_and_notification_streams_are_reset_and_continue(
    settings: Settings, world: TaskWorld, inbox: NotificationWorld
) -> None:
    ben = await inbox.member("ben")
    await inbox.assign(ben, ben)
    await inbox.wait_for_notifications(ben, 2)
    cursor = (await inbox.page(ben)).cursor
    live, board = inbox.watch(ben, cursor), await world.opened()
    await world.create()
    await next_event(board)
    await recover(settings)
    resumed = inbox.watch(ben, cursor)
    for stream in (live, resumed):
        assert (await next_change(stream)).WhichOneof("kind") == "reset"
    while (await next_event(board)).WhichOneof("kind") != "reset":
        pass

    await inbox.assign(ben)
    for stream in (live, resumed):
        assert (await next_change(stream)).change.sequence == 3
        stream.cancel()
    made = await world.create("After")
    while (await next_event(board)).change.task.id != made.id:
        pass
    board.cancel()
    assert [one.sequence for one in await inbox.listed(ben)] == [3, 2, 1]


async def test_the_event_stream_is_recreated_with_the_contents_of_the_outbox(
    settings: Settings, world: TaskWorld
) -> None:
    bus = Bus(settings, name="test")
    await bus.connect()
    await world.create()
    before = await bus.jetstream.stream_info(STREAM)
    await recover(settings)

    async def agree() -> bool:
        try:
            now = await bus.jetstream.stream_info(STREAM)
        except Exception:
            return False
        [outbox] = await rows(
            world,
            "SELECT count(*) AS events, count(published_at) AS published FROM platform.outbox",
        )
        return bool(
            now.created != before.created
            and outbox.events == outbox.published == now.state.messages
        )

    await eventually(agree)
    await bus.close()


async def test_only_unsent_reminders_are_planned_again(
    settings: Settings, world: TaskWorld
) -> None:
    soon = datetime.now(UTC) + timedelta(days=40)
    open_task = await world.create("Open", due=due_at(soon))
    deleted, finished = [
        await world.create(title, due=due_at(soon)) for title in ("Deleted", "Finished")
    ]
    await world.delete(deleted)
    await world.set_status(finished)
    await world.create("Without a deadline")
    past = await missed(
        world, await world.create("Past", due=due_at(datetime.now(UTC) - timedelta(minutes=1)))
    )
    await recover(settings)
    asked = await asked_of_dispatcher(world)
    assert [event.task_updated.task.id for event in asked] == [open_task.id, past.id]
    # The event contains no task text.
    assert b"Open" not in asked[0].SerializeToString()

    # The last reminder of `past` is sent here.
    answer = await world.worker_reminders.PlanReminder(
        PlanReminderRequest(task_id=past.id), metadata=world.service
    )
    assert answer.next.offset_seconds == 0
    await world.set_status(past)
    await recover(settings)
    asked = await asked_of_dispatcher(world)
    assert [event.task_updated.task.id for event in asked[2:]] == [open_task.id]


async def test_unfinished_jobs_are_started_again(settings: Settings, world: TaskWorld) -> None:
    payload = Struct()
    payload.update({"message": "hello"})
    for _ in range(2):
        await world.create(payload=payload)
    listed = await world.jobs.ListJobs(
        ListJobsRequest(workspace_id=world.workspace_id), metadata=world.me
    )
    newest, oldest = listed.jobs
    claimed = await world.worker_jobs.ClaimJob(
        ClaimJobRequest(job_id=oldest.id, attempt=1), metadata=world.service
    )
    assert claimed.job.state == job_pb2.JOB_STATE_PROCESSING
    await recover(settings)
    asked = [event.job_changed.job for event in await asked_of_dispatcher(world)]
    assert [(job.id, job.attempt) for job in asked] == [(oldest.id, 1), (newest.id, 1)]
    assert {job.state for job in asked} == {job_pb2.JOB_STATE_PENDING}
    # The worker continues the attempt that had already begun.
    again = await world.worker_jobs.ClaimJob(
        ClaimJobRequest(job_id=oldest.id, attempt=1), metadata=world.service
    )
    assert again.claimed
    changes = await outbox_events(world.db, "taskflow.%.job.updated", oldest.id)
    assert len(changes) == 1


async def test_recovering_twice_notifies_nobody_twice(
    settings: Settings, inbox: NotificationWorld
) -> None:
    ben = await inbox.member("ben")
    await inbox.assign(ben, ben, ben)
    before = await inbox.wait_for_notifications(ben, 3)
    await asyncio.gather(recover(settings), recover(settings))
    await recover(settings)
    await inbox.assign(ben)
    # Events are consumed in order: once the last event has taken effect, all earlier ones have too.
    after = await inbox.wait_for_notifications(ben, 4)
    assert after[1:] == before


async def test_a_backup_of_an_older_schema_is_brought_up_to_date(tmp_path: Path) -> None:
    older = settings_for(tmp_path / "older")
    async with running_stack(older, only={"postgres"}) as stack:
        config = Config()
        config.set_main_option("script_location", str(Path(migrations.__file__).parent))
        config.attributes["url"] = stack.settings.postgres_owner
        await asyncio.to_thread(command.upgrade, config, "0004")
        # The stack has stored the database password in its folder, so settings loaded now include it.
        manifest = await make(Settings(**older.model_dump()), tmp_path / "backup", print)
    assert manifest.schema == "0004"
    newer = settings_for(tmp_path / "newer")
    await restore(newer, tmp_path / "backup", print)
    async with (
        running_stack(newer, only={"postgres"}) as stack,
        database(stack.settings) as db,
        db.read() as tx,
    ):
        row = await tx.one(Statement(text("SELECT version_num FROM alembic_version")))
    assert row is not None
    assert row.version_num == migrations.HEAD
