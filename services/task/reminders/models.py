"""The tables of reminders."""

from sqlalchemy import (
    Column,
    DateTime,
    ForeignKey,
    Integer,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
)

from services.task.schema import metadata
from services.task.tasks.models import tasks

# The outcome of each reminder. Rows are inserted once and never updated.
reminders = Table(
    "reminders",
    metadata,
    Column("task_id", Uuid, ForeignKey(tasks.c.id), nullable=False),
    # The deadline as the user set it (`Due.said`). With the offset it identifies the reminder. NULL in rows of an
    # earlier version, which identified it by due_at.
    Column("due_said", Text),
    # The instant of the deadline when the outcome was recorded.
    Column("due_at", DateTime(timezone=True), nullable=False),
    # Seconds before due_at; 0 for the reminder at the deadline itself. See schedule.py for a day's.
    Column("offset_seconds", Integer, nullable=False),
    Column("outcome", SmallInteger, nullable=False),
    Column("remind_at", DateTime(timezone=True), nullable=False),
    # How remind_at was computed, for operators: the deadline's time zone, and the offset as text.
    Column("zone", Text, nullable=False),
    Column("rule", Text, nullable=False),
    Column("recorded_at", DateTime(timezone=True), nullable=False),
    UniqueConstraint("task_id", "due_said", "offset_seconds", name="reminders_identity"),
)
# How far each walk is. A walk visits tasks in the order of their ids, and computes due times or plans reminders again
# (walks.py).
walks = Table(
    "walks",
    metadata,
    # "due times", "reminders", or the id of a project.
    Column("scope", Text, primary_key=True),
    # The rules that the walk applies. Other rules begin another walk.
    Column("rules", Text, nullable=False),
    # The last task that was visited; NULL once all were.
    Column("after", Uuid),
    Column("begun_at", DateTime(timezone=True), nullable=False),
)
