"""EnrichTask: suggestions for one revision of a task's text."""

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    # Not `from workflows import contracts`: the sandbox would load that one anew, with other enums.
    import workflows.contracts as contracts
    from workflows.activities import EnrichmentActivities

# Activities say themselves which errors aren't worth another try.
_SUGGEST = RetryPolicy(
    initial_interval=contracts.ENRICH_BACKOFF_FIRST,
    maximum_interval=contracts.ENRICH_BACKOFF_MOST,
)
_RECORD = RetryPolicy(
    initial_interval=contracts.CALL_BACKOFF_FIRST,
    maximum_interval=contracts.CALL_BACKOFF_MOST,
)


@workflow.defn
class EnrichTask:
    """Asks for suggestions and stores them; what can't be had is recorded as a failed job, and the task is untouched.

    Edits within the start's delay make one run: the earlier ones find that their text is no longer the task's.
    """

    @workflow.run
    async def run(self, text: contracts.TaskText) -> contracts.Enrichment:
        try:
            return await workflow.execute_activity_method(
                EnrichmentActivities.suggest,
                text,
                task_queue=contracts.WORK_QUEUE,
                start_to_close_timeout=contracts.ENRICH_TIMEOUT,
                schedule_to_close_timeout=contracts.ENRICH_GIVE_UP,
                heartbeat_timeout=contracts.HEARTBEAT_TIMEOUT,
                retry_policy=_SUGGEST,
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            failed = contracts.FailedEnrichment(text, contracts.failure_text(error.cause))
        await workflow.execute_activity_method(
            EnrichmentActivities.fail,
            failed,
            start_to_close_timeout=contracts.CALL_TIMEOUT,
            retry_policy=_RECORD,
        )
        return contracts.Enrichment.FAILED
