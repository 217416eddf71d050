"""Jobs: work that a worker does for a task, PENDING → PROCESSING → DONE or FAILED, and again after a retry.

A job of kind ENRICHMENT stands for suggestions that could not be made. It begins as FAILED; a retry asks for
suggestions on the text as it is then, and their arrival makes it DONE.
"""

from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import (
    BigInteger,
    SmallInteger,
    Text,
    Uuid,
    bindparam,
    func,
    null,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert
from uuid_utils.compat import uuid7

from services.platform import directory, telemetry
from services.platform.db import Row, Statement, Transaction
from services.platform.errors import DomainError, not_found
from services.platform.identity import Caller
from services.platform.outbox import add_event
from services.task import payload
from services.task.allowance import Allowance, TaskText
from services.task.models import jobs, projects, tasks
from taskflow.error.v1 import error_reason_pb2 as reasons
from taskflow.event.v1.event_pb2 import Event, JobChanged, SuggestionsRequested
from taskflow.task.v1 import job_pb2
from taskflow.task.v1.job_pb2 import Job, JobState

log = structlog.get_logger()

_PENDING = job_pb2.JOB_STATE_PENDING
_PROCESSING = job_pb2.JOB_STATE_PROCESSING
_DONE = job_pb2.JOB_STATE_DONE
_FAILED = job_pb2.JOB_STATE_FAILED
_ENRICHMENT = job_pb2.JOB_KIND_ENRICHMENT

_id = bindparam("id", type_=Uuid)
_task_id = bindparam("task_id", type_=Uuid)
_workspace_id = bindparam("workspace_id", type_=Uuid)
_error = bindparam("failure", type_=Text)
_base = bindparam("base", type_=BigInteger)

_INSERT = Statement(
    insert(jobs)
    .values(
        {
            jobs.c.id: _id,
            jobs.c.workspace_id: _workspace_id,
            jobs.c.task_id: _task_id,
            jobs.c.kind: job_pb2.JOB_KIND_PAYLOAD,
            jobs.c.state: _PENDING,
            jobs.c.payload: bindparam("task_payload", type_=JSONB),
            jobs.c.created_at: func.now(),
        }
    )
    .returning(jobs)
)
_GET = Statement(
    select(jobs, directory.members.c.role)
    .select_from(jobs.join(directory.members, directory.membership(jobs.c.workspace_id)))
    .where(jobs.c.id == _id)
)
_LOCK = Statement(select(jobs).where(jobs.c.id == _id).with_for_update())
_CLAIM = Statement(
    update(jobs)
    .where(jobs.c.id == _id)
    .values(
        {
            jobs.c.state: _PROCESSING,
            jobs.c.started_at: func.now(),
            jobs.c.revision: jobs.c.revision + 1,
        }
    )
    .returning(jobs)
)
_FINISH = Statement(
    update(jobs)
    .where(jobs.c.id == _id)
    .values(
        {
            jobs.c.state: bindparam("new_state", type_=SmallInteger),
            jobs.c.error: _error,
            jobs.c.result: bindparam("outcome", type_=JSONB),
            jobs.c.finished_at: func.now(),
            jobs.c.revision: jobs.c.revision + 1,
        }
    )
    .returning(jobs)
)
_RETRY = Statement(
    update(jobs)
    .where(jobs.c.id == _id)
    .values(
        {
            jobs.c.state: _PENDING,
            jobs.c.attempt: jobs.c.attempt + 1,
            jobs.c.started_at: null(),
            jobs.c.finished_at: null(),
            jobs.c.revision: jobs.c.revision + 1,
        }
    )
    .returning(jobs)
)
_LOCK_TASK = Statement(
    select(
        tasks.c.id,
        tasks.c.workspace_id,
        tasks.c.revision,
        tasks.c.text_revision,
        tasks.c.deleted_at,
        projects.c.archived_at,
        directory.workspaces.c.ai_enabled,
    )
    .select_from(
        tasks.join(projects, projects.c.id == tasks.c.project_id).join(
            directory.workspaces, directory.workspaces.c.id == tasks.c.workspace_id
        )
    )
    .where(tasks.c.id == _task_id)
    .with_for_update(of=tasks, key_share=True)
)
_INSERT_FAILED_ENRICHMENT = Statement(
    insert(jobs)
    .values(
        {
            jobs.c.id: _id,
            jobs.c.workspace_id: _workspace_id,
            jobs.c.task_id: _task_id,
            jobs.c.kind: _ENRICHMENT,
            jobs.c.state: _FAILED,
            jobs.c.error: _error,
            jobs.c.base_text_revision: _base,
            jobs.c.created_at: func.now(),
            jobs.c.finished_at: func.now(),
        }
    )
    .on_conflict_do_nothing(
        index_elements=["task_id", "base_text_revision"],
        index_where=jobs.c.base_text_revision.is_not(None),
    )
    .returning(jobs)
)
_of_enrichment = (
    update(jobs)
    .where(jobs.c.task_id == _task_id, jobs.c.kind == _ENRICHMENT)
    .values({jobs.c.finished_at: func.now(), jobs.c.revision: jobs.c.revision + 1})
    .returning(jobs)
)
_FAIL_ENRICHMENT = Statement(
    _of_enrichment.where(jobs.c.state == _PENDING).values(
        {jobs.c.state: _FAILED, jobs.c.error: _error}
    )
)
_SETTLE_ENRICHMENT = Statement(
    _of_enrichment.where(jobs.c.state != _DONE).values({jobs.c.state: _DONE, jobs.c.error: ""})
)


def message(row: Row) -> Job:
    job = Job(
        id=str(row.id),
        workspace_id=str(row.workspace_id),
        task_id=str(row.task_id),
        kind=row.kind,
        state=row.state,
        attempt=row.attempt,
        error=row.error,
        revision=row.revision,
    )
    job.create_time.FromDatetime(row.created_at)
    if row.result is not None:
        job.result.CopyFrom(payload.struct(row.result))
    if row.started_at:
        job.start_time.FromDatetime(row.started_at)
    if row.finished_at:
        job.finish_time.FromDatetime(row.finished_at)
    return job


async def create(tx: Transaction, task: Row, actor_id: UUID | None) -> None:
    """Makes the job that processes the payload of a task."""
    row = await tx.one(
        _INSERT,
        id=uuid7(),
        workspace_id=task.workspace_id,
        task_id=task.id,
        task_payload=payload.dump(task.payload),
    )
    await _announce(tx, row, "created", str(actor_id or ""))


async def get(tx: Transaction, caller: Caller, job_id: UUID) -> Row:
    row = await tx.one(_GET, id=job_id, caller_id=caller.user_id, session_id=caller.session_id)
    if row is None:
        raise await directory.absence(tx, caller, "job", job_id)
    directory.check_role(caller, row.role)
    return row


async def retry(tx: Transaction, allowance: Allowance, caller: Caller, job_id: UUID) -> Row:
    """Starts the next attempt of a failed job. For an enrichment that asks for suggestions anew."""
    found = await get(tx, caller, job_id)
    # A task is locked before its jobs.
    task = await tx.one(_LOCK_TASK, task_id=found.task_id)
    job = await tx.one(_LOCK, id=job_id)
    if task is None or job is None:
        raise not_found("job", job_id)
    if job.state != _FAILED:
        state = JobState.Name(job.state).removeprefix("JOB_STATE_")
        raise DomainError(reasons.ERROR_REASON_JOB_STATE_INVALID, {"state": state})
    if task.deleted_at:
        raise DomainError(reasons.ERROR_REASON_TASK_DELETED)
    if job.kind == _ENRICHMENT:
        await request_suggestions(tx, allowance, task, caller.user_id)
    row = await tx.one(_RETRY, id=job_id)
    await _announce(tx, row, "updated", str(caller.user_id))
    return row


async def claim(tx: Transaction, job_id: UUID, attempt: int) -> tuple[bool, Row]:
    """Takes a job from PENDING to PROCESSING; answers the same when this attempt has it already."""
    job = await _locked(tx, job_id)
    if job.attempt != attempt or job.kind != job_pb2.JOB_KIND_PAYLOAD:
        return False, job
    if job.state == _PENDING:
        job = await tx.one(_CLAIM, id=job_id)
        await _announce(tx, job, "updated")
    return job.state == _PROCESSING, job


async def finish(
    tx: Transaction, job_id: UUID, attempt: int, result: dict[str, Any] | None, error: str
) -> Row:
    """Records how a claimed attempt ended: with a result, or without one and with an error."""
    job = await _locked(tx, job_id)
    if job.attempt != attempt or job.state != _PROCESSING:
        return job
    state = _FAILED if result is None else _DONE
    row: Row = await tx.one(
        _FINISH,
        id=job_id,
        new_state=state,
        failure=error,
        outcome=payload.dump(result),
    )
    await _announce(tx, row, "updated")
    seconds = (row.finished_at - row.started_at).total_seconds()
    name = JobState.Name(state).removeprefix("JOB_STATE_")
    telemetry.JOB_SECONDS.labels(name).observe(seconds)
    log.info("job", job_id=str(row.id), task_id=str(row.task_id), state=name, seconds=seconds)
    return row


async def fail_enrichment(tx: Transaction, task_id: UUID, base: int, error: str) -> None:
    """Records that no suggestions could be made for the text revision `base`.

    Nothing when the task has moved on: nobody waits for these suggestions any more.
    """
    task = await tx.one(_LOCK_TASK, task_id=task_id)
    if task is None or task.deleted_at or task.text_revision != base:
        return
    await _give_up(tx, task_id, error)
    row = await tx.one(
        _INSERT_FAILED_ENRICHMENT,
        id=uuid7(),
        workspace_id=task.workspace_id,
        task_id=task_id,
        base=base,
        failure=error,
    )
    if row:
        await _announce(tx, row, "created")


async def abandon_enrichment(tx: Transaction, task_id: UUID) -> None:
    """Suggestions that were asked for again aren't wanted any more, as of a task that is archived by now."""
    if await tx.one(_LOCK_TASK, task_id=task_id):
        await _give_up(tx, task_id, "suggestions aren't wanted any more")


async def _give_up(tx: Transaction, task_id: UUID, error: str) -> None:
    """Of a locked task."""
    for row in await tx.all(_FAIL_ENRICHMENT, task_id=task_id, failure=error):
        await _announce(tx, row, "updated")


async def settle_enrichment(tx: Transaction, task_id: UUID) -> None:
    """Suggestions have come: earlier failures to make some, for this text or one before it, are over."""
    for row in await tx.all(_SETTLE_ENRICHMENT, task_id=task_id):
        await _announce(tx, row, "updated")


async def request_suggestions(
    tx: Transaction, allowance: Allowance, task: Row, actor_id: UUID
) -> None:
    """Has a worker make suggestions for a locked task, on its text as it is now.

    Raises TASK_DELETED, PROJECT_ARCHIVED, AI_DISABLED, AI_LIMIT_REACHED.
    """
    if task.deleted_at:
        raise DomainError(reasons.ERROR_REASON_TASK_DELETED)
    if task.archived_at:
        raise DomainError(reasons.ERROR_REASON_PROJECT_ARCHIVED)
    if not task.ai_enabled:
        raise DomainError(reasons.ERROR_REASON_AI_DISABLED)
    await add_event(
        tx,
        Event(
            type="task.suggestions_requested",
            workspace_id=str(task.workspace_id),
            aggregate_id=str(task.id),
            revision=task.revision,
            actor_id=str(actor_id),
            task_suggestions_requested=SuggestionsRequested(
                task_id=str(task.id), text_revision=task.text_revision
            ),
        ),
    )
    text = TaskText(task.id, task.text_revision)
    await allowance.spend(tx, actor_id, task.workspace_id, text)


async def _locked(tx: Transaction, job_id: UUID) -> Row:
    job = await tx.one(_LOCK, id=job_id)
    if job is None:
        raise not_found("job", job_id)
    return job


async def _announce(tx: Transaction, row: Row, what: str, actor_id: str = "") -> None:
    await add_event(
        tx,
        Event(
            type=f"job.{what}",
            workspace_id=str(row.workspace_id),
            aggregate_id=str(row.id),
            revision=row.revision,
            actor_id=actor_id,
            job_changed=JobChanged(job=message(row)),
        ),
    )
