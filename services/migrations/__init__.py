"""One Alembic history for all schemas; its own step (upgrade.py), which the services wait for."""

import asyncio
from pathlib import Path

import psycopg
import structlog
from sqlalchemy import Text, column, select, table

from services.platform.db import Database, Statement

log = structlog.get_logger()

# The newest revision, by the files' names: asking Alembic would cost each process 10 MB.
HEAD = max(file.name[:4] for file in Path(__file__).parent.glob("versions/[0-9]*.py"))

_VERSION = Statement(select(table("alembic_version", column("version_num", Text), schema="public")))


async def wait_until_current(db: Database) -> None:
    """Returns once the schema is the one that this code was written for, or a later one."""
    told = False
    while True:
        try:
            async with db.read() as tx:
                row = await tx.one(_VERSION)
                found = row.version_num if row else ""
        except psycopg.Error:
            found = ""
        if found >= HEAD:
            return
        if not told:
            log.info("waiting for migrations", needed=HEAD, found=found)
            told = True
        await asyncio.sleep(0.2)
