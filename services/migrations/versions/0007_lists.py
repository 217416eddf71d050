"""Indexes for lists that passed by many rows at a million tasks: most are done, archived, read or replayed."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    # Open tasks, in every order: the done ones are the most, and the oldest.
    _index("task", "tasks", "tasks_status_updated", "workspace_id", "status", "updated_at", "id")
    _index("task", "tasks", "tasks_status_due", "workspace_id", "status", "due_at", "id")
    by_priority = ("priority", "created_at", "id")
    _index("task", "tasks", "tasks_status_priority", "workspace_id", "status", *by_priority)
    # Ordered by ids alone, a list of one priority was one in the order of the primary key.
    for name, scope in (
        ("tasks_priority", "workspace_id"),
        ("tasks_project_priority", "project_id"),
    ):
        op.drop_index(name, "tasks", schema="task")
        _index("task", "tasks", name, scope, *by_priority)
    _index(
        *("task", "projects", "projects_unarchived", "workspace_id", "id"),
        where="archived_at IS NULL",
    )
    _index("auth", "members", "members_owners", "workspace_id", where="role = 4")
    _index(
        *("notification", "notifications", "notifications_unmailed", "user_id", "sequence"),
        where="read_at IS NULL AND email_batch_id IS NULL",
    )
    _index(
        *("platform", "dead_letters", "dead_letters_waiting", "parked_at", "id"),
        where="replayed_at IS NULL",
    )


def _index(schema: str, table: str, name: str, *columns: str, where: str | None = None) -> None:
    op.create_index(
        name,
        table,
        list(columns),
        schema=schema,
        postgresql_where=None if where is None else sa.text(where),
    )
