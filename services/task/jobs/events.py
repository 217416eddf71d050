"""Events about jobs."""

from uuid import UUID

from services.task.jobs import messages
from services.task.jobs.queries import JobRow
from taskflow.event.v1.event_pb2 import Event, JobChanged


def created(job: JobRow, actor_id: UUID | None) -> Event:
    return _event("job.created", job, actor_id)


def updated(job: JobRow, actor_id: UUID | None = None) -> Event:
    return _event("job.updated", job, actor_id)


def _event(name: str, job: JobRow, actor_id: UUID | None) -> Event:
    return Event(
        type=name,
        workspace_id=str(job.workspace_id),
        aggregate_id=str(job.id),
        revision=job.revision,
        actor_id=str(actor_id or ""),
        job_changed=JobChanged(job=messages.job(job)),
    )
