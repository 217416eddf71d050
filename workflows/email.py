"""EmailBatch: the notifications of a while in one mail."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, RetryState, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    # Not `from workflows import contracts`: the sandbox would load that one anew, with other enums.
    import workflows.contracts as contracts
    import workflows.history as history
    from workflows.activities import EmailActivities
    from workflows.contracts import MailOutcome

# The run itself waits between tries, so that it can continue as a new one meanwhile.
_ONE_TRY = RetryPolicy(maximum_attempts=1)
_RECORD = RetryPolicy(
    initial_interval=contracts.CALL_BACKOFF_FIRST,
    maximum_interval=contracts.CALL_BACKOFF_MOST,
)
# Doublings after which the pause has long reached EMAIL_BACKOFF_MOST.
_MOST_DOUBLINGS = 16


@workflow.defn
class EmailBatch:
    """Waits for the window, sends what is still unread then, and repeats this while new notifications come."""

    def __init__(self) -> None:
        self._waiting = False

    @workflow.signal
    def notified(self, notification_id: str) -> None:
        """There is a notification to be mailed. The Notification service says which ones are."""
        self._waiting = True

    @workflow.run
    async def run(self, mail: contracts.UserMail) -> None:
        self._waiting = self._waiting or mail.waiting
        while self._waiting or mail.batch is not None:
            await self._send(mail, mail.batch or await self._gather(mail))
            mail = replace(mail, window_end=None, batch=None)
            if history.too_long() and (self._waiting or not history.may_end()):
                workflow.continue_as_new(replace(mail, waiting=True))

    async def _gather(self, mail: contracts.UserMail) -> contracts.OpenBatch:
        """Waits for the end of the window; a notification that comes later needs another batch."""
        end = mail.window_end or workflow.now() + timedelta(seconds=mail.window_seconds)
        await self._sleep_until(end, replace(mail, window_end=end))
        self._waiting = False
        now = workflow.now()
        return contracts.OpenBatch(str(workflow.uuid4()), now, now + contracts.EMAIL_GIVE_UP)

    async def _send(self, mail: contracts.UserMail, batch: contracts.OpenBatch) -> None:
        """Tries until the mail server has taken the batch, or will not take it."""
        while True:
            await self._sleep_until(batch.next_try_time, replace(mail, batch=batch))
            try:
                outcome = await self._try(contracts.MailBatch(mail.user_id, batch.batch_id))
            except ActivityError as failure:
                if is_cancelled_exception(failure):
                    raise
                again = _next_try(batch, failure)
                if again is not None:
                    batch = again
                    continue
                error = contracts.failure_text(failure.cause)
            else:
                if outcome is MailOutcome.EMPTY:
                    return
                error = ""
            break
        # Apart from the sending: while this is tried again, no second mail goes out.
        await workflow.execute_activity_method(
            EmailActivities.finish,
            contracts.FinishedMail(batch.batch_id, error),
            start_to_close_timeout=contracts.CALL_TIMEOUT,
            retry_policy=_RECORD,
        )

    async def _try(self, batch: contracts.MailBatch) -> MailOutcome:
        return await workflow.execute_activity_method(
            EmailActivities.send,
            batch,
            task_queue=contracts.WORK_QUEUE,
            start_to_close_timeout=contracts.EMAIL_TIMEOUT,
            schedule_to_close_timeout=contracts.EMAIL_GIVE_UP,
            heartbeat_timeout=contracts.HEARTBEAT_TIMEOUT,
            retry_policy=_ONE_TRY,
        )

    async def _sleep_until(self, instant: datetime, mail: contracts.UserMail) -> None:
        """A run that gets too long meanwhile continues as a new one with `mail`."""
        left = instant - workflow.now()
        if left > timedelta(0):
            sleeping = asyncio.create_task(workflow.sleep(left))
            if not await history.finished(sleeping):
                workflow.continue_as_new(replace(mail, waiting=True))


def _next_try(batch: contracts.OpenBatch, failure: ActivityError) -> contracts.OpenBatch | None:
    """The batch with its next try; None when the mail isn't to be tried again."""
    # Nothing else can be tried again. Runs of an earlier version left the tries to Temporal, and never have this state.
    if failure.retry_state is not RetryState.MAXIMUM_ATTEMPTS_REACHED:
        return None
    doublings = min(batch.failed_tries, _MOST_DOUBLINGS)
    pause = min(contracts.EMAIL_BACKOFF_FIRST * 2**doublings, contracts.EMAIL_BACKOFF_MOST)
    again = workflow.now() + pause
    if again > batch.give_up_time:
        return None
    return replace(batch, next_try_time=again, failed_tries=batch.failed_tries + 1)
