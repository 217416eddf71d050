"""The servicer of TaskService."""

from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any
from uuid import UUID

import grpc.aio

from services.platform.rpc import directory, masks, pages
from services.platform.rpc.identity import current_caller
from services.platform.runtime import Loop, Platform
from services.task.board.streams import Board
from services.task.reminders import logic as reminders
from services.task.reminders import schedule
from services.task.tasks import (
    changes,
    fields,
    filters,
    former_members,
    list_queries,
    logic,
    messages,
    retention,
)
from services.task.tasks import pages as task_pages
from services.task.tasks.creation import Creation
from taskflow.task.v1 import task_service_pb2 as pb
from taskflow.task.v1 import task_service_pb2_grpc


class TaskServicer(task_service_pb2_grpc.TaskServiceServicer):
    def __init__(self, platform: Platform, board: Board) -> None:
        self._db = platform.db
        self._seal = platform.seal
        self._reminder_rules = schedule.rules(platform.settings)
        self._undelete_window = timedelta(seconds=platform.settings.task_retention)
        self._board = board
        self._creation = Creation(platform.db, platform.seal)

    async def CreateTask(
        self, request: pb.CreateTaskRequest, context: Any
    ) -> pb.CreateTaskResponse:
        return await self._creation.create(current_caller(), request)

    async def GetTask(self, request: pb.GetTaskRequest, context: Any) -> pb.GetTaskResponse:
        async with self._db.read() as tx:
            row = await logic.get(tx, current_caller(), request.id, request.workspace_id)
        return pb.GetTaskResponse(task=messages.task(row))

    async def ListTasks(self, request: pb.ListTasksRequest, context: Any) -> pb.ListTasksResponse:
        caller = current_caller()
        workspace_id = UUID(request.workspace_id)
        wanted = filters.normalize(request.filter)
        async with self._db.search() if wanted.text else self._db.read() as tx:
            await directory.authorize(tx, caller, workspace_id)
            tasks, last = await task_pages.page(
                tx,
                workspace_id,
                wanted,
                list_queries.order(request.order_by),
                pages.position(self._seal, caller.user_id, request),
                pages.size(request.page_size),
            )
        token = "" if last is None else pages.token(self._seal, caller.user_id, request, last)
        return pb.ListTasksResponse(tasks=tasks, next_page_token=token)

    async def UpdateTask(
        self, request: pb.UpdateTaskRequest, context: Any
    ) -> pb.UpdateTaskResponse:
        caller = current_caller()
        task = request.task
        values = fields.columns(task, masks.fields(task, request.update_mask, fields.WRITABLE))
        async with self._db.transaction() as tx:
            old = await logic.lock_task(
                tx,
                caller,
                UUID(task.id),
                task.etag,
                assignee_id=values.get("assignee_id"),
                parent=values.get("parent_id") is not None,
                reopen="status" in values and values["status"] not in changes.FINISHED,
            )
            new = await logic.change_task(tx, old, values, caller.user_id)
        return pb.UpdateTaskResponse(task=messages.task(new))

    async def AssignTask(
        self, request: pb.AssignTaskRequest, context: Any
    ) -> pb.AssignTaskResponse:
        caller = current_caller()
        assignee_id = UUID(request.assignee_id) if request.assignee_id else None
        async with self._db.transaction() as tx:
            old = await logic.lock_task(
                tx, caller, UUID(request.id), request.etag, assignee_id=assignee_id
            )
            new = await logic.change_task(tx, old, {"assignee_id": assignee_id}, caller.user_id)
        return pb.AssignTaskResponse(task=messages.task(new))

    async def ChangeTaskStatus(
        self, request: pb.ChangeTaskStatusRequest, context: Any
    ) -> pb.ChangeTaskStatusResponse:
        caller = current_caller()
        async with self._db.transaction() as tx:
            old = await logic.lock_task(
                tx,
                caller,
                UUID(request.id),
                request.etag,
                reopen=request.status not in changes.FINISHED,
            )
            new = await logic.change_task(tx, old, {"status": request.status}, caller.user_id)
        return pb.ChangeTaskStatusResponse(task=messages.task(new))

    async def DeleteTask(
        self, request: pb.DeleteTaskRequest, context: Any
    ) -> pb.DeleteTaskResponse:
        caller = current_caller()
        async with self._db.transaction() as tx:
            old = await logic.lock_task(tx, caller, UUID(request.id), request.etag)
            new = await logic.delete_task(tx, old, caller.user_id)
        return pb.DeleteTaskResponse(task=messages.task(new))

    async def UndeleteTask(
        self, request: pb.UndeleteTaskRequest, context: Any
    ) -> pb.UndeleteTaskResponse:
        caller = current_caller()
        async with self._db.transaction() as tx:
            old = await logic.lock_task(tx, caller, UUID(request.id), reopen=True)
            new = await logic.undelete_task(tx, old, caller.user_id, self._undelete_window)
            await reminders.skip_past(tx, new.id, self._reminder_rules)
        return pb.UndeleteTaskResponse(task=messages.task(new))

    def WatchTasks(  # type: ignore[override]
        self, request: pb.WatchTasksRequest, context: Any
    ) -> AsyncGenerator[bytes, None]:
        return self._board.watch(current_caller(), request, context)


def register(server: grpc.aio.Server, platform: Platform) -> list[Loop]:
    board = Board(platform)
    task_service_pb2_grpc.add_TaskServiceServicer_to_server(TaskServicer(platform, board), server)
    return [*board.loops(), retention.loop(platform), former_members.run(platform)]
