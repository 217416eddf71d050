"""ProjectService and TaskService; and everything that the task service registers."""

from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any
from uuid import UUID

import grpc.aio

from services.platform import directory, idempotency, masks, pages
from services.platform.interceptors import current_caller
from services.platform.runtime import Loop, Platform
from services.task import (
    assist_rpc,
    drafts,
    filters,
    lists,
    logic,
    messages,
    projects,
    reading,
    reminders,
    retention,
)
from services.task.creation import Creation
from services.task.watch import Board
from taskflow.task.v1 import (
    internal_service_pb2_grpc,
    job_service_pb2_grpc,
    project_service_pb2_grpc,
    suggestion_service_pb2_grpc,
    task_service_pb2_grpc,
)
from taskflow.task.v1 import project_service_pb2 as project_service
from taskflow.task.v1 import task_service_pb2 as task_service


class ProjectServicer(project_service_pb2_grpc.ProjectServiceServicer):
    def __init__(self, platform: Platform) -> None:
        self._db = platform.db
        self._seal = platform.seal

    async def CreateProject(
        self, request: project_service.CreateProjectRequest, context: Any
    ) -> project_service.CreateProjectResponse:
        caller = current_caller()
        workspace_id = UUID(request.workspace_id)
        given = projects.columns(request.project)
        async with self._db.transaction() as tx:
            await directory.authorize(tx, caller, workspace_id)
            answer = await idempotency.first_answer(
                tx,
                self._seal,
                str(caller.user_id),
                request,
                request.request_id,
                project_service.CreateProjectResponse,
            )
            if answer is None:
                row = await projects.create(tx, caller, workspace_id, request.project.key, given)
                answer = project_service.CreateProjectResponse(project=messages.project(row))
                await idempotency.remember(
                    tx, str(caller.user_id), request, request.request_id, answer
                )
        return answer

    async def GetProject(
        self, request: project_service.GetProjectRequest, context: Any
    ) -> project_service.GetProjectResponse:
        async with self._db.read() as tx:
            row = await projects.get(tx, current_caller(), UUID(request.id))
        return project_service.GetProjectResponse(project=messages.project(row))

    async def ListProjects(
        self, request: project_service.ListProjectsRequest, context: Any
    ) -> project_service.ListProjectsResponse:
        caller = current_caller()
        workspace_id = UUID(request.workspace_id)
        size = pages.size(request.page_size)
        async with self._db.read() as tx:
            await directory.authorize(tx, caller, workspace_id)
            after = pages.position(self._seal, caller.user_id, request)
            rows = await projects.page(tx, workspace_id, request.include_archived, after, size + 1)
        answer = project_service.ListProjectsResponse(
            projects=[messages.project(row) for row in rows[:size]]
        )
        if len(rows) > size:
            last = projects.position(rows[size - 1])
            answer.next_page_token = pages.token(self._seal, caller.user_id, request, last)
        return answer

    async def UpdateProject(
        self, request: project_service.UpdateProjectRequest, context: Any
    ) -> project_service.UpdateProjectResponse:
        project = request.project
        changes = projects.changed_columns(project, request.update_mask)
        async with self._db.transaction() as tx:
            row = await projects.change(
                tx, current_caller(), UUID(project.id), project.etag, changes
            )
        return project_service.UpdateProjectResponse(project=messages.project(row))

    async def ArchiveProject(
        self, request: project_service.ArchiveProjectRequest, context: Any
    ) -> project_service.ArchiveProjectResponse:
        async with self._db.transaction() as tx:
            row = await projects.archive(
                tx, current_caller(), UUID(request.id), request.etag, archived=True
            )
        return project_service.ArchiveProjectResponse(project=messages.project(row))

    async def UnarchiveProject(
        self, request: project_service.UnarchiveProjectRequest, context: Any
    ) -> project_service.UnarchiveProjectResponse:
        async with self._db.transaction() as tx:
            row = await projects.archive(
                tx, current_caller(), UUID(request.id), request.etag, archived=False
            )
        return project_service.UnarchiveProjectResponse(project=messages.project(row))


