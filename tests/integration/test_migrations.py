"""The migrated database matches the models, and migrating again changes nothing."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from services import migrations
from services.migrations.tables import all_metadata
from services.platform.config import Settings


def test_the_migrated_database_matches_the_models(settings: Settings) -> None:
    engine = create_engine(
        settings.postgres_owner.replace("postgresql://", "postgresql+psycopg://", 1)
    )
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_schemas": True})
        # Alembic takes a list as well, though its annotation doesn't say so.
        every: Any = all_metadata()
        differences = compare_metadata(context, every)
    engine.dispose()
    assert differences == []


def test_services_wait_for_the_newest_revision() -> None:
    scripts = ScriptDirectory(str(Path(migrations.__file__).parent))
    assert scripts.get_current_head() == migrations.HEAD


async def test_repeated_and_concurrent_migrations_change_nothing(settings: Settings) -> None:
    environment = os.environ | {"TASKFLOW_DATABASE_URL": settings.postgres_owner}
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services", "migrate", env=environment
        )
        for _ in range(2)
    ]
    assert [await process.wait() for process in processes] == [0, 0]
