"""The upgrade to reminders that are identified by the deadline as said: nobody is reminded a second time."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import LiteralString
from uuid import UUID

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import text
from uuid_utils.compat import uuid7

from deploy.local.stack import running_stack
from services import migrations
from services.platform.config import Settings
from services.platform.data.db import Database, Statement
from services.task.reminders import logic
from services.task.reminders.schedule import Rules
from services.task.tasks import due
from tests.conftest import settings_for
from tests.faults.harness.world import fetch
from tests.integration.people import database

_RULES = Rules((86400, 3600, 0), time(9))
_PROJECT = uuid7()

_ADD_PROJECT: LiteralString = """
INSERT INTO task.projects (id, workspace_id, key, display_name, description, creator_id, created_at, updated_at)
VALUES (%(id)s, %(id)s, 'OPS', 'OPS', '', %(id)s, now(), now())
"""
_ADD_TASK: LiteralString = """
INSERT INTO task.tasks (id, workspace_id, project_id, project_key, number, title, description, status, priority,
  creator_id, labels, due_date, due_local, due_zone, due_at, created_at, updated_at)
SELECT %(id)s, %(project)s, %(project)s, 'OPS', next_number, '', '', 1, 0, %(project)s, '{}', %(day)s, %(local)s,
  %(zone)s, %(due_at)s, now(), now()
FROM task.projects WHERE id = %(project)s
"""
_NEXT_NUMBER: LiteralString = (
    "UPDATE task.projects SET next_number = next_number + 1 WHERE id = %(project)s"
)
_ADD_OUTCOME: LiteralString = """
INSERT INTO task.reminders (task_id, due_at, offset_seconds, outcome, remind_at, zone, rule, recorded_at)
VALUES (%(id)s, %(due_at)s, %(offset)s, %(outcome)s, now(), %(zone)s, '', now())
"""


@pytest.fixture
async def older(tmp_path: Path) -> AsyncIterator[Settings]:
    """A database with the schema of the version before, and a project."""
    async with running_stack(settings_for(tmp_path / "data"), only={"postgres"}) as stack:
        await upgrade(stack.settings, "0008")
        await fetch(stack.settings, _ADD_PROJECT, {"id": _PROJECT})
        yield stack.settings


async def upgrade(settings: Settings, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["url"] = settings.postgres_owner
    await asyncio.to_thread(command.upgrade, config, revision)


async def write_task(
    settings: Settings, zone: str, *, day: date | None = None, local: datetime | None = None
) -> UUID:
    task_id = uuid7()
    said = due.Due(day, local, zone if local else None)
    values = {"id": task_id, "project": _PROJECT, "day": day, "local": local, "zone": zone}
    await fetch(settings, _ADD_TASK, values | {"due_at": said.instant(zone)})
    await fetch(settings, _NEXT_NUMBER, {"project": _PROJECT})
    return task_id


async def write_outcomes(
    settings: Settings, task_id: UUID, due_at: datetime, zone: str, *sent: int
) -> None:
    for offset in sent:
        values = {"id": task_id, "due_at": due_at, "offset": offset, "outcome": 1, "zone": zone}
        await fetch(settings, _ADD_OUTCOME, values)


async def left(db: Database, task_id: UUID) -> int | None:
    """The offset of the task's next reminder."""
    async with db.transaction() as tx:
        planned = await logic.plan(tx, task_id, _RULES)
    return None if planned is None else planned.offset_seconds


async def test_no_reminder_that_an_earlier_version_sent_is_sent_again(older: Settings) -> None:
    today = datetime.now(UTC).date()
    last_week, far = today - timedelta(days=7), today + timedelta(days=40)
    noon = datetime.combine(last_week, time(12))

    # Overdue, told in the zones before, and not yet in the present one.
    moved = await write_task(older, "America/New_York", day=last_week)
    for zone in ("UTC", "Europe/Berlin"):
        await write_outcomes(older, moved, due.end_of_day(last_week, zone), zone, 86400, 3600, 0)
    overdue = await write_task(older, "Asia/Tokyo", day=last_week)
    ended = due.end_of_day(last_week, "Asia/Tokyo")
    await write_outcomes(older, overdue, ended, "Asia/Tokyo", 0)
    timed = await write_task(older, "Europe/Berlin", local=noon)
    at = due.instant(noon, "Europe/Berlin")
    await write_outcomes(older, timed, at, "Europe/Berlin", 86400, 3600, 0)
    # Due in 40 days. The evening before counts as the morning before, the last hour as the morning of the day.
    evening = await write_task(older, "UTC", day=far)
    await write_outcomes(older, evening, due.end_of_day(far, "UTC"), "UTC", 86400)
    both = await write_task(older, "UTC", day=far)
    await write_outcomes(older, both, due.end_of_day(far, "UTC"), "UTC", 172800, 86400, 3600)
    untold = await write_task(older, "UTC", day=far)
    # Moved away from a deadline that was told; it may be moved back.
    back = await write_task(older, "UTC", local=datetime.combine(far, time(12)))
    await write_outcomes(older, back, at, "Europe/Berlin", 86400, 3600, 0)
    await write_outcomes(older, untold, at, "Nowhere/Land", 0)

    await upgrade(older, "head")
    async with database(older) as db:
        assert await left(db, moved) is None
        assert await left(db, overdue) is None
        assert await left(db, timed) is None
        assert await left(db, evening) == 86400
        assert await left(db, both) == 0
        assert await left(db, untold) == 172800
        assert await left(db, back) == 86400
        async with db.transaction() as tx:
            statement = text(
                "UPDATE task.tasks SET due_local = timestamp '" + noon.isoformat() + "',"
                " due_zone = 'Europe/Berlin', due_at = timestamptz '" + at.isoformat() + "'"
                f" WHERE id = '{back}'"
            )
            await tx.run(Statement(statement))
        assert await left(db, back) is None


async def test_a_process_of_the_earlier_version_can_go_on_after_the_migration(
    older: Settings,
) -> None:
    last_week = datetime.now(UTC).date() - timedelta(days=7)
    await upgrade(older, "head")
    task = await write_task(older, "UTC", day=last_week)
    await write_outcomes(older, task, due.end_of_day(last_week, "UTC"), "UTC", 86400, 3600, 0)
    async with database(older) as db:
        assert await left(db, task) is None
