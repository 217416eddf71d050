"""Activities of DeadlineReminder. gRPC errors pass through to activity_interceptor.py."""

import time
from datetime import UTC, datetime

import grpc
import grpc.aio
import structlog
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio import activity

from taskflow.task.v1 import internal_service_pb2 as task_rpc
from taskflow.task.v1.internal_service_pb2_grpc import ReminderInternalServiceStub
from workflows.feature import Activities
from workflows.reminders.contract import EmittedReminder, Reminder, ReminderOutcome, TaskDeadline

log = structlog.get_logger()


class ReminderActivities:
    def __init__(self, stub: ReminderInternalServiceStub) -> None:
        self._stub = stub

    def by_queue(self) -> Activities:
        return Activities(quick=[self.plan, self.emit])

    @activity.defn(name="reminder.plan")
    async def plan(self, task: TaskDeadline) -> Reminder | None:
        """The next reminder; None when there is none."""
        try:
            answer = await self._stub.PlanReminder(
                task_rpc.PlanReminderRequest(task_id=task.task_id)
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise
        return _reminder(task.task_id, answer.next) if answer.HasField("next") else None

    @activity.defn(name="reminder.emit")
    async def emit(self, reminder: Reminder) -> EmittedReminder:
        """Sends a reminder, if the Task service still wants it. Returns the outcome, and the next reminder."""
        task_id = reminder.task_id
        try:
            answer = await self._stub.EmitReminder(
                task_rpc.EmitReminderRequest(
                    task_id=task_id,
                    reminder=task_rpc.Reminder(
                        due_time=_timestamp(reminder.due_time),
                        offset_seconds=reminder.offset_seconds,
                        remind_time=_timestamp(reminder.remind_time),
                    ),
                )
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return EmittedReminder(ReminderOutcome.DELETED)
            raise
        name = task_rpc.ReminderOutcome.Name(answer.outcome).removeprefix("REMINDER_OUTCOME_")
        late = time.time() - reminder.remind_time.timestamp()
        log.info(
            "reminder",
            task_id=task_id,
            offset_seconds=reminder.offset_seconds,
            state=name,
            late_seconds=round(late, 3),
        )
        following = _reminder(task_id, answer.next) if answer.HasField("next") else None
        return EmittedReminder(ReminderOutcome(name), following)


def _reminder(task_id: str, reminder: task_rpc.Reminder) -> Reminder:
    return Reminder(
        task_id,
        reminder.due_time.ToDatetime(UTC),
        reminder.offset_seconds,
        reminder.remind_time.ToDatetime(UTC),
    )


def _timestamp(instant: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(instant)
    return stamp
