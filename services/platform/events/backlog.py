"""Metrics of the outbox's backlog, taken beside the relay's work: they matter most when publishing stands still."""

import asyncio
import math

import psycopg
import psycopg_pool

from services.platform.data.db import Database
from services.platform.events import relay_queries as queries
from services.platform.observe import metrics

# Seconds between two updates of the backlog's metrics.
_INTERVAL = 1.0


async def run(db: Database) -> None:
    """Sets the metrics of the backlog for ever; to NaN while Postgres doesn't answer."""
    while True:
        try:
            await run_once(db)
        except (psycopg.Error, psycopg_pool.PoolTimeout):
            metrics.OUTBOX_DEPTH.set(math.nan)
            metrics.OUTBOX_AGE.set(math.nan)
        await asyncio.sleep(_INTERVAL)


async def run_once(db: Database) -> None:
    async with db.read() as tx:
        backlog = await tx.one(queries.BACKLOG)
    if backlog:
        metrics.OUTBOX_DEPTH.set(backlog.depth)
        metrics.OUTBOX_AGE.set(float(backlog.age))
