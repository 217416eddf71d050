"""The servicer of WorkspaceService."""

import time
from functools import partial
from uuid import UUID

import grpc

from services.auth.workspaces import logic, messages
from services.auth.workspaces.logic import Removal, TasksLeft
from services.platform.rpc import directory, idempotency, pages, text
from services.platform.rpc.errors import DomainError
from services.platform.rpc.grpc_types import Context
from services.platform.rpc.identity import current_caller
from services.platform.runtime import Loop, Platform
from taskflow.auth.v1 import workspace_service_pb2, workspace_service_pb2_grpc
from taskflow.auth.v1.workspace_pb2 import ROLE_OWNER
from taskflow.error.v1 import error_reason_pb2 as reasons

# Seconds that AddMember spends on the tasks that the user still has from before a removal, some 4,000.
_REMOVAL_PATIENCE = 2.0


def register(server: grpc.aio.Server, platform: Platform, *, removal: Removal) -> list[Loop]:
    workspace_service_pb2_grpc.add_WorkspaceServiceServicer_to_server(
        WorkspaceServicer(platform, removal), server
    )
    return []


class WorkspaceServicer(workspace_service_pb2_grpc.WorkspaceServiceServicer):
    def __init__(self, platform: Platform, removal: Removal) -> None:
        self._db = platform.db
        self._seal = platform.seal
        self._removal = removal

    async def CreateWorkspace(
        self, request: workspace_service_pb2.CreateWorkspaceRequest, context: Context
    ) -> workspace_service_pb2.CreateWorkspaceResponse:
        caller = current_caller()
        display_name = text.line("display_name", request.display_name)
        ai_enabled = request.ai_enabled if request.HasField("ai_enabled") else True
        async with self._db.transaction() as tx:
            await directory.require_session(tx, caller)

            async def create() -> workspace_service_pb2.CreateWorkspaceResponse:
                row = await logic.create_workspace(tx, caller, display_name, ai_enabled)
                return workspace_service_pb2.CreateWorkspaceResponse(
                    workspace=messages.workspace(row, ROLE_OWNER)
                )

            return await idempotency.once(
                tx,
                self._seal,
                str(caller.user_id),
                request,
                workspace_service_pb2.CreateWorkspaceResponse,
                create,
            )

    async def GetWorkspace(
        self, request: workspace_service_pb2.GetWorkspaceRequest, context: Context
    ) -> workspace_service_pb2.GetWorkspaceResponse:
        async with self._db.read() as tx:
            row = await logic.get_workspace(tx, current_caller(), UUID(request.id))
        return workspace_service_pb2.GetWorkspaceResponse(
            workspace=messages.workspace(row, row.role)
        )

    async def ListWorkspaces(
        self, request: workspace_service_pb2.ListWorkspacesRequest, context: Context
    ) -> workspace_service_pb2.ListWorkspacesResponse:
        caller = current_caller()
        async with self._db.read() as tx:
            page, token = await pages.read(
                self._seal,
                caller.user_id,
                request,
                partial(logic.list_workspaces, tx, caller),
                lambda row: messages.workspace(row, row.role),
                logic.workspace_position,
            )
        return workspace_service_pb2.ListWorkspacesResponse(workspaces=page, next_page_token=token)

    async def UpdateWorkspace(
        self, request: workspace_service_pb2.UpdateWorkspaceRequest, context: Context
    ) -> workspace_service_pb2.UpdateWorkspaceResponse:
        async with self._db.transaction() as tx:
            row, role = await logic.update_workspace(tx, current_caller(), request)
        return workspace_service_pb2.UpdateWorkspaceResponse(
            workspace=messages.workspace(row, role)
        )

    async def AddMember(
        self, request: workspace_service_pb2.AddMemberRequest, context: Context
    ) -> workspace_service_pb2.AddMemberResponse:
        try:
            return await self._add_member(request)
        except TasksLeft as left:
            await self._finish_removal(UUID(request.workspace_id), left.user_id)
            return await self._add_member(request)

    async def _finish_removal(self, workspace_id: UUID, user_id: UUID) -> None:
        """Unassigns the tasks that a former member still has. Raises DEPENDENCY_UNAVAILABLE when they are too many."""
        until = time.monotonic() + _REMOVAL_PATIENCE
        while time.monotonic() < until:
            async with self._db.transaction() as tx:
                if not await self._removal.go_on(tx, workspace_id, user_id):
                    return
        raise DomainError(reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE)

    async def _add_member(
        self, request: workspace_service_pb2.AddMemberRequest
    ) -> workspace_service_pb2.AddMemberResponse:
        """Raises TasksLeft."""
        caller = current_caller()
        workspace_id = UUID(request.workspace_id)
        async with self._db.transaction() as tx:
            revision = await logic.begin_adding(tx, caller, workspace_id, request.role)

            async def add() -> workspace_service_pb2.AddMemberResponse:
                row = await logic.add_member(
                    tx, caller, workspace_id, request.email, request.role, revision, self._removal
                )
                return workspace_service_pb2.AddMemberResponse(member=messages.member(row))

            return await idempotency.once(
                tx,
                self._seal,
                str(caller.user_id),
                request,
                workspace_service_pb2.AddMemberResponse,
                add,
            )

    async def ListMembers(
        self, request: workspace_service_pb2.ListMembersRequest, context: Context
    ) -> workspace_service_pb2.ListMembersResponse:
        caller = current_caller()
        workspace_id = UUID(request.workspace_id)
        async with self._db.read() as tx:
            await directory.authorize(tx, caller, workspace_id)
            fetch = partial(logic.list_members, tx, workspace_id)
            page, token = await pages.read(
                self._seal, caller.user_id, request, fetch, messages.member, logic.member_position
            )
        return workspace_service_pb2.ListMembersResponse(members=page, next_page_token=token)

    async def UpdateMember(
        self, request: workspace_service_pb2.UpdateMemberRequest, context: Context
    ) -> workspace_service_pb2.UpdateMemberResponse:
        async with self._db.transaction() as tx:
            row = await logic.update_member(tx, current_caller(), request)
        return workspace_service_pb2.UpdateMemberResponse(member=messages.member(row))

    async def RemoveMember(
        self, request: workspace_service_pb2.RemoveMemberRequest, context: Context
    ) -> workspace_service_pb2.RemoveMemberResponse:
        workspace_id, user_id = UUID(request.workspace_id), UUID(request.user_id)
        async with self._db.transaction() as tx:
            await logic.remove_member(tx, current_caller(), workspace_id, user_id, self._removal)
        return workspace_service_pb2.RemoveMemberResponse()
