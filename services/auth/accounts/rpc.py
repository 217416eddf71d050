"""UserService, and UserInternalService, which the worker that sends mail calls."""

from uuid import UUID

import grpc
import structlog

from services.auth.accounts import logic, messages
from services.platform.observe import metrics
from services.platform.rpc.grpc_types import Context
from services.platform.rpc.identity import current_caller
from services.platform.runtime import Loop, Platform
from taskflow.auth.v1 import internal_service_pb2_grpc, user_service_pb2, user_service_pb2_grpc
from taskflow.auth.v1.internal_service_pb2 import ReportBounceRequest, ReportBounceResponse

log = structlog.get_logger()


def register(server: grpc.aio.Server, platform: Platform) -> list[Loop]:
    user_service_pb2_grpc.add_UserServiceServicer_to_server(UserServicer(platform), server)
    internal_service_pb2_grpc.add_UserInternalServiceServicer_to_server(
        UserInternalServicer(platform), server
    )
    return []


class UserServicer(user_service_pb2_grpc.UserServiceServicer):
    def __init__(self, platform: Platform) -> None:
        self._db = platform.db

    async def GetCurrentUser(
        self, request: user_service_pb2.GetCurrentUserRequest, context: Context
    ) -> user_service_pb2.GetCurrentUserResponse:
        async with self._db.read() as tx:
            row = await logic.current_user(tx, current_caller())
        return user_service_pb2.GetCurrentUserResponse(user=messages.own_user(row))

    async def UpdateCurrentUser(
        self, request: user_service_pb2.UpdateCurrentUserRequest, context: Context
    ) -> user_service_pb2.UpdateCurrentUserResponse:
        async with self._db.transaction() as tx:
            row = await logic.update_current_user(tx, current_caller(), request)
        return user_service_pb2.UpdateCurrentUserResponse(user=messages.own_user(row))

    async def BatchGetUsers(
        self, request: user_service_pb2.BatchGetUsersRequest, context: Context
    ) -> user_service_pb2.BatchGetUsersResponse:
        ids = [UUID(id) for id in request.ids]
        async with self._db.read() as tx:
            rows = await logic.people_around(tx, current_caller(), ids)
        return user_service_pb2.BatchGetUsersResponse(users=map(messages.user, rows))


class UserInternalServicer(internal_service_pb2_grpc.UserInternalServiceServicer):
    def __init__(self, platform: Platform) -> None:
        self._db = platform.db

    async def ReportBounce(
        self, request: ReportBounceRequest, context: Context
    ) -> ReportBounceResponse:
        async with self._db.transaction() as tx:
            marked = await logic.report_bounce(tx, UUID(request.user_id), request.email)
        if marked:
            metrics.EMAIL_BOUNCES.inc()
            log.warning("mail address refused for good", user_id=request.user_id)
        return ReportBounceResponse()
