"""What the benchmark databases hold: users with sessions, a large workspace and a small one, written by SQL.

Ids are hashes of a name, so that any process can compute them. Task ids are UUIDv7 in the order of creation.
"""

import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

import psycopg

from services.auth.sessions.tokens import SigningKeys
from services.platform.config import Settings

PROJECT_TASKS = 1_000
# The workspace of `PROJECT_TASKS` tasks in one project.
SMALL = "small"
LARGE = "large"


def name_id(name: str) -> UUID:
    """The same as md5(name)::uuid in Postgres."""
    return UUID(hashlib.md5(name.encode(), usedforsecurity=False).hexdigest())


WORKSPACES = {name: str(name_id(f"workspace {name}")) for name in (SMALL, LARGE)}
SMALL_PROJECT = str(name_id("project 0"))


@dataclass(frozen=True)
class Dataset:
    """Row counts. `tasks` in the large workspace, PROJECT_TASKS to a project; `notifications` for each user, each with
    its stream change and its published event."""

    tasks: int
    users: int
    notifications: int = 0

    @property
    def projects(self) -> list[str]:
        """Project ids of the large workspace."""
        count = self.tasks // PROJECT_TASKS
        return [str(name_id(f"project {number}")) for number in range(1, count + 1)]

    def user(self, number: int) -> str:
        return str(name_id(f"user {number % self.users}"))

    def tokens(self, settings: Settings, numbers: Iterable[int]) -> list[str]:
        """Access tokens of these users, with the lifetime in the settings."""
        keys = SigningKeys(settings)
        now = int(time.time())
        expires = now + int(settings.access_token_lifetime)
        return [
            keys.access_token(
                name_id(f"user {number % self.users}"),
                name_id(f"session {number % self.users}"),
                now,
                expires,
            )
            for number in numbers
        ]


_PEOPLE: LiteralString = """
INSERT INTO auth.users (id, email, email_key, display_name, time_zone, password_hash)
SELECT md5('user ' || n)::uuid, n || '@example.com', n || '@example.com', 'User ' || n,
  (ARRAY['Europe/Berlin', 'UTC', 'America/New_York', 'Asia/Tokyo'])[1 + n %% 4], ''
FROM generate_series(0, %(users)s - 1) AS n;
"""
_SESSIONS: LiteralString = """
INSERT INTO auth.sessions (id, user_id, device, expires_at)
SELECT md5('session ' || n)::uuid, md5('user ' || n)::uuid, 'benchmark', now() + interval '30 days'
FROM generate_series(0, %(users)s - 1) AS n;
"""
_WORKSPACE: LiteralString = """
INSERT INTO auth.workspaces (id, display_name, ai_enabled) VALUES (%(workspace)s, 'Harbour Street', true)
"""
_MEMBERS: LiteralString = """
INSERT INTO auth.members (workspace_id, user_id, role, revision)
SELECT %(workspace)s, md5('user ' || n)::uuid, CASE WHEN n = 0 THEN 4 ELSE 2 END, 1
FROM generate_series(0, %(users)s - 1) AS n
"""
_PROJECTS: LiteralString = """
INSERT INTO task.projects (id, workspace_id, key, display_name, description, creator_id, next_number, created_at,
  updated_at)
SELECT md5('project ' || n)::uuid, %(workspace)s, 'P' || n, 'Project ' || n, '', md5('user 0')::uuid,
  %(size)s + 1, now(), now()
FROM generate_series(%(first)s, %(last)s) AS n
"""
# A third of the tasks are open, half have a deadline, and the tasks are spread evenly over the projects.
_TASKS: LiteralString = """
INSERT INTO task.tasks (id, workspace_id, project_id, project_key, number, title, description, status, priority,
  assignee_id, creator_id, labels, due_date, due_zone, due_at, created_at, updated_at, finished_at)
SELECT id, %(workspace)s, md5('project ' || project)::uuid, 'P' || project,
  1 + n / (%(last)s - %(first)s + 1),
  'Check pump ' || n || ' of the east pier',
  'The bearing of pump ' || n || ' runs warm. Look at the seal and the coupling, and note what was found. '
    || repeat('Details follow. ', (n %% 8)::int),
  CASE WHEN n %% 3 = 0 THEN 1 + n %% 2 ELSE 3 END, n %% 5,
  CASE WHEN n %% 4 <> 0 THEN md5('user ' || n %% %(users)s)::uuid END,
  md5('user ' || n * 7 %% %(users)s)::uuid,
  ARRAY['area ' || n %% 50, 'kind ' || n %% 7],
  CASE WHEN n %% 2 = 0 THEN at::date END, CASE WHEN n %% 2 = 0 THEN 'UTC' END,
  CASE WHEN n %% 2 = 0 THEN date_trunc('day', at) + interval '1 day' END,
  at, at, CASE WHEN n %% 3 <> 0 THEN at END
FROM (
  SELECT n, %(first)s + n %% (%(last)s - %(first)s + 1) AS project, id, uuid_extract_timestamp(id) AS at
  FROM (
    SELECT n, uuidv7((n - %(tasks)s) * interval '10 seconds') AS id
    FROM generate_series(0::bigint, %(tasks)s - 1) AS n
  ) AS made
) AS dated
"""
# Each notification is a day old and read.
_NOTIFICATIONS: tuple[LiteralString, ...] = (
    """
    INSERT INTO notification.feeds (user_id, last_sequence)
    SELECT md5('user ' || n)::uuid, %(notifications)s FROM generate_series(0, %(users)s - 1) AS n
    """,
    """
    INSERT INTO notification.notifications (id, user_id, event_id, sequence, kind, workspace_id, task_id, task_key,
      task_title, headline, created_at, read_at)
    SELECT uuidv7(interval '-1 day'), md5('user ' || n)::uuid, md5('event ' || sequence || ' ' || n)::uuid, sequence, 1,
      %(workspace)s, md5('task ' || n)::uuid, 'P1-' || n, 'Check pump ' || n, 'P1-' || n || ' was assigned to you',
      now() - interval '1 day', now()
    FROM generate_series(0, %(users)s - 1) AS n, generate_series(1, %(notifications)s) AS sequence
    """,
    """
    INSERT INTO notification.changes (user_id, sequence, payload)
    SELECT user_id, sequence, convert_to(repeat('-', 150), 'UTF8') FROM notification.notifications
    """,
    """
    INSERT INTO platform.consumed_events (consumer, event_id)
    SELECT 'notification', event_id FROM notification.notifications
    """,
    """
    INSERT INTO platform.outbox (event_id, subject, payload, published_at, stream_sequence)
    SELECT event_id, 'taskflow.%%.task.created', convert_to(repeat('-', 400), 'UTF8'), now(), NULL
    FROM notification.notifications
    """,
)
# Building the indexes after the rows takes a third of the time.
_INDEXES: LiteralString = """
SELECT format('%I.%I', schemaname, indexname), indexdef FROM pg_indexes
WHERE schemaname = 'task' AND tablename = 'tasks'
  AND indexname NOT IN (SELECT conname FROM pg_constraint WHERE conrelid = 'task.tasks'::regclass)
"""


