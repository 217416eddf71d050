"""DeadlineReminder: a timer that follows a task's deadline."""

import asyncio
from datetime import datetime, timedelta
from typing import Final

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    # Not `from workflows.reminders import contract`: the sandbox would import a second copy, with other enums.
    import workflows.history_limit as history_limit
    from workflows.contract import CALL_RETRIES, CALL_TIMEOUT
    from workflows.reminders.activities import ReminderActivities
    from workflows.reminders.contract import (
        REMINDER_ARCHIVED_PAUSE,
        REMINDER_EARLY_PAUSE,
        REMINDER_LONGEST_SLEEP,
        EmittedReminder,
        Reminder,
        ReminderOutcome,
        TaskDeadline,
    )

# Patch id.
_WAKE_FOR_THE_NEXT: Final = "wake-for-the-next-reminder"


@workflow.defn
class DeadlineReminder:
    """Sleeps until the task's next reminder and sends it, until none is left.

    The Task service decides from stored data when that is, and whether the reminder may still be sent. A signal only
    means "look again", so signals may come twice, late, or in any order.
    """

    def __init__(self) -> None:
        self._revision = 0

    @workflow.signal
    def changed(self, revision: int) -> None:
        """The task is now at this revision: its deadline, assignee, status or deletion may have changed."""
        self._revision = max(self._revision, revision)

    @workflow.run
    async def run(self, task: TaskDeadline) -> None:
        reminding = asyncio.create_task(self._remind(task))
        # The run may continue as new at any point: it plans again, and the Task service sends no reminder twice.
        if not await history_limit.finished(reminding):
            workflow.continue_as_new(task)
        await reminding

    async def _remind(self, task: TaskDeadline) -> None:
        while True:
            planned = self._revision
            reminder = await self._plan(task)
            while (
                reminder is not None
                and not history_limit.exceeded()
                and await self._sleep_until(reminder.remind_time, planned)
            ):
                reminder = await self._next(await self._emit(reminder), reminder, planned)
            # Nothing is awaited between this check and the return. When a signal comes in between, the server refuses
            # the completion, and the worker runs this again with the signal.
            if reminder is None and self._revision == planned and history_limit.may_complete():
                return
            if history_limit.exceeded():
                workflow.continue_as_new(task)

    async def _next(
        self, emitted: EmittedReminder, reminder: Reminder, planned: int
    ) -> Reminder | None:
        """The reminder to wait for after `reminder` was emitted; the same one when it has to be emitted again."""
        match emitted.outcome:
            case ReminderOutcome.EARLY:
                await self._sleep_until(workflow.now() + REMINDER_EARLY_PAUSE, planned)
                return reminder
            case ReminderOutcome.ARCHIVED:
                # A new run replaces this one when the project is unarchived. Should that get lost, this run looks again
                # after the pause, or when the next reminder's time comes.
                await self._sleep_until(self._look_again_at(emitted), planned)
                return reminder
            case _:
                return emitted.next

    def _look_again_at(self, archived: EmittedReminder) -> datetime:
        pause = workflow.now() + REMINDER_ARCHIVED_PAUSE
        # Runs of earlier versions slept for the whole pause.
        if archived.next is None or not workflow.patched(_WAKE_FOR_THE_NEXT):
            return pause
        return max(workflow.now() + REMINDER_EARLY_PAUSE, min(pause, archived.next.remind_time))

    async def _sleep_until(self, instant: datetime, planned: int) -> bool:
        """Sleeps until the instant. Returns False once a signal brings another revision than the `planned` one."""
        while self._revision == planned:
            left = instant - workflow.now()
            if left <= timedelta(0):
                return True
            try:
                await workflow.wait_condition(
                    lambda: self._revision != planned, timeout=min(left, REMINDER_LONGEST_SLEEP)
                )
            except TimeoutError:
                continue
        return False

    async def _plan(self, task: TaskDeadline) -> Reminder | None:
        return await workflow.execute_activity_method(
            ReminderActivities.plan,
            task,
            start_to_close_timeout=CALL_TIMEOUT,
            retry_policy=CALL_RETRIES,
        )

    async def _emit(self, reminder: Reminder) -> EmittedReminder:
        return await workflow.execute_activity_method(
            ReminderActivities.emit,
            reminder,
            start_to_close_timeout=CALL_TIMEOUT,
            retry_policy=CALL_RETRIES,
        )
