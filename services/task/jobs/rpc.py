"""The servicers of JobService and JobInternalService."""

from typing import Any
from uuid import UUID

import grpc.aio

from services.platform.rpc.identity import current_caller
from services.platform.runtime import Loop, Platform
from services.task import pages
from services.task.jobs import logic, messages, payload
from services.task.jobs.models import jobs
from services.task.jobs.queries import JobRow
from services.task.suggestions.ai_rate_limit import AiRateLimit
from taskflow.task.v1 import internal_service_pb2 as internal
from taskflow.task.v1 import internal_service_pb2_grpc, job_service_pb2_grpc
from taskflow.task.v1 import job_service_pb2 as job_service


class JobServicer(job_service_pb2_grpc.JobServiceServicer):
    def __init__(self, platform: Platform) -> None:
        self._db = platform.db
        self._seal = platform.seal
        self._ai_limit = AiRateLimit(platform.settings)

    async def GetJob(
        self, request: job_service.GetJobRequest, context: Any
    ) -> job_service.GetJobResponse:
        async with self._db.read() as tx:
            job = await logic.get(tx, current_caller(), UUID(request.id))
        return job_service.GetJobResponse(job=messages.job(job))

    async def ListJobs(
        self, request: job_service.ListJobsRequest, context: Any
    ) -> job_service.ListJobsResponse:
        async with self._db.read() as tx:
            page, token = await pages.page(
                tx, self._seal, current_caller(), request, jobs, JobRow, messages.job
            )
        return job_service.ListJobsResponse(jobs=page, next_page_token=token)

    async def RetryJob(
        self, request: job_service.RetryJobRequest, context: Any
    ) -> job_service.RetryJobResponse:
        async with self._db.transaction() as tx:
            job = await logic.retry(tx, self._ai_limit, current_caller(), UUID(request.id))
        return job_service.RetryJobResponse(job=messages.job(job))


class JobInternalServicer(internal_service_pb2_grpc.JobInternalServiceServicer):
    def __init__(self, platform: Platform) -> None:
        self._db = platform.db

    async def ClaimJob(
        self, request: internal.ClaimJobRequest, context: Any
    ) -> internal.ClaimJobResponse:
        async with self._db.transaction() as tx:
            job, data = await logic.claim(tx, UUID(request.job_id), request.attempt)
        return internal.ClaimJobResponse(
            claimed=data is not None,
            job=messages.job(job),
            payload=None if data is None else payload.struct(data),
        )

    async def FinishJob(
        self, request: internal.FinishJobRequest, context: Any
    ) -> internal.FinishJobResponse:
        result = payload.parse(request.result, "result") if request.HasField("result") else None
        async with self._db.transaction() as tx:
            job = await logic.finish(
                tx, UUID(request.job_id), request.attempt, result, request.error
            )
        return internal.FinishJobResponse(job=messages.job(job))


def register(server: grpc.aio.Server, platform: Platform) -> list[Loop]:
    job_service_pb2_grpc.add_JobServiceServicer_to_server(JobServicer(platform), server)
    internal_service_pb2_grpc.add_JobInternalServiceServicer_to_server(
        JobInternalServicer(platform), server
    )
    return []
