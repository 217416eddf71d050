"""People, workspaces and projects for a scenario, written by SQL in milliseconds, and stubs to call for them."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

import grpc.aio
import psycopg
from uuid_utils.compat import uuid7

from services.auth.sessions.tokens import SigningKeys
from services.platform.config import Settings
from services.platform.rpc.identity import SERVICE_HEADER
from taskflow.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from taskflow.auth.v1.user_service_pb2_grpc import UserServiceStub
from taskflow.auth.v1.workspace_pb2 import Role
from taskflow.auth.v1.workspace_service_pb2_grpc import WorkspaceServiceStub
from taskflow.event.v1.dead_letter_service_pb2_grpc import DeadLetterServiceStub
from taskflow.notification.v1.notification_service_pb2_grpc import NotificationServiceStub
from taskflow.task.v1.job_service_pb2_grpc import JobServiceStub
from taskflow.task.v1.project_service_pb2_grpc import ProjectServiceStub
from taskflow.task.v1.suggestion_service_pb2_grpc import SuggestionServiceStub
from taskflow.task.v1.task_service_pb2_grpc import TaskServiceStub
from tests.conftest import superuser
from tests.faults.harness.scenario import Run

Metadata = tuple[tuple[str, str], ...]

# A SeededPerson renews its access token when less than this part of the token's lifetime is left.
_LEFT = 0.5

# Channels that reconnect within a second after a server restarts and accept messages of any size.
CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    # Each channel has its own connection instead of one per process.
    ("grpc.use_local_subchannel_pool", 1),
]


class SeededPerson:
    """A user with a session but without a password."""

    def __init__(self, keys: SigningKeys, settings: Settings, email: str) -> None:
        self.id = str(uuid7())
        self.session_id = str(uuid7())
        self.email = email
        self._keys = keys
        self._lifetime = int(settings.access_token_lifetime)
        self._credentials: Metadata = ()
        self._renew_at = 0.0

    @property
    def credentials(self) -> Metadata:
        """Metadata for a call, with a valid token."""
        now = time.time()
        if now >= self._renew_at:
            token = self._keys.access_token(
                UUID(self.id), UUID(self.session_id), int(now), int(now) + self._lifetime
            )
            self._credentials = (("authorization", f"Bearer {token}"),)
            self._renew_at = now + _LEFT * self._lifetime
        return self._credentials


@dataclass(frozen=True)
class Workspace:
    """`people`: the owner first, then the members. `projects` are ids."""

    id: str
    people: Sequence[SeededPerson]
    projects: Sequence[str]

    @property
    def owner(self) -> SeededPerson:
        return self.people[0]


class Stubs:
    """The generated stubs on one channel; every call needs `metadata=person.credentials`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.auth = AuthServiceStub(channel)
        self.users = UserServiceStub(channel)
        self.workspaces = WorkspaceServiceStub(channel)
        self.projects = ProjectServiceStub(channel)
        self.tasks = TaskServiceStub(channel)
        self.suggestions = SuggestionServiceStub(channel)
        self.jobs = JobServiceStub(channel)
        self.notifications = NotificationServiceStub(channel)
        self.dead_letters = DeadLetterServiceStub(channel)


@asynccontextmanager
async def stubs_at(address: str) -> AsyncIterator[Stubs]:
    """Stubs on a connection of their own: to the gateway, one process (`run.address("task-2")`) or a proxy."""
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        yield Stubs(channel)


class World:
    """The data that a scenario works on. `stubs` call through the gateway."""

    def __init__(self, settings: Settings, stubs: Stubs, workspaces: list[Workspace]) -> None:
        self.settings = settings
        self.stubs = stubs
        self.workspaces = workspaces
        # The metadata by which one service authenticates to another.
        self.service: Metadata = ((SERVICE_HEADER, settings.service_secret.get_secret_value()),)

    @property
    def workspace(self) -> Workspace:
        return self.workspaces[0]

    @property
    def people(self) -> Sequence[SeededPerson]:
        """The people of the first workspace, its owner first."""
        return self.workspace.people

    @property
    def project(self) -> str:
        return self.workspace.projects[0]

    async def fetch(
        self, statement: LiteralString, values: Mapping[str, Any] | None = None
    ) -> list[Any]:
        """Run one statement directly on the database, in its own connection; returns the rows."""
        return await fetch(self.settings, statement, values)

    async def write_tasks(self, count: int) -> list[str]:
        """Insert tasks of the members into the first project; returns their ids. Emits no events."""
        ids = [str(uuid7()) for _ in range(count)]
        owner, *others = (person.id for person in self.people)
        values = {"workspace": self.workspace.id, "project": self.project, "owner": owner}
        await self.fetch(_TASKS, {**values, "others": others, "ids": ids})
        return ids


