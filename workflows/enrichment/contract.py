"""EnrichTask: workflow ids, types of its messages, timeouts and pauses between retries."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

# Time limit of one try to make suggestions. The model call has a shorter limit of its own (ai_timeout).
ENRICH_TIMEOUT: Final = timedelta(minutes=10)
ENRICH_FIRST_PAUSE: Final = timedelta(seconds=1)
ENRICH_LONGEST_PAUSE: Final = timedelta(minutes=1)
# Tries before a model counts as unavailable: about four minutes, or longer when the endpoint names a later time
# (Retry-After, up to an hour each). Failures of our own services are retried beyond that.
ENRICH_TRIES: Final = 10
# Time limit of all tries together. A suggestion that comes later is of no use.
ENRICH_TOTAL_TIMEOUT: Final = timedelta(hours=12)


def enrich_id(task_id: str, text_revision: int) -> str:
    return f"enrich/{task_id}/{text_revision}"


@dataclass(frozen=True)
class TaskText:
    """The revision of a task's text that the suggestions are for."""

    task_id: str
    text_revision: int


@dataclass(frozen=True)
class FailedEnrichment:
    text: TaskText
    error: str


class EnrichmentOutcome(StrEnum):
    STORED = "STORED"
    # The enricher had nothing to suggest.
    NOTHING = "NOTHING"
    # The text has changed: another run makes suggestions for the newer one.
    SUPERSEDED = "SUPERSEDED"
    # The task is deleted, or its workspace doesn't use AI.
    UNWANTED = "UNWANTED"
    # The suggestions failed, and the service recorded a failed job.
    FAILED = "FAILED"
