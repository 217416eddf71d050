"""Identifies a reminder by its deadline as the user set it, instead of the instant computed from the deadline."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

# Writes the deadline that each outcome was recorded for, as `Due.said` in services/task/tasks/due.py. An outcome whose
# instant isn't the task's present one belongs to an earlier deadline, or to an earlier zone of a day, which ended at
# 23:59:59. A day's reminders were sent some seconds before its end; now their offsets count days
# (services/task/reminders/schedule.py). Where two outcomes become the same one, the reminder that was sent (outcome 1)
# counts. Outcomes without an identity keep NULL: they count for the deadline with the same instant.
_IDENTIFY = """
UPDATE task.reminders SET due_said = identified.due_said, offset_seconds = identified.offset_seconds
FROM (
  SELECT place, due_said, offset_seconds,
    row_number() OVER (PARTITION BY task_id, due_said, offset_seconds ORDER BY outcome, recorded_at) AS n
  FROM (
    SELECT place, task_id, outcome, recorded_at,
      CASE WHEN day IS NULL THEN to_char(local, 'YYYY-MM-DD"T"HH24:MI:SS.US') || ' ' || zone
        ELSE to_char(day, 'YYYY-MM-DD') END AS due_said,
      CASE WHEN day IS NULL OR earlier = 0 THEN earlier WHEN earlier < 86400 THEN 86400
        WHEN earlier < 172800 THEN 172800 END AS offset_seconds
    FROM (
      SELECT reminder.ctid AS place, reminder.task_id, reminder.outcome, reminder.recorded_at,
        reminder.offset_seconds AS earlier,
        CASE WHEN task.due_at = reminder.due_at THEN task.due_date
          WHEN shown.local::time = '23:59:59' THEN shown.local::date END AS day,
        CASE WHEN task.due_at = reminder.due_at THEN task.due_local ELSE shown.local END AS local,
        CASE WHEN task.due_at = reminder.due_at THEN task.due_zone ELSE reminder.zone END AS zone
      FROM task.reminders AS reminder
      JOIN task.tasks AS task ON task.id = reminder.task_id
      LEFT JOIN pg_timezone_names AS known ON known.name = reminder.zone
      CROSS JOIN LATERAL (
        SELECT CASE WHEN known.name IS NOT NULL THEN reminder.due_at AT TIME ZONE reminder.zone END AS local
      ) AS shown
    ) AS dated
  ) AS said
) AS identified
WHERE reminders.ctid = identified.place AND identified.n = 1
  AND identified.due_said IS NOT NULL AND identified.offset_seconds IS NOT NULL
"""


def upgrade() -> None:
    op.add_column("tasks", sa.Column("due_set_at", sa.DateTime(timezone=True)), schema="task")
    op.add_column("reminders", sa.Column("due_said", sa.Text()), schema="task")
    # Processes of the version before this one go on for a while. Their outcomes have no identity.
    op.drop_constraint("reminders_pkey", "reminders", schema="task")
    op.execute(_IDENTIFY)
    op.create_unique_constraint(
        "reminders_identity",
        "reminders",
        ["task_id", "due_said", "offset_seconds"],
        schema="task",
    )
    op.create_index(
        "tasks_open_due",
        "tasks",
        ["id"],
        schema="task",
        postgresql_where=sa.text(
            "due_at IS NOT NULL AND finished_at IS NULL AND deleted_at IS NULL"
        ),
    )
    op.create_table(
        "walks",
        sa.Column("scope", sa.Text(), primary_key=True),
        sa.Column("rules", sa.Text(), nullable=False),
        sa.Column("after", sa.Uuid()),
        sa.Column("begun_at", sa.DateTime(timezone=True), nullable=False),
        schema="task",
    )
