"""The instant of a deadline: the end of a day or a local time, across clock changes."""

from datetime import UTC, date, datetime, timedelta

import pytest
from google.type.date_pb2 import Date
from google.type.datetime_pb2 import DateTime, TimeZone
from hypothesis import example, given
from hypothesis import strategies as st

from services.platform.rpc import zones
from services.platform.rpc.errors import DomainError
from services.task.tasks import due
from taskflow.task.v1 import task_pb2

_SECOND = timedelta(seconds=1)
_ZONES = sorted(zones._names())


def _utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]


@pytest.mark.parametrize(
    ("local", "zone", "instant"),
    [
        (datetime(2026, 7, 1, 12), "Europe/Berlin", _utc(2026, 7, 1, 10)),
        # Spring forward, 02:00 → 03:00: a skipped time means 03:00.
        (datetime(2026, 3, 29, 1, 59, 59), "Europe/Berlin", _utc(2026, 3, 29, 0, 59, 59)),
        (datetime(2026, 3, 29, 2), "Europe/Berlin", _utc(2026, 3, 29, 1)),
        (datetime(2026, 3, 29, 2, 30), "Europe/Berlin", _utc(2026, 3, 29, 1)),
        (datetime(2026, 3, 29, 2, 59, 59, 999999), "Europe/Berlin", _utc(2026, 3, 29, 1)),
        (datetime(2026, 3, 29, 3), "Europe/Berlin", _utc(2026, 3, 29, 1)),
        # Fall back, 03:00 → 02:00: a repeated time means the first.
        (datetime(2026, 10, 25, 2, 30), "Europe/Berlin", _utc(2026, 10, 25, 0, 30)),
        (datetime(2026, 10, 25, 3), "Europe/Berlin", _utc(2026, 10, 25, 2)),
        # A change of half an hour, and of a whole day.
        (datetime(2026, 10, 4, 2, 15), "Australia/Lord_Howe", _utc(2026, 10, 3, 15, 30)),
        (datetime(2011, 12, 30, 12), "Pacific/Apia", _utc(2011, 12, 30, 10)),
        # Midnight is skipped.
        (datetime(2026, 4, 24), "Africa/Cairo", _utc(2026, 4, 23, 22)),
        # Before the zone's first transition: local mean time.
        (datetime(1800, 1, 1), "Europe/Paris", _utc(1799, 12, 31, 23, 50, 39)),
        (datetime(2026, 3, 8, 2, 30), "EST5EDT", _utc(2026, 3, 8, 7)),
        (datetime(9000, 7, 1), "America/New_York", _utc(9000, 7, 1, 4)),
    ],
)
def test_a_local_time_maps_to_one_instant(local: datetime, zone: str, instant: datetime) -> None:
    assert due.instant(local, zone) == instant


@pytest.mark.parametrize(
    ("day", "zone", "instant"),
    [
        (date(2026, 7, 1), "UTC", _utc(2026, 7, 1, 23, 59, 59)),
        (date(2026, 7, 1), "Europe/Berlin", _utc(2026, 7, 1, 21, 59, 59)),
        (date(2026, 12, 31), "Pacific/Kiritimati", _utc(2026, 12, 31, 9, 59, 59)),
        (date(2026, 3, 29), "Europe/Berlin", _utc(2026, 3, 29, 21, 59, 59)),
        # The next day begins at 01:00.
        (date(2026, 4, 23), "Africa/Cairo", _utc(2026, 4, 23, 21, 59, 59)),
        # At midnight it was 23:00 again: the day has 25 hours.
        (date(2026, 10, 29), "Africa/Cairo", _utc(2026, 10, 29, 21, 59, 59)),
        # At 00:01 it was 23:01 again: midnight came twice.
        (date(2010, 11, 6), "America/St_Johns", _utc(2010, 11, 7, 3, 29, 59)),
        # A skipped day ends together with the day before it.
        (date(2011, 12, 30), "Pacific/Apia", _utc(2011, 12, 30, 9, 59, 59)),
        (date(9999, 12, 31), "UTC", _utc(9999, 12, 31, 23, 59, 59)),
        (date(9999, 12, 31), "America/New_York", _utc(9999, 12, 31, 23, 59, 59)),
        (date(1, 1, 1), "Pacific/Kiritimati", due.end_of_day(date(1, 1, 1), "Pacific/Kiritimati")),
    ],
)
def test_a_day_is_due_at_its_last_second(day: date, zone: str, instant: datetime) -> None:
    assert due.end_of_day(day, zone) == instant


