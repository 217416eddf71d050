"""Deletes login attempts that no longer count, and sessions that ended long ago."""

from datetime import timedelta

from services.auth.sessions.models import login_attempts, sessions
from services.auth.sessions.queries import ATTEMPT_WINDOW
from services.platform.data import retention
from services.platform.data.retention import Kind, aged
from services.platform.runtime import Loop, Platform

# Time that an expired session is kept: longer than a stream or an access token can outlive its session.
_SESSIONS_KEPT = timedelta(days=1)


def loop(platform: Platform) -> Loop:
    return retention.run(platform.settings, platform.db, kinds())


def kinds() -> list[Kind]:
    """The kinds of rows to delete. Refresh tokens aren't stored; without their session's row they are invalid."""
    return [
        aged("login_attempts", login_attempts, login_attempts.c.attempted_at, ATTEMPT_WINDOW),
        aged("sessions", sessions, sessions.c.expires_at, _SESSIONS_KEPT),
    ]
