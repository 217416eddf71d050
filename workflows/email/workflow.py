"""EmailBatch: a user's notifications of one batching window in one mail."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, RetryState, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    # Not `from workflows.email import contract`: the sandbox would import a second copy, with other enums.
    import workflows.history_limit as history_limit
    from workflows.contract import (
        CALL_RETRIES,
        CALL_TIMEOUT,
        HEARTBEAT_TIMEOUT,
        MAIL_QUEUE,
        failure_text,
    )
    from workflows.email.activities import EmailActivities
    from workflows.email.contract import (
        EMAIL_FIRST_PAUSE,
        EMAIL_LONGEST_PAUSE,
        EMAIL_TIMEOUT,
        EMAIL_TOTAL_TIMEOUT,
        FinishedBatch,
        MailBatch,
        MailOutcome,
        OpenBatch,
        UserMail,
    )

# Temporal must not retry: the workflow itself waits between tries, so that it can continue as new during the wait.
_ONE_TRY = RetryPolicy(maximum_attempts=1)
# Cap on doublings of the retry pause; by then it has long reached EMAIL_LONGEST_PAUSE.
_MOST_DOUBLINGS = 16


@workflow.defn
class EmailBatch:
    """Waits for the window, mails what is still unread then, and repeats this while new notifications come."""

    def __init__(self) -> None:
        self._waiting = False

    @workflow.signal
    def notified(self, notification_id: str) -> None:
        """Signal: the user has a notification to mail. The workflow asks the Notification service which ones."""
        self._waiting = True

    @workflow.run
    async def run(self, mail: UserMail) -> None:
        self._waiting = self._waiting or mail.waiting
        while self._waiting or mail.batch is not None:
            await self._send(mail, mail.batch or await self._gather(mail))
            mail = replace(mail, window_end=None, batch=None)
            if history_limit.exceeded() and (self._waiting or not history_limit.may_complete()):
                workflow.continue_as_new(replace(mail, waiting=True))

    async def _gather(self, mail: UserMail) -> OpenBatch:
        """Waits for the end of the window. A notification that comes later goes into the next batch."""
        end = mail.window_end or workflow.now() + timedelta(seconds=mail.window_seconds)
        await self._sleep_until(end, replace(mail, window_end=end))
        self._waiting = False
        now = workflow.now()
        return OpenBatch(str(workflow.uuid4()), now, now + EMAIL_TOTAL_TIMEOUT)

    async def _send(self, mail: UserMail, batch: OpenBatch) -> None:
        """Tries until the mail server has accepted or refused the batch."""
        while True:
            await self._sleep_until(batch.next_try_time, replace(mail, batch=batch))
            try:
                outcome = await self._try(MailBatch(mail.user_id, batch.batch_id))
            except ActivityError as failure:
                if is_cancelled_exception(failure):
                    raise
                next_try = _next_try(batch, failure)
                if next_try is not None:
                    batch = next_try
                    continue
                error = failure_text(failure.cause)
            else:
                if outcome is MailOutcome.EMPTY:
                    return
                error = ""
            break
        # An activity of its own: when this call is retried, no second mail goes out.
        more = await workflow.execute_activity_method(
            EmailActivities.finish,
            FinishedBatch(batch.batch_id, error),
            start_to_close_timeout=CALL_TIMEOUT,
            retry_policy=CALL_RETRIES,
        )
        # An activity of an earlier version returned nothing.
        self._waiting = self._waiting or bool(more)

    async def _try(self, batch: MailBatch) -> MailOutcome:
        return await workflow.execute_activity_method(
            EmailActivities.send,
            batch,
            task_queue=MAIL_QUEUE,
            start_to_close_timeout=EMAIL_TIMEOUT,
            schedule_to_close_timeout=EMAIL_TOTAL_TIMEOUT,
            heartbeat_timeout=HEARTBEAT_TIMEOUT,
            retry_policy=_ONE_TRY,
        )

    async def _sleep_until(self, instant: datetime, mail: UserMail) -> None:
        """Sleeps until the instant. If the history gets too long first, the run continues as new with `mail`."""
        left = instant - workflow.now()
        if left > timedelta(0):
            sleeping = asyncio.create_task(workflow.sleep(left))
            if not await history_limit.finished(sleeping):
                workflow.continue_as_new(replace(mail, waiting=True))


def _next_try(batch: OpenBatch, failure: ActivityError) -> OpenBatch | None:
    """The batch with the time of its next try; None when the batch must not be sent again."""
    # Every other retry state is final. In runs of an earlier version Temporal retried, and this state doesn't occur.
    if failure.retry_state is not RetryState.MAXIMUM_ATTEMPTS_REACHED:
        return None
    doublings = min(batch.failed_tries, _MOST_DOUBLINGS)
    pause = min(EMAIL_FIRST_PAUSE * 2**doublings, EMAIL_LONGEST_PAUSE)
    next_try_time = workflow.now() + pause
    if next_try_time > batch.give_up_time:
        return None
    return replace(batch, next_try_time=next_try_time, failed_tries=batch.failed_tries + 1)