@given(st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1)), st.sampled_from(_ZONES))
@example(datetime(2026, 3, 29, 2, 30), "Europe/Berlin")
@example(datetime(2011, 12, 30, 1), "Pacific/Apia")
def test_the_instant_has_the_given_local_time_or_the_next_existing_one(
    local: datetime, zone: str
) -> None:
    info = zones.load(zone)
    instant = due.instant(local, zone)
    shown = instant.astimezone(info).replace(tzinfo=None, fold=0)
    assert shown >= local
    if shown == local:
        assert instant.astimezone(info).fold == 0
    else:
        before = (instant - timedelta(microseconds=1)).astimezone(info)
        assert before.replace(tzinfo=None, fold=0) < local


@given(st.dates(date(2, 1, 1), date(9998, 1, 1)), st.sampled_from(_ZONES))
@example(date(2010, 11, 6), "America/St_Johns")
def test_the_deadline_of_a_day_is_its_last_second(day: date, zone: str) -> None:
    info = zones.load(zone)
    end = due.end_of_day(day, zone)
    assert end.astimezone(info).date() <= day
    assert (end + _SECOND).astimezone(info).date() > day


def _date_time(zone: str, *parts: int) -> task_pb2.Due:
    names = ("year", "month", "day", "hours", "minutes", "seconds", "nanos")
    said = DateTime(**dict(zip(names, parts, strict=False)), time_zone=TimeZone(id=zone))
    return task_pb2.Due(date_time=said)


@pytest.mark.parametrize(
    ("said", "field"),
    [
        (task_pb2.Due(date=Date(year=2026, month=2, day=30)), "task.due.date"),
        (task_pb2.Due(date=Date(year=2100, month=2, day=29)), "task.due.date"),
        (_date_time("UTC", 2026, 6, 31), "task.due.date_time"),
        (_date_time("Europe/Berlin", 1, 1, 1), "task.due.date_time"),
        (_date_time("America/New_York", 9999, 12, 31, 23), "task.due.date_time"),
        *(
            (_date_time(zone, 2026, 1, 1), "task.due.date_time.time_zone.id")
            for zone in (
                *("Mars/Olympus", "localtime", "posixrules", "europe/berlin", "Europe/Berlin "),
                *("../../etc/passwd", "/etc/localtime", "Europe", "Europe/", ".", "..", "a\0b"),
                *("UTC+1", "CEST", "zone.tab", "tzdata.zi", "é", "x" * 64, "right/UTC"),
            )
        ),
    ],
)
def test_an_invalid_deadline_is_refused_with_its_field_name(said: task_pb2.Due, field: str) -> None:
    with pytest.raises(DomainError) as caught:
        due.parse(said)
    assert [name for name, _ in caught.value.fields] == [field]


def test_every_zone_of_the_tz_database_is_accepted() -> None:
    for zone in _ZONES:
        assert due.parse(_date_time(zone, 2026, 1, 1)).zone == zone


def test_times_are_kept_in_microseconds() -> None:
    parsed = due.parse(_date_time("UTC", 2026, 1, 1, 10, 20, 30, 123_456_789))
    assert parsed.local == datetime(2026, 1, 1, 10, 20, 30, 123_456)


def test_a_user_with_an_unknown_time_zone_is_treated_as_utc() -> None:
    assert due.end_of_day(date(2026, 1, 1), "Mars/Olympus") == _utc(2026, 1, 1, 23, 59, 59)
