"""Statements about sessions and failed logins."""

from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    DateTime,
    Integer,
    Interval,
    LargeBinary,
    Uuid,
    bindparam,
    delete,
    func,
    insert,
    literal,
    select,
    update,
)

from services.auth.sessions.models import login_attempts, sessions
from services.platform.data.db import Statement


class Session(NamedTuple):
    id: UUID
    user_id: UUID
    generation: int
    expires_at: datetime


class LockedSession(NamedTuple):
    id: UUID
    user_id: UUID
    generation: int
    expires_at: datetime
    revoked_at: datetime | None
    expired: bool
    since_rotation: timedelta


_SESSION = [sessions.c[name] for name in Session._fields]

ADD_SESSION = Statement(
    insert(sessions).returning(*_SESSION), ["id", "user_id", "device", "expires_at"], row=Session
)
LOCK_SESSION = Statement(
    select(
        *_SESSION,
        sessions.c.revoked_at,
        (sessions.c.expires_at <= func.clock_timestamp()).label("expired"),
        (func.clock_timestamp() - sessions.c.rotated_at).label("since_rotation"),
    )
    .where(sessions.c.id == bindparam("session_id", type_=Uuid))
    .with_for_update(key_share=True),
    row=LockedSession,
)
ROTATE_SESSION = Statement(
    update(sessions)
    .where(sessions.c.id == bindparam("session_id", type_=Uuid))
    .values(
        generation=sessions.c.generation + 1,
        rotated_at=func.clock_timestamp(),
        last_used_at=func.now(),
        expires_at=bindparam("new_expires_at", type_=DateTime(timezone=True)),
    )
    .returning(*_SESSION),
    row=Session,
)
REVOKE_SESSION = Statement(
    update(sessions)
    .where(
        sessions.c.id == bindparam("session_id", type_=Uuid),
        sessions.c.user_id == bindparam("user_id", type_=Uuid),
        sessions.c.revoked_at.is_(None),
        sessions.c.expires_at > func.now(),
    )
    .values(revoked_at=func.now())
)

# Time for which a wrong password counts towards the login limits.
ATTEMPT_WINDOW = timedelta(minutes=15)


class Throttling(NamedTuple):
    wait: timedelta


_window = literal(ATTEMPT_WINDOW, Interval)
# Returns a row if more than :more_than attempts are within the window. `wait`: the time until enough of them leave it.
THROTTLING = Statement(
    select((login_attempts.c.attempted_at + _window - func.now()).label("wait"))
    .where(
        login_attempts.c.key == bindparam("key", type_=LargeBinary),
        login_attempts.c.attempted_at > func.now() - _window,
    )
    .order_by(login_attempts.c.attempted_at.desc())
    .offset(bindparam("more_than", type_=Integer))
    .limit(1),
    row=Throttling,
)
LOCK_ATTEMPTS = Statement(select(func.pg_advisory_xact_lock(bindparam("number", type_=BigInteger))))
ADD_ATTEMPT = Statement(insert(login_attempts), ["key"])
DELETE_ATTEMPTS = Statement(
    delete(login_attempts).where(login_attempts.c.key == bindparam("key", type_=LargeBinary))
)