class TaskServicer(task_service_pb2_grpc.TaskServiceServicer):
    def __init__(self, platform: Platform, board: Board) -> None:
        self._db = platform.db
        self._seal = platform.seal
        self._reminder_offsets = platform.settings.reminder_offsets
        self._undelete_window = timedelta(seconds=platform.settings.task_retention)
        self._board = board
        self._creation = Creation(platform.db, platform.seal)

    async def CreateTask(
        self, request: task_service.CreateTaskRequest, context: Any
    ) -> task_service.CreateTaskResponse:
        return await self._creation.create(current_caller(), request)

    async def GetTask(
        self, request: task_service.GetTaskRequest, context: Any
    ) -> task_service.GetTaskResponse:
        async with self._db.read() as tx:
            row = await reading.get(tx, current_caller(), request.id, request.workspace_id)
        return task_service.GetTaskResponse(task=messages.task(row))

    async def ListTasks(
        self, request: task_service.ListTasksRequest, context: Any
    ) -> task_service.ListTasksResponse:
        caller = current_caller()
        workspace_id = UUID(request.workspace_id)
        wanted = filters.normal(request.filter)
        async with self._db.read() as tx:
            await directory.authorize(tx, caller, workspace_id)
            tasks, rest = await lists.page(
                tx,
                workspace_id,
                wanted,
                filters.order(request.order_by),
                pages.position(self._seal, caller.user_id, request),
                pages.size(request.page_size),
            )
        token = pages.token(self._seal, caller.user_id, request, rest) if rest else ""
        return task_service.ListTasksResponse(tasks=tasks, next_page_token=token)

    async def UpdateTask(
        self, request: task_service.UpdateTaskRequest, context: Any
    ) -> task_service.UpdateTaskResponse:
        caller = current_caller()
        task = request.task
        fields = masks.fields(task, request.update_mask, drafts.WRITABLE)
        changes = drafts.columns(task, fields)
        async with self._db.transaction() as tx:
            row = await logic.lock_task(
                tx,
                caller,
                UUID(task.id),
                task.etag,
                assignee_id=changes.get("assignee_id"),
                parent=changes.get("parent_id") is not None,
                comes_back="status" in changes and changes["status"] not in logic.FINISHED,
            )
            row = await logic.change_task(tx, row, changes, caller.user_id)
        return task_service.UpdateTaskResponse(task=messages.task(row))

    async def AssignTask(
        self, request: task_service.AssignTaskRequest, context: Any
    ) -> task_service.AssignTaskResponse:
        caller = current_caller()
        assignee_id = UUID(request.assignee_id) if request.assignee_id else None
        async with self._db.transaction() as tx:
            row = await logic.lock_task(
                tx, caller, UUID(request.id), request.etag, assignee_id=assignee_id
            )
            row = await logic.change_task(tx, row, {"assignee_id": assignee_id}, caller.user_id)
        return task_service.AssignTaskResponse(task=messages.task(row))

    async def ChangeTaskStatus(
        self, request: task_service.ChangeTaskStatusRequest, context: Any
    ) -> task_service.ChangeTaskStatusResponse:
        caller = current_caller()
        async with self._db.transaction() as tx:
            row = await logic.lock_task(
                tx,
                caller,
                UUID(request.id),
                request.etag,
                comes_back=request.status not in logic.FINISHED,
            )
            row = await logic.change_task(tx, row, {"status": request.status}, caller.user_id)
        return task_service.ChangeTaskStatusResponse(task=messages.task(row))

    async def DeleteTask(
        self, request: task_service.DeleteTaskRequest, context: Any
    ) -> task_service.DeleteTaskResponse:
        caller = current_caller()
        async with self._db.transaction() as tx:
            row = await logic.lock_task(tx, caller, UUID(request.id), request.etag)
            row = await logic.delete_task(tx, row, caller.user_id)
        return task_service.DeleteTaskResponse(task=messages.task(row))

    async def UndeleteTask(
        self, request: task_service.UndeleteTaskRequest, context: Any
    ) -> task_service.UndeleteTaskResponse:
        caller = current_caller()
        async with self._db.transaction() as tx:
            row = await logic.lock_task(tx, caller, UUID(request.id), comes_back=True)
            row = await logic.undelete_task(tx, row, caller.user_id, self._undelete_window)
            await reminders.skip_past(tx, row, self._reminder_offsets)
        return task_service.UndeleteTaskResponse(task=messages.task(row))

    def WatchTasks(  # type: ignore[override]
        self, request: task_service.WatchTasksRequest, context: Any
    ) -> AsyncGenerator[bytes, None]:
        return self._board.watch(current_caller(), request, context)


def register(server: grpc.aio.Server, platform: Platform) -> list[Loop]:
    """Everything of `taskflow.task.v1`."""
    board = Board(platform)
    project_service_pb2_grpc.add_ProjectServiceServicer_to_server(ProjectServicer(platform), server)
    task_service_pb2_grpc.add_TaskServiceServicer_to_server(TaskServicer(platform, board), server)
    suggestion_service_pb2_grpc.add_SuggestionServiceServicer_to_server(
        assist_rpc.SuggestionServicer(platform), server
    )
    job_service_pb2_grpc.add_JobServiceServicer_to_server(assist_rpc.JobServicer(platform), server)
    internal_service_pb2_grpc.add_SuggestionInternalServiceServicer_to_server(
        assist_rpc.SuggestionInternalServicer(platform), server
    )
    internal_service_pb2_grpc.add_JobInternalServiceServicer_to_server(
        assist_rpc.JobInternalServicer(platform), server
    )
    internal_service_pb2_grpc.add_ReminderInternalServiceServicer_to_server(
        assist_rpc.ReminderInternalServicer(platform), server
    )
    return [*board.loops(), retention.loop(platform)]
