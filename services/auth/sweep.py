"""Forgets what has had its time: attempts to log in, and sessions that ended long ago."""

import asyncio

import structlog

from services.auth import queries
from services.platform.db import Database

log = structlog.get_logger()

# Seconds.
_INTERVAL = 300.0


async def run(db: Database) -> None:
    while True:
        try:
            await run_once(db)
        except Exception as error:
            # Nothing depends on it today; the database will be back.
            log.warning("sweep failed", error=type(error).__name__)
        await asyncio.sleep(_INTERVAL)


async def run_once(db: Database) -> None:
    async with db.transaction() as tx:
        await tx.run(queries.FORGET_ATTEMPTS)
        await tx.run(queries.FORGET_SESSIONS)
