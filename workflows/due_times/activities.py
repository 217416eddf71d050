"""The activity of MoveDueTimes. gRPC errors pass through to activity_interceptor.py."""

from temporalio import activity

from taskflow.task.v1.internal_service_pb2 import MoveDueTimesRequest
from taskflow.task.v1.internal_service_pb2_grpc import ReminderInternalServiceStub
from workflows.due_times.contract import CALLS_PER_STEP, UserZone
from workflows.feature import Activities


class DueTimesActivities:
    def __init__(self, stub: ReminderInternalServiceStub) -> None:
        self._stub = stub

    def by_queue(self) -> Activities:
        return Activities(quick=[self.move])

    @activity.defn(name="due_times.move")
    async def move(self, user: UserZone) -> bool:
        """Moves the due times of some of the user's tasks; returns whether more are left."""
        request = MoveDueTimesRequest(user_id=user.user_id)
        for _ in range(CALLS_PER_STEP):
            if not (await self._stub.MoveDueTimes(request)).more:
                return False
        return True
