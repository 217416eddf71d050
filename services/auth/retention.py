"""What is deleted once its time is over: attempts to log in, and sessions that ended long ago."""

from datetime import timedelta

from services.auth import throttle
from services.auth.models import login_attempts, sessions
from services.platform import retention
from services.platform.retention import Kind, aged
from services.platform.runtime import Loop, Platform

# Long enough after its end that no stream and no token of it can be about.
_SESSIONS_KEPT = timedelta(days=1)


def loop(platform: Platform) -> Loop:
    return retention.run(platform.settings, platform.db, kinds())


def kinds() -> list[Kind]:
    """A session goes with its whole family of refresh tokens: none of them is known any more."""
    return [
        aged("login_attempts", login_attempts, login_attempts.c.attempted_at, throttle.WINDOW),
        aged("sessions", sessions, sessions.c.expires_at, _SESSIONS_KEPT),
    ]
