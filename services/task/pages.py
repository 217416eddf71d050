"""Pages of jobs and of suggestions, newest first.

The order is (created_at, id). With the id alone, Postgres would often scan the primary key across all workspaces.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Protocol, TypeVar
from uuid import UUID

from google.protobuf.message import Message
from sqlalchemy import (
    ARRAY,
    DateTime,
    FromClause,
    Integer,
    Select,
    SmallInteger,
    Table,
    Uuid,
    any_,
    bindparam,
    column,
    func,
    select,
    true,
    tuple_,
)

from services.platform.data.db import Statement, Transaction
from services.platform.rpc import directory, pages
from services.platform.rpc.identity import Caller
from services.platform.rpc.seal import Seal


class _Listed(Protocol):
    @property
    def id(self) -> UUID: ...
    @property
    def created_at(self) -> datetime: ...


R = TypeVar("R", bound=_Listed)
M = TypeVar("M", bound=Message)

_states = bindparam("states", type_=ARRAY(SmallInteger))
_limit = bindparam("limit", type_=Integer)


async def page(
    tx: Transaction,
    seal: Seal,
    caller: Caller,
    request: Any,
    table: Table,
    row: type[R],
    message_of: Callable[[R], M],
) -> tuple[list[M], str]:
    """The page that a ListJobs or ListSuggestions request asks for, and the token of the next page ("": no more rows).

    `row` is the NamedTuple of the columns to read. Raises NOT_FOUND, SESSION_REVOKED, INVALID_PAGE_TOKEN.
    """
    workspace_id = UUID(request.workspace_id)
    await directory.authorize(tx, caller, workspace_id)
    filters: dict[str, Any] = {"workspace_id": workspace_id}
    if request.task_id:
        filters["task_id"] = UUID(request.task_id)
    if request.states:
        filters["states"] = sorted(set(request.states))

    async def fetch(after: list[Any] | None, limit: int) -> Sequence[R]:
        query = list_rows(table, row, "task_id" in filters, "states" in filters, after is not None)
        return await tx.all(query, **filters, **(_before(*after) if after else {}), limit=limit)

    return await pages.read(seal, caller.user_id, request, fetch, message_of, _position)


def _position(row: _Listed) -> list[Any]:
    return [row.created_at.isoformat(), str(row.id)]


def _before(created_at: str, row_id: str) -> dict[str, Any]:
    return {"before_time": datetime.fromisoformat(created_at), "before_id": UUID(row_id)}


@lru_cache
def list_rows(
    table: Table, row: type[R], of_task: bool, in_states: bool, after: bool
) -> Statement[R]:
    """The statement of a list of jobs or suggestions.

    Binds :workspace_id and :limit; with `of_task` :task_id, with `in_states` :states, with `after` :before_time and
    :before_id.
    """
    columns = [table.c[name] for name in row._fields]  # type: ignore[attr-defined]
    query = select(*columns).where(table.c.workspace_id == bindparam("workspace_id", type_=Uuid))
    if after:
        position = tuple_(
            bindparam("before_time", type_=DateTime(timezone=True)),
            bindparam("before_id", type_=Uuid),
        )
        query = query.where(tuple_(table.c.created_at, table.c.id) < position)
    if of_task:
        query = query.where(table.c.task_id == bindparam("task_id", type_=Uuid))
    if in_states and not of_task:
        # Reads a page of each state by index and merges the pages. One scan over all states could read almost all rows
        # to find a few old rows in these states.
        wanted = (
            func.unnest(_states)
            .table_valued(column("state", SmallInteger), name="wanted")
            .render_derived()
        )
        found = _newest(query.where(table.c.state == wanted.c.state), table).lateral("found")
        joined = select(found).select_from(wanted.join(found, true()))
        return Statement(_newest(joined, found), row=row)
    if in_states:
        query = query.where(table.c.state == any_(_states))
    return Statement(_newest(query, table), row=row)


def _newest(query: Select[Any], rows: FromClause) -> Select[Any]:
    return query.order_by(rows.c.created_at.desc(), rows.c.id.desc()).limit(_limit)
