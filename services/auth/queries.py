"""Statements about people and sessions."""

from sqlalchemy import (
    ARRAY,
    Boolean,
    DateTime,
    Text,
    Uuid,
    any_,
    bindparam,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert

from services.auth.models import any_role, members, sessions, users
from services.platform.db import Statement
from services.platform.directory import live_session

_USER = (
    users.c.id,
    users.c.email,
    users.c.display_name,
    users.c.time_zone,
    users.c.email_notifications,
    users.c.revision,
    users.c.created_at,
    users.c.updated_at,
)

# Nothing when the e-mail is taken.
ADD_USER = Statement(
    upsert(users).on_conflict_do_nothing(index_elements=["email_key"]).returning(*_USER),
    ["id", "email", "email_key", "display_name", "time_zone", "password_hash"],
)
USER_BY_EMAIL = Statement(
    select(*_USER, users.c.password_hash).where(
        users.c.email_key == bindparam("email_key", type_=Text)
    )
)
CURRENT_USER = Statement(
    select(*_USER).where(users.c.id == bindparam("caller_id", type_=Uuid), live_session())
)
LOCK_CURRENT_USER = Statement(
    select(*_USER)
    .where(users.c.id == bindparam("caller_id", type_=Uuid), live_session())
    .with_for_update(key_share=True, of=users)
)
UPDATE_USER = Statement(
    update(users)
    .where(users.c.id == bindparam("user_id", type_=Uuid))
    .values(
        display_name=bindparam("new_display_name", type_=Text),
        time_zone=bindparam("new_time_zone", type_=Text),
        email_notifications=bindparam("new_email_notifications", type_=Boolean),
        revision=users.c.revision + 1,
        updated_at=func.now(),
    )
    .returning(*_USER)
)
GRANT_OPERATOR = Statement(
    update(users).where(users.c.email_key == bindparam("key", type_=Text)).values(operator=True)
)
# Only if it's still the hash that was verified.
REPLACE_PASSWORD_HASH = Statement(
    update(users)
    .where(
        users.c.id == bindparam("user_id", type_=Uuid),
        users.c.password_hash == bindparam("old_hash", type_=Text),
    )
    .values(password_hash=bindparam("new_hash", type_=Text))
)

_mine = members.alias("mine")
_theirs = members.alias("theirs")
# The caller and those who share a workspace with the caller. Planned for each run: either of two people may be in one
# workspace or in hundreds, and to go through the wrong one's for each of a hundred people takes 150,000 blocks.
PEOPLE_AROUND = Statement(
    select(*_USER).where(
        users.c.id == any_(bindparam("user_ids", type_=ARRAY(Uuid))),
        or_(
            users.c.id == bindparam("caller_id", type_=Uuid),
            exists().where(
                _mine.c.user_id == bindparam("caller_id", type_=Uuid),
                any_role(_mine),
                any_role(_theirs),
                _theirs.c.workspace_id == _mine.c.workspace_id,
                _theirs.c.user_id == users.c.id,
            ),
        ),
        live_session(),
    ),
    prepare=False,
)

_SESSION = (
    sessions.c.id,
    sessions.c.user_id,
    sessions.c.generation,
    sessions.c.expires_at,
    sessions.c.revoked_at,
)
ADD_SESSION = Statement(
    insert(sessions).returning(*_SESSION), ["id", "user_id", "device", "expires_at"]
)
LOCK_SESSION = Statement(
    select(
        *_SESSION,
        (sessions.c.expires_at <= func.clock_timestamp()).label("expired"),
        (func.clock_timestamp() - sessions.c.rotated_at).label("since_rotation"),
    )
    .where(sessions.c.id == bindparam("session_id", type_=Uuid))
    .with_for_update(key_share=True)
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
    .returning(*_SESSION)
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
