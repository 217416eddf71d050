"""When changes of feeds are deleted."""

from datetime import timedelta

from services.notification.stream.models import changes
from services.platform.config import Settings
from services.platform.data.retention import Kind, aged


def kinds(settings: Settings) -> list[Kind]:
    """A stream that was away for longer than changes are kept is reset, and its client lists again."""
    return [
        aged(
            "notification_changes",
            changes,
            changes.c.created_at,
            timedelta(seconds=settings.change_retention),
        )
    ]
