"""What dispatcher, definitions and activities agree on: queues, ids, messages and how long things may take.

Standard library only. Messages hold ids, instants and outcomes: they are kept in workflow histories, where no text of
a task and nobody's address belongs. Fields may be added with a default: runs that started before replay without them.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

# Definitions, and the activities that answer at once. Reminders wait here for nobody.
TASK_QUEUE: Final = "taskflow"
# Activities that wait for a model, a handler or a mail server. They have their own slots, so that fifty slow ones can't
# keep a reminder from being sent on time.
WORK_QUEUE: Final = "taskflow-work"

# A run with more events than this continues as a new one, see `history`. Temporal allows 10,000 signals and 51,200
# events; far below that, a replay after a restart of the worker takes milliseconds.
HISTORY_LIMIT: Final = 500

# Calls of our own services: they give up by themselves after 10 s, see `front_door`. Those of a worker that was killed
# are made again by another one after this time.
CALL_TIMEOUT: Final = timedelta(seconds=15)
# Between attempts. A service that was away is found again within this.
CALL_BACKOFF_FIRST: Final = timedelta(milliseconds=500)
CALL_BACKOFF_MOST: Final = timedelta(seconds=15)

# A worker that is gone is noticed after this time.
HEARTBEAT_TIMEOUT: Final = timedelta(seconds=30)
# Longest text of an error, in characters, as the services store it.
MAX_ERROR: Final = 500
# Largest result of a job, as a serialized Struct, that the services store.
MAX_RESULT_BYTES: Final = 64 * 1024

# One try to make suggestions; the model's own budget (ai_timeout) is shorter.
ENRICH_TIMEOUT: Final = timedelta(minutes=10)
ENRICH_BACKOFF_FIRST: Final = timedelta(seconds=1)
ENRICH_BACKOFF_MOST: Final = timedelta(minutes=1)
# So many tries, of which an endpoint may postpone each by up to an hour (Retry-After), last about four minutes when it
# doesn't. A try that fails at our own services counts, but is never the last one.
ENRICH_TRIES: Final = 10
# A suggestion that is later than this is of no use.
ENRICH_GIVE_UP: Final = timedelta(hours=12)

# Pauses between the tries of a job's handler (seconds): one more try than pauses.
JOB_BACKOFF: Final = (1.0, 5.0, 25.0)
JOB_TRIES: Final = len(JOB_BACKOFF) + 1
# A handler is stopped after the first, its activity is lost after the second.
JOB_HANDLER_SECONDS: Final = 300.0
JOB_TIMEOUT: Final = timedelta(minutes=6)
# When the services stay away, a job looks again in this time.
JOB_OUTAGE_PAUSE: Final = timedelta(minutes=1)

# Temporal's clock and the database's differ: when it's too early, this much later it isn't.
REMINDER_EARLY_PAUSE: Final = timedelta(seconds=1)
# Reminders of an archived project are held back; whether it still is one is looked up this often.
REMINDER_ARCHIVED_PAUSE: Final = timedelta(hours=1)
# Longer timers are cut into such pieces: a deadline in the year 9999 would overflow the server's.
REMINDER_LONGEST_SLEEP: Final = timedelta(days=30)

# One try to render and hand over a mail.
EMAIL_TIMEOUT: Final = timedelta(minutes=2)
EMAIL_BACKOFF_FIRST: Final = timedelta(seconds=5)
EMAIL_BACKOFF_MOST: Final = timedelta(minutes=30)
# A mail server that has refused for this long is down for real; news that old isn't news.
EMAIL_GIVE_UP: Final = timedelta(days=1)


def enrich_id(task_id: str, text_revision: int) -> str:
    return f"enrich/{task_id}/{text_revision}"


def reminder_id(task_id: str) -> str:
    return f"reminder/{task_id}"


def job_id(job: str, attempt: int) -> str:
    """Each attempt has its own run: one that is just ending could otherwise swallow the retry that follows it."""
    return f"job/{job}/{attempt}"


def email_id(user_id: str) -> str:
    return f"email/{user_id}"


def failure_text(cause: BaseException | None) -> str:
    """What Temporal says of a failure, for people; activities put no private text into it."""
    return str(getattr(cause, "message", "") or "it failed for an unknown reason")[:MAX_ERROR]


@dataclass(frozen=True)
class TaskText:
    """One revision of a task's text, which suggestions are made for."""

    task_id: str
    text_revision: int


@dataclass(frozen=True)
class FailedEnrichment:
    text: TaskText
    error: str


class Enrichment(StrEnum):
    """What became of an EnrichTask."""

    STORED = "STORED"
    # There was nothing to suggest.
    NOTHING = "NOTHING"
    # The text has changed: another run suggests for the newer one.
    SUPERSEDED = "SUPERSEDED"
    # The task is gone, or its workspace doesn't use AI.
    UNWANTED = "UNWANTED"
    # Recorded as a failed job.
    FAILED = "FAILED"


@dataclass(frozen=True)
class TaskDeadline:
    """A task that may have a deadline; which one, the Task service is asked."""

    task_id: str


@dataclass(frozen=True)
class Reminder:
    """One reminder: `offset_seconds` before the deadline, or at it with 0."""

    task_id: str
    due_time: datetime
    offset_seconds: int
    remind_time: datetime


class ReminderOutcome(StrEnum):
    SENT = "SENT"
    SKIPPED_PAST = "SKIPPED_PAST"
    MOVED = "MOVED"
    FINISHED = "FINISHED"
    DELETED = "DELETED"
    EARLY = "EARLY"
    ARCHIVED = "ARCHIVED"


@dataclass(frozen=True)
class EmittedReminder:
    outcome: ReminderOutcome
    # The one that follows, None when none is left.
    next: Reminder | None = None


@dataclass(frozen=True)
class JobAttempt:
    """`attempt` is counted by people who retry, `failed_tries` are the handler's within it. After the last try there's
    no other, so that its error is recorded."""

    job_id: str
    attempt: int
    failed_tries: int = 0

    @property
    def last_try(self) -> bool:
        return self.failed_tries + 1 >= JOB_TRIES


@dataclass(frozen=True)
class FailedJob:
    job_id: str
    attempt: int
    error: str


class JobOutcome(StrEnum):
    DONE = "DONE"
    FAILED = "FAILED"
    # This try failed, and there is another.
    RETRY = "RETRY"
    # Finished before, or at another attempt: not ours.
    NOT_OURS = "NOT_OURS"


@dataclass(frozen=True)
class OpenBatch:
    """A batch that the mail server hasn't taken yet. Its id, and so the Message-ID, is the same in all runs."""

    batch_id: str
    next_try_time: datetime
    # No try begins after this instant.
    give_up_time: datetime
    failed_tries: int = 0


@dataclass(frozen=True)
class UserMail:
    """The other fields are what a run that continues as a new one leaves to it.

    `waiting`: there are notifications, or there may be. `window_end`: the end of a window that has begun.
    """

    user_id: str
    window_seconds: float
    waiting: bool = False
    window_end: datetime | None = None
    batch: OpenBatch | None = None


@dataclass(frozen=True)
class MailBatch:
    """`batch_id` stays the same in all tries, and so does the Message-ID."""

    user_id: str
    batch_id: str


@dataclass(frozen=True)
class FinishedMail:
    batch_id: str
    # Why it can't be sent; empty when it was.
    error: str = ""


class MailOutcome(StrEnum):
    SENT = "SENT"
    # Nothing to send: all of it read, retracted or unwanted.
    EMPTY = "EMPTY"
