"""Postgres: SQLAlchemy Core statements, compiled once and run on a psycopg pool (docs/adr/0002)."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Generic, get_type_hints

import psycopg
import structlog
from psycopg.rows import namedtuple_row
from psycopg_pool import AsyncConnectionPool
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.sql import ClauseElement
from typing_extensions import TypeVar

from services.platform.config import Settings
from services.platform.data.shares import CONNECTION_WAIT, DatabaseShares

log = structlog.get_logger()

_DIALECT = PGDialect_psycopg()  # type: ignore[no-untyped-call]

# The most cursors that a connection keeps, one per statement. The code has fewer statements.
_CURSORS = 500

# Time that a statement may wait for a row that another transaction has locked (milliseconds). A call waits 5 s for a
# connection. Calls that wait for one row must give their connections back well before that.
_LOCK_TIMEOUT = 3000

# psycopg's rows: named tuples with the statement's columns. Statements that declare `row` return a typed one.
Row = Any
# The NamedTuple that a statement declares for its rows.
R = TypeVar("R", default=Any)


class Statement(Generic[R]):
    """A SQLAlchemy statement, compiled for psycopg when the module that defines it is imported.

    Parameters are those of its `bindparam`s, and for an insert without values the columns named in `columns`. `row` is
    a NamedTuple with the statement's columns in their order, so that the type checker knows the rows; another set of
    columns raises TypeError at import. A subclass of a NamedTuple adds the columns that it annotates. Rows have the
    fields of `row`, not its methods. With `prepare=False` Postgres makes a new plan for the values of each run, which
    pays where the best plan depends on them.
    """

    def __init__(
        self,
        clause: ClauseElement,
        columns: list[str] | None = None,
        *,
        row: type[R] | None = None,
        prepare: bool | None = None,
    ) -> None:
        if row is not None:
            _check_columns(clause, row)
        compiled = clause.compile(dialect=_DIALECT, column_keys=columns)
        self.sql = str(compiled).encode()
        self.prepare = prepare
        # Values of the literals in the statement. psycopg raises if the caller leaves out another parameter.
        binds: dict[str, Any] = compiled.binds  # type: ignore[attr-defined]
        self.values = {name: bind.value for name, bind in binds.items() if not bind.required}

    def parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        return self.values | parameters if self.values else parameters


def _check_columns(clause: Any, row: Any) -> None:
    """Raises TypeError unless the row type has exactly the columns that the statement returns."""
    returned = tuple(column.name for column in clause.exported_columns)
    declared = tuple(get_type_hints(row))
    if declared != returned:
        raise TypeError(f"{row.__name__} has {declared}, the statement returns {returned}")


class Connection(psycopg.AsyncConnection[Row]):
    """A connection that keeps one cursor per statement.

    psycopg then reuses its value converters, which saves a fifth of a small statement's time.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._cursors: dict[Statement[Any], psycopg.AsyncCursor[Row]] = {}

    def cursor_for(self, statement: Statement[Any]) -> psycopg.AsyncCursor[Row]:
        cursor = self._cursors.get(statement)
        if cursor is None:
            if len(self._cursors) == _CURSORS:
                self._cursors.clear()
            cursor = self._cursors[statement] = self.cursor()
        return cursor


