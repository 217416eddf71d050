"""The servicers of taskflow.auth.v1."""

from typing import Any
from uuid import UUID

import grpc

from services.auth import logic, messages, queries, retention, tokens, workspaces
from services.auth.passwords import Passwords
from services.auth.throttle import Throttle, client_address
from services.auth.workspaces import Unassign
from services.platform import text
from services.platform.errors import DomainError
from services.platform.interceptors import Context, current_caller
from services.platform.runtime import Loop, Platform
from taskflow.auth.v1 import (
    auth_service_pb2,
    auth_service_pb2_grpc,
    user_service_pb2,
    user_service_pb2_grpc,
    workspace_service_pb2,
    workspace_service_pb2_grpc,
)
from taskflow.error.v1 import error_reason_pb2 as reasons


def register(server: grpc.aio.Server, platform: Platform, *, unassign: Unassign) -> list[Loop]:
    """`unassign` is the task service's part in the removal of a member."""
    auth_service_pb2_grpc.add_AuthServiceServicer_to_server(AuthServicer(platform), server)
    user_service_pb2_grpc.add_UserServiceServicer_to_server(UserServicer(platform), server)
    workspace_service_pb2_grpc.add_WorkspaceServiceServicer_to_server(
        WorkspaceServicer(platform, unassign), server
    )
    return [retention.loop(platform)]


class AuthServicer(auth_service_pb2_grpc.AuthServiceServicer):
    def __init__(self, platform: Platform) -> None:
        self._settings = platform.settings
        self._db = platform.db
        self._seal = platform.seal
        self._keys = tokens.SigningKeys(platform.settings)
        self._passwords = Passwords()
        self._throttle = Throttle(platform.settings, platform.seal)

    async def Register(
        self, request: auth_service_pb2.RegisterRequest, context: Context
    ) -> auth_service_pb2.RegisterResponse:
        account = {
            "email": text.stored(request.email),
            "email_key": logic.registered_email(request.email),
            "display_name": text.line("display_name", request.display_name),
            "time_zone": logic.time_zone("time_zone", request.time_zone),
            "password_hash": await self._passwords.hash(request.password),
        }
        async with self._db.transaction() as tx:
            return await logic.register(tx, self._seal, request, account)

    async def Login(
        self, request: auth_service_pb2.LoginRequest, context: Context
    ) -> auth_service_pb2.LoginResponse:
        self._passwords.expect_room()
        email_key = logic.email_key(request.email)
        origin = self._throttle.origin(email_key, client_address(context))
        async with self._db.read() as tx:
            await self._throttle.check(tx, origin)
            account = await tx.one(queries.USER_BY_EMAIL, email_key=email_key)
        # No connection is held meanwhile: there are fewer of them than people who log in.
        stored = account.password_hash if account else None
        if not await self._passwords.verify(request.password, stored):
            async with self._db.transaction() as tx:
                await self._throttle.wrong(tx, origin)
            raise DomainError(reasons.ERROR_REASON_CREDENTIALS_WRONG)
        new_hash = await self._rehashed(request.password, stored)
        async with self._db.transaction() as tx:
            session = await logic.login(
                tx,
                self._throttle,
                origin,
                account,
                new_hash,
                request.device,
                logic.refresh_expiry(self._settings),
            )
        return auth_service_pb2.LoginResponse(
            user=messages.user(account), tokens=self._tokens(session)
        )

    async def RefreshToken(
        self, request: auth_service_pb2.RefreshTokenRequest, context: Context
    ) -> auth_service_pb2.RefreshTokenResponse:
        session_id, generation = tokens.read_refresh_token(self._seal, request.refresh_token)
        async with self._db.transaction() as tx:
            expires = logic.refresh_expiry(self._settings)
            session = await logic.refresh(tx, session_id, generation, expires)
        if session is None:
            raise DomainError(reasons.ERROR_REASON_REFRESH_TOKEN_REUSED)
        return auth_service_pb2.RefreshTokenResponse(tokens=self._tokens(session))

    async def Logout(
        self, request: auth_service_pb2.LogoutRequest, context: Context
    ) -> auth_service_pb2.LogoutResponse:
        caller = current_caller()
        async with self._db.transaction() as tx:
            await logic.revoke(tx, caller.session_id, caller.user_id)
        return auth_service_pb2.LogoutResponse()

    async def GetSigningKeys(
        self, request: auth_service_pb2.GetSigningKeysRequest, context: Context
    ) -> auth_service_pb2.GetSigningKeysResponse:
        return auth_service_pb2.GetSigningKeysResponse(keys=await self._keys.public_keys())

    async def _rehashed(self, password: str, stored: str | None) -> str | None:
        if stored is not None and self._passwords.outdated(stored):
            return await self._passwords.hash(password)
        return None

    def _tokens(self, session: Any) -> auth_service_pb2.Tokens:
        return logic.session_tokens(self._settings, self._keys, self._seal, session)


