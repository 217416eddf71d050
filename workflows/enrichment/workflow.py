"""EnrichTask: suggestions for one revision of a task's text."""

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    # Not `from workflows.enrichment import contract`: the sandbox would import a second copy, with other enums.
    from workflows.contract import (
        CALL_RETRIES,
        CALL_TIMEOUT,
        HEARTBEAT_TIMEOUT,
        WORK_QUEUE,
        failure_text,
    )
    from workflows.enrichment.activities import EnrichmentActivities
    from workflows.enrichment.contract import (
        ENRICH_FIRST_PAUSE,
        ENRICH_LONGEST_PAUSE,
        ENRICH_TIMEOUT,
        ENRICH_TOTAL_TIMEOUT,
        EnrichmentOutcome,
        FailedEnrichment,
        TaskText,
    )

# The list of final errors isn't here: the activity itself marks errors that Temporal must not retry.
_SUGGEST = RetryPolicy(initial_interval=ENRICH_FIRST_PAUSE, maximum_interval=ENRICH_LONGEST_PAUSE)


@workflow.defn
class EnrichTask:
    """Asks for suggestions and stores them. A failure is recorded as a failed job, and the task stays as it is.

    Runs start with a delay. When a text is edited within it, the runs of the earlier texts end as superseded.
    """

    @workflow.run
    async def run(self, text: TaskText) -> EnrichmentOutcome:
        try:
            return await workflow.execute_activity_method(
                EnrichmentActivities.suggest,
                text,
                task_queue=WORK_QUEUE,
                start_to_close_timeout=ENRICH_TIMEOUT,
                schedule_to_close_timeout=ENRICH_TOTAL_TIMEOUT,
                heartbeat_timeout=HEARTBEAT_TIMEOUT,
                retry_policy=_SUGGEST,
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            failed = FailedEnrichment(text, failure_text(error.cause))
        await workflow.execute_activity_method(
            EnrichmentActivities.fail,
            failed,
            start_to_close_timeout=CALL_TIMEOUT,
            retry_policy=CALL_RETRIES,
        )
        return EnrichmentOutcome.FAILED
