"""The servicer of ProjectService."""

from functools import partial
from typing import Any
from uuid import UUID

import grpc.aio

from services.platform.rpc import directory, idempotency, masks, pages
from services.platform.rpc.identity import current_caller
from services.platform.runtime import Loop, Platform
from services.task.projects import logic, messages
from services.task.reminders import walks
from taskflow.task.v1 import project_service_pb2 as pb
from taskflow.task.v1 import project_service_pb2_grpc


class ProjectServicer(project_service_pb2_grpc.ProjectServiceServicer):
    def __init__(self, platform: Platform) -> None:
        self._db = platform.db
        self._seal = platform.seal

    async def CreateProject(
        self, request: pb.CreateProjectRequest, context: Any
    ) -> pb.CreateProjectResponse:
        caller = current_caller()
        workspace_id = UUID(request.workspace_id)
        values = logic.columns(request.project)
        async with self._db.transaction() as tx:
            await directory.authorize(tx, caller, workspace_id)

            async def create() -> pb.CreateProjectResponse:
                row = await logic.create(tx, caller, workspace_id, request.project.key, values)
                return pb.CreateProjectResponse(project=messages.project(row))

            return await idempotency.once(
                tx, self._seal, str(caller.user_id), request, pb.CreateProjectResponse, create
            )

    async def GetProject(
        self, request: pb.GetProjectRequest, context: Any
    ) -> pb.GetProjectResponse:
        async with self._db.read() as tx:
            row = await logic.get(tx, current_caller(), UUID(request.id))
        return pb.GetProjectResponse(project=messages.project(row))

    async def ListProjects(
        self, request: pb.ListProjectsRequest, context: Any
    ) -> pb.ListProjectsResponse:
        caller = current_caller()
        workspace_id = UUID(request.workspace_id)
        async with self._db.read() as tx:
            await directory.authorize(tx, caller, workspace_id)
            fetch = partial(logic.page, tx, workspace_id, request.include_archived)
            page, token = await pages.read(
                self._seal, caller.user_id, request, fetch, messages.project, logic.position
            )
        return pb.ListProjectsResponse(projects=page, next_page_token=token)

    async def UpdateProject(
        self, request: pb.UpdateProjectRequest, context: Any
    ) -> pb.UpdateProjectResponse:
        caller = current_caller()
        project = request.project
        fields = masks.fields(project, request.update_mask, logic.WRITABLE)
        values = logic.columns(project, fields)
        async with self._db.transaction() as tx:
            row = await logic.lock(tx, caller, UUID(project.id), project.etag)
            new = await logic.change(tx, caller, row, values)
        return pb.UpdateProjectResponse(project=messages.project(new))

    async def ArchiveProject(
        self, request: pb.ArchiveProjectRequest, context: Any
    ) -> pb.ArchiveProjectResponse:
        caller = current_caller()
        async with self._db.transaction() as tx:
            row = await logic.lock(tx, caller, UUID(request.id), request.etag)
            new = await logic.archive(tx, caller, row)
        return pb.ArchiveProjectResponse(project=messages.project(new))

    async def UnarchiveProject(
        self, request: pb.UnarchiveProjectRequest, context: Any
    ) -> pb.UnarchiveProjectResponse:
        caller = current_caller()
        async with self._db.transaction() as tx:
            row = await logic.lock(tx, caller, UUID(request.id), request.etag)
            new = await logic.unarchive(tx, caller, row)
            if row.archived_at:
                await walks.begin_project(tx, new.id, new.revision)
        return pb.UnarchiveProjectResponse(project=messages.project(new))


def register(server: grpc.aio.Server, platform: Platform) -> list[Loop]:
    project_service_pb2_grpc.add_ProjectServiceServicer_to_server(ProjectServicer(platform), server)
    return []
