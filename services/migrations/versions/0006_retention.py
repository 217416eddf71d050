"""Adds indexes that find expired rows, so that they can be deleted."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    _index("task", "tasks", "tasks_deleted", "deleted_at")
    _index("task", "tasks", "tasks_parent", "parent_id")
    _index("notification", "notifications", "notifications_read", "read_at")
    _index("platform", "dead_letters", "dead_letters_replayed", "replayed_at")
    op.create_index("email_batches_age", "email_batches", ["created_at"], schema="notification")


def _index(schema: str, table: str, name: str, column: str) -> None:
    """Creates a partial index of the rows in which the column isn't null."""
    op.create_index(
        name, table, [column], schema=schema, postgresql_where=sa.text(f"{column} IS NOT NULL")
    )
