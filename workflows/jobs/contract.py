"""ProcessJob: workflow ids, types of its messages, timeouts and pauses between retries."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

# Seconds between the tries of a job's handler: there is one more try than pauses.
JOB_BACKOFF: Final = (1.0, 5.0, 25.0)
JOB_TRIES: Final = len(JOB_BACKOFF) + 1
# The activity stops a handler after this long (seconds).
JOB_HANDLER_SECONDS: Final = 300.0
# Temporal gives up on an activity that couldn't stop its handler.
JOB_TIMEOUT: Final = timedelta(minutes=6)
# How often Temporal tries the activity while our own services don't answer or its workers die.
JOB_CALL_TRIES: Final = 5
# After those tries the workflow waits for this long and tries the activity again.
JOB_OUTAGE_PAUSE: Final = timedelta(minutes=1)
# Largest result of a job, as a serialized Struct, that the services store.
MAX_RESULT_BYTES: Final = 64 * 1024


def job_workflow_id(job_id: str, attempt: int) -> str:
    """Each attempt has a workflow id of its own: otherwise a run that is just ending could swallow the user's retry."""
    return f"job/{job_id}/{attempt}"


@dataclass(frozen=True)
class JobAttempt:
    """`attempt` counts the retries that users ask for, `failed_tries` the handler's failures within this attempt."""

    job_id: str
    attempt: int
    failed_tries: int = 0

    @property
    def last_try(self) -> bool:
        """Whether this is the handler's last try in this attempt: if it fails, the job fails."""
        return self.failed_tries + 1 >= JOB_TRIES


@dataclass(frozen=True)
class FailedJob:
    job_id: str
    attempt: int
    error: str


class JobOutcome(StrEnum):
    DONE = "DONE"
    FAILED = "FAILED"
    # The handler failed in this try, and the workflow will try again.
    RETRY = "RETRY"
    # The job has ended, or is at another attempt.
    NOT_OURS = "NOT_OURS"
