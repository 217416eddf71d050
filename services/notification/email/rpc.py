"""The servicer of EmailInternalService. The worker that sends mail calls it."""

from uuid import UUID

import grpc.aio

from services.notification.email import logic
from services.notification.email import retention as email_retention
from services.platform.data import retention
from services.platform.rpc.grpc_types import Context
from services.platform.runtime import Loop, Platform
from taskflow.notification.v1 import internal_service_pb2_grpc
from taskflow.notification.v1.internal_service_pb2 import (
    FinishEmailBatchRequest,
    FinishEmailBatchResponse,
    PrepareEmailBatchRequest,
    PrepareEmailBatchResponse,
)


def register(server: grpc.aio.Server, platform: Platform) -> list[Loop]:
    internal_service_pb2_grpc.add_EmailInternalServiceServicer_to_server(Email(platform), server)
    return [retention.run(platform.settings, platform.db, email_retention.kinds())]


class Email(internal_service_pb2_grpc.EmailInternalServiceServicer):
    def __init__(self, platform: Platform) -> None:
        self._db = platform.db

    async def PrepareEmailBatch(
        self, request: PrepareEmailBatchRequest, context: Context
    ) -> PrepareEmailBatchResponse:
        async with self._db.transaction() as tx:
            return await logic.prepare_batch(tx, UUID(request.user_id), UUID(request.batch_id))

    async def FinishEmailBatch(
        self, request: FinishEmailBatchRequest, context: Context
    ) -> FinishEmailBatchResponse:
        async with self._db.transaction() as tx:
            more = await logic.finish_batch(tx, UUID(request.batch_id), request.error)
        return FinishEmailBatchResponse(more=more)
