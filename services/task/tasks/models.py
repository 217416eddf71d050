"""The tables of tasks, and of former members who still have some."""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    ForeignKey,
    Index,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from services.task.projects.models import projects
from services.task.schema import metadata

tasks = Table(
    "tasks",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("workspace_id", Uuid, nullable=False),
    Column("project_id", Uuid, ForeignKey(projects.c.id), nullable=False),
    # A copy of the project's key, so that reading a task needs no join. A project's key never changes.
    Column("project_key", Text, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("title", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("assignee_id", Uuid),
    Column("creator_id", Uuid, nullable=False),
    Column("labels", ARRAY(Text), nullable=False),
    # The deadline as the user set it: a date, or a local time. due_at is its instant, computed in due_zone. For a date
    # due_zone is the assignee's time zone, or the creator's while nobody is assigned.
    Column("due_date", Date),
    Column("due_local", DateTime(timezone=False)),
    Column("due_zone", Text),
    Column("due_at", DateTime(timezone=True)),
    # When the user set the deadline. None: there is none, or an earlier version stored it.
    Column("due_set_at", DateTime(timezone=True)),
    Column("payload", JSONB),
    Column("parent_id", Uuid),
    Column("revision", BigInteger, nullable=False, server_default=text("1")),
    Column("text_revision", BigInteger, nullable=False, server_default=text("1")),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False),
    Column("finished_at", DateTime(timezone=True)),
    Column("deleted_at", DateTime(timezone=True)),
    UniqueConstraint("project_id", "number", name="tasks_number"),
    CheckConstraint("due_date IS NULL OR due_local IS NULL", name="tasks_one_due"),
    Index("tasks_created", "workspace_id", "created_at", "id"),
    Index("tasks_updated", "workspace_id", "updated_at", "id"),
    Index("tasks_due", "workspace_id", "due_at", "id"),
    Index("tasks_priority", "workspace_id", "priority", "created_at", "id"),
    Index("tasks_project_created", "project_id", "created_at", "id"),
    Index("tasks_project_updated", "project_id", "updated_at", "id"),
    Index("tasks_project_due", "project_id", "due_at", "id"),
    Index("tasks_project_priority", "project_id", "priority", "created_at", "id"),
    Index("tasks_status", "workspace_id", "status", "created_at", "id"),
    Index("tasks_status_updated", "workspace_id", "status", "updated_at", "id"),
    Index("tasks_status_due", "workspace_id", "status", "due_at", "id"),
    Index("tasks_status_priority", "workspace_id", "status", "priority", "created_at", "id"),
    Index("tasks_assignee", "workspace_id", "assignee_id", "created_at", "id"),
    Index("tasks_creator", "workspace_id", "creator_id", "created_at", "id"),
    Index("tasks_labels", "labels", postgresql_using="gin"),
    Index("tasks_parent", "parent_id", postgresql_where=text("parent_id IS NOT NULL")),
    Index("tasks_deleted", "deleted_at", postgresql_where=text("deleted_at IS NOT NULL")),
    # Open tasks with a deadline, for walks over all of them: most tasks are done, and the oldest.
    Index(
        "tasks_open_due",
        "id",
        postgresql_where=text("due_at IS NOT NULL AND finished_at IS NULL AND deleted_at IS NULL"),
    ),
    # Open tasks whose deadline moves when the user's time zone changes.
    Index(
        "tasks_assignee_dates",
        "assignee_id",
        "id",
        postgresql_where=text(
            "due_date IS NOT NULL AND finished_at IS NULL AND deleted_at IS NULL"
        ),
    ),
    Index(
        "tasks_creator_dates",
        "creator_id",
        "id",
        postgresql_where=text(
            "due_date IS NOT NULL AND finished_at IS NULL AND deleted_at IS NULL"
            " AND assignee_id IS NULL"
        ),
    ),
)

# Removed members, until none of the workspace's open tasks is assigned to them. Until then they count as unassigned.
former_members = Table(
    "former_members",
    metadata,
    Column("workspace_id", Uuid, primary_key=True),
    Column("user_id", Uuid, primary_key=True),
    # The user who removed the member: the actor of the unassignments.
    Column("actor_id", Uuid, nullable=False),
    Column("removed_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
