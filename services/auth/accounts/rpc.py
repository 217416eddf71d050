"""The servicer of UserService."""

from uuid import UUID

import grpc

from services.auth.accounts import logic, messages
from services.platform.rpc.grpc_types import Context
from services.platform.rpc.identity import current_caller
from services.platform.runtime import Loop, Platform
from taskflow.auth.v1 import user_service_pb2, user_service_pb2_grpc


def register(server: grpc.aio.Server, platform: Platform) -> list[Loop]:
    user_service_pb2_grpc.add_UserServiceServicer_to_server(UserServicer(platform), server)
    return []


class UserServicer(user_service_pb2_grpc.UserServiceServicer):
    def __init__(self, platform: Platform) -> None:
        self._db = platform.db

    async def GetCurrentUser(
        self, request: user_service_pb2.GetCurrentUserRequest, context: Context
    ) -> user_service_pb2.GetCurrentUserResponse:
        async with self._db.read() as tx:
            row = await logic.current_user(tx, current_caller())
        return user_service_pb2.GetCurrentUserResponse(user=messages.user(row))

    async def UpdateCurrentUser(
        self, request: user_service_pb2.UpdateCurrentUserRequest, context: Context
    ) -> user_service_pb2.UpdateCurrentUserResponse:
        async with self._db.transaction() as tx:
            row = await logic.update_current_user(tx, current_caller(), request)
        return user_service_pb2.UpdateCurrentUserResponse(user=messages.user(row))

    async def BatchGetUsers(
        self, request: user_service_pb2.BatchGetUsersRequest, context: Context
    ) -> user_service_pb2.BatchGetUsersResponse:
        ids = [UUID(id) for id in request.ids]
        async with self._db.read() as tx:
            rows = await logic.people_around(tx, current_caller(), ids)
        return user_service_pb2.BatchGetUsersResponse(users=map(messages.user, rows))