class UserServicer(user_service_pb2_grpc.UserServiceServicer):
    def __init__(self, platform: Platform) -> None:
        self._db = platform.db

    async def GetCurrentUser(
        self, request: user_service_pb2.GetCurrentUserRequest, context: Context
    ) -> user_service_pb2.GetCurrentUserResponse:
        async with self._db.read() as tx:
            user = await logic.current_user(tx, current_caller())
        return user_service_pb2.GetCurrentUserResponse(user=user)

    async def UpdateCurrentUser(
        self, request: user_service_pb2.UpdateCurrentUserRequest, context: Context
    ) -> user_service_pb2.UpdateCurrentUserResponse:
        async with self._db.transaction() as tx:
            user = await logic.update_current_user(tx, current_caller(), request)
        return user_service_pb2.UpdateCurrentUserResponse(user=user)

    async def BatchGetUsers(
        self, request: user_service_pb2.BatchGetUsersRequest, context: Context
    ) -> user_service_pb2.BatchGetUsersResponse:
        ids = [UUID(id) for id in request.ids]
        async with self._db.read() as tx:
            users = await logic.people_around(tx, current_caller(), ids)
        return user_service_pb2.BatchGetUsersResponse(users=users)


class WorkspaceServicer(workspace_service_pb2_grpc.WorkspaceServiceServicer):
    def __init__(self, platform: Platform, unassign: Unassign) -> None:
        self._db = platform.db
        self._seal = platform.seal
        self._unassign = unassign

    async def CreateWorkspace(
        self, request: workspace_service_pb2.CreateWorkspaceRequest, context: Context
    ) -> workspace_service_pb2.CreateWorkspaceResponse:
        async with self._db.transaction() as tx:
            return await workspaces.create_workspace(tx, self._seal, current_caller(), request)

    async def GetWorkspace(
        self, request: workspace_service_pb2.GetWorkspaceRequest, context: Context
    ) -> workspace_service_pb2.GetWorkspaceResponse:
        async with self._db.read() as tx:
            workspace = await workspaces.get_workspace(tx, current_caller(), UUID(request.id))
        return workspace_service_pb2.GetWorkspaceResponse(workspace=workspace)

    async def ListWorkspaces(
        self, request: workspace_service_pb2.ListWorkspacesRequest, context: Context
    ) -> workspace_service_pb2.ListWorkspacesResponse:
        async with self._db.read() as tx:
            return await workspaces.list_workspaces(tx, self._seal, current_caller(), request)

    async def UpdateWorkspace(
        self, request: workspace_service_pb2.UpdateWorkspaceRequest, context: Context
    ) -> workspace_service_pb2.UpdateWorkspaceResponse:
        async with self._db.transaction() as tx:
            workspace = await workspaces.update_workspace(tx, current_caller(), request)
        return workspace_service_pb2.UpdateWorkspaceResponse(workspace=workspace)

    async def AddMember(
        self, request: workspace_service_pb2.AddMemberRequest, context: Context
    ) -> workspace_service_pb2.AddMemberResponse:
        async with self._db.transaction() as tx:
            return await workspaces.add_member(tx, self._seal, current_caller(), request)

    async def ListMembers(
        self, request: workspace_service_pb2.ListMembersRequest, context: Context
    ) -> workspace_service_pb2.ListMembersResponse:
        async with self._db.read() as tx:
            return await workspaces.list_members(tx, self._seal, current_caller(), request)

    async def UpdateMember(
        self, request: workspace_service_pb2.UpdateMemberRequest, context: Context
    ) -> workspace_service_pb2.UpdateMemberResponse:
        async with self._db.transaction() as tx:
            member = await workspaces.update_member(tx, current_caller(), request)
        return workspace_service_pb2.UpdateMemberResponse(member=member)

    async def RemoveMember(
        self, request: workspace_service_pb2.RemoveMemberRequest, context: Context
    ) -> workspace_service_pb2.RemoveMemberResponse:
        async with self._db.transaction() as tx:
            await workspaces.remove_member(tx, current_caller(), request, self._unassign)
        return workspace_service_pb2.RemoveMemberResponse()
