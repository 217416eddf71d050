"""The table of jobs."""

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from services.task.schema import metadata
from services.task.tasks.models import tasks

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
    # The task's payload when the job was created.
    Column("payload", JSONB),
    Column("result", JSONB),
    # For kind ENRICHMENT: the text revision for which a worker failed to make suggestions.
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
