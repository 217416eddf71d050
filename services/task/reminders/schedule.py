"""Which reminders a deadline has, and when. Nothing here reads the database."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import NamedTuple

from services.platform.config import Settings
from services.task.tasks import due
from services.task.tasks.due import Due

_DAY = 86_400
# The reminders of a day: days after it, and the rule as text. A reminder's offset counts the days until the last one.
_MORNINGS = ((-1, "on the morning before the day"), (0, "on the day"), (1, "on the morning after"))


@dataclass(frozen=True, slots=True)
class Rules:
    # Seconds before a deadline with a time.
    offsets: Sequence[int]
    # The local time of the reminders of a day.
    morning: time

    def __str__(self) -> str:
        return f"{','.join(map(str, self.offsets))} {self.morning}"


def rules(settings: Settings) -> Rules:
    return Rules(settings.reminder_offsets, settings.reminder_morning)


class Slot(NamedTuple):
    """A reminder of a deadline: its offset (seconds), its time, and how that was computed."""

    offset: int
    at: datetime
    rule: str


def slots(deadline: Due, due_at: datetime, zone: str, rules: Rules) -> list[Slot]:
    """The reminders of a deadline, earliest first. `due_at` is its instant in `zone`.

    The offset of a local time is in seconds before it. The offset of a day is in seconds, too, but counts whole days
    before the morning after it, when the task is overdue. So 0 means overdue for both.
    """
    if deadline.day is None:
        return [
            Slot(offset, _before(due_at, offset), _rule(offset))
            for offset in sorted(set(rules.offsets), reverse=True)
        ]
    return [
        Slot(
            (1 - days) * _DAY,
            due.clock_time(deadline.day, days, rules.morning, zone),
            f"{rule}, at {rules.morning:%H:%M}",
        )
        for days, rule in _MORNINGS
    ]


def offset_of_day(earlier: int) -> int | None:
    """The offset of a day's reminder that an earlier version sent `earlier` seconds before the end of the day."""
    if earlier == 0:
        return 0
    return next((days * _DAY for days in (1, 2) if earlier < days * _DAY), None)


def _before(due_at: datetime, offset: int) -> datetime:
    try:
        return due_at - timedelta(seconds=offset)
    except OverflowError:
        # The time would be before the year 1.
        return datetime.min.replace(tzinfo=UTC)


def _rule(offset: int) -> str:
    for seconds, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if offset and offset % seconds == 0:
            return f"{offset // seconds} {unit} before the deadline"
    return "at the deadline"
