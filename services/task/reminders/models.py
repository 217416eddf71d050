"""The table of reminders."""

from sqlalchemy import (
    Column,
    DateTime,
    ForeignKey,
    Integer,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
)

from services.task.schema import metadata
from services.task.tasks.models import tasks

# The outcome of each reminder. Rows are inserted once and never updated.
reminders = Table(
    "reminders",
    metadata,
    Column("task_id", Uuid, ForeignKey(tasks.c.id), nullable=False),
    Column("due_at", DateTime(timezone=True), nullable=False),
    # Seconds before due_at; 0 for the reminder at the deadline itself.
    Column("offset_seconds", Integer, nullable=False),
    Column("outcome", SmallInteger, nullable=False),
    Column("remind_at", DateTime(timezone=True), nullable=False),
    # How remind_at was computed, for operators: the deadline's time zone, and the offset as text.
    Column("zone", Text, nullable=False),
    Column("rule", Text, nullable=False),
    Column("recorded_at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("task_id", "due_at", "offset_seconds"),
)
