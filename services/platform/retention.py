"""What has had its time is deleted: some rows at a time, with pauses, whichever of the processes comes first.

Every service says which rows of its tables these are (its own retention.py). Each kind of them is deleted by one
process at a time; a second one beside it would do no harm, as rows that another transaction holds are left out.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

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
    cast,
    delete,
    exists,
    func,
    literal_column,
    not_,
    select,
)

from services.platform import idempotency, telemetry
from services.platform.config import Settings
from services.platform.consumers import count_lost
from services.platform.db import Database, Statement, Transaction
from services.platform.errors import is_unavailable
from services.platform.redaction import describe
from services.platform.tables import consumed_events, dead_letters, idempotency_keys, outbox

log = structlog.get_logger()

# Rows in one transaction: milliseconds, so that nobody waits for it.
_ROWS = 500
# Between two of them (seconds): others have the disk for most of the time, and 5,000 rows a second go all the same.
_PAUSE = 0.1
# Where a row is in its table. Rows are deleted by it, so that the plan is the same whatever the statistics say.
PLACE: ColumnElement[object] = literal_column("ctid")
# With the kind's hash, any number that nothing else locks.
_LOCK = 7_402_003

_TRY_LOCK = Statement(
    select(
        func.pg_try_advisory_xact_lock(_LOCK, func.hashtext(bindparam("kind", type_=Text))).label(
            "mine"
        )
    )
)


@dataclass(frozen=True)
class Kind:
    """Rows that are deleted for one reason; `name` is what metrics and logs call them.

    `delete` takes a transaction and how many rows it may touch at most; it returns how many it deleted, and whether
    there may be more.
    """

    name: str
    delete: Callable[[Transaction, int], Awaitable[tuple[int, bool]]]


def aged(
    name: str, table: Table, age: Column[object], after: timedelta, *also: ColumnElement[bool]
) -> Kind:
    """The rows of which the instant `age` was long enough ago, oldest first; `age` needs an index."""
    statement = oldest(table, age, *also)

    async def delete(tx: Transaction, rows: int) -> tuple[int, bool]:
        count = await tx.run(statement, age=after, rows=rows)
        return count, count == rows

    return Kind(name, delete)


def oldest(
    table: Table,
    age: Column[object],
    *also: ColumnElement[bool],
    returning: Sequence[Column[object]] = (),
) -> Statement:
    """Deletes :rows rows that are older than :age."""
    return deletion(
        table,
        select(PLACE)
        .select_from(table)
        .where(due(age), *also)
        .order_by(age)
        .limit(bindparam("rows", type_=Integer))
        .with_for_update(of=table, skip_locked=True),
        *returning,
    )


def deletion(table: Table, places: Select[object], *returning: Column[object]) -> Statement:
    """Deletes the rows of the table that are at these places."""
    deleting = delete(table).where(any_(func.array(places.scalar_subquery())) == PLACE)
    return Statement(deleting.returning(*returning) if returning else deleting)


def due(age: Column[object]) -> ColumnElement[bool]:
    """Whether that instant is longer ago than :age, by the database's clock."""
    return and_(age.is_not(None), age < func.now() - bindparam("age", type_=Interval))


_DELETE_EVENTS = oldest(
    outbox, outbox.c.published_at, returning=(outbox.c.stream_sequence, outbox.c.subject)
)


def platform(settings: Settings) -> list[Kind]:
    """Of the tables that all services write to; the relay's process deletes them.

    A broker that lost its disk is sent the events again that were published within `event_retention`. That an event
    was consumed is remembered for as long as it can come once more: while it's in the outbox, the stream is sent it
    again, and holds it for as long; while there is a dead letter of it, that can be replayed.
    """
    kept = timedelta(seconds=settings.event_retention)
    return [
        Kind("outbox", _delete_events(kept)),
        aged(
            "idempotency_keys",
            idempotency_keys,
            idempotency_keys.c.created_at,
            idempotency.LIFETIME,
        ),
        aged(
            "consumed_events",
            consumed_events,
            consumed_events.c.consumed_at,
            2 * kept,
            _absent(outbox, outbox.c.event_id == consumed_events.c.event_id),
            _absent(
                dead_letters,
                dead_letters.c.consumer == consumed_events.c.consumer,
                dead_letters.c.event_id == cast(consumed_events.c.event_id, Text),
            ),
        ),
    ]


def _delete_events(after: timedelta) -> Callable[[Transaction, int], Awaitable[tuple[int, bool]]]:
    async def delete(tx: Transaction, rows: int) -> tuple[int, bool]:
        deleted = await tx.all(_DELETE_EVENTS, age=after, rows=rows)
        await count_lost(tx, deleted)
        return len(deleted), len(deleted) == rows

    return delete


def _absent(table: Table, *of_row: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether the table has no such row, which is looked for by its index.

    Without an offset Postgres may join the two tables whole: it takes most rows to be there, of which hardly any is.
    """
    return not_(exists(select(1).select_from(table).where(*of_row).offset(0)))


async def run(settings: Settings, db: Database, kinds: Sequence[Kind]) -> None:
    """Deletes for ever what is due."""
    while True:
        # First of all a pause, of a length that no other process has: starts and restarts should cost nothing.
        await asyncio.sleep(settings.retention_interval * random.uniform(0.5, 1.0))
        await run_once(db, kinds)


async def run_once(db: Database, kinds: Sequence[Kind]) -> dict[str, int]:
    """Deletes what is due now, a batch of each kind in turn; returns how many rows of each."""
    started = time.monotonic()
    deleted = dict.fromkeys((kind.name for kind in kinds), 0)
    left = list(kinds)
    while left:
        for kind in list(left):
            count, more = await _batch(db, kind)
            deleted[kind.name] += count
            telemetry.ROWS_DELETED.labels(kind.name).inc(count)
            if not more:
                left.remove(kind)
            else:
                await asyncio.sleep(_PAUSE)
    if any(deleted.values()):
        counts = {name: count for name, count in deleted.items() if count}
        log.info("retention", seconds=round(time.monotonic() - started, 3), **counts)
    return deleted


async def _batch(db: Database, kind: Kind) -> tuple[int, bool]:
    """As `Kind.delete`. Nothing when another process is at it, or when it failed: nothing depends on it today."""
    try:
        async with db.transaction() as tx:
            lock = await tx.one(_TRY_LOCK, kind=kind.name)
            if lock is None or not lock.mine:
                return 0, False
            return await kind.delete(tx, _ROWS)
    except Exception as error:
        if is_unavailable(error):
            log.warning("nothing deleted", kind=kind.name, error=describe(error))
        else:
            # One kind mustn't keep the others from being deleted.
            log.error("nothing deleted", kind=kind.name, exc_info=error)
        return 0, False
