"""Converts job rows into messages."""

from services.task.jobs import payload
from services.task.jobs.queries import JobRow
from taskflow.task.v1.job_pb2 import Job


def job(row: JobRow) -> Job:
    message = Job(
        id=str(row.id),
        workspace_id=str(row.workspace_id),
        task_id=str(row.task_id),
        kind=row.kind,
        state=row.state,
        attempt=row.attempt,
        error=row.error,
        revision=row.revision,
    )
    message.create_time.FromDatetime(row.created_at)
    if row.result is not None:
        message.result.CopyFrom(payload.struct(row.result))
    if row.started_at:
        message.start_time.FromDatetime(row.started_at)
    if row.finished_at:
        message.finish_time.FromDatetime(row.finished_at)
    return message
