"""The feature that moves due times, for registry.py."""

from typing import Final

from taskflow.event.v1.event_pb2 import TimeZoneChanged
from workflows.due_times import starts
from workflows.due_times.activities import DueTimesActivities
from workflows.due_times.workflow import MoveDueTimes
from workflows.feature import Feature

FEATURE: Final = Feature(
    definition=MoveDueTimes,
    build_activities=lambda settings, stubs: DueTimesActivities(stubs.reminders).by_queue(),
    starts={TimeZoneChanged: starts.on_time_zone_changed},
)
