"""Adds indexes for lists that read many unwanted rows at a million tasks: done, archived, read or replayed ones."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    # Find open tasks in every order: most tasks are done, and done tasks are the oldest.
    _index("task", "tasks", "tasks_status_updated", "workspace_id", "status", "updated_at", "id")
    _index("task", "tasks", "tasks_status_due", "workspace_id", "status", "due_at", "id")
    by_priority = ("priority", "created_at", "id")
    _index("task", "tasks", "tasks_status_priority", "workspace_id", "status", *by_priority)
    # End with created_at and id instead of the id alone, for which Postgres could scan the primary key instead.
    _again("tasks_priority", "tasks", "workspace_id", *by_priority)
    _again("tasks_project_priority", "tasks", "project_id", *by_priority)
    by_creation = ("created_at", "id")
    _again("projects_created", "projects", "workspace_id", *by_creation)
    for table in ("suggestions", "jobs"):
        _again(f"{table}_created", table, "workspace_id", *by_creation)
        _again(f"{table}_state", table, "workspace_id", "state", *by_creation)
    _index(
        *("task", "projects", "projects_unarchived", "workspace_id", *by_creation),
        where="archived_at IS NULL",
    )
    # Looking up a call's session needs only the primary key; by this index Postgres read all sessions of the user.
    op.drop_index("sessions_user", "sessions", schema="auth")
    # By this index Postgres read all memberships of a user to check one. The new one serves only lists of them.
    op.drop_index("members_user", "members", schema="auth")
    by_user = ("user_id", "workspace_id")
    _index("auth", "members", "members_user", *by_user, where="role > 0")
    _index("auth", "members", "members_owners", "workspace_id", where="role = 4")
    _index(
        *("notification", "notifications", "notifications_unmailed", "user_id", "sequence"),
        where="read_at IS NULL AND email_batch_id IS NULL",
    )
    _index(
        *("platform", "dead_letters", "dead_letters_waiting", "parked_at", "id"),
        where="replayed_at IS NULL",
    )


def _again(name: str, table: str, *columns: str) -> None:
    op.drop_index(name, table, schema="task")
    _index("task", table, name, *columns)


def _index(schema: str, table: str, name: str, *columns: str, where: str | None = None) -> None:
    op.create_index(
        name,
        table,
        list(columns),
        schema=schema,
        postgresql_where=None if where is None else sa.text(where),
    )
