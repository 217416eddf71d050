"""Notifications, and former members whose notifications are being deleted."""

from sqlalchemy import (
    BigInteger,
    Column,
    Date,
    DateTime,
    Index,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
)

from services.notification.schema import metadata

notifications = Table(
    "notifications",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("user_id", Uuid, nullable=False),
    Column("event_id", Uuid, nullable=False),
    # The sequence, in the user's feed, of the change that created the notification.
    Column("sequence", BigInteger, nullable=False),
    # A number of the enum taskflow.notification.v1.NotificationKind.
    Column("kind", SmallInteger, nullable=False),
    Column("workspace_id", Uuid, nullable=False),
    Column("task_id", Uuid, nullable=False),
    Column("task_key", Text, nullable=False),
    Column("task_title", Text, nullable=False),
    Column("headline", Text, nullable=False),
    # The task's deadline. NULL without one.
    Column("due_at", DateTime(timezone=True)),
    # Set when that deadline is a date.
    Column("due_date", Date),
    # NULL for the system.
    Column("actor_id", Uuid),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("read_at", DateTime(timezone=True)),
    # The mail that contains the notification.
    Column("email_batch_id", Uuid),
    Column("emailed_at", DateTime(timezone=True)),
    # An event creates at most one notification for a user.
    UniqueConstraint("event_id", "user_id", name="notifications_event"),
    Index("notifications_user", "user_id", "sequence", unique=True),
    Index("notifications_unread", "user_id", "sequence", postgresql_where="read_at IS NULL"),
    Index("notifications_read", "read_at", postgresql_where="read_at IS NOT NULL"),
    # Finds notifications to mail. Users who read only mail keep thousands of unread rows that were already mailed.
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

# Removed members, until the workspace's notifications up to a sequence of their feed are deleted.
former_members = Table(
    "former_members",
    metadata,
    Column("workspace_id", Uuid, primary_key=True),
    Column("user_id", Uuid, primary_key=True),
    # The end of the feed at the removal.
    Column("up_to", BigInteger, nullable=False),
    # Everything up to this sequence is deleted already.
    Column("done_to", BigInteger, nullable=False, server_default="0"),
    Column("removed_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
