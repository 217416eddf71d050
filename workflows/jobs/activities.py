"""Activities of ProcessJob. Payload, result and error pass between handler and service, and never through Temporal."""

import asyncio
import time
from collections.abc import Mapping

import grpc
import grpc.aio
import structlog
from google.protobuf import json_format
from temporalio import activity

from taskflow.task.v1 import internal_service_pb2 as task_rpc
from taskflow.task.v1.internal_service_pb2_grpc import JobInternalServiceStub
from workflows.contract import MAX_ERROR
from workflows.feature import Activities
from workflows.jobs.contract import JOB_HANDLER_SECONDS, FailedJob, JobAttempt, JobOutcome
from workflows.jobs.handlers import Handler, JobContext, JobError, PermanentJobError, run_handler

log = structlog.get_logger()


class JobActivities:
    """`handlers` by the `type` of the payloads that they process."""

    def __init__(self, stub: JobInternalServiceStub, handlers: Mapping[str, Handler]) -> None:
        self._stub = stub
        self._handlers = handlers

    def by_queue(self) -> Activities:
        return Activities(quick=[self.fail], slow=[self.process])

    @activity.defn(name="job.process")
    async def process(self, run: JobAttempt) -> JobOutcome:
        """One try: claims the job, runs its handler and records the result. Raises only errors of our own services."""
        try:
            claim = await self._stub.ClaimJob(
                task_rpc.ClaimJobRequest(job_id=run.job_id, attempt=run.attempt)
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return JobOutcome.NOT_OURS
            raise
        if not claim.claimed:
            return JobOutcome.NOT_OURS
        started = time.perf_counter()
        finish = await self._handle(claim, run)
        seconds = time.perf_counter() - started
        outcome = JobOutcome.RETRY if finish is None else await self._finish(finish)
        log.info(
            "job",
            job_id=run.job_id,
            task_id=claim.job.task_id,
            attempt=run.attempt,
            failed_tries=run.failed_tries,
            state=outcome.value,
            duration=round(seconds, 4),
        )
        return outcome

    async def _handle(
        self, claim: task_rpc.ClaimJobResponse, run: JobAttempt
    ) -> task_rpc.FinishJobRequest | None:
        """The request that records the handler's result or error; None when another try follows."""
        job = JobContext(run.job_id, claim.job.task_id, claim.job.workspace_id, run.attempt)
        finish = task_rpc.FinishJobRequest(job_id=run.job_id, attempt=run.attempt)
        payload = json_format.MessageToDict(claim.payload)
        limit = asyncio.timeout(JOB_HANDLER_SECONDS)
        try:
            async with limit:
                result = await run_handler(self._handlers, payload, job)
        except Exception as error:
            # Only the type is logged: the text could quote the payload, or a secret.
            log.warning("job handler failed", job_id=run.job_id, error=type(error).__name__)
            if not isinstance(error, PermanentJobError) and not run.last_try:
                return None
            finish.error = (
                f"the handler took longer than {JOB_HANDLER_SECONDS:g} seconds"
                if limit.expired()
                else _public_text(error)
            )
        else:
            finish.result.CopyFrom(result)
        return finish

    async def _finish(self, finish: task_rpc.FinishJobRequest) -> JobOutcome:
        try:
            await self._stub.FinishJob(finish)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.INVALID_ARGUMENT or finish.error:
                raise
            finish.error = "the handler's result can't be stored"
            await self._stub.FinishJob(finish)
        return JobOutcome.FAILED if finish.error else JobOutcome.DONE

    @activity.defn(name="job.fail")
    async def fail(self, failed: FailedJob) -> None:
        """Records a failure that `process` couldn't record itself."""
        await self._stub.FinishJob(
            task_rpc.FinishJobRequest(
                job_id=failed.job_id, attempt=failed.attempt, error=failed.error
            )
        )


def _public_text(error: Exception) -> str:
    """A handler's failure as users see it: only the text of a JobError is meant for them."""
    if isinstance(error, JobError):
        text = str(error).replace("\0", "") or type(error).__name__
    else:
        text = f"the handler failed with {type(error).__name__}"
    return text[:MAX_ERROR]
