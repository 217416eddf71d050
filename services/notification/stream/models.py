"""Each user's feed: a sequence of changes without a gap, that streams follow and resume."""

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

# One row, written by the migration. Cursors name its id, and are valid only in the database that gave them out.
epochs = Table("epochs", metadata, Column("id", Uuid, primary_key=True))

# A transaction locks a user's row to take the next sequence. It locks several rows in the order of user_id.
feeds = Table(
    "feeds",
    metadata,
    Column("user_id", Uuid, primary_key=True),
    Column("last_sequence", BigInteger, nullable=False),
)

# Every change of a user's notifications, for streams that resume.
changes = Table(
    "changes",
    metadata,
    Column("user_id", Uuid, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    # taskflow.notification.v1.NotificationChange, serialized.
    Column("payload", LargeBinary, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("user_id", "sequence"),
    Index("changes_age", "created_at"),
)
