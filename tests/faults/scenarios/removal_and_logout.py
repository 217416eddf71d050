"""A user is removed or logs out. Right after that, something is written, and the user asks another process for it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
from uuid_utils.compat import uuid7

from services.auth.sessions.tokens import SigningKeys
from taskflow.auth.v1.auth_service_pb2 import LogoutRequest
from taskflow.auth.v1.user_service_pb2 import GetCurrentUserRequest
from taskflow.auth.v1.workspace_pb2 import ROLE_MEMBER
from taskflow.auth.v1.workspace_service_pb2 import (
    AddMemberRequest,
    GetWorkspaceRequest,
    ListMembersRequest,
    RemoveMemberRequest,
)
from taskflow.notification.v1.notification_service_pb2 import (
    ListNotificationsRequest,
    WatchNotificationsRequest,
)
from taskflow.task.v1.project_service_pb2 import GetProjectRequest
from taskflow.task.v1.task_pb2 import Task
from taskflow.task.v1.task_service_pb2 import (
    CreateTaskRequest,
    GetTaskRequest,
    ListTasksRequest,
    UpdateTaskRequest,
    WatchTasksRequest,
)
from tests.faults.harness.scenario import Run, Tally
from tests.faults.harness.world import SeededPerson, Stubs, World, a_world, stubs_at

PROMISE = "Removal and logout take effect"
LIMIT_SECONDS = {"short": 90.0, "long": 1800.0}

# Promised time until a stream is closed (seconds).
_CLOSED = 5.0
_AT_ONCE = 16
# A stream is open in every n-th round.
_STREAM_EVERY = 3
_DEADLINE = 30.0

_Code = grpc.StatusCode
# Status codes that a busy machine causes; such an answer reveals nothing.
_PASSING = (_Code.UNAVAILABLE, _Code.RESOURCE_EXHAUSTED, _Code.DEADLINE_EXCEEDED)


@dataclass
class Door:
    """Makes changes at one process of each service, and asks another process of the service right afterwards."""

    world: World
    at: dict[str, Stubs]
    keys: SigningKeys
    run: Run
    tally: Tally
    closed: list[float] = field(default_factory=list)

    async def one(self, number: int, person: SeededPerson, task_id: str) -> SeededPerson:
        """One round: removal or logout, checks, and the person's return. Returns the person with a session."""
        logout = bool(number % 2)
        watching = None
        if number // 2 % _STREAM_EVERY == 0:
            opened = asyncio.Event()
            watching = asyncio.create_task(self._watch(number, person, opened))
            async with asyncio.timeout(_DEADLINE):
                await opened.wait()
        secret = f"Secret {number} {uuid7()}"
        owner = self.world.workspace.owner
        auth, tasks = self.at["auth"], self.at["task"].tasks
        if logout:
            await _done(
                lambda: auth.auth.Logout(LogoutRequest(), **_by(person)), _Code.UNAUTHENTICATED
            )
        else:
            removal = RemoveMemberRequest(workspace_id=self.world.workspace.id, user_id=person.id)
            await _done(
                lambda: auth.workspaces.RemoveMember(removal, **_by(owner)), _Code.NOT_FOUND
            )
        ended = time.monotonic()
        change = UpdateTaskRequest(task=Task(id=task_id, title=secret))
        await _done(lambda: tasks.UpdateTask(change, **_by(owner)))
        self.tally.faults += 1
        await self._ask(person, task_id, secret, logout)
        if watching is not None:
            await self._ended(watching, ended, logout, secret)
        return await self._back(person, logout)

    async def _ask(self, person: SeededPerson, task_id: str, secret: str, logout: bool) -> None:
        for name, call in self._questions(person, task_id, logout).items():
            self.tally.operations += 1
            try:
                answer = await _done(call)
            except grpc.aio.AioRpcError as error:
                expected = _Code.UNAUTHENTICATED if logout else _Code.NOT_FOUND
                self.tally.expect(
                    error.code() is expected,
                    f"{name} after {'logout' if logout else 'removal'}: {error.code().name}",
                )
                self.tally.leaked += secret in f"{error.details()}{error.trailing_metadata()}"
                continue
            self.tally.leaked += 1
            self.tally.broken.append(
                f"{name} was answered after {'logout' if logout else 'removal'}: "
                f"{str(answer)[:100]}"
            )

    def _questions(
        self, person: SeededPerson, task_id: str, logout: bool
    ) -> dict[str, Callable[[], Awaitable[Any]]]:
        """A selection of read calls, one of them about the task."""
        workspace_id = self.world.workspace.id
        how = _by(person)
        tasks, people = self.at["task-2"], self.at["auth-2"]
        inbox = self.at["notification-2"].notifications
        first: dict[str, Callable[[], Awaitable[Any]]] = {
            "GetTask": lambda: tasks.tasks.GetTask(GetTaskRequest(id=task_id), **how),
            "ListTasks": lambda: tasks.tasks.ListTasks(
                ListTasksRequest(workspace_id=workspace_id), **how
            ),
            "UpdateTask": lambda: tasks.tasks.UpdateTask(
                UpdateTaskRequest(task=Task(id=task_id, title="Defaced")), **how
            ),
        }
        second: dict[str, Callable[[], Awaitable[Any]]] = {
            "GetWorkspace": lambda: people.workspaces.GetWorkspace(
                GetWorkspaceRequest(id=workspace_id), **how
            ),
            "ListMembers": lambda: people.workspaces.ListMembers(
                ListMembersRequest(workspace_id=workspace_id), **how
            ),
            "GetProject": lambda: tasks.projects.GetProject(
                GetProjectRequest(id=self.world.project), **how
            ),
            "WatchTasks": lambda: tasks.tasks.WatchTasks(
                WatchTasksRequest(workspace_id=workspace_id, snapshot=True), **how
            ).read(),
        }
        if logout:
            second |= {
                "GetCurrentUser": lambda: people.users.GetCurrentUser(
                    GetCurrentUserRequest(), **how
                ),
                "ListNotifications": lambda: inbox.ListNotifications(
                    ListNotificationsRequest(), **how
                ),
            }
        asked = {}
        for questions in (first, second):
            name = self.run.random.choice(sorted(questions))
            asked[name] = questions[name]
        return asked

    async def _watch(
        self, number: int, person: SeededPerson, opened: asyncio.Event
    ) -> tuple[Any, str]:
        """The end of the person's stream at another process, and everything that it showed."""
        how: dict[str, Any] = {"metadata": person.credentials}
        stream: Any
        if number // 2 % (2 * _STREAM_EVERY) and number % 2:
            stream = self.at["notification-2"].notifications.WatchNotifications(
                WatchNotificationsRequest(), **how
            )
        else:
            stream = self.at["task-2"].tasks.WatchTasks(
                WatchTasksRequest(workspace_id=self.world.workspace.id), **how
            )
        shown = []
        try:
            async for message in stream:
                opened.set()
                shown.append(str(message))
        except grpc.aio.AioRpcError as error:
            return error.code(), "\n".join(shown)
        finally:
            opened.set()
            stream.cancel()
        return _Code.OK, "\n".join(shown)

    async def _ended(
        self, watching: asyncio.Task[tuple[Any, str]], since: float, logout: bool, secret: str
    ) -> None:
        await asyncio.wait({watching}, timeout=4 * _CLOSED)
        seconds = time.monotonic() - since
        if not watching.done():
            watching.cancel()
            self.tally.leaked += 1
            self.tally.broken.append("a stream wasn't closed")
            return
        code, shown = watching.result()
        if code in _PASSING:
            return
        self.closed.append(seconds)
        self.tally.recovered_after(seconds)
        expected = _Code.UNAUTHENTICATED if logout else _Code.PERMISSION_DENIED
        self.tally.expect(code is expected, f"a stream was closed with {code.name}")
        # A removal is an event among the changes; the stream learns of a logout within 5 s.
        self.tally.leaked += not logout and secret in shown

    async def _back(self, person: SeededPerson, logout: bool) -> SeededPerson:
        owner = self.world.workspace.owner
        if not logout:
            request = AddMemberRequest(
                workspace_id=self.world.workspace.id, email=person.email, role=ROLE_MEMBER
            )
            workspaces = self.at["auth"].workspaces
            await _done(lambda: workspaces.AddMember(request, **_by(owner)), _Code.ALREADY_EXISTS)
            return person
        again = SeededPerson(self.keys, self.world.settings, person.email)
        again.id = person.id
        await self.world.fetch(
            "INSERT INTO auth.sessions (id, user_id, device, expires_at)"
            " VALUES (%(session)s, %(user)s, 'fault harness', now() + interval '1 day')",
            {"session": again.session_id, "user": again.id},
        )
        return again


