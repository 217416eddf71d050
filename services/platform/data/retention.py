"""Deletes old rows: a small batch at a time, with pauses.

Each feature declares kinds of rows in its own retention.py. Any process of a service may delete them, one process per
kind at a time. A second process would do no harm, because it skips rows that another transaction has locked.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

import structlog
from sqlalchemy import (
    Column,
    ColumnElement,
    Integer,
    Interval,
    Select,
    Table,
    Text,
    and_,
    any_,
    bindparam,
    func,
    literal_column,
    select,
)
from sqlalchemy import (
    Delete as DeleteClause,
)
from sqlalchemy import delete as delete_from

from services.platform.config import Settings
from services.platform.data.db import Database, Statement, Transaction
from services.platform.observe import metrics
from services.platform.observe.redaction import describe
from services.platform.rpc.errors import is_unavailable

log = structlog.get_logger()

# Rows in one transaction: few enough that no call notices the wait for their locks.
_ROWS = 500
# Pause after each batch (seconds), in which calls have the disk to themselves. It allows at most 5,000 deletions of a
# kind a second; 1,600 were measured.
_PAUSE = 0.1
# A row's place in its table (Postgres's ctid). Deleting by place keeps the plan independent of statistics.
PLACE: ColumnElement[object] = literal_column("ctid")
# First key of the advisory lock that lets one process at a time delete a kind of rows. The second key is a hash of the
# kind's name. Any number that no other lock uses.
_LOCK = 7_402_003

# Takes a transaction and the number of rows that it may delete. Returns how many it deleted, and whether more are left.
Delete = Callable[[Transaction, int], Awaitable[tuple[int, bool]]]


class _Lock(NamedTuple):
    acquired: bool


_TRY_LOCK = Statement(
    select(
        func.pg_try_advisory_xact_lock(_LOCK, func.hashtext(bindparam("kind", type_=Text))).label(
            "acquired"
        )
    ),
    row=_Lock,
)


@dataclass(frozen=True)
class Kind:
    """Rows that are deleted for one reason; metrics and logs show `name`."""

    name: str
    delete: Delete


def aged(
    name: str, table: Table, instant: Column[object], age: timedelta, *also: ColumnElement[bool]
) -> Kind:
    """A kind of rows to delete: those whose `instant` is longer ago than `age`, oldest first.

    `instant` needs an index; `also` holds further conditions.
    """
    statement = Statement(delete_oldest(table, instant, *also))

    async def delete(tx: Transaction, rows: int) -> tuple[int, bool]:
        count = await tx.run(statement, age=age, rows=rows)
        return count, count == rows

    return Kind(name, delete)


def delete_oldest(
    table: Table, instant: Column[object], *also: ColumnElement[bool]
) -> DeleteClause:
    """The statement that deletes the :rows oldest rows whose `instant` is longer ago than :age."""
    return delete_at(
        table,
        select(PLACE)
        .select_from(table)
        .where(expired(instant), *also)
        .order_by(instant)
        .limit(bindparam("rows", type_=Integer))
        .with_for_update(of=table, skip_locked=True),
    )


def delete_at(table: Table, places: Select[object]) -> DeleteClause:
    """The statement that deletes the table's rows at these places (ctids)."""
    return delete_from(table).where(any_(func.array(places.scalar_subquery())) == PLACE)


def expired(instant: Column[object]) -> ColumnElement[bool]:
    """The condition that a row's instant is longer ago than :age, by the database's clock."""
    return and_(instant.is_not(None), instant < func.now() - bindparam("age", type_=Interval))


async def run(settings: Settings, db: Database, kinds: Sequence[Kind]) -> None:
    """Deletes expired rows for ever."""
    while True:
        # Begins with a pause, so that a start costs nothing. Its length is random, so that processes take turns.
        await asyncio.sleep(settings.retention_interval * random.uniform(0.5, 1.0))
        await run_once(db, kinds)


async def run_once(db: Database, kinds: Sequence[Kind]) -> dict[str, int]:
    """Deletes all rows that have expired, a batch of each kind in turn; returns how many rows of each."""
    started = time.monotonic()
    deleted = dict.fromkeys((kind.name for kind in kinds), 0)
    left = list(kinds)
    while left:
        for kind in list(left):
            count, more = await _batch(db, kind)
            deleted[kind.name] += count
            metrics.ROWS_DELETED.labels(kind.name).inc(count)
            if not more:
                left.remove(kind)
            else:
                await asyncio.sleep(_PAUSE)
    if any(deleted.values()):
        counts = {name: count for name, count in deleted.items() if count}
        log.info("retention", seconds=round(time.monotonic() - started, 3), **counts)
    return deleted


async def _batch(db: Database, kind: Kind) -> tuple[int, bool]:
    """Deletes one batch of the kind; returns the number of rows, and whether more are left.

    While another process deletes this kind, or after an error, it returns (0, False): the next run deletes the rows.
    """
    try:
        async with db.transaction() as tx:
            lock = await tx.one(_TRY_LOCK, kind=kind.name)
            if lock is None or not lock.acquired:
                return 0, False
            return await kind.delete(tx, _ROWS)
    except Exception as error:
        if is_unavailable(error):
            log.warning("nothing deleted", kind=kind.name, error=describe(error))
        else:
            # Logged instead of raised, so that the other kinds are still deleted.
            log.error("nothing deleted", kind=kind.name, exc_info=error)
        return 0, False
