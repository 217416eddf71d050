"""The tables of sessions and of failed logins."""

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    Uuid,
    func,
    text,
)

from services.auth.accounts.models import users
from services.auth.schema import metadata

# A session is one family of refresh tokens; only the token of the current generation is valid. `user_id` has no index:
# statements name session and user, and for users with thousands of sessions Postgres could pick the wrong index.
sessions = Table(
    "sessions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("user_id", Uuid, ForeignKey(users.c.id), nullable=False),
    Column("device", Text, nullable=False),
    Column("generation", Integer, nullable=False, server_default=text("1")),
    Column("rotated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("last_used_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("revoked_at", DateTime(timezone=True)),
    Index("sessions_expiry", "expires_at"),
)

# Recent wrong passwords: one row for the account, one for the client's address, and one for both (throttle.py).
login_attempts = Table(
    "login_attempts",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    # HMAC of the account's e-mail, the address, or both: nothing is stored in clear.
    Column("key", LargeBinary, nullable=False),
    Column("attempted_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("login_attempts_key", "key", "attempted_at"),
    Index("login_attempts_age", "attempted_at"),
)