_TASKS = """
WITH taken AS (
  UPDATE task.projects SET next_number = next_number + cardinality(%(ids)s::uuid[]) WHERE id = %(project)s
  RETURNING next_number - cardinality(%(ids)s::uuid[]) AS first
)
INSERT INTO task.tasks (id, workspace_id, project_id, project_key, number, title, description, status, priority,
  assignee_id, creator_id, labels, created_at, updated_at)
SELECT id, %(workspace)s, %(project)s, 'P0', first + n - 1, 'Tide gate ' || n, '', 1, 0,
  (%(others)s::uuid[])[1 + n %% cardinality(%(others)s::uuid[])], %(owner)s, '{}', now(), now()
FROM taken, unnest(%(ids)s::uuid[]) WITH ORDINALITY AS t (id, n)
"""


async def fetch(
    settings: Settings, statement: LiteralString, values: Mapping[str, Any] | None = None
) -> list[Any]:
    async with await psycopg.AsyncConnection.connect(
        superuser(settings), autocommit=True
    ) as connection:
        cursor = await connection.execute(statement, values)
        return await cursor.fetchall() if cursor.description else []


@asynccontextmanager
async def a_world(
    run: Run,
    *,
    people: int = 1,
    workspaces: int = 1,
    projects: int = 1,
    ai: bool = False,
    role: Role.ValueType = Role.ROLE_MEMBER,
    at: str = "",
) -> AsyncIterator[World]:
    """New workspaces with `people` people each, nobody in two of them, and `projects` projects each.

    The first person is the owner, the others have `role`. Without `ai` no suggestions are made. The stubs call the
    gateway unless `at` is another host:port.
    """
    settings = run.stack.settings
    keys = SigningKeys(settings)
    made = []
    for _ in range(workspaces):
        mark = uuid7().hex
        made.append(
            Workspace(
                str(uuid7()),
                [SeededPerson(keys, settings, f"{n}.{mark}@example.com") for n in range(people)],
                [str(uuid7()) for _ in range(projects)],
            )
        )
    await _write(settings, made, ai, role)
    async with stubs_at(at or run.gateway) as stubs:
        yield World(settings, stubs, made)


_USER = """
INSERT INTO auth.users (id, email, email_key, display_name, time_zone, password_hash)
VALUES (%(id)s, %(email)s, %(email)s, 'Somebody', 'UTC', '')
"""
_SESSION = """
INSERT INTO auth.sessions (id, user_id, device, expires_at)
VALUES (%(session)s, %(id)s, 'fault harness', now() + interval '30 days')
"""
_WORKSPACE = "INSERT INTO auth.workspaces (id, display_name, ai_enabled) VALUES (%s, 'Pier', %s)"
_MEMBER = """
INSERT INTO auth.members (workspace_id, user_id, role, revision)
VALUES (%(workspace)s, %(id)s, %(role)s, 1)
"""
_PROJECT = """
INSERT INTO task.projects (id, workspace_id, key, display_name, description, creator_id, next_number, created_at,
  updated_at)
VALUES (%s, %s, %s, 'Project', '', %s, 1, now(), now())
"""


async def _write(
    settings: Settings, workspaces: list[Workspace], ai: bool, role: Role.ValueType
) -> None:
    async with await psycopg.AsyncConnection.connect(settings.postgres) as connection:
        cursor = connection.cursor()
        for workspace in workspaces:
            everybody = [
                {
                    "id": person.id,
                    "email": person.email,
                    "session": person.session_id,
                    "workspace": workspace.id,
                    "role": Role.ROLE_OWNER if person is workspace.owner else role,
                }
                for person in workspace.people
            ]
            await cursor.executemany(_USER, everybody)
            await cursor.executemany(_SESSION, everybody)
            await cursor.execute(_WORKSPACE, (workspace.id, ai))
            await cursor.executemany(_MEMBER, everybody)
            await cursor.executemany(
                _PROJECT,
                [
                    (project, workspace.id, f"P{number}", workspace.owner.id)
                    for number, project in enumerate(workspace.projects)
                ],
            )
