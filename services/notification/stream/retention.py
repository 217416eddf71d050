"""Deletes old changes of feeds."""

from datetime import timedelta

from services.notification.stream.models import changes
from services.platform.config import Settings
from services.platform.data.retention import Kind, aged


def kinds(settings: Settings) -> list[Kind]:
    """The kinds of rows to delete. The stream of a client that was away for longer than they are kept gets a reset."""
    return [
        aged(
            "notification_changes",
            changes,
            changes.c.created_at,
            timedelta(seconds=settings.change_retention),
        )
    ]
