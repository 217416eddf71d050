"""Statements on jobs. A transaction locks a task before the task's jobs."""

from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Integer,
    SmallInteger,
    Text,
    Uuid,
    bindparam,
    func,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert

from services.platform.data.db import Statement
from services.platform.rpc import directory
from services.task.jobs.models import jobs
from services.task.tasks.models import tasks
from taskflow.task.v1 import job_pb2
from taskflow.task.v1.job_pb2 import JobKind, JobState

PENDING = job_pb2.JOB_STATE_PENDING
PROCESSING = job_pb2.JOB_STATE_PROCESSING
DONE = job_pb2.JOB_STATE_DONE
FAILED = job_pb2.JOB_STATE_FAILED


class JobRow(NamedTuple):
    """A row of a job without its payload, which only ClaimJob returns."""

    id: UUID
    workspace_id: UUID
    task_id: UUID
    kind: JobKind.ValueType
    state: JobState.ValueType
    attempt: int
    error: str
    result: dict[str, Any] | None
    revision: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class JobWithRole(JobRow):
    """A row of a job with the caller's `role` in its workspace."""

    role: int


class Payload(NamedTuple):
    payload: dict[str, Any]


class JobTask(NamedTuple):
    """A job's task, locked."""

    id: UUID
    workspace_id: UUID
    text_revision: int
    deleted_at: datetime | None


class UnfinishedEnrichment(NamedTuple):
    id: UUID
    task_id: UUID
    workspace_id: UUID
    revision: int
    text_revision: int


_COLUMNS = [jobs.c[name] for name in JobRow._fields]
_id = bindparam("id", type_=Uuid)
_task_id = bindparam("task_id", type_=Uuid)
_workspace_id = bindparam("workspace_id", type_=Uuid)
_failure = bindparam("failure", type_=Text)
_next_revision = jobs.c.revision + 1

INSERT = Statement(
    insert(jobs)
    .values(
        {
            jobs.c.id: _id,
            jobs.c.workspace_id: _workspace_id,
            jobs.c.task_id: _task_id,
            jobs.c.kind: job_pb2.JOB_KIND_PAYLOAD,
            jobs.c.state: PENDING,
            jobs.c.payload: bindparam("task_payload", type_=JSONB),
            jobs.c.created_at: func.now(),
        }
    )
    .returning(*_COLUMNS),
    row=JobRow,
)
GET = Statement(
    select(*_COLUMNS, directory.members.c.role)
    .select_from(jobs.join(directory.members, directory.membership(jobs.c.workspace_id)))
    .where(jobs.c.id == _id),
    row=JobWithRole,
)
LOCK = Statement(select(*_COLUMNS).where(jobs.c.id == _id).with_for_update(), row=JobRow)
GET_PAYLOAD = Statement(select(jobs.c.payload).where(jobs.c.id == _id), row=Payload)
CLAIM = Statement(
    update(jobs)
    .where(jobs.c.id == _id)
    .values(
        {
            jobs.c.state: PROCESSING,
            jobs.c.started_at: func.now(),
            jobs.c.revision: _next_revision,
        }
    )
    .returning(*_COLUMNS),
    row=JobRow,
)
FINISH = Statement(
    update(jobs)
    .where(jobs.c.id == _id)
    .values(
        {
            jobs.c.state: bindparam("new_state", type_=SmallInteger),
            jobs.c.error: _failure,
            jobs.c.result: bindparam("outcome", type_=JSONB),
            jobs.c.finished_at: func.now(),
            jobs.c.revision: _next_revision,
        }
    )
    .returning(*_COLUMNS),
    row=JobRow,
)
RETRY = Statement(
    update(jobs)
    .where(jobs.c.id == _id)
    .values(
        {
            jobs.c.state: PENDING,
            jobs.c.attempt: jobs.c.attempt + 1,
            jobs.c.started_at: null(),
            jobs.c.finished_at: null(),
            jobs.c.revision: _next_revision,
        }
    )
    .returning(*_COLUMNS),
    row=JobRow,
)
LOCK_TASK = Statement(
    select(tasks.c.id, tasks.c.workspace_id, tasks.c.text_revision, tasks.c.deleted_at)
    .where(tasks.c.id == _task_id)
    .with_for_update(key_share=True),
    row=JobTask,
)

# Statements on jobs of kind ENRICHMENT.
INSERT_FAILED_ENRICHMENT = Statement(
    insert(jobs)
    .values(
        {
            jobs.c.id: _id,
            jobs.c.workspace_id: _workspace_id,
            jobs.c.task_id: _task_id,
            jobs.c.kind: job_pb2.JOB_KIND_ENRICHMENT,
            jobs.c.state: FAILED,
            jobs.c.error: _failure,
            jobs.c.base_text_revision: bindparam("base", type_=BigInteger),
            jobs.c.created_at: func.now(),
            jobs.c.finished_at: func.now(),
        }
    )
    .on_conflict_do_nothing(
        index_elements=["task_id", "base_text_revision"],
        index_where=jobs.c.base_text_revision.is_not(None),
    )
    .returning(*_COLUMNS),
    row=JobRow,
)
_finish_enrichments = (
    update(jobs)
    .where(jobs.c.task_id == _task_id, jobs.c.kind == job_pb2.JOB_KIND_ENRICHMENT)
    .values({jobs.c.finished_at: func.now(), jobs.c.revision: _next_revision})
    .returning(*_COLUMNS)
)
FAIL_PENDING_ENRICHMENTS = Statement(
    _finish_enrichments.where(jobs.c.state == PENDING).values(
        {jobs.c.state: FAILED, jobs.c.error: _failure}
    ),
    row=JobRow,
)
COMPLETE_ENRICHMENTS = Statement(
    _finish_enrichments.where(jobs.c.state != DONE).values({jobs.c.state: DONE, jobs.c.error: ""}),
    row=JobRow,
)

# Unfinished jobs of all workspaces, in batches by id.
_after = bindparam("after", type_=Uuid)
_limit = bindparam("limit", type_=Integer)
_unfinished = or_(jobs.c.state == PENDING, jobs.c.state == PROCESSING)
UNFINISHED_PAYLOAD_JOBS = Statement(
    select(*_COLUMNS)
    .where(jobs.c.id > _after, _unfinished, jobs.c.kind == job_pb2.JOB_KIND_PAYLOAD)
    .order_by(jobs.c.id)
    .limit(_limit),
    row=JobRow,
)
UNFINISHED_ENRICHMENTS = Statement(
    select(jobs.c.id, jobs.c.task_id, jobs.c.workspace_id, tasks.c.revision, tasks.c.text_revision)
    .join(tasks, tasks.c.id == jobs.c.task_id)
    .where(jobs.c.id > _after, _unfinished, jobs.c.kind == job_pb2.JOB_KIND_ENRICHMENT)
    .order_by(jobs.c.id)
    .limit(_limit),
    row=UnfinishedEnrichment,
)
