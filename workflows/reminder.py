"""DeadlineReminder: a timer that follows a task's deadline."""

import asyncio
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    # Not `from workflows import contracts`: the sandbox would load that one anew, with other enums.
    import workflows.contracts as contracts
    import workflows.history as history
    from workflows.activities import ReminderActivities
    from workflows.contracts import EmittedReminder, Reminder, ReminderOutcome

# For ever: a reminder must not be lost because a service was away.
_CALL = RetryPolicy(
    initial_interval=contracts.CALL_BACKOFF_FIRST,
    maximum_interval=contracts.CALL_BACKOFF_MOST,
)


@workflow.defn
class DeadlineReminder:
    """Sleeps until the task's next reminder and sends it, until none is left.

    When that is, and whether it may still be sent, the Task service says from what is stored: a signal only means "look
    again", so signals may come twice, late, or in any order.
    """

    def __init__(self) -> None:
        self._revision = 0

    @workflow.signal
    def changed(self, revision: int) -> None:
        """The task is now at this revision; deadline, assignee, status or deletion may be others."""
        self._revision = max(self._revision, revision)

    @workflow.run
    async def run(self, task: contracts.TaskDeadline) -> None:
        following = asyncio.create_task(self._follow(task))
        # The new run may begin at any point: it plans again, and the Task service sends no reminder twice.
        if not await history.finished(following):
            workflow.continue_as_new(task)
        await following

    async def _follow(self, task: contracts.TaskDeadline) -> None:
        while True:
            planned = self._revision
            reminder = await self._plan(task)
            while (
                reminder is not None
                and not history.too_long()
                and await self._unchanged_until(reminder.remind_time, planned)
            ):
                reminder = await self._after(await self._emit(reminder), reminder, planned)
            # Nothing is awaited between this look and the return. When a signal comes meanwhile, the server refuses the
            # completion, and the worker runs this again with the signal.
            if reminder is None and self._revision == planned and history.may_end():
                return
            if history.too_long():
                workflow.continue_as_new(task)

    async def _after(
        self, emitted: EmittedReminder, reminder: Reminder, planned: int
    ) -> Reminder | None:
        """What to wait for next."""
        match emitted.outcome:
            case ReminderOutcome.EARLY:
                await self._unchanged_until(
                    workflow.now() + contracts.REMINDER_EARLY_PAUSE, planned
                )
                return reminder
            case ReminderOutcome.ARCHIVED:
                # Nobody tells when the project is unarchived, and by then the deadline may have passed.
                await self._unchanged_until(
                    workflow.now() + contracts.REMINDER_ARCHIVED_PAUSE, planned
                )
                return reminder
            case _:
                return emitted.next

    async def _unchanged_until(self, instant: datetime, planned: int) -> bool:
        """Sleeps until then; False as soon as the task has changed since it was planned."""
        while self._revision == planned:
            left = instant - workflow.now()
            if left <= timedelta(0):
                return True
            try:
                await workflow.wait_condition(
                    lambda: self._revision != planned,
                    timeout=min(left, contracts.REMINDER_LONGEST_SLEEP),
                )
            except TimeoutError:
                continue
        return False

    async def _plan(self, task: contracts.TaskDeadline) -> Reminder | None:
        return await workflow.execute_activity_method(
            ReminderActivities.plan,
            task,
            start_to_close_timeout=contracts.CALL_TIMEOUT,
            retry_policy=_CALL,
        )

    async def _emit(self, reminder: Reminder) -> EmittedReminder:
        return await workflow.execute_activity_method(
            ReminderActivities.emit,
            reminder,
            start_to_close_timeout=contracts.CALL_TIMEOUT,
            retry_policy=_CALL,
        )
