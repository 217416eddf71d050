"""MoveDueTimes: ids, messages and times."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

# Calls of the Task service in one step, of some 50 tasks each, and the pause after a step. The reminder of each moved
# task is planned again, and Temporal's development server accepts about 200 of these a second, from everybody.
CALLS_PER_STEP: Final = 4
STEP_PAUSE: Final = timedelta(seconds=2)


def due_times_id(user_id: str) -> str:
    return f"due-times/{user_id}"


@dataclass(frozen=True)
class UserZone:
    """A user whose time zone changed. The Task service knows which one it is now."""

    user_id: str
