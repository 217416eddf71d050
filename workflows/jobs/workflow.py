"""ProcessJob: one attempt of a payload job."""

from dataclasses import replace

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    # Not `from workflows.jobs import contract`: the sandbox would import a second copy, with other enums.
    from workflows.contract import (
        CALL_RETRIES,
        CALL_TIMEOUT,
        HEARTBEAT_TIMEOUT,
        WORK_QUEUE,
        failure_text,
    )
    from workflows.jobs.activities import JobActivities
    from workflows.jobs.contract import (
        JOB_BACKOFF,
        JOB_CALL_TRIES,
        JOB_OUTAGE_PAUSE,
        JOB_TIMEOUT,
        FailedJob,
        JobAttempt,
        JobOutcome,
    )

# Temporal retries only after dead workers and unresponsive services: a handler's failure is a result, not an error.
_PROCESS = replace(CALL_RETRIES, maximum_attempts=JOB_CALL_TRIES)


@workflow.defn
class ProcessJob:
    """Runs the handler until it succeeds or has no tries left. Payload, result and error never enter the history."""

    @workflow.run
    async def run(self, job: JobAttempt) -> JobOutcome:
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
                        await workflow.sleep(JOB_OUTAGE_PAUSE)
                        workflow.continue_as_new(job)
                    return await self._fail(job, failure_text(cause))
                # Every worker that ran the handler died, or the handler can't be stopped.
                outcome, error = JobOutcome.RETRY, "the job was begun several times and never ended"
            if outcome is not JobOutcome.RETRY:
                return outcome
            if job.last_try:
                return await self._fail(job, error)
            await workflow.sleep(JOB_BACKOFF[job.failed_tries])
            job = replace(job, failed_tries=job.failed_tries + 1)

    async def _process(self, job: JobAttempt) -> JobOutcome:
        return await workflow.execute_activity_method(
            JobActivities.process,
            job,
            task_queue=WORK_QUEUE,
            start_to_close_timeout=JOB_TIMEOUT,
            heartbeat_timeout=HEARTBEAT_TIMEOUT,
            retry_policy=_PROCESS,
        )

    async def _fail(self, job: JobAttempt, error: str) -> JobOutcome:
        await workflow.execute_activity_method(
            JobActivities.fail,
            FailedJob(job.job_id, job.attempt, error),
            start_to_close_timeout=CALL_TIMEOUT,
            retry_policy=CALL_RETRIES,
        )
        return JobOutcome.FAILED
