"""The client and the server read a local time by one rule, with the rules of zones that the lock file pins."""

import shutil
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.platform.rpc import zones
from services.task.tasks import due
from taskflow_client.cli.deadlines import parse_instant

_ZONES = sorted(zones._names())


def _bound(local: datetime, zone: str) -> datetime:
    """The instant that `--due-before` and `--due-after` send for this local time."""
    return parse_instant(f"{local.isoformat(sep=' ')} {zone}", "UTC").ToDatetime(UTC)


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2027-03-28T02:30 Europe/Berlin", "2027-03-28T01:00:00Z"),
        ("2027-03-28T03:00 Europe/Berlin", "2027-03-28T01:00:00Z"),
        # Twice: the first one.
        ("2026-10-25T02:30 Europe/Berlin", "2026-10-25T00:30:00Z"),
        ("2011-12-30T12:00 Pacific/Apia", "2011-12-30T10:00:00Z"),
    ],
)
def test_a_bound_at_a_skipped_time_is_the_first_instant_after_it(text: str, instant: str) -> None:
    assert parse_instant(text, "UTC").ToJsonString() == instant


def test_a_bound_on_a_day_without_midnight_is_the_days_first_instant() -> None:
    assert parse_instant("2026-04-24", "Africa/Cairo").ToJsonString() == "2026-04-23T22:00:00Z"


@pytest.mark.parametrize("text", ["0001-01-01 00:00 Asia/Tokyo", "9999-12-31 23:00 America/Lima"])
def test_a_bound_outside_the_calendar_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="lies outside the years 1 to 9999"):
        parse_instant(text, "UTC")


@given(
    st.datetimes(datetime(1000, 1, 1), datetime(9998, 1, 1)).map(
        lambda local: local.replace(microsecond=0)
    ),
    st.sampled_from(_ZONES),
)
@example(datetime(2027, 3, 28, 2, 30), "Europe/Berlin")
@example(datetime(2026, 10, 4, 2, 15), "Australia/Lord_Howe")
def test_a_bound_is_the_instant_of_a_deadline_with_the_same_text(
    local: datetime, zone: str
) -> None:
    assert _bound(local, zone) == due.instant(local, zone)


# The rules of zones.


@pytest.fixture
def other_machine(tmp_path: Path) -> Iterator[None]:
    """A machine whose own zone database is of another time: Berlin has Tokyo's rules there."""
    (tmp_path / "Europe").mkdir()
    tokyo = resources.files("tzdata").joinpath("zoneinfo", "Asia", "Tokyo")
    with resources.as_file(tokyo) as file:
        shutil.copy(file, tmp_path / "Europe" / "Berlin")
    before = zoneinfo.TZPATH
    zoneinfo.reset_tzpath([str(tmp_path)])
    zoneinfo.ZoneInfo.clear_cache()
    zones.load.cache_clear()
    yield
    zoneinfo.reset_tzpath(before)
    zoneinfo.ZoneInfo.clear_cache()


@pytest.mark.usefixtures("other_machine")
def test_the_machines_own_zone_rules_are_not_used() -> None:
    noon = datetime(2026, 7, 1, 12)
    assert zoneinfo.ZoneInfo("Europe/Berlin").utcoffset(noon) == (
        zoneinfo.ZoneInfo("Asia/Tokyo").utcoffset(noon)
    )
    assert due.instant(noon, "Europe/Berlin") == datetime(2026, 7, 1, 10, tzinfo=UTC)


@pytest.mark.parametrize("name", ["localtime", "../../etc/passwd", "", "Europe", "Mars/Olympus"])
def test_only_names_of_zones_are_opened(name: str) -> None:
    with pytest.raises(ValueError, match="not an IANA time zone"):
        zones.load(name)


def test_every_zone_can_be_loaded() -> None:
    for zone in _ZONES:
        assert zones.load(zone).key == zone


# A deadline as said.


def test_a_deadline_as_said_keeps_its_text_and_differs_from_others() -> None:
    at = datetime(2026, 12, 1, 9)
    assert due.Due(day=date(7, 1, 2)).said == "0007-01-02"
    assert due.Due(local=at, zone="Europe/Berlin").said == (
        "2026-12-01T09:00:00.000000 Europe/Berlin"
    )
    assert due.NO_DUE.said is None


@pytest.mark.parametrize(
    ("day", "days", "instant"),
    [
        (date(2026, 3, 29), 0, datetime(2026, 3, 29, 7, tzinfo=UTC)),
        (date(2026, 3, 29), -1, datetime(2026, 3, 28, 8, tzinfo=UTC)),
        (date(1, 1, 1), -1, datetime(1, 1, 1, tzinfo=UTC)),
        (date(9999, 12, 31), 1, datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_a_morning_is_a_local_time_on_each_day(day: date, days: int, instant: datetime) -> None:
    assert due.clock_time(day, days, time(9), "Europe/Berlin") == instant
