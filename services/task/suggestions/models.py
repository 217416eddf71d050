"""The tables of suggestions, and of the AI calls made for them."""

from sqlalchemy import (
    REAL,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Index,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)

from services.task.schema import metadata
from services.task.tasks.models import tasks

suggestions = Table(
    "suggestions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("workspace_id", Uuid, nullable=False),
    Column("task_id", Uuid, ForeignKey(tasks.c.id), nullable=False),
    Column("kind", SmallInteger, nullable=False),
    # The proposed value, by the suggestion's kind: either priority or description; the other column is null.
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
    # Allows one suggestion of each kind per text revision, so that storing suggestions again changes nothing.
    UniqueConstraint("task_id", "kind", "base_text_revision", name="suggestions_base"),
    Index("suggestions_created", "workspace_id", "created_at", "id"),
    Index("suggestions_state", "workspace_id", "state", "created_at", "id"),
    Index("suggestions_task", "task_id", "id"),
)

# AI calls of the last hour, and reserved slots of waiting calls (ai_rate_limit.py).
ai_calls = Table(
    "ai_calls",
    metadata,
    # The user or workspace whose limit counts the call.
    Column("key", Uuid, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("allowed_at", DateTime(timezone=True), nullable=False),
    # The task and text revision of the AI call; null in rows of users.
    Column("task_id", Uuid),
    Column("text_revision", BigInteger),
    PrimaryKeyConstraint("key", "number"),
    Index("ai_calls_text", "task_id", "text_revision"),
    Index("ai_calls_age", "allowed_at"),
)
