"""A separate database with a million tasks and a matching number of other rows, for test_plans.py.

Three quarters belong to one workspace, the rest to 500 small ones. The rows that queries look for are where a bad plan
finds them last: old rows are done, read, archived or replayed, new ones aren't.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import LiteralString
from uuid import uuid4

import psycopg
from psycopg import sql

from services.migrations.upgrade import upgrade
from services.platform.config import Settings
from tests.bench.dataset import name_id
from tests.conftest import superuser

TASKS = 1_000_000
_USERS = TASKS // 10
_SCHEMAS = ["auth", "task", "notification", "platform"]


LARGE = name_id("workspace 0")
# A project with 5,000 of the large workspace's 750,000 tasks.
PROJECT = name_id("project 0")
# Member of all workspaces, with 2,000 tasks in the large one and 20,000 notifications; the oldest 100 are unread.
PERSON = name_id("user 0")
# One of this user's 5,000 sessions.
SESSION = name_id("session 2000")
# A user who has 20,000 notifications too, all unread and all already mailed.
MAIL_READER = name_id("user 1")

_PEOPLE: tuple[LiteralString, ...] = (
    """
    INSERT INTO auth.users (id, email, email_key, display_name, time_zone, password_hash)
    SELECT md5('user ' || n)::uuid, n || '@example.com', n || '@example.com', 'User ' || n, 'UTC', ''
    FROM generate_series(0, {users} - 1) AS n
    """,
    """
    INSERT INTO auth.sessions (id, user_id, device, expires_at)
    SELECT md5('session ' || n)::uuid, md5('user ' || greatest(0, n - 5000))::uuid, '',
      now() + (n - 1000) * interval '1 minute'
    FROM generate_series(0, {users} + 4999) AS n
    """,
    """
    INSERT INTO auth.workspaces (id, display_name, ai_enabled)
    SELECT md5('workspace ' || n)::uuid, 'Workspace', true FROM generate_series(0, 500) AS n
    """,
    """
    INSERT INTO auth.members (workspace_id, user_id, role, revision, created_at)
    SELECT md5('workspace ' || CASE WHEN n % 2 = 0 THEN 0 ELSE 1 + n / 2 % 500 END)::uuid, md5('user ' || n)::uuid,
      CASE WHEN n = 2 THEN 4 ELSE 2 END, n, now() - n * interval '1 minute'
    FROM generate_series(1, {users} - 1) AS n
    UNION ALL
    SELECT md5('workspace ' || n)::uuid, md5('user 0')::uuid, 2, 1, now() FROM generate_series(0, 500) AS n
    """,
    """
    INSERT INTO auth.login_attempts (key, attempted_at)
    SELECT sha256(int4send(n % 10000)), now() - n * interval '10 seconds' FROM generate_series({users}, 1, -1) AS n
    """,
)
_TASKS: tuple[LiteralString, ...] = (
    """
    INSERT INTO task.projects (id, workspace_id, key, display_name, description, creator_id, archived_at, created_at,
      updated_at)
    SELECT CASE WHEN n = 2500 THEN md5('project 0')::uuid ELSE md5('project ' || n)::uuid END,
      md5('workspace ' || CASE WHEN n <= 2500 THEN 0 ELSE n % 500 + 1 END)::uuid, 'P' || n, '', '',
      md5('user 0')::uuid, CASE WHEN n % 2500 < 2000 THEN now() END, now() - (5000 - n) * interval '1 hour', now()
    FROM generate_series(1, 5000) AS n
    """,
    # The newest tenth of the tasks are open. A hash spreads the properties evenly that don't depend on age.
    """
    INSERT INTO task.tasks (id, workspace_id, project_id, project_key, number, title, description, status, priority,
      assignee_id, creator_id, labels, due_date, due_zone, due_at, parent_id, created_at, updated_at, finished_at,
      deleted_at)
    SELECT id, md5('workspace ' || workspace)::uuid, md5('project ' || project)::uuid, 'P', n, 'Task ' || n, 'Text',
      CASE WHEN open THEN 1 ELSE 3 END, hash % 5,
      CASE WHEN hash / 5 % 3 <> 0 THEN md5('user ' || person)::uuid END, md5('user ' || person)::uuid,
      ARRAY['label' || hash / 15 % 400],
      CASE WHEN dated THEN at::date END, CASE WHEN dated THEN 'UTC' END, CASE WHEN dated THEN at END,
      CASE WHEN hash / 12000 % 10 = 0 THEN id END, at, at + interval '1 day', CASE WHEN NOT open THEN at END,
      CASE WHEN hash / 120000 % 100 = 0 THEN at END
    FROM (
      SELECT n, id, uuid_extract_timestamp(id) AS at, hash, hash / 6000 % 2 = 0 AS dated, n > 0.9 * {tasks} AS open,
        CASE WHEN n % 4 <> 0 THEN 0 ELSE 1 + n / 4 % 500 END AS workspace,
        CASE WHEN n % 200 = 1 THEN 0 WHEN n % 4 <> 0 THEN 1 + hash % 2499 ELSE 2501 + n / 4 % 2500 END AS project,
        CASE WHEN n % 500 = 2 THEN 0 ELSE 1 + hash % ({users} - 1) END AS person
      FROM (
        SELECT n, uuidv7((n - {tasks}) * interval '30 seconds') AS id, hashint8(n)::bigint & 2147483647 AS hash
        FROM generate_series(1, {tasks}) AS n
      ) AS made
    ) AS placed
    """,
)
# Suggestions, jobs and other rows of tasks, three quarters of them in the large workspace. Queries look for the oldest
# hundredth.
_WORK: tuple[LiteralString, ...] = (
    """
    INSERT INTO task.suggestions (id, workspace_id, task_id, kind, priority, reason, confidence, model, prompt_version,
      base_text_revision, state, created_at)
    SELECT id, workspace_id, task_id, 1, 2, '', 0.5, '', '', n, CASE WHEN n <= {some} / 100 THEN 1 ELSE 2 END, at
    FROM hanging
    """,
    """
    INSERT INTO task.jobs (id, workspace_id, task_id, kind, state, base_text_revision, created_at)
    SELECT id, workspace_id, task_id, 1, CASE WHEN n <= {some} / 100 THEN 4 ELSE 3 END, n, at FROM hanging
    """,
    """
    INSERT INTO task.reminders (task_id, due_at, offset_seconds, outcome, remind_at, zone, rule, recorded_at)
    SELECT task_id, at, n, 1, at, '', '', at FROM hanging
    """,
    """
    INSERT INTO task.ai_calls (key, number, allowed_at, task_id, text_revision)
    SELECT workspace_id, n, at, task_id, 1 FROM hanging WHERE n % 3 = 0
    """,
)
_HANGING: LiteralString = """
CREATE TEMPORARY TABLE hanging AS
SELECT n, uuidv7((n - {some}) * interval '1 minute') AS id,
  md5('workspace ' || CASE WHEN n % 4 <> 0 THEN 0 ELSE 1 + n / 4 % 500 END)::uuid AS workspace_id,
  md5('task ' || n / 2)::uuid AS task_id, now() + (n - {some}) * interval '1 minute' AS at