class Transaction:
    """One open transaction. Only the code that opened it commits."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        # Set by the outbox. The relay is then woken after the commit.
        self.has_events = False

    async def all(self, statement: Statement[R], **parameters: Any) -> list[R]:
        # Uses a new cursor: a kept cursor would hold the rows, which can be megabytes, in memory.
        cursor = await self._connection.execute(
            statement.sql, statement.parameters(parameters), prepare=statement.prepare
        )
        return await cursor.fetchall()

    async def one(self, statement: Statement[R], **parameters: Any) -> R | None:
        """Runs a statement and returns its first row, or None."""
        cursor = await self._execute(statement, parameters)
        return await cursor.fetchone()

    async def run(self, statement: Statement[Any], **parameters: Any) -> int:
        """Runs a writing statement and returns the number of affected rows."""
        cursor = await self._execute(statement, parameters)
        return cursor.rowcount

    def atomic(self) -> AbstractAsyncContextManager[object]:
        """Makes the statements in its block one transaction, on a connection that `Database.autocommit` opened."""
        return self._connection.transaction()

    async def _execute(
        self, statement: Statement[Any], parameters: dict[str, Any]
    ) -> psycopg.AsyncCursor[Row]:
        cursor = self._connection.cursor_for(statement)
        return await cursor.execute(
            statement.sql, statement.parameters(parameters), prepare=statement.prepare
        )

    async def run_many(self, statement: Statement[Any], rows: list[dict[str, Any]]) -> None:
        async with self._connection.cursor() as cursor:
            await cursor.executemany(statement.sql, [statement.parameters(row) for row in rows])


class Database:
    """The process's pool of connections."""

    def __init__(self, settings: Settings, *, application: str) -> None:
        timeout = int(settings.statement_timeout * 1000)
        # Session options, in the unit of pg_settings (ms). session_check.py makes sure that they have an effect.
        self.options = {
            "statement_timeout": str(timeout),
            # Cancelling alone doesn't free the connection to a server that hangs.
            "idle_in_transaction_session_timeout": str(3 * timeout),
            "lock_timeout": str(_LOCK_TIMEOUT),
            "TimeZone": "UTC",
        }
        self._pool = AsyncConnectionPool[Connection](
            settings.postgres,
            connection_class=Connection,
            kwargs={
                "row_factory": namedtuple_row,
                "autocommit": True,
                "application_name": f"taskflow-{application}",
                "prepare_threshold": 1,
                "options": " ".join(f"-c {name}={value}" for name, value in self.options.items()),
                "connect_timeout": 5,
                "keepalives_idle": 10,
                "tcp_user_timeout": 2 * timeout,
            },
            min_size=min(2, settings.database_pool_size),
            max_size=settings.database_pool_size,
            timeout=CONNECTION_WAIT,
            reconnect_timeout=0,
            open=False,
        )
        self._shares = DatabaseShares(settings)
        # Called after each commit that wrote events.
        self.on_events: Callable[[], None] | None = None

    async def open(self) -> None:
        await self._pool.open(wait=False)

    async def close(self) -> None:
        await self._pool.close()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Commits at the end, rolls back on an exception. READ COMMITTED."""
        async with (
            self._shares.connection() as patience,
            self._pool.connection(timeout=patience) as connection,
            connection.transaction(),
        ):
            transaction = Transaction(connection)
            yield transaction
        self._committed(transaction)

    @asynccontextmanager
    async def autocommit(self) -> AsyncIterator[Transaction]:
        """Makes each writing statement a transaction of its own, which saves the round trips of BEGIN and COMMIT.

        All statements share one connection, and a crash of Postgres closes it. So no statement runs with results from
        before the crash.
        """
        async with self.read() as transaction:
            yield transaction
        self._committed(transaction)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Transaction]:
        """Runs single reading statements without BEGIN and COMMIT. Each sees the newest committed state."""
        # `pool.connection()` would send a COMMIT, although no transaction is open.
        async with self._shares.connection() as patience:
            connection = await self._pool.getconn(timeout=patience)
            try:
                yield Transaction(connection)
            finally:
                await self._pool.putconn(connection)

    @asynccontextmanager
    async def search(self) -> AsyncIterator[Transaction]:
        """As `read`, for statements whose cost grows with the texts of a workspace: few at once, and with a budget."""
        async with self._shares.search(), self.read() as transaction:
            yield transaction

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Transaction]:
        """For several reads that must agree: all see the state at the first one."""
        async with (
            self._shares.connection() as patience,
            self._pool.connection(timeout=patience) as connection,
            connection.transaction(),
        ):
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield Transaction(connection)

    def _committed(self, transaction: Transaction) -> None:
        if transaction.has_events and self.on_events:
            self.on_events()

    @asynccontextmanager
    async def raw(self) -> AsyncIterator[Connection]:
        """A connection for statements that aren't SQLAlchemy's."""
        async with self._pool.connection(timeout=2) as connection:
            yield connection

    async def ping(self) -> None:
        """Raises when Postgres doesn't answer."""
        async with self.raw() as connection:
            await connection.execute("SELECT 1")
