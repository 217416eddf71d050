"""The Alembic history of all schemas. The command `migrate` applies it; the services wait until it has done so."""

import asyncio
from pathlib import Path
from typing import NamedTuple

import psycopg
import structlog
from sqlalchemy import Text, column, select, table

from services.platform.data.db import Database, Statement

log = structlog.get_logger()

# The newest revision of the schema, taken from the file names: loading Alembic would cost each process 10 MB.
HEAD = max(file.name[:4] for file in Path(__file__).parent.glob("versions/[0-9]*.py"))


class Version(NamedTuple):
    version_num: str


_VERSION = Statement(
    select(table("alembic_version", column("version_num", Text), schema="public")), row=Version
)


async def wait_until_current(db: Database) -> None:
    """Waits until the database has the schema version that this code needs, or a later one."""
    logged = False
    while True:
        try:
            async with db.read() as tx:
                row = await tx.one(_VERSION)
                found = row.version_num if row else ""
        except psycopg.Error:
            found = ""
        if found >= HEAD:
            return
        if not logged:
            log.info("waiting for migrations", needed=HEAD, found=found)
            logged = True
        await asyncio.sleep(0.2)
