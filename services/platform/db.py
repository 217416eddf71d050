"""Postgres: SQLAlchemy Core statements, compiled once, run on a psycopg pool (docs/adr/0002)."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import psycopg
import structlog
from psycopg.rows import namedtuple_row
from psycopg_pool import AsyncConnectionPool
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.sql import ClauseElement

from services.platform.config import Settings

log = structlog.get_logger()

_DIALECT = PGDialect_psycopg()  # type: ignore[no-untyped-call]

# Cursors that a connection keeps at most, far more than there are statements written out.
_CURSORS = 500

# A named tuple with the columns of the statement that returned it.
Row = Any


class Statement:
    """A SQLAlchemy statement, compiled for psycopg when the module that defines it is imported.

    Parameters are those of its `bindparam`s, and for an insert without values the columns named in `columns`. With
    `prepare=False` Postgres plans it anew for the values of each run, which pays where the best plan depends on them.
    """

    def __init__(
        self,
        clause: ClauseElement,
        columns: list[str] | None = None,
        *,
        prepare: bool | None = None,
    ) -> None:
        compiled = clause.compile(dialect=_DIALECT, column_keys=columns)
        self.sql = str(compiled).encode()
        self.prepare = prepare
        # Values that stand in the statement itself. A missing parameter is refused by psycopg.
        binds: dict[str, Any] = compiled.binds  # type: ignore[attr-defined]
        self.values = {name: bind.value for name, bind in binds.items() if not bind.required}

    def parameters(self, given: dict[str, Any]) -> dict[str, Any]:
        return self.values | given if self.values else given


class Connection(psycopg.AsyncConnection[Row]):
    """Keeps a cursor for each statement: with the same one psycopg needn't find out anew how to convert its values,
    which takes a fifth of the time of a small statement."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._cursors: dict[Statement, psycopg.AsyncCursor[Row]] = {}

    def cursor_for(self, statement: Statement) -> psycopg.AsyncCursor[Row]:
        cursor = self._cursors.get(statement)
        if cursor is None:
            if len(self._cursors) == _CURSORS:
                self._cursors.clear()
            cursor = self._cursors[statement] = self.cursor()
        return cursor


class Transaction:
    """One open transaction. Whoever opened it commits; nothing that is handed one does."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        # Set by the outbox: the relay is woken up after the commit.
        self.has_events = False

    async def all(self, statement: Statement, **parameters: Any) -> list[Row]:
        # With a cursor of its own, which doesn't keep what can be megabytes.
        cursor = await self._connection.execute(
            statement.sql, statement.parameters(parameters), prepare=statement.prepare
        )
        return await cursor.fetchall()

    async def one(self, statement: Statement, **parameters: Any) -> Row | None:
        """The first row, or None."""
        cursor = await self._execute(statement, parameters)
        return await cursor.fetchone()

    async def run(self, statement: Statement, **parameters: Any) -> int:
        """How many rows it touched."""
        cursor = await self._execute(statement, parameters)
        return cursor.rowcount

    def atomic(self) -> AbstractAsyncContextManager[object]:
        """Makes the statements in its block one transaction. For what `Database.single` opened."""
        return self._connection.transaction()

    async def _execute(
        self, statement: Statement, parameters: dict[str, Any]
    ) -> psycopg.AsyncCursor[Row]:
        cursor = self._connection.cursor_for(statement)
        return await cursor.execute(
            statement.sql, statement.parameters(parameters), prepare=statement.prepare
        )

    async def run_many(self, statement: Statement, rows: list[dict[str, Any]]) -> None:
        async with self._connection.cursor() as cursor:
            await cursor.executemany(statement.sql, [statement.parameters(row) for row in rows])


class Database:
    """The process's pool of connections."""

    def __init__(self, settings: Settings, *, application: str) -> None:
        timeout = int(settings.statement_timeout * 1000)
        self._pool = AsyncConnectionPool[Connection](
            settings.postgres,
            connection_class=Connection,
            kwargs={
                "row_factory": namedtuple_row,
                "autocommit": True,
                "application_name": f"taskflow-{application}",
                "prepare_threshold": 1,
                # Cancellation alone doesn't reach a server that hangs.
                "options": f"-c statement_timeout={timeout} -c timezone=UTC"
                f" -c idle_in_transaction_session_timeout={3 * timeout}",
                "connect_timeout": 5,
                "keepalives_idle": 10,
                "tcp_user_timeout": 2 * timeout,
            },
            min_size=min(2, settings.database_pool_size),
            max_size=settings.database_pool_size,
            timeout=5,
            reconnect_timeout=0,
            open=False,
        )
        # Called after each commit that wrote events.
        self.on_events: Callable[[], None] | None = None

    async def open(self) -> None:
        await self._pool.open(wait=False)

    async def close(self) -> None:
        await self._pool.close()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Commits at the end, rolls back on an exception. READ COMMITTED."""
        async with self._pool.connection() as connection, connection.transaction():
            transaction = Transaction(connection)
            yield transaction
        self._committed(transaction)

    @asynccontextmanager
    async def single(self) -> AsyncIterator[Transaction]:
        """For statements that write, each a transaction by itself, without the round trips of BEGIN and COMMIT.

        They share one connection, which a crash of Postgres ends: no statement uses what an earlier one returned before
        the crash.
        """
        async with self.read() as transaction:
            yield transaction
        self._committed(transaction)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Transaction]:
        """For single statements that only read: each sees the newest state, without BEGIN and COMMIT around it."""
        # Not `pool.connection()`, which would also end a transaction that isn't there.
        connection = await self._pool.getconn()
        try:
            yield Transaction(connection)
        finally:
            await self._pool.putconn(connection)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Transaction]:
        """For several reads that have to agree: they all see the state at the first of them."""
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield Transaction(connection)

    def _committed(self, transaction: Transaction) -> None:
        if transaction.has_events and self.on_events:
            self.on_events()

    async def ping(self) -> None:
        """Raises when Postgres doesn't answer."""
        async with self._pool.connection(timeout=2) as connection:
            await connection.execute("SELECT 1")