async def fill(url: str, dataset: Dataset) -> None:
    """Fill a migrated, empty database."""
    async with await psycopg.AsyncConnection.connect(
        url, autocommit=True, cursor_factory=psycopg.AsyncClientCursor
    ) as connection:
        await connection.execute("SET statement_timeout = 0")
        await connection.execute("SET maintenance_work_mem = '512MB'")
        cursor = await connection.execute(_INDEXES)
        indexes: list[Any] = await cursor.fetchall()
        for name, _ in indexes:
            await connection.execute(f"DROP INDEX {name}".encode())
        await connection.execute(_PEOPLE, {"users": dataset.users})
        await connection.execute(_SESSIONS, {"users": dataset.users})
        await _workspace(connection, SMALL, dataset.users, (0, 0))
        await _workspace(connection, LARGE, dataset.users, (1, dataset.tasks // PROJECT_TASKS))
        if dataset.notifications:
            values = {
                "users": dataset.users,
                "notifications": dataset.notifications,
                "workspace": WORKSPACES[LARGE],
            }
            for statement in _NOTIFICATIONS:
                await connection.execute(statement, values)
        for _, definition in indexes:
            await connection.execute(definition.encode())
        await connection.execute("VACUUM ANALYZE")
        await connection.execute("CHECKPOINT")


async def _workspace(
    connection: psycopg.AsyncConnection[Any], name: str, users: int, projects: tuple[int, int]
) -> None:
    first, last = projects
    values = {
        "workspace": WORKSPACES[name],
        "users": users,
        "first": first,
        "last": last,
        "size": PROJECT_TASKS,
        "tasks": PROJECT_TASKS * (last - first + 1),
    }
    for statement in (_WORKSPACE, _MEMBERS, _PROJECTS, _TASKS):
        await connection.execute(statement, values)


async def execute(url: str, statement: LiteralString, values: Any = None) -> list[Any]:
    """Run one statement and return its rows."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        cursor = await connection.execute(statement, values)
        return await cursor.fetchall() if cursor.description else []


async def forget_events(url: str) -> None:
    """Empty the outbox, so that the events of the previous benchmark row don't count in the next."""
    await execute(url, "TRUNCATE platform.outbox")
