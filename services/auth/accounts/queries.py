"""Statements about users."""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    Boolean,
    Text,
    Uuid,
    any_,
    bindparam,
    exists,
    func,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from services.auth.accounts.models import users
from services.platform.data.db import Statement
from services.platform.rpc.directory import live_session, members


class User(NamedTuple):
    id: UUID
    email: str
    display_name: str
    time_zone: str
    email_notifications: bool
    # When a mail server refused the address for good.
    email_bounced_at: datetime | None
    revision: int
    created_at: datetime
    updated_at: datetime


class UserWithPassword(NamedTuple):
    id: UUID
    email: str
    display_name: str
    time_zone: str
    email_notifications: bool
    email_bounced_at: datetime | None
    revision: int
    created_at: datetime
    updated_at: datetime
    password_hash: str


_USER = [users.c[name] for name in User._fields]

# Inserts a user. Returns no row if the e-mail address is taken.
ADD_USER = Statement(
    insert(users).on_conflict_do_nothing(index_elements=["email_key"]).returning(*_USER),
    ["id", "email", "email_key", "display_name", "time_zone", "password_hash"],
    row=User,
)
USER_BY_EMAIL = Statement(
    select(*_USER, users.c.password_hash).where(
        users.c.email_key == bindparam("email_key", type_=Text)
    ),
    row=UserWithPassword,
)
_current_user = select(*_USER).where(
    users.c.id == bindparam("caller_id", type_=Uuid), live_session()
)
CURRENT_USER = Statement(_current_user, row=User)
LOCK_CURRENT_USER = Statement(_current_user.with_for_update(key_share=True, of=users), row=User)
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
    .returning(*_USER),
    row=User,
)
SWITCH_MAIL_ON = Statement(
    update(users)
    .where(users.c.id == bindparam("user_id", type_=Uuid))
    .values(email_on_since=func.clock_timestamp(), email_bounced_at=None)
)
# Changes no row when the refused address isn't the user's address any more.
MARK_BOUNCED = Statement(
    update(users)
    .where(
        users.c.id == bindparam("user_id", type_=Uuid),
        users.c.email == bindparam("refused", type_=Text),
        users.c.email_bounced_at.is_(None),
    )
    .values(email_bounced_at=func.now(), revision=users.c.revision + 1, updated_at=func.now())
)
GRANT_OPERATOR = Statement(
    update(users).where(users.c.email_key == bindparam("key", type_=Text)).values(operator=True)
)
# Changes nothing if another login has replaced the password hash meanwhile.
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
# The caller, and users who share a workspace with the caller. Postgres plans each run anew: the caller and a user may
# each be in one workspace or in hundreds. A plan that starts at the wrong side reads 150,000 blocks for 100 users.
PEOPLE_AROUND = Statement(
    select(*_USER).where(
        users.c.id == any_(bindparam("user_ids", type_=ARRAY(Uuid))),
        or_(
            users.c.id == bindparam("caller_id", type_=Uuid),
            exists().where(
                _mine.c.user_id == bindparam("caller_id", type_=Uuid),
                # True for every member. Without this condition Postgres can't use the partial index members_user.
                _mine.c.role > literal_column("0"),
                _theirs.c.role > literal_column("0"),
                _theirs.c.workspace_id == _mine.c.workspace_id,
                _theirs.c.user_id == users.c.id,
            ),
        ),
        live_session(),
    ),
    row=User,
    prepare=False,
)
