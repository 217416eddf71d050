"""Tables of the schema `task`. Enum columns hold the numbers of the proto's enums; times are UTC instants.

Every list of tasks is scoped to a workspace or to projects of one, so each order has an index that begins with either;
ids are UUIDv7 and `created_at` is the time in them, so that the order of ids is the order of creation. Lists go by
(created_at, id) all the same: the primary key would do for an order by the id alone, and reading other workspaces'
rows on the way can look cheap to the planner. Statuses have every order: most tasks are done, and whoever looks for
the others in the order of all of them passes those.
"""

from sqlalchemy import (
    ARRAY,
    REAL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData(schema="task")

projects = Table(
    "projects",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("workspace_id", Uuid, nullable=False),
    Column("key", Text, nullable=False),
    Column("display_name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("creator_id", Uuid, nullable=False),
    # The number of the next task.
    Column("next_number", BigInteger, nullable=False, server_default=text("1")),
    Column("archived_at", DateTime(timezone=True)),
    Column("revision", BigInteger, nullable=False, server_default=text("1")),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False),
    UniqueConstraint("workspace_id", "key", name="projects_key"),
    Index("projects_created", "workspace_id", "created_at", "id"),
    Index(
        "projects_unarchived",
        "workspace_id",
        "created_at",
        "id",
        postgresql_where=text("archived_at IS NULL"),
    ),
    # Room for new versions beside the old one: the counter changes with every task.
    postgresql_with={"fillfactor": "50"},
)

tasks = Table(
    "tasks",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("workspace_id", Uuid, nullable=False),
    Column("project_id", Uuid, ForeignKey(projects.c.id), nullable=False),
    # A project's key never changes; here it saves every read of a task a join.
    Column("project_key", Text, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("title", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("assignee_id", Uuid),
    Column("creator_id", Uuid, nullable=False),
    Column("labels", ARRAY(Text), nullable=False),
    # The deadline as it was said: a date, or a local time; in either case due_at is the instant that it means in
    # due_zone. For a date that is the zone of the assignee, or the creator, when it was computed.
    Column("due_date", Date),
    Column("due_local", DateTime(timezone=False)),
    Column("due_zone", Text),
    Column("due_at", DateTime(timezone=True)),
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
    # Deadlines that move with somebody's time zone, in any workspace.
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

suggestions = Table(
    "suggestions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("workspace_id", Uuid, nullable=False),
    Column("task_id", Uuid, ForeignKey(tasks.c.id), nullable=False),
    Column("kind", SmallInteger, nullable=False),
    # What is proposed: one of the two.
    Column("priority", SmallInteger),
    Column("description", Text),
    Column("reason", Text, nullable=False),
    Column("confidence", REAL, nullable=False),
    Column("model", Text, nullable=False),
    Column("prompt_version", Text, nullable=False),
    Column("base_text_revision", BigInteger, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("resolver_id", Uuid),
    Column("resolved_at", DateTime(timezone=True)),
    Column("reject_reason", Text, nullable=False, server_default=text("''")),
    Column("accepted_with_edits", Boolean, nullable=False, server_default=text("false")),
    Column("revision", BigInteger, nullable=False, server_default=text("1")),
    Column("created_at", DateTime(timezone=True), nullable=False),
    # Storing again what was made for the same text changes nothing.
    UniqueConstraint("task_id", "kind", "base_text_revision", name="suggestions_base"),
    Index("suggestions_created", "workspace_id", "created_at", "id"),
    Index("suggestions_state", "workspace_id", "state", "created_at", "id"),
    Index("suggestions_task", "task_id", "id"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("workspace_id", Uuid, nullable=False),
    Column("task_id", Uuid, ForeignKey(tasks.c.id), nullable=False),
    Column("kind", SmallInteger, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("attempt", Integer, nullable=False, server_default=text("1")),
    Column("error", Text, nullable=False, server_default=text("''")),
    # The task's payload when the job was made.
    Column("payload", JSONB),
    Column("result", JSONB),
    # For enrichment: the text that no suggestion could be made for.
    Column("base_text_revision", BigInteger),
    Column("revision", BigInteger, nullable=False, server_default=text("1")),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("started_at", DateTime(timezone=True)),
    Column("finished_at", DateTime(timezone=True)),
    Index("jobs_created", "workspace_id", "created_at", "id"),
    Index("jobs_state", "workspace_id", "state", "created_at", "id"),
    Index("jobs_task", "task_id", "id"),
    Index(
        "jobs_enrichment",
        "task_id",
        "base_text_revision",
        unique=True,
        postgresql_where=text("base_text_revision IS NOT NULL"),
    ),
)

# Calls of the AI within the last hour, and those that have to wait for their turn (allowance.py).
ai_calls = Table(
    "ai_calls",
    metadata,
    # The person or the workspace that it's counted for.
    Column("key", Uuid, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("allowed_at", DateTime(timezone=True), nullable=False),
    # What it's about; for people it's only counted.
    Column("task_id", Uuid),
    Column("text_revision", BigInteger),
    PrimaryKeyConstraint("key", "number"),
    Index("ai_calls_text", "task_id", "text_revision"),
    Index("ai_calls_age", "allowed_at"),
)

# The ledger: what became of each reminder. A row is written once and never changed.
reminders = Table(
    "reminders",
    metadata,
    Column("task_id", Uuid, ForeignKey(tasks.c.id), nullable=False),
    Column("due_at", DateTime(timezone=True), nullable=False),
    # Seconds before due_at; 0 for the one at the deadline itself.
    Column("offset_seconds", Integer, nullable=False),
    Column("outcome", SmallInteger, nullable=False),
    Column("remind_at", DateTime(timezone=True), nullable=False),
    # How the instant came about, for people: the zone that the deadline was read in, and the rule.
    Column("zone", Text, nullable=False),
    Column("rule", Text, nullable=False),
    Column("recorded_at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("task_id", "due_at", "offset_seconds"),
)
