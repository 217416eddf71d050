"""EmailBatch: the notifications of a while in one mail."""

from dataclasses import replace

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    # Not `from workflows import contracts`: the sandbox would load that one anew, with other enums.
    import workflows.contracts as contracts
    from workflows.activities import EmailActivities
    from workflows.contracts import MailOutcome

_SEND = RetryPolicy(
    initial_interval=contracts.EMAIL_BACKOFF_FIRST,
    maximum_interval=contracts.EMAIL_BACKOFF_MOST,
)
_RECORD = RetryPolicy(
    initial_interval=contracts.CALL_BACKOFF_FIRST,
    maximum_interval=contracts.CALL_BACKOFF_MOST,
)


@workflow.defn
class EmailBatch:
    """Waits for the window, sends what is then still unread, and does so again for what came meanwhile."""

    def __init__(self) -> None:
        self._waiting = False

    @workflow.signal
    def notified(self, notification_id: str) -> None:
        """There is a notification to be mailed. Which ones are, the Notification service says."""
        self._waiting = True

    @workflow.run
    async def run(self, mail: contracts.UserMail) -> None:
        self._waiting = self._waiting or mail.waiting
        while self._waiting:
            if mail.window_seconds > 0:
                await workflow.sleep(mail.window_seconds)
            self._waiting = False
            await self._send(contracts.MailBatch(mail.user_id, str(workflow.uuid4())))
            history = workflow.info().get_current_history_length()
            if self._waiting and history > contracts.HISTORY_LIMIT:
                workflow.continue_as_new(replace(mail, waiting=True))

    async def _send(self, batch: contracts.MailBatch) -> None:
        try:
            outcome = await workflow.execute_activity_method(
                EmailActivities.send,
                batch,
                task_queue=contracts.WORK_QUEUE,
                start_to_close_timeout=contracts.EMAIL_TIMEOUT,
                schedule_to_close_timeout=contracts.EMAIL_GIVE_UP,
                heartbeat_timeout=contracts.HEARTBEAT_TIMEOUT,
                retry_policy=_SEND,
            )
        except ActivityError as failure:
            if is_cancelled_exception(failure):
                raise
            finished = contracts.FinishedMail(batch.batch_id, contracts.failure_text(failure.cause))
        else:
            if outcome is MailOutcome.EMPTY:
                return
            finished = contracts.FinishedMail(batch.batch_id)
        # Apart from the sending: while this is tried again, no second mail goes out.
        await workflow.execute_activity_method(
            EmailActivities.finish,
            finished,
            start_to_close_timeout=contracts.CALL_TIMEOUT,
            retry_policy=_RECORD,
        )
