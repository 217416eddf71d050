"""One Alembic history for all schemas; its own step (`python -m services migrate`), which the services wait for."""

import asyncio
from pathlib import Path

import psycopg
import structlog
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Text, column, select, table

from services.platform.config import Settings
from services.platform.db import Database, Statement

log = structlog.get_logger()

_VERSION = Statement(select(table("alembic_version", column("version_num", Text), schema="public")))


def alembic_config(settings: Settings) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["url"] = settings.postgres.replace(
        "postgresql://", "postgresql+psycopg://", 1
    )
    return config


def upgrade(settings: Settings) -> None:
    """Brings the database to the newest schema. Safe to run at any time, also twice at once."""
    command.upgrade(alembic_config(settings), "head")
    log.info("schema is current", version=_head())


async def wait_until_current(db: Database) -> None:
    """Returns once the schema is the one that this code was written for."""
    head = _head()
    told = False
    while True:
        try:
            async with db.read() as tx:
                row = await tx.one(_VERSION)
                found = row.version_num if row else None
        except psycopg.Error:
            found = None
        if found == head:
            return
        if not told:
            log.info("waiting for migrations", needed=head, found=found)
            told = True
        await asyncio.sleep(0.2)


def _head() -> str:
    scripts = ScriptDirectory(str(Path(__file__).parent))
    head = scripts.get_current_head()
    if head is None:
        raise RuntimeError("there are no migrations")
    return head
