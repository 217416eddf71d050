"""Events about users."""

from services.auth.accounts.queries import User
from taskflow.event.v1.event_pb2 import Event, TimeZoneChanged


def time_zone_changed(user: User) -> Event:
    return Event(
        type="user.time_zone_changed",
        aggregate_id=str(user.id),
        revision=user.revision,
        actor_id=str(user.id),
        time_zone_changed=TimeZoneChanged(user_id=str(user.id)),
    )
