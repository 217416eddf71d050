"""Events that start or signal MoveDueTimes."""

from services.platform.config import Settings
from taskflow.event.v1.event_pb2 import TimeZoneChanged
from workflows.due_times.contract import UserZone, due_times_id
from workflows.due_times.workflow import MoveDueTimes
from workflows.feature import Start


def on_time_zone_changed(facts: TimeZoneChanged, _: Settings) -> list[Start]:
    return [
        Start(
            MoveDueTimes.run,
            UserZone(facts.user_id),
            due_times_id(facts.user_id),
            signal="changed",
            one_signal_per_batch=True,
        )
    ]