async def run(run: Run, tally: Tally) -> None:
    count = run.choose(150, 10_000)
    async with AsyncExitStack() as opened:
        world = await opened.enter_async_context(a_world(run, people=_AT_ONCE + 1, projects=4))
        stubs = {
            name: await opened.enter_async_context(stubs_at(run.address(name)))
            for name in ("auth", "task", "auth-2", "task-2", "notification-2")
        }
        door = Door(world, stubs, SigningKeys(world.settings), run, tally)
        numbers = iter(range(count))

        async def work(person: SeededPerson, project: str) -> None:
            answer = await door.at["task"].tasks.CreateTask(
                CreateTaskRequest(project_id=project, task=Task(title="Harmless")),
                **_by(world.workspace.owner),
            )
            for number in numbers:
                person = await door.one(number, person, answer.task.id)

        async with asyncio.TaskGroup() as group:
            for index, person in enumerate(world.people[1:]):
                projects = world.workspace.projects
                group.create_task(work(person, projects[index % len(projects)]))
    late = sum(seconds > _CLOSED for seconds in door.closed)
    tally.expect_speed(not late, f"{late} of {len(door.closed)} streams were closed later than 5 s")
    tally.figures["streams closed after (s)"] = (
        f"median {sorted(door.closed)[len(door.closed) // 2]:.2f}, longest {max(door.closed):.2f}"
        f" of {len(door.closed):,}"
    )


async def _done(call: Callable[[], Awaitable[Any]], *already: grpc.StatusCode) -> Any:
    """Makes a call with retries; returns its answer, or None if a repeat learns that the call was `already` done."""
    repeated = False
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            if repeated and error.code() in already:
                return None
            if error.code() not in _PASSING:
                raise
        repeated = True
        await asyncio.sleep(0.5)


def _by(person: SeededPerson) -> dict[str, Any]:
    return {"metadata": person.credentials, "timeout": _DEADLINE}
