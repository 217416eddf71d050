"""Adds when a mail address was refused, since when mail is on, and the deadlines that mails show."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    for name in ("email_bounced_at", "email_on_since"):
        op.add_column("users", sa.Column(name, sa.DateTime(timezone=True)), schema="auth")
    op.add_column(
        "notifications", sa.Column("due_at", sa.DateTime(timezone=True)), schema="notification"
    )
    op.add_column("notifications", sa.Column("due_date", sa.Date()), schema="notification")
