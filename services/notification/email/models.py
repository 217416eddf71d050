"""The table of mails that contain notifications."""

from sqlalchemy import Column, DateTime, Index, Table, Text, Uuid, func

from services.notification.schema import metadata

email_batches = Table(
    "email_batches",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("user_id", Uuid, nullable=False),
    # The mail's state: PREPARED, SENT or FAILED.
    Column("state", Text, nullable=False),
    # Why the mail can't be sent; empty for other mails.
    Column("error", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("finished_at", DateTime(timezone=True)),
    Index("email_batches_age", "created_at"),
)
