"""Deadlines: users set a day, or a local time in a zone. This module computes the instant of the deadline."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from math import ceil, floor
from zoneinfo import ZoneInfo

from services.platform.rpc import zones
from services.platform.rpc.errors import invalid
from services.task.tasks.queries import TaskRow
from taskflow.task.v1 import task_pb2

_SECOND = timedelta(seconds=1)
# The last whole second that a google.protobuf.Timestamp can hold.
_LAST = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
_FIRST = datetime.min.replace(tzinfo=UTC)
# Replaces a zone that the zone database doesn't have.
_FALLBACK_ZONE = "UTC"


@dataclass(frozen=True, slots=True)
class Due:
    """A deadline as the user sets it: a day, or a local time with its zone, or none."""

    day: date | None = None
    local: datetime | None = None
    zone: str | None = None

    def instant(self, zone: str) -> datetime | None:
        """The instant of the deadline. A day ends in `zone`; a local time has its own zone."""
        if self.day is not None:
            return end_of_day(self.day, zone)
        if self.local is not None and self.zone is not None:
            return instant(self.local, self.zone)
        return None

    @property
    def said(self) -> str | None:
        """The deadline as text. It stays the same while its instant moves: with the day's zone, or with zone rules."""
        if self.day is not None:
            return self.day.isoformat()
        if self.local is not None:
            return f"{self.local.isoformat(timespec='microseconds')} {self.zone}"
        return None


NO_DUE = Due()


def parse(due: task_pb2.Due) -> Due:
    """Reads the deadline in a request.

    Raises INVALID_REQUEST for a day that doesn't exist, an unknown zone, or a year outside 1–9999.
    """
    kind: str = due.WhichOneof("kind")  # type: ignore[assignment]
    field = f"task.due.{kind}"
    try:
        if kind == "date":
            return Due(day=date(due.date.year, due.date.month, due.date.day))
        at = due.date_time
        day = date(at.year, at.month, at.day)
    except ValueError:
        raise invalid(field, "there is no such day") from None
    if not zones.is_zone(at.time_zone.id):
        raise invalid(f"{field}.time_zone.id", "is not an IANA time zone")
    # Cuts nanoseconds off, because Postgres stores microseconds.
    clock = time(at.hours, at.minutes, at.seconds, at.nanos // 1000)
    parsed = Due(local=datetime.combine(day, clock), zone=at.time_zone.id)
    try:
        parsed.instant(_FALLBACK_ZONE)
    except OverflowError:
        raise invalid(field, "lies outside the years 1 to 9999, UTC") from None
    return parsed


def end_of_day(day: date, zone: str) -> datetime:
    """The last whole second of `day` in `zone`."""
    try:
        midnight = datetime.combine(day + timedelta(days=1), time())
        # If clocks show midnight twice, the day ends at the second midnight.
        return min(instant(midnight, zone, second=True) - _SECOND, _LAST)
    except OverflowError:
        return _LAST


def clock_time(day: date, days: int, clock: time, zone: str) -> datetime:
    """The instant at which clocks in `zone` show `clock`, `days` days after `day`. Stays within the years 1 to 9999."""
    try:
        return instant(datetime.combine(day + timedelta(days=days), clock), zone)
    except OverflowError:
        return _FIRST if day.year == 1 else _LAST


def instant(local: datetime, zone: str, *, second: bool = False) -> datetime:
    """The instant at which clocks in `zone` show `local` (naive).

    If clocks skip the local time: the first instant after the gap. If clocks show the local time twice: the first
    instant, or with `second` the second one. Raises OverflowError for an instant outside the years 1 to 9999.
    """
    info = _load(zone)
    # `fold` selects the offset before or after a transition of the clocks. Far from transitions both are the same.
    before, after = (_offset(info, local, fold) for fold in (0, 1))
    if before < after:
        return _transition(info, local - after, local - before).replace(tzinfo=UTC)
    return (local - (after if second else before)).replace(tzinfo=UTC)


def _load(name: str) -> ZoneInfo:
    return zones.load(name if zones.is_zone(name) else _FALLBACK_ZONE)


def _offset(info: ZoneInfo, local: datetime, fold: int) -> timedelta:
    return info.utcoffset(local.replace(fold=fold)) or timedelta(0)


def _transition(info: ZoneInfo, low: datetime, high: datetime) -> datetime:
    """The first second (naive UTC) with the offset that holds at `high` but not at `low`. A binary search."""
    start = datetime(low.year, low.month, low.day)
    before, after = floor((low - start) / _SECOND), ceil((high - start) / _SECOND)

    def offset(second: int) -> timedelta | None:
        at = (start + second * _SECOND).replace(tzinfo=UTC)
        return at.astimezone(info).utcoffset()

    new = offset(after)
    while after - before > 1:
        middle = (before + after) // 2
        if offset(middle) == new:
            after = middle
        else:
            before = middle
    return start + after * _SECOND


# Functions on the row of a task.


def of(row: TaskRow) -> Due:
    """The deadline as the user set it, without the zone in which a day ends."""
    return Due(row.due_date, row.due_local, row.due_zone if row.due_local else None)


def with_instant(row: TaskRow, day_zone: str | None) -> TaskRow:
    """The row with the instant of its deadline computed. `day_zone` is the zone in which a day ends."""
    due = of(row)
    zone = due.zone or day_zone or _FALLBACK_ZONE
    return row._replace(due_at=due.instant(zone), due_zone=None if due == NO_DUE else zone)
