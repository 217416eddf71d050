"""Deadlines: what people say (a day, or a local time somewhere) and the instant that it means."""

import zoneinfo
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from math import ceil, floor

from services.platform.errors import invalid
from services.platform.zones import is_zone
from taskflow.task.v1 import task_pb2

_SECOND = timedelta(seconds=1)
# The last instant that a google.protobuf.Timestamp can hold, in whole seconds.
_LAST = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
# For people whose zone this machine doesn't know.
_FALLBACK_ZONE = "UTC"


@dataclass(frozen=True, slots=True)
class Due:
    """A deadline as it was said: a date, or a local time with its zone, or neither."""

    day: date | None = None
    local: datetime | None = None
    zone: str | None = None

    def instant(self, zone: str) -> datetime | None:
        """What it means; `zone` is the one that a date is read in."""
        if self.day is not None:
            return end_of_day(self.day, zone)
        if self.local is not None and self.zone is not None:
            return instant(self.local, self.zone)
        return None


NEVER = Due()


def parse(due: task_pb2.Due) -> Due:
    """Raises INVALID_REQUEST for a day that the calendar doesn't have, an unknown zone, or a year beyond 1–9999."""
    said: str = due.WhichOneof("kind")  # type: ignore[assignment]
    field = f"task.due.{said}"
    try:
        if said == "date":
            return Due(day=date(due.date.year, due.date.month, due.date.day))
        at = due.date_time
        day = date(at.year, at.month, at.day)
    except ValueError:
        raise invalid(field, "there is no such day") from None
    if not is_zone(at.time_zone.id):
        raise invalid(f"{field}.time_zone.id", "is not an IANA time zone")
    # Postgres keeps microseconds.
    clock = time(at.hours, at.minutes, at.seconds, at.nanos // 1000)
    parsed = Due(local=datetime.combine(day, clock), zone=at.time_zone.id)
    try:
        parsed.instant(_FALLBACK_ZONE)
    except OverflowError:
        raise invalid(field, "lies outside the years 1 to 9999, UTC") from None
    return parsed


def end_of_day(day: date, zone: str) -> datetime:
    """The last whole second that belongs to `day` in `zone`."""
    try:
        midnight = datetime.combine(day + timedelta(days=1), time())
        # Where midnight comes twice, the day goes on until the second.
        return min(instant(midnight, zone, last=True) - _SECOND, _LAST)
    except OverflowError:
        return _LAST


def instant(local: datetime, zone: str, *, last: bool = False) -> datetime:
    """When it's `local` (naive) in `zone`.

    A local time that is skipped means the first valid instant after it, one that comes twice the first, or with `last`
    the second. Raises OverflowError when the instant lies outside the years 1 to 9999.
    """
    info = _load(zone)
    before, after = (_offset(info, local, fold) for fold in (0, 1))
    if before < after:
        return _transition(info, local - after, local - before).replace(tzinfo=UTC)
    return (local - (after if last else before)).replace(tzinfo=UTC)


def _load(name: str) -> zoneinfo.ZoneInfo:
    return zoneinfo.ZoneInfo(name if is_zone(name) else _FALLBACK_ZONE)


def _offset(info: zoneinfo.ZoneInfo, local: datetime, fold: int) -> timedelta:
    return info.utcoffset(local.replace(fold=fold)) or timedelta(0)


def _transition(info: zoneinfo.ZoneInfo, low: datetime, high: datetime) -> datetime:
    """The first second (naive UTC) of the offset that holds at `high` and not at `low`."""
    start = datetime(low.year, low.month, low.day)
    first, end = floor((low - start) / _SECOND), ceil((high - start) / _SECOND)

    def offset(second: int) -> timedelta | None:
        at = (start + second * _SECOND).replace(tzinfo=UTC)
        return at.astimezone(info).utcoffset()

    new = offset(end)
    while end - first > 1:
        middle = (first + end) // 2
        if offset(middle) == new:
            end = middle
        else:
            first = middle
    return start + end * _SECOND
