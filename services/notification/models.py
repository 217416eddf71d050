"""Tables of the schema `notification`. Ids of users, workspaces and tasks are other services', without foreign keys."""

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Index,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
)

metadata = MetaData(schema="notification")

# One row, written by the migration: positions mean something only in the database that gave them.
epochs = Table("epochs", metadata, Column("id", Uuid, primary_key=True))

# The row that is locked to take a user's next sequence, several of them in the order of user_id.
feeds = Table(
    "feeds",
    metadata,
    Column("user_id", Uuid, primary_key=True),
    Column("last_sequence", BigInteger, nullable=False),
)

notifications = Table(
    "notifications",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("user_id", Uuid, nullable=False),
    Column("event_id", Uuid, nullable=False),
    # Of the change that created it.
    Column("sequence", BigInteger, nullable=False),
    # taskflow.notification.v1.NotificationKind
    Column("kind", SmallInteger, nullable=False),
    Column("workspace_id", Uuid, nullable=False),
    Column("task_id", Uuid, nullable=False),
    Column("task_key", Text, nullable=False),
    Column("task_title", Text, nullable=False),
    Column("headline", Text, nullable=False),
    # NULL for the system.
    Column("actor_id", Uuid),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("read_at", DateTime(timezone=True)),
    # The mail that it's told in.
    Column("email_batch_id", Uuid),
    Column("emailed_at", DateTime(timezone=True)),
    # A user is told once of an event.
    UniqueConstraint("event_id", "user_id", name="notifications_event"),
    Index("notifications_user", "user_id", "sequence", unique=True),
    Index("notifications_unread", "user_id", "sequence", postgresql_where="read_at IS NULL"),
    Index("notifications_read", "read_at", postgresql_where="read_at IS NOT NULL"),
    # Somebody who reads mail only has thousands that are unread and were told.
    Index(
        "notifications_unmailed",
        "user_id",
        "sequence",
        postgresql_where="read_at IS NULL AND email_batch_id IS NULL",
    ),
    Index(
        "notifications_email_batch",
        "email_batch_id",
        postgresql_where="email_batch_id IS NOT NULL",
    ),
)

# What a stream that resumes is sent: every change of a user's notifications, in order and without a gap.
changes = Table(
    "changes",
    metadata,
    Column("user_id", Uuid, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    # taskflow.notification.v1.NotificationChange, serialized
    Column("payload", LargeBinary, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("user_id", "sequence"),
    Index("changes_age", "created_at"),
)

email_batches = Table(
    "email_batches",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("user_id", Uuid, nullable=False),
    # PREPARED, SENT or FAILED.
    Column("state", Text, nullable=False),
    # Why it can't ever be sent; empty otherwise.
    Column("error", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("finished_at", DateTime(timezone=True)),
    Index("email_batches_age", "created_at"),
)
