"""The rules of jobs: work that a worker does for a task.

A job's state goes from PENDING to PROCESSING, then to DONE or FAILED. RetryJob makes a failed job PENDING again.
"""

from typing import Any
from uuid import UUID

import structlog
from uuid_utils.compat import uuid7

from services.platform.data.db import Statement, Transaction
from services.platform.events.outbox import add_event
from services.platform.observe import metrics
from services.platform.rpc import directory
from services.platform.rpc.errors import DomainError, not_found
from services.platform.rpc.identity import Caller
from services.task.jobs import events, payload, queries
from services.task.jobs.queries import DONE, FAILED, PENDING, PROCESSING, JobRow
from services.task.suggestions import requests
from services.task.suggestions.ai_rate_limit import AiRateLimit
from services.task.tasks.queries import TaskRow
from taskflow.error.v1 import error_reason_pb2 as reasons
from taskflow.task.v1 import job_pb2
from taskflow.task.v1.job_pb2 import JobState

log = structlog.get_logger()


async def create(tx: Transaction, task: TaskRow, actor_id: UUID | None) -> None:
    """Creates the job that processes the payload of a task."""
    job = await tx.one(
        queries.INSERT,
        id=uuid7(),
        workspace_id=task.workspace_id,
        task_id=task.id,
        task_payload=payload.dump(task.payload),
    )
    assert job is not None
    await add_event(tx, events.created(job, actor_id))


async def get(tx: Transaction, caller: Caller, job_id: UUID) -> JobRow:
    """A job that the caller may see. Raises SESSION_REVOKED, NOT_FOUND, ROLE_TOO_LOW."""
    return await directory.find_allowed(tx, caller, queries.GET, "job", job_id, id=job_id)


async def retry(tx: Transaction, limit: AiRateLimit, caller: Caller, job_id: UUID) -> JobRow:
    """Starts the next attempt of a failed job. For an enrichment this requests suggestions again.

    Raises JOB_STATE_INVALID, TASK_DELETED, the errors of `get`, and for an enrichment those of `requests.request`.
    """
    found = await get(tx, caller, job_id)
    task = await tx.one(queries.LOCK_TASK, task_id=found.task_id)
    job = await _lock(tx, job_id)
    if job.state != FAILED:
        raise DomainError(reasons.ERROR_REASON_JOB_STATE_INVALID, {"state": _word(job.state)})
    if task is None or task.deleted_at:
        raise DomainError(reasons.ERROR_REASON_TASK_DELETED)
    if job.kind == job_pb2.JOB_KIND_ENRICHMENT:
        await requests.request(tx, limit, task.id, caller.user_id)
    return await _change(tx, queries.RETRY, job_id, actor_id=caller.user_id)


async def claim(
    tx: Transaction, job_id: UUID, attempt: int
) -> tuple[JobRow, dict[str, Any] | None]:
    """Changes a job from PENDING to PROCESSING; returns the job and its payload.

    A repeated call for the same attempt returns the same. The payload is None if this attempt can't be claimed.
    """
    job = await _lock(tx, job_id)
    if job.attempt != attempt or job.kind != job_pb2.JOB_KIND_PAYLOAD:
        return job, None
    if job.state == PENDING:
        job = await _change(tx, queries.CLAIM, job_id)
    if job.state != PROCESSING:
        return job, None
    row = await tx.one(queries.GET_PAYLOAD, id=job_id)
    return job, row and row.payload


async def finish(
    tx: Transaction, job_id: UUID, attempt: int, result: dict[str, Any] | None, error: str
) -> JobRow:
    """Records the result of a claimed attempt, or its error if `result` is None. Ignores outdated attempts."""
    job = await _lock(tx, job_id)
    if job.attempt != attempt or job.state != PROCESSING:
        return job
    state = FAILED if result is None else DONE
    job = await _change(
        tx, queries.FINISH, job_id, new_state=state, failure=error, outcome=payload.dump(result)
    )
    assert job.started_at
    assert job.finished_at
    seconds = (job.finished_at - job.started_at).total_seconds()
    metrics.JOB_SECONDS.labels(_word(state)).observe(seconds)
    log.info(
        "job", job_id=str(job.id), task_id=str(job.task_id), state=_word(state), seconds=seconds
    )
    return job


async def _lock(tx: Transaction, job_id: UUID) -> JobRow:
    job = await tx.one(queries.LOCK, id=job_id)
    if job is None:
        raise not_found("job", job_id)
    return job


async def _change(
    tx: Transaction,
    statement: Statement[JobRow],
    job_id: UUID,
    *,
    actor_id: UUID | None = None,
    **values: Any,
) -> JobRow:
    """Changes a locked job and writes the event."""
    job = await tx.one(statement, id=job_id, **values)
    assert job is not None
    await add_event(tx, events.updated(job, actor_id))
    return job


def _word(state: JobState.ValueType) -> str:
    return JobState.Name(state).removeprefix("JOB_STATE_")
