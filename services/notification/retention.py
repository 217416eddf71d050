"""Forgets what nobody can ask for any more."""

import asyncio
from datetime import timedelta

import structlog

from services.notification import queries
from services.notification.consumer import NAME
from services.platform.db import Database, Statement
from services.platform.errors import is_unavailable

log = structlog.get_logger()

# A stream that was away for longer is reset: the client lists again.
_CHANGES_KEPT = timedelta(days=30)
# Longer than events come again: the stream and the outbox keep them for 7 days by default.
_CLAIMS_KEPT = timedelta(days=30)
_INTERVAL = 3600.0
# Rows in one transaction.
_CHUNK = 5000


class Retention:
    def __init__(self, db: Database) -> None:
        self._db = db

    async def run(self) -> None:
        while True:
            try:
                await self.run_once()
            except Exception as error:
                if not is_unavailable(error):
                    raise
                log.warning("nothing forgotten", error=type(error).__name__)
            await asyncio.sleep(_INTERVAL)

    async def run_once(self) -> None:
        await self._forget(queries.FORGET_CHANGES, age=_CHANGES_KEPT)
        await self._forget(queries.FORGET_CLAIMS, age=_CLAIMS_KEPT, consumer=NAME)

    async def _forget(self, statement: Statement, **parameters: object) -> None:
        forgotten = _CHUNK
        while forgotten == _CHUNK:
            async with self._db.transaction() as tx:
                forgotten = await tx.run(statement, count=_CHUNK, **parameters)
