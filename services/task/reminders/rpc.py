"""The servicer of ReminderInternalService."""

from typing import Any
from uuid import UUID

import grpc.aio

from services.platform.runtime import Loop, Platform
from services.task.reminders import logic, walks
from services.task.reminders.schedule import rules
from services.task.tasks import bulk
from taskflow.task.v1 import internal_service_pb2 as internal
from taskflow.task.v1 import internal_service_pb2_grpc


class ReminderInternalServicer(internal_service_pb2_grpc.ReminderInternalServiceServicer):
    def __init__(self, platform: Platform) -> None:
        self._db = platform.db
        self._rules = rules(platform.settings)

    async def PlanReminder(
        self, request: internal.PlanReminderRequest, context: Any
    ) -> internal.PlanReminderResponse:
        async with self._db.transaction() as tx:
            reminder = await logic.plan(tx, UUID(request.task_id), self._rules)
        return internal.PlanReminderResponse(next=reminder)

    async def EmitReminder(
        self, request: internal.EmitReminderRequest, context: Any
    ) -> internal.EmitReminderResponse:
        async with self._db.transaction() as tx:
            outcome, following = await logic.emit(
                tx, UUID(request.task_id), request.reminder, self._rules
            )
        return internal.EmitReminderResponse(outcome=outcome, next=following)

    async def MoveDueTimes(
        self, request: internal.MoveDueTimesRequest, context: Any
    ) -> internal.MoveDueTimesResponse:
        async with self._db.transaction() as tx:
            moved, more = await bulk.move_due_times(tx, UUID(request.user_id), bulk.BATCH)
        return internal.MoveDueTimesResponse(moved=moved, more=more)


def register(server: grpc.aio.Server, platform: Platform) -> list[Loop]:
    internal_service_pb2_grpc.add_ReminderInternalServiceServicer_to_server(
        ReminderInternalServicer(platform), server
    )
    return [walks.loop(platform)]
