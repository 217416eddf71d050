"""Promises of retention: only expired rows are deleted, in small batches, and no answer becomes wrong."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from copy import copy
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import grpc
import grpc.aio
import pytest
from google.protobuf.struct_pb2 import Struct
from sqlalchemy import text

from deploy.local.stack import running_stack
from services.auth.sessions import retention as auth
from services.auth.sessions.models import login_attempts, sessions
from services.notification.email import retention as email
from services.notification.email.models import email_batches
from services.notification.inbox import queries
from services.notification.inbox import retention as inbox_retention
from services.notification.stream import retention as stream_retention
from services.notification.stream.models import changes
from services.platform.config import Settings
from services.platform.data import retention
from services.platform.data.db import Database, Statement, Transaction
from services.platform.data.retention import Kind, run_once
from services.platform.data.tables import consumed_events, dead_letters, idempotency_keys, outbox
from services.platform.events import retention as platform_retention
from services.platform.events.bus import Bus
from services.platform.events.outbox import add_event
from services.platform.events.relay import Relay
from services.platform.events.subjects import STREAM
from services.platform.observe import metrics
from services.task.tasks import retention as task
from taskflow.event.v1.event_pb2 import Event, TaskCreated
from taskflow.task.v1.internal_service_pb2 import (
    PlanReminderRequest,
    StoreSuggestionsRequest,
    SuggestionDraft,
)
from taskflow.task.v1.job_service_pb2 import GetJobRequest, ListJobsRequest
from taskflow.task.v1.suggestion_pb2 import SUGGESTION_KIND_PRIORITY
from taskflow.task.v1.suggestion_service_pb2 import ListSuggestionsRequest
from taskflow.task.v1.task_pb2 import TASK_PRIORITY_HIGH, Task, TaskFilter
from taskflow.task.v1.task_service_pb2 import CreateTaskRequest, GetTaskRequest, ListTasksRequest
from tests.conftest import serving, settings_for
from tests.integration.notification_world import (
    Device,
    NotificationWorld,
    a_notification_world,
    next_change,
)
from tests.integration.people import Person, refusal
from tests.integration.task_world import TaskWorld, a_task_world, due_at, events, summary

_DAY = timedelta(days=1)
_MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
async def settings(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Settings]:
    """Separate stores with the services: other tests may need their old rows."""
    chosen = settings_for(tmp_path_factory.mktemp("retention") / "data")
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


@pytest.fixture(scope="module")
async def db(settings: Settings) -> AsyncIterator[Database]:
    """The database, with a user and a project."""
    async with a_task_world(settings) as made:
        yield made.db


async def sql(db: Database, statement: str, **parameters: Any) -> int:
    async with db.transaction() as tx:
        return await tx.run(Statement(text(statement)), **parameters)


async def rows(db: Database, statement: str, **parameters: Any) -> list[Any]:
    async with db.read() as tx:
        return await tx.all(Statement(text(statement)), **parameters)


def every_kind(settings: Settings) -> list[Kind]:
    return [
        *platform_retention.kinds(settings),
        *auth.kinds(),
        *task.kinds(settings),
        *inbox_retention.kinds(settings),
        *stream_retention.kinds(settings),
        *email.kinds(),
    ]


# --- Every kind of expired row is deleted, and unexpired rows stay.

# Kind → statement that inserts a row of this kind, with :id in it and a time that is :age ago.
_ROWS = {
    "outbox": (
        "INSERT INTO platform.outbox (event_id, subject, payload, published_at, stream_sequence)"
        " VALUES (:id, 'taskflow._.retention.tested', '', now() - :age, 0)",
        "SELECT event_id AS id FROM platform.outbox",
    ),
    "idempotency_keys": (
        "INSERT INTO platform.idempotency_keys (caller, method, request_id, request_hash, created_at)"
        " VALUES ('', '', :id, '', now() - :age)",
        "SELECT request_id AS id FROM platform.idempotency_keys",
    ),
    "consumed_events": (
        "INSERT INTO platform.consumed_events VALUES ('notification', :id, now() - :age)",
        "SELECT event_id AS id FROM platform.consumed_events",
    ),
    "dead_letters": (
        "INSERT INTO platform.dead_letters VALUES"
        " (:id, 'tested', :id, '', '', '', '', now() - interval '9 years', now() - :age)",
        "SELECT id FROM platform.dead_letters",
    ),
    "login_attempts": (
        "INSERT INTO auth.login_attempts (key, attempted_at) VALUES (uuid_send(:id), now() - :age)",
        "SELECT encode(key, 'hex')::uuid AS id FROM auth.login_attempts WHERE length(key) = 16",
    ),
    "sessions": (
        "INSERT INTO auth.sessions (id, user_id, device, expires_at)"
        " SELECT :id, id, '', now() - :age FROM auth.users LIMIT 1",
        "SELECT id FROM auth.sessions",
    ),
    "tasks": (
        "INSERT INTO task.tasks (id, workspace_id, project_id, project_key, number, title, description,"
        " status, priority, creator_id, labels, created_at, updated_at, deleted_at)"
        " SELECT :id, workspace_id, id, key, 1000000 + (random() * 1000000)::int, '', '', 1, 0, creator_id, '{}',"
        " now(), now(), now() - :age FROM task.projects LIMIT 1",
        "SELECT id FROM task.tasks",
    ),
    "ai_calls": (
        "INSERT INTO task.ai_calls (key, number, allowed_at) VALUES (:id, 1, now() - :age)",
        "SELECT key AS id FROM task.ai_calls",
    ),
    "notifications": (
        "INSERT INTO notification.notifications (id, user_id, event_id, sequence, kind, workspace_id, task_id,"
        " task_key, task_title, headline, created_at, read_at)"
        " VALUES (:id, :id, :id, 1, 1, :id, :id, '', '', '', now(), now() - :age)",
        "SELECT id FROM notification.notifications",
    ),
    "notification_changes": (
        "INSERT INTO notification.changes VALUES (:id, 1, '', now() - :age)",
        "SELECT user_id AS id FROM notification.changes",
    ),
    "email_batches": (
        "INSERT INTO notification.email_batches VALUES (:id, :id, 'SENT', '', now() - :age)",
        "SELECT id FROM notification.email_batches",
    ),
}
_KEPT = {
    "outbox": 7 * _DAY,
    "idempotency_keys": _DAY,
    "consumed_events": 14 * _DAY,
    "dead_letters": 30 * _DAY,
    "login_attempts": 15 * _MINUTE,
    "sessions": _DAY,
    "tasks": 30 * _DAY,
    "ai_calls": 60 * _MINUTE,
    "notifications": 90 * _DAY,
    "notification_changes": 30 * _DAY,
    "email_batches": 30 * _DAY,
}


async def add(db: Database, kind: str, age: timedelta) -> UUID:
    id = uuid4()
    insert = _ROWS[kind][0].replace(":id", f"'{id}'")
    await sql(db, insert, age=age)
    return id


async def kept(db: Database, kind: str) -> set[UUID]:
    return {UUID(str(row.id)) for row in await rows(db, _ROWS[kind][1])}


def test_every_kind_of_deleted_row_is_tested_here(settings: Settings) -> None:
    assert {kind.name for kind in every_kind(settings)} == _ROWS.keys() == _KEPT.keys()


@pytest.mark.parametrize("kind", _ROWS)
async def test_rows_are_deleted_after_their_retention_and_not_before(
    settings: Settings, db: Database, kind: str
) -> None:
    due, young = [await add(db, kind, _KEPT[kind] * part) for part in (1.1, 0.9)]
    counter = metrics.ROWS_DELETED.labels(kind)
    before = counter._value.get()
    deleted = await run_once(db, every_kind(settings))
    assert deleted[kind] == 1
    assert counter._value.get() == before + 1
    left = await kept(db, kind)
    assert due not in left
    assert young in left
    assert (await run_once(db, every_kind(settings)))[kind] == 0


async def test_waiting_dead_letters_and_unread_notifications_are_never_deleted(
    settings: Settings, db: Database
) -> None:
    ages = {kind: await add(db, kind, 4000 * _DAY) for kind in ("dead_letters", "notifications")}
    await sql(db, "UPDATE platform.dead_letters SET replayed_at = NULL")
    await sql(db, "UPDATE notification.notifications SET read_at = NULL")
    await run_once(db, every_kind(settings))
    for kind, id in ages.items():
        assert id in await kept(db, kind)


async def test_a_consumed_mark_is_kept_while_its_event_can_be_redelivered(
    settings: Settings, db: Database
) -> None:
    refilled, parked, neither = [await add(db, "consumed_events", 400 * _DAY) for _ in range(3)]
    await sql(
        db,
        "INSERT INTO platform.outbox (event_id, subject, payload, published_at, stream_sequence)"
        f" VALUES ('{refilled}', 'taskflow._.retention.tested', '', now(), 0)",
    )
    await sql(
        db,
        "INSERT INTO platform.dead_letters"
        f" VALUES ('{uuid4()}', 'notification', '{parked}', '', '', '', '', now())",
    )
    await run_once(db, every_kind(settings))
    left = await kept(db, "consumed_events")
    assert {refilled, parked} <= left
    assert neither not in left


# Deletion in batches.


async def test_two_processes_delete_rows_in_small_transactions(
    settings: Settings, db: Database
) -> None:
    await sql(
        db,
        "INSERT INTO notification.email_batches"
        " SELECT gen_random_uuid(), gen_random_uuid(), 'SENT', '', now() - interval '31 days'"
        " FROM generate_series(1, 1300)",
    )
    batches: list[tuple[str, int]] = []

    def watched(process: str, kind: Kind) -> Kind:
        async def delete(tx: Transaction, rows: int) -> tuple[int, bool]:
            deleted = await kind.delete(tx, rows)
            batches.append((process, deleted[0]))
            return deleted

        return Kind(kind.name, delete)

    kinds = {
        process: [watched(process, kind) for kind in email.kinds()] for process in ("one", "other")
    }
    counts = await asyncio.gather(*(run_once(db, kinds[process]) for process in kinds))
    assert sum(count["email_batches"] for count in counts) == 1300
    assert sum(count for _, count in batches) == 1300
    assert max(count for _, count in batches) == 500


async def test_a_kind_that_fails_or_is_locked_by_another_process_stops_no_other_kind(
    settings: Settings, db: Database
) -> None:
    async def fail(tx: Transaction, rows: int) -> tuple[int, bool]:
        await tx.run(Statement(text("SELECT 1 / 0")))
        return 0, False

    kinds = [Kind("broken", fail), *auth.kinds()]
    old = await add(db, "sessions", 2 * _DAY)
    async with db.transaction() as tx:
        # Lock rows, like a process in the middle of a batch.
        await tx.one(retention._TRY_LOCK, kind="sessions")
        assert await run_once(db, kinds) == {"broken": 0, "login_attempts": 0, "sessions": 0}
    assert old in await kept(db, "sessions")
    assert (await run_once(db, kinds))["sessions"] == 1


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (Statement(retention.delete_oldest(outbox, outbox.c.published_at)), "outbox_published"),
        (
            Statement(retention.delete_oldest(idempotency_keys, idempotency_keys.c.created_at)),
            "idempotency_keys_age",
        ),
        (
            Statement(retention.delete_oldest(consumed_events, consumed_events.c.consumed_at)),
            "consumed_events_age",
        ),
        (
            Statement(retention.delete_oldest(dead_letters, dead_letters.c.replayed_at)),
            "dead_letters_replayed",
        ),
        (task._LOCK, "tasks_deleted"),
        (queries.LOCK_READ, "notifications_read"),
        (
            Statement(retention.delete_oldest(changes, changes.c.created_at)),
            "changes_age",
        ),
        (
            Statement(retention.delete_oldest(email_batches, email_batches.c.created_at)),
            "email_batches_age",
        ),
        (
            Statement(retention.delete_oldest(login_attempts, login_attempts.c.attempted_at)),
            "login_attempts_age",
        ),
        (Statement(retention.delete_oldest(sessions, sessions.c.expires_at)), "sessions_expiry"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_expired_rows_of_every_kind_are_found_by_an_index(
    db: Database, statement: Statement, index: str
) -> None:
    explain = copy(statement)
    explain.sql = b"EXPLAIN " + statement.sql
    async with db.transaction() as tx:
        # Forbid table scans, which Postgres prefers for small tables: the test asks whether the statement can use an
        # index.
        await tx.run(Statement(text("SET LOCAL enable_seqscan = off")))
        await tx.run(Statement(text("SET LOCAL enable_bitmapscan = off")))
        plan = "\n".join(row[0] for row in await tx.all(explain, age=_DAY, rows=500))
    assert f"using {index}" in plan
    assert "Sort" not in plan


# Purged tasks.


async def age_deletion(world: TaskWorld, deleted: Task, age: timedelta) -> None:
    await sql(
        world.db,
        f"UPDATE task.tasks SET deleted_at = now() - :age WHERE id = '{deleted.id}'",
        age=age,
    )


async def purge(world: TaskWorld) -> int:
    return (await run_once(world.db, task.kinds(world.settings)))["tasks"]


def payload() -> Struct:
    given = Struct()
    given.update({"message": "hello"})
    return given


async def code_of(call: Any) -> grpc.StatusCode:
    return (await refusal(call)).code


async def test_a_deleted_task_can_be_undeleted_until_its_retention_ends(
    world: TaskWorld,
) -> None:
    soon = datetime.now(UTC) + timedelta(minutes=30)
    made = await world.create(payload=payload(), due=due_at(soon))
    await world.worker_reminders.PlanReminder(
        PlanReminderRequest(task_id=made.id), metadata=world.service
    )
    draft = SuggestionDraft(
        kind=SUGGESTION_KIND_PRIORITY, priority=TASK_PRIORITY_HIGH, reason="says so", model="test"
    )
    await world.worker_suggestions.StoreSuggestions(
        StoreSuggestionsRequest(task_id=made.id, base_text_revision=1, suggestions=[draft]),
        metadata=world.service,
    )
    listed = await world.jobs.ListJobs(
        ListJobsRequest(workspace_id=world.workspace_id), metadata=world.me
    )
    job_id = listed.jobs[0].id
    hanging = ("suggestions", "jobs", "reminders")
    for table in hanging:
        assert await rows(world.db, f"SELECT 1 FROM task.{table} WHERE task_id = '{made.id}'")

    await world.delete(made)
    await age_deletion(world, made, 30 * _DAY - _MINUTE)
    assert await purge(world) == 0
    await world.undelete(made)
    assert not (await world.get(made)).HasField("delete_time")

    await world.delete(made)
    await age_deletion(world, made, 30 * _DAY + _MINUTE)
    by_key = GetTaskRequest(id=made.key, workspace_id=world.workspace_id)
    assert (await world.tasks.GetTask(by_key, metadata=world.me)).task.HasField("delete_time")
    assert await code_of(world.undelete(made)) is grpc.StatusCode.NOT_FOUND
    assert await purge(world) == 1
    not_found = grpc.StatusCode.NOT_FOUND
    assert await code_of(world.get(made)) is not_found
    assert await code_of(world.tasks.GetTask(by_key, metadata=world.me)) is not_found
    assert await code_of(world.undelete(made)) is not_found
    assert await code_of(world.delete(made)) is not_found
    assert (
        await code_of(world.jobs.GetJob(GetJobRequest(id=job_id), metadata=world.me)) is not_found
    )
    of_workspace = ListSuggestionsRequest(workspace_id=world.workspace_id)
    answer = await world.suggestions.ListSuggestions(of_workspace, metadata=world.me)
    assert not answer.suggestions
    for table in hanging:
        assert not await rows(world.db, f"SELECT 1 FROM task.{table} WHERE task_id = '{made.id}'")
    assert (await world.create()).key != made.key


async def test_subtasks_of_a_purged_task_lose_their_parent_and_boards_show_it(
    world: TaskWorld,
) -> None:
    board = await world.opened()
    above = await world.create("Above")
    below = await world.create("Below", parent_id=above.id)
    gone_too = await world.create("Below as well", parent_id=above.id)
    for each in (above, gone_too):
        await world.delete(each)
        await age_deletion(world, each, 31 * _DAY)
    await events(board, 3 + 2)
    assert await purge(world) == 2
    [change] = await events(board, 1)
    assert summary(change) == ("UPDATED", "Below", 2)
    assert change.change.changed_fields.paths == ["parent_id"]
    assert change.change.task.parent_id == ""
    assert (await world.get(below)).parent_id == ""
    board.cancel()


async def test_a_task_with_more_dependent_rows_than_a_batch_is_purged(world: TaskWorld) -> None:
    made = await world.create(payload=payload())
    await sql(
        world.db,
        "INSERT INTO task.jobs (id, workspace_id, task_id, kind, state, created_at)"
        f" SELECT gen_random_uuid(), '{world.workspace_id}', '{made.id}', 1, 3, now()"
        " FROM generate_series(1, 1100)",
    )
    await sql(
        world.db,
        "INSERT INTO task.tasks (id, workspace_id, project_id, project_key, number, title, description, status,"
        " priority, creator_id, labels, created_at, updated_at, parent_id)"
        " SELECT gen_random_uuid(), workspace_id, project_id, project_key, 5000 + n, 'Below', '', 1, 0, creator_id,"
        f" '{{}}', now(), now(), id FROM task.tasks, generate_series(1, 600) AS n WHERE id = '{made.id}'",
    )
    await world.delete(made)
    await age_deletion(world, made, 31 * _DAY)
    assert await purge(world) == 1
    assert await code_of(world.get(made)) is grpc.StatusCode.NOT_FOUND
    below = await world.listed()
    assert len(below) == 600
    assert not any(each.parent_id for each in below.values())


async def test_page_tokens_and_board_cursors_work_across_purged_tasks(world: TaskWorld) -> None:
    board = await world.opened()
    made = [await world.create(f"Task {number}") for number in range(9)]
    cursor = (await events(board, 9))[-1].cursor
    board.cancel()
    doomed = made[1::2]
    for each in doomed:
        await world.delete(each)
        await age_deletion(world, each, 31 * _DAY)

    async def page(token: str) -> Any:
        request = ListTasksRequest(
            workspace_id=world.workspace_id,
            filter=TaskFilter(include_deleted=True),
            page_size=2,
            page_token=token,
        )
        return await world.tasks.ListTasks(request, metadata=world.me)

    first = await page("")
    # The page token points at the second task, which the purge deletes.
    assert [each.id for each in first.tasks] == [made[0].id, made[1].id]
    assert await purge(world) == len(doomed)
    seen, token = [], first.next_page_token
    while token:
        answer = await page(token)
        seen += [each.id for each in answer.tasks]
        token = answer.next_page_token
    assert seen == [each.id for each in made[2::2]]

    resumed = world.watch(cursor=cursor)
    assert [summary(message)[0] for message in await events(resumed, len(doomed))] == [
        "DELETED"
    ] * len(doomed)
    await world.create("After")
    [message] = await events(resumed, 1)
    assert summary(message)[:2] == ("CREATED", "After")
    resumed.cancel()


async def test_a_repeated_create_returns_the_first_answer_for_a_day_and_then_creates_anew(
    world: TaskWorld,
) -> None:
    request = CreateTaskRequest(
        project_id=world.project_id, task=Task(title="Once"), request_id=str(uuid4())
    )

    async def create() -> str:
        return str((await world.tasks.CreateTask(request, metadata=world.me)).task.id)

    async def age(hours: float) -> None:
        await sql(
            world.db,
            "UPDATE platform.idempotency_keys SET created_at = now() - :age"
            f" WHERE request_id = '{request.request_id}'",
            age=timedelta(hours=hours),
        )
        await run_once(world.db, platform_retention.kinds(world.settings))

    first = await create()
    await age(23.9)
    assert await create() == first
    await age(24.1)
    assert request.request_id not in {str(id) for id in await kept(world.db, "idempotency_keys")}
    assert await create() != first


# Deleted notifications and changes.


async def read_and_age(
    inbox: NotificationWorld, person: Person, ids: list[str], age: timedelta
) -> None:
    await inbox.mark_read(person, *ids)
    for id in ids:
        await sql(
            inbox.db,
            f"UPDATE notification.notifications SET read_at = now() - :age WHERE id = '{id}'",
            age=age,
        )


async def forget(inbox: NotificationWorld) -> int:
    settings = inbox.settings
    kinds = [*inbox_retention.kinds(settings), *stream_retention.kinds(settings)]
    return (await run_once(inbox.db, kinds))["notifications"]


async def test_notifications_read_long_ago_leave_list_and_stream_together(
    inbox: NotificationWorld,
) -> None:
    ben = await inbox.member("ben")
    await inbox.assign(*[ben] * 5)
    listed = await inbox.wait_for_notifications(ben, 5)
    start = (await inbox.page(ben)).cursor
    old = [one.id for one in listed[1:4:2]]
    await read_and_age(inbox, ben, old, 90 * _DAY + _MINUTE)
    await read_and_age(inbox, ben, [listed[2].id], 90 * _DAY - _MINUTE)
    live = inbox.watch(ben, start)
    first = await inbox.page(ben, page_size=2)
    assert await forget(inbox) == 2
    rest = await inbox.page(ben, page_size=2, page_token=first.next_page_token)
    assert [one.id for one in rest.notifications] == [listed[2].id, listed[4].id]

    device = Device(cursor=start, sequence=5)
    device.notifications = {one.id: one for one in listed}
    for _ in range(3):
        device.apply(await next_change(live))
    live.cancel()
    assert [one.id for one in device.shown()] == [one.id for one in await inbox.listed(ben)]
    assert await inbox.mark_read(ben, *old) == 0
    assert device.cursor == (await inbox.page(ben)).cursor

    resumed = inbox.watch(ben, start)
    again = [(await next_change(resumed)).change.WhichOneof("kind") for _ in range(3)]
    assert again == ["read", "read", "removed"]
    resumed.cancel()


async def test_a_stream_offline_for_longer_than_the_change_retention_is_reset(
    inbox: NotificationWorld,
) -> None:
    ben = await inbox.member("ben")
    await inbox.assign(*[ben] * 4)
    await inbox.wait_for_notifications(ben, 4)
    call = inbox.watch(ben, "")
    await call.read()
    call.cancel()
    start = (await inbox.page(ben)).cursor
    await inbox.assign(*[ben] * 4)
    await inbox.wait_for_notifications(ben, 8)
    # The older half of the changes since then is deleted.
    await sql(
        inbox.db,
        f"UPDATE notification.changes SET created_at = now() - :age WHERE user_id = '{ben.id}' AND sequence < 7",
        age=31 * _DAY,
    )
    await forget(inbox)
    call = inbox.watch(ben, start)
    message = await next_change(call)
    assert message.WhichOneof("kind") == "reset"
    assert message.cursor == (await inbox.page(ben)).cursor
    assert len(await inbox.listed(ben)) == 8
    call.cancel()


# A broker that lost its disk after a purge.


async def test_after_a_purge_a_broker_that_lost_its_disk_gets_all_kept_events(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    chosen = settings_for(tmp_path_factory.mktemp("refill") / "data")
    async with running_stack(chosen, only={"postgres", "nats", "migrate"}) as stack:
        db, bus = Database(stack.settings, application="test"), Bus(stack.settings, name="test")
        await db.open()
        await bus.connect()
        relay = Relay(stack.settings, db, bus)
        await relay.refill()

        async def write(count: int) -> None:
            for _ in range(count):
                event = Event(
                    type="task.created",
                    aggregate_id=str(uuid4()),
                    revision=1,
                    task_created=TaskCreated(),
                )
                async with db.transaction() as tx:
                    await add_event(tx, event)

        await write(20)
        while await relay.drain_once():
            pass
        day = "published_at - (id % 10) * interval '1 day'"
        await sql(db, f"UPDATE platform.outbox SET published_at = {day}")
        await write(1)
        await sql(db, "UPDATE platform.outbox SET created_at = now() - interval '9 years'")
        deleted = await run_once(db, platform_retention.kinds(stack.settings))
        await bus.jetstream.delete_stream(STREAM)
        await relay.refill()
        while await relay.drain_once():
            pass
        info = await bus.jetstream.stream_info(STREAM)
        await bus.close()
        await db.close()
    assert deleted["outbox"] == 6
    # The stream gets the published events that were kept, and the event that was never published.
    assert info.state.messages == 14 + 1


# Deletion under load.


async def test_calls_are_served_during_a_large_deletion(world: TaskWorld) -> None:
    settings, db = world.settings, world.db
    # Delete the rows that other tests left.
    await run_once(db, every_kind(settings))
    await sql(
        db,
        "INSERT INTO platform.outbox (event_id, subject, payload, published_at, stream_sequence)"
        " SELECT gen_random_uuid(), 'taskflow._.retention.tested', repeat('x', 1000)::bytea,"
        " now() - interval '8 days', 0 FROM generate_series(1, 10000)",
    )
    await sql(
        db,
        "INSERT INTO task.tasks (id, workspace_id, project_id, project_key, number, title, description, status,"
        " priority, creator_id, labels, created_at, updated_at, deleted_at)"
        " SELECT gen_random_uuid(), workspace_id, id, key, 5000 + n, 'Old', '', 1, 0, creator_id, '{}',"
        " now() - interval '60 days', now() - interval '40 days', now() - interval '40 days'"
        f" FROM task.projects, generate_series(1, 1000) AS n WHERE id = '{world.project_id}'",
    )
    await sql(
        db,
        "INSERT INTO task.jobs (id, workspace_id, task_id, kind, state, created_at)"
        " SELECT gen_random_uuid(), workspace_id, id, 1, 3, created_at FROM task.tasks"
        f" WHERE workspace_id = '{world.workspace_id}' AND title = 'Old'",
    )
    slowest = 0.0
    made: set[str] = set()

    async def work() -> None:
        nonlocal slowest
        while True:
            for call in (partial(world.create, "New"), world.listed):
                began = time.monotonic()
                answer = await call()
                slowest = max(slowest, time.monotonic() - began)
                if isinstance(answer, Task):
                    made.add(answer.id)
            await asyncio.sleep(0.02)

    workers = [asyncio.create_task(work()) for _ in range(4)]
    deleted = await run_once(db, [*platform_retention.kinds(settings), *task.kinds(settings)])
    for worker in workers:
        assert not worker.done(), worker.exception()
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    assert (deleted["outbox"], deleted["tasks"]) == (10_000, 1_000)
    assert made
    assert made <= (await world.listed()).keys()
    # A batch takes milliseconds; the margin is for a busy machine. Waiting for all batches would exceed it.
    assert slowest < 5