FROM generate_series(1, {some}) AS n
"""
_NOTIFICATIONS: tuple[LiteralString, ...] = (
    """
    CREATE TEMPORARY TABLE told AS
    SELECT n, md5('user ' || CASE WHEN n <= 20000 THEN 0 WHEN n <= 40000 THEN 1 ELSE n % {users} END)::uuid AS user_id,
      CASE WHEN n <= 40000 THEN 1 + (n - 1) % 20000 ELSE 20000 + n / {users} END AS sequence,
      now() + (n - {some}) * interval '1 minute' AS at
    FROM generate_series(1, {some}) AS n
    """,
    """
    INSERT INTO notification.notifications (id, user_id, event_id, sequence, kind, workspace_id, task_id, task_key,
      task_title, headline, created_at, read_at, email_batch_id)
    SELECT uuidv7((n - {some}) * interval '1 minute'), user_id, md5('event ' || n)::uuid, sequence, 1,
      md5('workspace ' || n % 501)::uuid, md5('task ' || n)::uuid, 'P-1', 'Task', 'P-1 was assigned to you', at,
      CASE WHEN n BETWEEN 101 AND 20000 OR n BETWEEN 40001 AND {some} - 20000 THEN at END,
      CASE WHEN n BETWEEN 20001 AND 40000 OR n % 10 <> 0 THEN md5('mail ' || n / 10)::uuid END
    FROM told
    """,
    """
    INSERT INTO notification.changes (user_id, sequence, payload, created_at)
    SELECT user_id, sequence, '\\x00', at FROM told
    """,
    """
    INSERT INTO notification.feeds (user_id, last_sequence)
    SELECT user_id, max(sequence) FROM told GROUP BY user_id
    """,
    """
    INSERT INTO notification.email_batches (id, user_id, state, error, created_at)
    SELECT md5('mail ' || n)::uuid, user_id, 'SENT', '', at FROM told WHERE n % 3 = 0
    """,
    """
    INSERT INTO platform.consumed_events (consumer, event_id, consumed_at)
    SELECT 'notification', md5('event ' || n)::uuid, at FROM told
    """,
    """
    INSERT INTO platform.idempotency_keys (caller, method, request_id, request_hash, response, created_at)
    SELECT user_id, 'taskflow.task.v1.CreateTaskRequest', md5('request ' || n)::uuid, '', '', at FROM told
    """,
    # A week of events; the newest thousand are unpublished.
    """
    INSERT INTO platform.outbox (event_id, subject, payload, created_at, published_at, stream_sequence)
    SELECT md5('recent event ' || n)::uuid, 'taskflow.x.task.created', '\\x00', now(),
      CASE WHEN n < {some} - 1000 THEN now() + (n - {some}) * interval '2 seconds' END,
      CASE WHEN n < {some} - 1000 THEN n END
    FROM told ORDER BY n
    """,
    """
    INSERT INTO platform.dead_letters (id, consumer, event_id, event_type, subject, payload, error, parked_at,
      replayed_at)
    SELECT uuidv7(), 'dispatcher', n, 'task.created', '', '', '', at, CASE WHEN n > {some} / 100 THEN at END
    FROM told WHERE n % 3 = 0
    """,
)

# Building the indexes after the rows takes a third of the time.
_INDEXES: LiteralString = """
SELECT tablename, indexrelid::regclass::text, indexdef
FROM pg_indexes JOIN pg_index ON indexrelid = (schemaname || '.' || indexname)::regclass
WHERE schemaname = ANY(%s) AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
"""
# Referenced tables last: a logged table can't refer to an unlogged one.
_TABLES: LiteralString = """
SELECT oid::regclass::text FROM pg_class
WHERE relkind = 'r' AND relnamespace::regnamespace::text = ANY(%s)
ORDER BY EXISTS (SELECT FROM pg_constraint WHERE confrelid = pg_class.oid)
"""


@asynccontextmanager
async def large_world(settings: Settings) -> AsyncIterator[str]:
    """The URL of the database, which is dropped afterwards."""
    database = f"large_{uuid4().hex[:8]}"
    name = sql.Identifier(database)
    async with await _connect(superuser(settings)) as connection:
        await connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
        try:
            url = superuser(settings, database)
            await _fill(settings, url)
            yield url
        finally:
            await connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


async def _fill(settings: Settings, url: str) -> None:
    await asyncio.to_thread(
        upgrade,
        Settings(data_dir=settings.data_dir, database_url=url),
    )
    async with await _connect(url) as connection:
        indexes = await (await connection.execute(_INDEXES, (_SCHEMAS,))).fetchall()
        for _, index, _ in indexes:
            await connection.execute(f"DROP INDEX {index}".encode())
        for (table,) in await (await connection.execute(_TABLES, (_SCHEMAS,))).fetchall():
            # Durability is off, because this database needn't survive a crash.
            await connection.execute(f"ALTER TABLE {table} SET UNLOGGED".encode())
    await asyncio.gather(
        _run(url, _TASKS), _run(url, (*_PEOPLE, _HANGING, *_WORK, *_NOTIFICATIONS))
    )
    of_tasks = [definition for table, _, definition in indexes if table == "tasks"]
    others = [definition for table, _, definition in indexes if table != "tasks"]
    await asyncio.gather(_run(url, of_tasks[::2]), _run(url, of_tasks[1::2]), _run(url, others))
    await _run(url, ["ANALYZE"])


async def _run(url: str, statements: "tuple[str, ...] | list[str]") -> None:
    async with await _connect(url) as connection:
        # Session setting under which Postgres checks no foreign keys, to insert faster.
        await connection.execute("SET session_replication_role = replica")
        await connection.execute("SET maintenance_work_mem = '256MB'")
        for statement in statements:
            sizes = {"{tasks}": TASKS, "{users}": _USERS, "{some}": 3 * TASKS // 10}
            for name, size in sizes.items():
                statement = statement.replace(name, str(size))
            await connection.execute(statement.encode())


async def _connect(url: str) -> "psycopg.AsyncConnection[tuple[str, ...]]":
    return await psycopg.AsyncConnection.connect(
        url, autocommit=True, options="-c statement_timeout=0 -c synchronous_commit=off"
    )
