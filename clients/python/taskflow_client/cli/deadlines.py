"""Parses and formats deadlines and times."""

import re
from datetime import UTC, date, datetime, timedelta
from functools import cache
from importlib import resources
from zoneinfo import ZoneInfo

from google.protobuf.timestamp_pb2 import Timestamp
from google.type.date_pb2 import Date
from google.type.datetime_pb2 import DateTime, TimeZone

from taskflow.task.v1.task_pb2 import Due, Task

_RELATIVE = re.compile(r"\+(\d{1,6})([smhdw])")
_LOCAL = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d(?::\d\d)?)(?:(Z)| +(\S+))?")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

DUE_FORMS = "2026-12-01, '2026-12-01T09:00 Europe/Berlin' or +2h (s, m, h, d, w)"


def parse_due(text: str, now: datetime, zone: str = "") -> Due:
    """Returns the deadline that `text` means.

    Relative deadlines count from `now`, which has a time zone. `zone` applies to them, and to a local
    time without one. Raises ValueError with a message for the user.
    """
    text = text.strip()
    if relative := _RELATIVE.fullmatch(text):
        delay = timedelta(**{_UNITS[relative[2]]: int(relative[1])})
        clock = _rules(zone or "UTC")
        try:
            # A day later the clock shows the same time, also when it is changed in between.
            if relative[2] in "dw":
                moment = now.astimezone(clock) + delay
            else:
                moment = (now.astimezone(UTC) + delay).astimezone(clock)
        except OverflowError:
            raise ValueError(f"{text!r} is too far ahead") from None
        return _zoned(moment, zone or "UTC")
    if local := _LOCAL.fullmatch(text):
        name = "UTC" if local[3] else local[4] or zone
        if not name:
            raise ValueError(f"{text!r} needs a time zone, such as '{text} Europe/Berlin'")
        return _zoned(_moment(f"{local[1]}T{local[2]}"), _known_zone(name))
    if not _DAY.fullmatch(text):
        raise ValueError(f"{text!r} isn't a deadline: write {DUE_FORMS}")
    try:
        day = date.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text!r} isn't a day: {error}") from None
    return Due(date=Date(year=day.year, month=day.month, day=day.day))


def format_due(task: Task) -> str:
    """Returns a task's deadline as text; empty without a deadline."""
    if task.due.HasField("date"):
        day = task.due.date
        return f"{day.year:04}-{day.month:02}-{day.day:02}"
    if not task.due.HasField("date_time"):
        return ""
    at = task.due.date_time
    seconds = f":{at.seconds:02}" if at.seconds else ""
    moment = f"{at.year:04}-{at.month:02}-{at.day:02} {at.hours:02}:{at.minutes:02}{seconds}"
    return f"{moment} {at.time_zone.id}"


def format_time(timestamp: Timestamp) -> str:
    """Returns an instant as text in this machine's time zone; empty if it isn't set."""
    if not timestamp.seconds:
        return ""
    return timestamp.ToDatetime(UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def parse_instant(text: str, zone: str) -> Timestamp:
    """Returns the instant that a deadline's text means; a date means its midnight in `zone`.

    Raises ValueError with a message for the user.
    """
    due = parse_due(text, datetime.now(UTC), zone)
    if due.HasField("date"):
        local = datetime(due.date.year, due.date.month, due.date.day)
    else:
        at = due.date_time
        local = datetime(at.year, at.month, at.day, at.hours, at.minutes, at.seconds)
        zone = at.time_zone.id
    instant = Timestamp()
    try:
        instant.FromDatetime(_first_instant(local, _rules(zone)))
    except OverflowError:
        raise ValueError(f"{text!r} lies outside the years 1 to 9999, UTC") from None
    return instant


def _first_instant(local: datetime, zone: ZoneInfo) -> datetime:
    """The first instant at which clocks in `zone` show `local` or later, as the server reads a deadline."""
    before, after = (local.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1))
    assert before is not None
    assert after is not None
    if before >= after:
        return (local - before).replace(tzinfo=UTC)
    # Clocks skip this time: search the second at which they were set forward.
    low, high = (local - offset for offset in (after, before))
    low, high = low.replace(microsecond=0), high.replace(microsecond=0) + timedelta(seconds=1)
    while high - low > timedelta(seconds=1):
        middle = (low + (high - low) // 2).replace(microsecond=0)
        if middle.replace(tzinfo=UTC).astimezone(zone).utcoffset() == after:
            high = middle
        else:
            low = middle
    return high.replace(tzinfo=UTC)


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text!r} isn't a time: {error}") from None


def _known_zone(name: str) -> str:
    _rules(name)
    return name


@cache
def _rules(zone: str) -> ZoneInfo:
    """The zone's rules in the package tzdata, as on the server. Those of this machine can be of another release."""
    data = resources.files("tzdata")
    if zone not in data.joinpath("zones").read_text().split():
        raise ValueError(f"{zone!r} isn't a time zone; write one such as Europe/Berlin")
    with data.joinpath("zoneinfo", *zone.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=zone)


def _zoned(local: datetime, zone: str) -> Due:
    return Due(
        date_time=DateTime(
            year=local.year,
            month=local.month,
            day=local.day,
            hours=local.hour,
            minutes=local.minute,
            seconds=local.second,
            nanos=local.microsecond * 1000,
            time_zone=TimeZone(id=zone),
        )
    )
