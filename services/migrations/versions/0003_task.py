"""Creates the tables of projects, tasks, suggestions, jobs and reminders."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"

SCHEMA = "task"

_OPEN_DATE = "due_date IS NOT NULL AND finished_at IS NULL AND deleted_at IS NULL"


def upgrade() -> None:
    op.execute("CREATE SCHEMA task")
    _projects()
    _tasks()
    _suggestions()
    _jobs()
    _reminders()


def _projects() -> None:
    op.create_table(
        "projects",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("creator_id", sa.Uuid(), nullable=False),
        sa.Column("next_number", sa.BigInteger(), nullable=False, server_default=sa.text("1")),
        sa.Column("archived_at", _at()),
        sa.Column("revision", sa.BigInteger(), nullable=False, server_default=sa.text("1")),
        sa.Column("created_at", _at(), nullable=False),
        sa.Column("updated_at", _at(), nullable=False),
        sa.UniqueConstraint("workspace_id", "key", name="projects_key"),
        schema=SCHEMA,
        postgresql_with={"fillfactor": "50"},
    )
    _index("projects_created", "projects", "workspace_id", "id")


def _tasks() -> None:
    op.create_table(
        "tasks",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), sa.ForeignKey("task.projects.id"), nullable=False),
        sa.Column("project_key", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("assignee_id", sa.Uuid()),
        sa.Column("creator_id", sa.Uuid(), nullable=False),
        sa.Column("labels", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("due_date", sa.Date()),
        sa.Column("due_local", sa.DateTime(timezone=False)),
        sa.Column("due_zone", sa.Text()),
        sa.Column("due_at", _at()),
        sa.Column("payload", JSONB()),
        sa.Column("parent_id", sa.Uuid()),
        sa.Column("revision", sa.BigInteger(), nullable=False, server_default=sa.text("1")),
        sa.Column("text_revision", sa.BigInteger(), nullable=False, server_default=sa.text("1")),
        sa.Column("created_at", _at(), nullable=False),
        sa.Column("updated_at", _at(), nullable=False),
        sa.Column("finished_at", _at()),
        sa.Column("deleted_at", _at()),
        sa.UniqueConstraint("project_id", "number", name="tasks_number"),
        sa.CheckConstraint("due_date IS NULL OR due_local IS NULL", name="tasks_one_due"),
        schema=SCHEMA,
    )
    _index("tasks_created", "tasks", "workspace_id", "created_at", "id")
    _index("tasks_updated", "tasks", "workspace_id", "updated_at", "id")
    _index("tasks_due", "tasks", "workspace_id", "due_at", "id")
    _index("tasks_priority", "tasks", "workspace_id", "priority", "id")
    _index("tasks_project_created", "tasks", "project_id", "created_at", "id")
    _index("tasks_project_updated", "tasks", "project_id", "updated_at", "id")
    _index("tasks_project_due", "tasks", "project_id", "due_at", "id")
    _index("tasks_project_priority", "tasks", "project_id", "priority", "id")
    _index("tasks_status", "tasks", "workspace_id", "status", "created_at", "id")
    _index("tasks_assignee", "tasks", "workspace_id", "assignee_id", "created_at", "id")
    _index("tasks_creator", "tasks", "workspace_id", "creator_id", "created_at", "id")
    op.create_index("tasks_labels", "tasks", ["labels"], schema=SCHEMA, postgresql_using="gin")
    op.create_index(
        "tasks_assignee_dates",
        "tasks",
        ["assignee_id", "id"],
        schema=SCHEMA,
        postgresql_where=sa.text(_OPEN_DATE),
    )
    op.create_index(
        "tasks_creator_dates",
        "tasks",
        ["creator_id", "id"],
        schema=SCHEMA,
        postgresql_where=sa.text(f"{_OPEN_DATE} AND assignee_id IS NULL"),
    )


def _suggestions() -> None:
    op.create_table(
        "suggestions",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("task_id", sa.Uuid(), sa.ForeignKey("task.tasks.id"), nullable=False),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.Column("priority", sa.SmallInteger()),
        sa.Column("description", sa.Text()),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("confidence", sa.REAL(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("prompt_version", sa.Text(), nullable=False),
        sa.Column("base_text_revision", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("resolver_id", sa.Uuid()),
        sa.Column("resolved_at", _at()),
        sa.Column("reject_reason", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column(
            "accepted_with_edits", sa.Boolean(), nullable=False, server_default=sa.text("false")
        ),
        sa.Column("revision", sa.BigInteger(), nullable=False, server_default=sa.text("1")),
        sa.Column("created_at", _at(), nullable=False),
        sa.UniqueConstraint("task_id", "kind", "base_text_revision", name="suggestions_base"),
        schema=SCHEMA,
    )
    _index("suggestions_created", "suggestions", "workspace_id", "id")
    _index("suggestions_state", "suggestions", "workspace_id", "state", "id")
    _index("suggestions_task", "suggestions", "task_id", "id")


def _jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("task_id", sa.Uuid(), sa.ForeignKey("task.tasks.id"), nullable=False),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False, server_default=sa.text("1")),
        sa.Column("error", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("payload", JSONB()),
        sa.Column("result", JSONB()),
        sa.Column("base_text_revision", sa.BigInteger()),
        sa.Column("revision", sa.BigInteger(), nullable=False, server_default=sa.text("1")),
        sa.Column("created_at", _at(), nullable=False),
        sa.Column("started_at", _at()),
        sa.Column("finished_at", _at()),
        schema=SCHEMA,
    )
    _index("jobs_created", "jobs", "workspace_id", "id")
    _index("jobs_state", "jobs", "workspace_id", "state", "id")
    _index("jobs_task", "jobs", "task_id", "id")
    op.create_index(
        "jobs_enrichment",
        "jobs",
        ["task_id", "base_text_revision"],
        schema=SCHEMA,
        unique=True,
        postgresql_where=sa.text("base_text_revision IS NOT NULL"),
    )


def _reminders() -> None:
    op.create_table(
        "reminders",
        sa.Column("task_id", sa.Uuid(), sa.ForeignKey("task.tasks.id"), nullable=False),
        sa.Column("due_at", _at(), nullable=False),
        sa.Column("offset_seconds", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.SmallInteger(), nullable=False),
        sa.Column("remind_at", _at(), nullable=False),
        sa.Column("zone", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("recorded_at", _at(), nullable=False),
        sa.PrimaryKeyConstraint("task_id", "due_at", "offset_seconds"),
        schema=SCHEMA,
    )


def _at() -> sa.DateTime:
    return sa.DateTime(timezone=True)


def _index(name: str, table: str, *columns: str) -> None:
    op.create_index(name, table, list(columns), schema=SCHEMA)
