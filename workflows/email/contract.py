"""EmailBatch: workflow ids, types of its messages, timeouts and pauses between retries."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

# One try to render a mail and hand it over. The timeouts of SMTP add up to 71 minutes (smtp.py), so the try ends by
# itself: while a server may still accept a mail, no other try begins.
EMAIL_TIMEOUT: Final = timedelta(minutes=80)
EMAIL_FIRST_PAUSE: Final = timedelta(seconds=5)
EMAIL_LONGEST_PAUSE: Final = timedelta(minutes=30)
# A batch fails after this long: the mail server is broken, and the notifications are old.
EMAIL_TOTAL_TIMEOUT: Final = timedelta(days=1)


def email_id(user_id: str) -> str:
    return f"email/{user_id}"


@dataclass(frozen=True)
class OpenBatch:
    """A batch that the mail server hasn't accepted yet. Its id, and so the Message-ID, stays the same in all runs."""

    batch_id: str
    next_try_time: datetime
    # After this instant the workflow starts no further try to send the batch.
    give_up_time: datetime
    failed_tries: int = 0


@dataclass(frozen=True)
class UserMail:
    """The fields with a default are the state that a run hands over when it continues as new.

    `waiting`: there may be notifications to mail. `window_end`: the end of the batching window that has begun.
    """

    user_id: str
    window_seconds: float
    waiting: bool = False
    window_end: datetime | None = None
    batch: OpenBatch | None = None


@dataclass(frozen=True)
class MailBatch:
    user_id: str
    batch_id: str


@dataclass(frozen=True)
class FinishedBatch:
    batch_id: str
    # Why the batch can't be sent; empty when it was sent.
    error: str = ""


class MailOutcome(StrEnum):
    SENT = "SENT"
    # No mail was sent, because every notification of the batch is read, retracted or unwanted.
    EMPTY = "EMPTY"
