"""The Alembic history of all schemas. The command `migrate` applies it; the services wait until it has done so."""

import asyncio
from pathlib import Path
from typing import NamedTuple

import psycopg
import structlog
from sqlalchemy import Text, column, select, table

from services.platform.data.db import Database, Statement
from services.platform.data.session_check import check_options

log = structlog.get_logger()

# The newest revision of the schema, taken from the file names: loading Alembic would cost each process 10 MB.
HEAD = max(file.name[:4] for file in Path(__file__).parent.glob("versions/[0-9]*.py"))


class Version(NamedTuple):
    version_num: str


_VERSION = Statement(
    select(table("alembic_version", column("version_num", Text), schema="public")), row=Version
)


async def wait_until_current(db: Database) -> None:
    """Returns once the database has the schema that this code needs, or a later one.

    Raises UnsuitableDatabase for an address behind a pooler that can't keep our promises.
    """
    logged = False
    while True:
        try:
            async with db.read() as tx:
                row = await tx.one(_VERSION)
                found = row.version_num if row else ""
            if found >= HEAD:
                await check_options(db)
                return
        except psycopg.Error:
            found = ""
        if not logged:
            log.info("waiting for migrations", needed=HEAD, found=found)
            logged = True
        await asyncio.sleep(0.2)
