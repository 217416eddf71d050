"""ProcessJob: one attempt of a payload job."""

from dataclasses import replace

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    # Not `from workflows import contracts`: the sandbox would load that one anew, with other enums.
    import workflows.contracts as contracts
    from workflows.activities import JobActivities
    from workflows.contracts import JobOutcome

# Of what isn't the handler's fault: a worker that is gone, a service that doesn't answer.
_PROCESS = RetryPolicy(
    initial_interval=contracts.CALL_BACKOFF_FIRST,
    maximum_interval=contracts.CALL_BACKOFF_MOST,
    maximum_attempts=5,
)
_RECORD = RetryPolicy(
    initial_interval=contracts.CALL_BACKOFF_FIRST,
    maximum_interval=contracts.CALL_BACKOFF_MOST,
)


@workflow.defn
class ProcessJob:
    """Runs the handler until it succeeds or all tries are used up; payload, result and error never come by here."""

    @workflow.run
    async def run(self, job: contracts.JobAttempt) -> JobOutcome:
        while True:
            try:
                outcome = await self._process(job)
                error = "the handler failed"
            except ActivityError as failure:
                if is_cancelled_exception(failure):
                    raise
                cause = failure.cause
                if isinstance(cause, ApplicationError):
                    if not cause.non_retryable:
                        await workflow.sleep(contracts.JOB_OUTAGE_PAUSE)
                        workflow.continue_as_new(job)
                    return await self._fail(job, contracts.failure_text(cause))
                # Every worker that took it was lost, or the handler can't be stopped.
                outcome, error = JobOutcome.RETRY, "the job was begun several times and never ended"
            if outcome is not JobOutcome.RETRY:
                return outcome
            if job.last_try:
                return await self._fail(job, error)
            await workflow.sleep(contracts.JOB_BACKOFF[job.failed_tries])
            job = replace(job, failed_tries=job.failed_tries + 1)

    async def _process(self, job: contracts.JobAttempt) -> JobOutcome:
        return await workflow.execute_activity_method(
            JobActivities.process,
            job,
            task_queue=contracts.WORK_QUEUE,
            start_to_close_timeout=contracts.JOB_TIMEOUT,
            heartbeat_timeout=contracts.HEARTBEAT_TIMEOUT,
            retry_policy=_PROCESS,
        )

    async def _fail(self, job: contracts.JobAttempt, error: str) -> JobOutcome:
        await workflow.execute_activity_method(
            JobActivities.fail,
            contracts.FailedJob(job.job_id, job.attempt, error),
            start_to_close_timeout=contracts.CALL_TIMEOUT,
            retry_policy=_RECORD,
        )
        return JobOutcome.FAILED
