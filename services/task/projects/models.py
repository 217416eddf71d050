"""The table of projects."""

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Index,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)

from services.task.schema import metadata

projects = Table(
    "projects",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("workspace_id", Uuid, nullable=False),
    Column("key", Text, nullable=False),
    Column("display_name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("creator_id", Uuid, nullable=False),
    # The number of the project's next task.
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
    # Every new task updates the counter. A half-empty page has room for the new version of the row.
    postgresql_with={"fillfactor": "50"},
)
