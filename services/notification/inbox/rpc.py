"""The servicer of NotificationService: lists, marking as read, and streams."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import grpc.aio

from services.notification.inbox import consumer, former_members, logic
from services.notification.inbox import retention as inbox_retention
from services.notification.stream import logic as stream
from services.notification.stream import retention as stream_retention
from services.notification.stream.hub import Hub
from services.notification.stream.messages import Announcement, announce
from services.platform.data import retention
from services.platform.rpc.grpc_types import Context
from services.platform.rpc.identity import current_caller
from services.platform.runtime import Loop, Platform
from taskflow.notification.v1 import notification_service_pb2_grpc
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
    notification_service_pb2_grpc.add_NotificationServiceServicer_to_server(
        Notifications(platform, hub), server
    )
    settings = platform.settings
    expiring = [*inbox_retention.kinds(settings), *stream_retention.kinds(settings)]
    return [
        consumer.run(platform),
        hub.run(),
        retention.run(settings, platform.db, expiring),
        former_members.run(platform),
    ]


class Notifications(notification_service_pb2_grpc.NotificationServiceServicer):
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
        async with self._db.transaction() as tx:
            count, announcement = await logic.mark_read(
                tx, current_caller(), map(UUID, request.ids)
            )
        self._announce(announcement)
        return MarkReadResponse(marked_count=count)

    async def MarkAllRead(
        self, request: MarkAllReadRequest, context: Context
    ) -> MarkAllReadResponse:
        caller = current_caller()
        async with self._db.read() as tx:
            head = (await stream.head(tx, caller)).sequence
        # Notifications that come while the batches are marked stay unread.
        up_to = min(request.up_to_sequence or head, head)
        total = 0
        while up_to:
            async with self._db.transaction() as tx:
                count, announcement = await logic.mark_all_read(tx, caller, up_to)
            self._announce(announcement)
            total += count
            if count < logic.MARKED_AT_ONCE:
                break
        return MarkAllReadResponse(marked_count=total)

    def WatchNotifications(
        self, request: WatchNotificationsRequest, context: Context
    ) -> AsyncIterator[Any]:
        return self._hub.watch(current_caller(), request.cursor)

    def _announce(self, announcement: Announcement | None) -> None:
        if announcement is not None:
            announce(self._bus, self._seal, announcement)
