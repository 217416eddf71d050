"""Events that start ProcessJob."""

from services.platform.config import Settings
from taskflow.event.v1.event_pb2 import JobChanged
from taskflow.task.v1 import job_pb2
from workflows.feature import Start
from workflows.jobs.contract import JobAttempt, job_workflow_id
from workflows.jobs.workflow import ProcessJob


def on_job_changed(facts: JobChanged, _: Settings) -> list[Start]:
    """A pending job is new, or a user has retried it."""
    job = facts.job
    if job.kind != job_pb2.JOB_KIND_PAYLOAD or job.state != job_pb2.JOB_STATE_PENDING:
        return []
    return [
        Start(
            ProcessJob.run,
            JobAttempt(job.id, job.attempt),
            job_workflow_id(job.id, job.attempt),
            restart_succeeded=False,
        )
    ]
