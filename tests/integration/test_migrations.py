"""The migrated database is what the models say, and migrating again changes nothing."""

import asyncio
import os
import sys
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from services.auth.models import metadata as auth
from services.notification.models import metadata as notification
from services.platform.config import Settings
from services.platform.tables import metadata as platform
from services.task.models import metadata as task


def test_the_migrated_database_is_what_the_models_say(settings: Settings) -> None:
    engine = create_engine(settings.postgres.replace("postgresql://", "postgresql+psycopg://", 1))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_schemas": True})
        # Alembic takes a list as well, though its annotation doesn't say so.
        every: Any = [platform, auth, task, notification]
        differences = compare_metadata(context, every)
    engine.dispose()
    assert differences == []


async def test_migrating_again_and_twice_at_once_changes_nothing(settings: Settings) -> None:
    environment = os.environ | {"TASKFLOW_DATABASE_URL": settings.postgres}
    migrations = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services", "migrate", env=environment
        )
        for _ in range(2)
    ]
    assert [await migration.wait() for migration in migrations] == [0, 0]
