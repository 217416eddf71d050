"""The notification service on the wire, with the dead letters of all consumers."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import grpc.aio

from services.notification import consumer, dead_letters, email, logic, retention
from services.notification.hub import Hub
from services.notification.messages import announce
from services.platform import directory
from services.platform.identity import Caller
from services.platform.interceptors import Context, current_caller
from services.platform.runtime import Loop, Platform
from taskflow.event.v1 import dead_letter_service_pb2_grpc as dead_letter_grpc
from taskflow.event.v1.dead_letter_service_pb2 import (
    ListDeadLettersRequest,
    ListDeadLettersResponse,
    ParkEventRequest,
    ParkEventResponse,
    ReplayDeadLetterRequest,
    ReplayDeadLetterResponse,
)
from taskflow.notification.v1 import internal_service_pb2_grpc as internal_grpc
from taskflow.notification.v1 import notification_service_pb2_grpc as notification_grpc
from taskflow.notification.v1.internal_service_pb2 import (
    FinishEmailBatchRequest,
    FinishEmailBatchResponse,
    PrepareEmailBatchRequest,
    PrepareEmailBatchResponse,
)
from taskflow.notification.v1.notification_service_pb2 import (
    GetUnreadCountRequest,
    GetUnreadCountResponse,
    ListNotificationsRequest,
    ListNotificationsResponse,
    MarkAllReadRequest,
    MarkAllReadResponse,
    MarkReadRequest,
    MarkReadResponse,
    WatchNotificationsRequest,
)


def register(server: grpc.aio.Server, platform: Platform) -> list[Loop]:
    hub = Hub(platform)
    notification_grpc.add_NotificationServiceServicer_to_server(
        Notifications(platform, hub), server
    )
    internal_grpc.add_EmailInternalServiceServicer_to_server(Email(platform), server)
    dead_letter_grpc.add_DeadLetterServiceServicer_to_server(DeadLetters(platform), server)
    dead_letter_grpc.add_DeadLetterInternalServiceServicer_to_server(Parking(platform), server)
    return [
        consumer.Consumer(platform).run(),
        hub.run(),
        retention.loop(platform),
    ]


class Notifications(notification_grpc.NotificationServiceServicer):
    def __init__(self, platform: Platform, hub: Hub) -> None:
        self._db = platform.db
        self._bus = platform.bus
        self._seal = platform.seal
        self._hub = hub

    async def ListNotifications(
        self, request: ListNotificationsRequest, context: Context
    ) -> ListNotificationsResponse:
        async with self._db.snapshot() as tx:
            return await logic.list_notifications(tx, self._seal, current_caller(), request)

    async def GetUnreadCount(
        self, request: GetUnreadCountRequest, context: Context
    ) -> GetUnreadCountResponse:
        async with self._db.read() as tx:
            count = await logic.unread_count(tx, current_caller())
        return GetUnreadCountResponse(unread_count=count)

    async def MarkRead(self, request: MarkReadRequest, context: Context) -> MarkReadResponse:
        caller = current_caller()
        async with self._db.transaction() as tx:
            marked = await logic.mark_read(tx, caller, map(UUID, request.ids))
        self._announce(caller, marked)
        return MarkReadResponse(marked_count=marked.count)

    async def MarkAllRead(
        self, request: MarkAllReadRequest, context: Context
    ) -> MarkAllReadResponse:
        caller = current_caller()
        async with self._db.transaction() as tx:
            marked = await logic.mark_all_read(tx, caller, request.up_to_sequence)
        self._announce(caller, marked)
        return MarkAllReadResponse(marked_count=marked.count)

    def WatchNotifications(
        self, request: WatchNotificationsRequest, context: Context
    ) -> AsyncIterator[Any]:
        return self._hub.watch(current_caller(), request.cursor)

    def _announce(self, caller: Caller, marked: logic.Marked) -> None:
        if marked.change is not None:
            announce(self._bus, self._seal, caller.user_id, marked.epoch, marked.change)


class Email(internal_grpc.EmailInternalServiceServicer):
    def __init__(self, platform: Platform) -> None:
        self._db = platform.db

    async def PrepareEmailBatch(
        self, request: PrepareEmailBatchRequest, context: Context
    ) -> PrepareEmailBatchResponse:
        async with self._db.transaction() as tx:
            return await email.prepare_batch(tx, UUID(request.user_id), UUID(request.batch_id))

    async def FinishEmailBatch(
        self, request: FinishEmailBatchRequest, context: Context
    ) -> FinishEmailBatchResponse:
        async with self._db.transaction() as tx:
            await email.finish_batch(tx, UUID(request.batch_id), request.error)
        return FinishEmailBatchResponse()


class DeadLetters(dead_letter_grpc.DeadLetterServiceServicer):
    def __init__(self, platform: Platform) -> None:
        self._db = platform.db
        self._seal = platform.seal

    async def ListDeadLetters(
        self, request: ListDeadLettersRequest, context: Context
    ) -> ListDeadLettersResponse:
        caller = current_caller()
        async with self._db.read() as tx:
            await directory.require_operator(tx, caller)
            return await dead_letters.list_letters(tx, self._seal, caller, request)

    async def ReplayDeadLetter(
        self, request: ReplayDeadLetterRequest, context: Context
    ) -> ReplayDeadLetterResponse:
        async with self._db.transaction() as tx:
            await directory.require_operator(tx, current_caller())
            letter = await dead_letters.replay(tx, UUID(request.id))
        return ReplayDeadLetterResponse(dead_letter=letter)


class Parking(dead_letter_grpc.DeadLetterInternalServiceServicer):
    def __init__(self, platform: Platform) -> None:
        self._db = platform.db

    async def ParkEvent(self, request: ParkEventRequest, context: Context) -> ParkEventResponse:
        async with self._db.transaction() as tx:
            await dead_letters.park(
                tx,
                consumer=request.consumer,
                subject=request.subject,
                event_id=request.event_id,
                payload=request.payload,
                error=request.error,
            )
        return ParkEventResponse()
