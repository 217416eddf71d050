"""Tables of the schema `auth`: people, their sessions, workspaces and members."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    DateTime,
    ForeignKey,
    FromClause,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    literal_column,
    text,
)

metadata = MetaData(schema="auth")

users = Table(
    "users",
    metadata,
    Column("id", Uuid, primary_key=True),
    # As it was registered, for people to read; mail goes here.
    Column("email", Text, nullable=False),
    # What accounts are compared by (emails.py).
    Column("email_key", Text, nullable=False),
    Column("display_name", Text, nullable=False),
    Column("time_zone", Text, nullable=False),
    Column("email_notifications", Boolean, nullable=False, server_default=text("true")),
    Column("operator", Boolean, nullable=False, server_default=text("false")),
    # Argon2id with its parameters and salt.
    Column("password_hash", Text, nullable=False),
    Column("revision", BigInteger, nullable=False, server_default=text("1")),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    UniqueConstraint("email_key", name="users_email_key"),
)

# A session is one family of refresh tokens, of which the one of the current generation works. No index has the user
# alone: calls name session and user, and Postgres would take either, while a program that logs in often has thousands.
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

workspaces = Table(
    "workspaces",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("display_name", Text, nullable=False),
    Column("ai_enabled", Boolean, nullable=False),
    Column("revision", BigInteger, nullable=False, server_default=text("1")),
    # Counts the changes of all its memberships. A membership takes its revision from here, so that revisions go on
    # rising for somebody who leaves and comes back.
    Column("members_revision", BigInteger, nullable=False, server_default=text("1")),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

members = Table(
    "members",
    metadata,
    Column("workspace_id", Uuid, ForeignKey(workspaces.c.id), nullable=False),
    Column("user_id", Uuid, ForeignKey(users.c.id), nullable=False),
    # The number of taskflow.auth.v1.Role.
    Column("role", SmallInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("workspace_id", "user_id"),
    # All of somebody's workspaces. Only for statements that say so (any_role): where the workspace is
    # known as well, Postgres takes either index, and somebody can be in hundreds.
    Index("members_user", "user_id", "workspace_id", postgresql_where=text("role > 0")),
    Index("members_joined", "workspace_id", "created_at", "user_id"),
    # taskflow.auth.v1.ROLE_OWNER
    Index("members_owners", "workspace_id", postgresql_where=text("role = 4")),
)

# Wrong passwords of the last minutes, one row for the account and one for the address (throttle.py).
login_attempts = Table(
    "login_attempts",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    # HMAC of what is counted: neither e-mails that were tried nor addresses are kept.
    Column("key", LargeBinary, nullable=False),
    Column("attempted_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("login_attempts_key", "key", "attempted_at"),
    Index("login_attempts_age", "attempted_at"),
)


def any_role(of: FromClause) -> ColumnElement[bool]:
    """Holds for every member, and has Postgres find somebody's workspaces by their index."""
    return of.c.role > literal_column("0")
