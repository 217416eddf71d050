"""The tables of feeds. A user's feed is a sequence of changes without gaps, which streams follow and resume."""

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Index,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Uuid,
    func,
)

from services.notification.schema import metadata

# One row. Cursors contain its id, and are valid only while the database has this id: a recovery changes it.
epochs = Table("epochs", metadata, Column("id", Uuid, primary_key=True))

# A transaction locks a user's row to take the next sequence. It locks several users' rows in the order of user_id.
feeds = Table(
    "feeds",
    metadata,
    Column("user_id", Uuid, primary_key=True),
    Column("last_sequence", BigInteger, nullable=False),
)

# Recent changes of every user's notifications, for streams that resume.
changes = Table(
    "changes",
    metadata,
    Column("user_id", Uuid, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    # A serialized taskflow.notification.v1.NotificationChange.
    Column("payload", LargeBinary, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("user_id", "sequence"),
    Index("changes_age", "created_at"),
)
