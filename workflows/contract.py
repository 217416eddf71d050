"""Constants that all workflows share: task queues, limits, and timeouts and retries of calls.

Each feature's contract.py adds its ids, messages and times. Messages hold ids, instants and outcomes only: Temporal
keeps them in workflow histories, where no task text and no address belongs. New fields need a default, so that runs
that started earlier replay without them.
"""

from datetime import timedelta
from typing import Final

from temporalio.common import RetryPolicy

# Queue of all workflows, and of activities that answer at once, such as those of reminders.
TASK_QUEUE: Final = "taskflow"
# Activities that wait for a model or a job handler. They have their own slots, so that fifty slow activities can't
# delay a reminder.
WORK_QUEUE: Final = "taskflow-work"
# Activities that wait for a mail server. A server that hangs holds a slot for up to an hour, so jobs don't share them.
MAIL_QUEUE: Final = "taskflow-mail"

# A run with more history events than this continues as new, see history_limit.py. Temporal allows 10,000 signals and
# 51,200 events; far below that, a replay after a restart of the worker takes milliseconds.
HISTORY_LIMIT: Final = 500

# Time limit of an activity that makes one call to our own services. The call itself gives up after 10 s
# (service_stubs.py). When the worker was killed, Temporal notices it at this limit.
CALL_TIMEOUT: Final = timedelta(seconds=15)
# Retries such a call until it succeeds or fails with a non-retryable error. A service that has recovered is called
# again within 15 s.
CALL_RETRIES: Final = RetryPolicy(
    initial_interval=timedelta(milliseconds=500), maximum_interval=timedelta(seconds=15)
)

# Temporal gives a slow activity to another worker when its worker sent no heartbeat for this long.
HEARTBEAT_TIMEOUT: Final = timedelta(seconds=30)
# Longest error text (characters) that the services store.
MAX_ERROR: Final = 500


def failure_text(cause: BaseException | None) -> str:
    """The failure's message, for users; activities put no private text into it."""
    return str(getattr(cause, "message", "") or "it failed for an unknown reason")[:MAX_ERROR]
