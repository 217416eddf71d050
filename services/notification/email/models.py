"""The table of mails that contain notifications."""

from sqlalchemy import Column, DateTime, Index, Table, Text, Uuid, func

from services.notification.schema import metadata

email_batches = Table(
    "email_batches",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("user_id", Uuid, nullable=False),
    # PREPARED, SENT, FAILED, or SKIPPED: its notifications are never mailed.
    Column("state", Text, nullable=False),
    # Why it is FAILED or SKIPPED; empty otherwise.
    Column("error", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("finished_at", DateTime(timezone=True)),
    Index("email_batches_age", "created_at"),
)
