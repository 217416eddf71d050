"""The task service as callers of different roles use it: owner, member, viewer and stranger."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc.aio
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct
from google.type.date_pb2 import Date
from google.type.datetime_pb2 import DateTime, TimeZone

from services.platform.config import Settings
from services.platform.data.db import Database
from taskflow.auth.v1 import user_pb2, user_service_pb2, workspace_pb2
from taskflow.event.v1.event_pb2 import Event
from taskflow.task.v1 import (
    project_pb2,
    project_service_pb2,
    project_service_pb2_grpc,
    task_pb2,
    task_service_pb2,
    task_service_pb2_grpc,
)
from tests.integration.people import Person, Team, database, events, team_at

Task = task_pb2.Task


@dataclass(frozen=True)
class People:
    owner: Person
    member: Person
    viewer: Person
    stranger: Person


def due_date(year: int, month: int, day: int) -> task_pb2.Due:
    return task_pb2.Due(date=Date(year=year, month=month, day=day))


def due_at(zone: str, *parts: int) -> task_pb2.Due:
    names = ("year", "month", "day", "hours", "minutes", "seconds", "nanos")
    return task_pb2.Due(
        date_time=DateTime(**dict(zip(names, parts, strict=False)), time_zone=TimeZone(id=zone))
    )


def struct(value: dict[str, Any]) -> Struct:
    message = Struct()
    message.update(value)
    return message


class RolesWorld:
    """The task service's public calls, each made by the member unless `by` names another caller."""

    def __init__(self, channel: grpc.aio.Channel, team: Team, db: Database, people: People) -> None:
        self.tasks = task_service_pb2_grpc.TaskServiceStub(channel)
        self.projects = project_service_pb2_grpc.ProjectServiceStub(channel)
        self.team = team
        self.db = db
        self.people = people
        self._workspaces: list[str] = []

    async def workspace(self) -> str:
        """A new workspace with everyone except the stranger."""
        people = self.people
        workspace = await self.team.workspace(people.owner)
        self._workspaces.append(workspace.id)
        await self.team.add(
            people.owner, workspace.id, people.member.email, workspace_pb2.ROLE_MEMBER
        )
        await self.team.add(
            people.owner, workspace.id, people.viewer.email, workspace_pb2.ROLE_VIEWER
        )
        return workspace.id

    async def newcomer(self, workspace_id: str, zone: str = "UTC") -> Person:
        """A new member, unknown to other tests."""
        person = await self.team.person("grace")
        await self.team.add(
            self.people.owner, workspace_id, person.email, workspace_pb2.ROLE_MEMBER
        )
        await self.move(person, zone)
        return person

    async def move(self, person: Person, zone: str) -> None:
        """Change the user's time zone."""
        await self.team.users.UpdateCurrentUser(
            user_service_pb2.UpdateCurrentUserRequest(
                user=user_pb2.User(time_zone=zone), update_mask=FieldMask(paths=["time_zone"])
            ),
            metadata=person.credentials,
        )

    async def project(
        self, workspace_id: str = "", key: str = "OPS", by: Person | None = None, **more: Any
    ) -> project_pb2.Project:
        """A new project, in a new workspace unless one is given."""
        request = project_service_pb2.CreateProjectRequest(
            workspace_id=workspace_id or await self.workspace(),
            project=project_pb2.Project(key=key, display_name="Operations"),
            **more,
        )
        answer = await self.projects.CreateProject(request, metadata=self._who(by))
        return answer.project

    async def create(
        self,
        project: project_pb2.Project,
        by: Person | None = None,
        request_id: str = "",
        **fields: Any,
    ) -> Task:
        request = task_service_pb2.CreateTaskRequest(
            project_id=project.id,
            task=Task(**{"title": "Do it", **fields}),
            request_id=request_id,
        )
        return (await self.tasks.CreateTask(request, metadata=self._who(by))).task

    async def get(self, name: str, workspace_id: str = "", by: Person | None = None) -> Task:
        request = task_service_pb2.GetTaskRequest(id=name, workspace_id=workspace_id)
        return (await self.tasks.GetTask(request, metadata=self._who(by))).task

    async def update(
        self, task: Task, *paths: str, by: Person | None = None, etag: str = "", **fields: Any
    ) -> Task:
        request = task_service_pb2.UpdateTaskRequest(
            task=Task(id=task.id, etag=etag, **fields), update_mask=FieldMask(paths=paths)
        )
        return (await self.tasks.UpdateTask(request, metadata=self._who(by))).task

    async def assign(
        self, task: Task, assignee: str, by: Person | None = None, etag: str = ""
    ) -> Task:
        request = task_service_pb2.AssignTaskRequest(id=task.id, assignee_id=assignee, etag=etag)
        return (await self.tasks.AssignTask(request, metadata=self._who(by))).task

    async def set_status(
        self, task: Task, status: Any, by: Person | None = None, etag: str = ""
    ) -> Task:
        request = task_service_pb2.ChangeTaskStatusRequest(id=task.id, status=status, etag=etag)
        return (await self.tasks.ChangeTaskStatus(request, metadata=self._who(by))).task

    async def delete(self, task: Task, by: Person | None = None, etag: str = "") -> Task:
        request = task_service_pb2.DeleteTaskRequest(id=task.id, etag=etag)
        return (await self.tasks.DeleteTask(request, metadata=self._who(by))).task

    async def undelete(self, task: Task, by: Person | None = None) -> Task:
        request = task_service_pb2.UndeleteTaskRequest(id=task.id)
        return (await self.tasks.UndeleteTask(request, metadata=self._who(by))).task

    async def page(
        self, workspace_id: str, by: Person | None = None, **fields: Any
    ) -> task_service_pb2.ListTasksResponse:
        request = task_service_pb2.ListTasksRequest(workspace_id=workspace_id, **fields)
        return await self.tasks.ListTasks(request, metadata=self._who(by))

    async def all(self, workspace_id: str, by: Person | None = None, **fields: Any) -> list[Task]:
        """The tasks of all pages, in order."""
        found: list[Task] = []
        token = ""
        while True:
            page = await self.page(workspace_id, by, page_token=token, **fields)
            found += page.tasks
            token = page.next_page_token
            if not token:
                return found

    async def archive(self, project: project_pb2.Project, etag: str = "") -> project_pb2.Project:
        request = project_service_pb2.ArchiveProjectRequest(id=project.id, etag=etag)
        answer = await self.projects.ArchiveProject(request, metadata=self._who(None))
        return answer.project

    async def unarchive(self, project: project_pb2.Project, etag: str = "") -> project_pb2.Project:
        request = project_service_pb2.UnarchiveProjectRequest(id=project.id, etag=etag)
        answer = await self.projects.UnarchiveProject(request, metadata=self._who(None))
        return answer.project

    async def events(self, aggregate_id: str) -> list[Event]:
        """The events of a task or project in the outbox, in order."""
        # Other tests leave events that can't be read, of workspaces that don't exist.
        found = [await events(self.db, f"taskflow.{id}.%", aggregate_id) for id in self._workspaces]
        return [event for of_workspace in found for event in of_workspace]

    def _who(self, by: Person | None) -> tuple[tuple[str, str], ...]:
        return (by or self.people.member).credentials


async def people_of(settings: Settings) -> People:
    async with team_at(settings) as team:
        return People(*[await team.person(name) for name in ("ada", "bo", "vi", "eve")])


@asynccontextmanager
async def roles_world_at(settings: Settings, people: People) -> AsyncIterator[RolesWorld]:
    async with (
        team_at(settings) as team,
        database(settings) as db,
        grpc.aio.insecure_channel(settings.task) as channel,
    ):
        yield RolesWorld(channel, team, db, people)
