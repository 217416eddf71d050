"""Pages of what hangs on tasks and has a state, newest first: suggestions and jobs.

By (created_at, id), as all lists: the primary key would do for an order by the id alone, and Postgres takes it wherever
a workspace's rows seem to be many among all.
"""

from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

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

from services.platform import directory, pages
from services.platform.db import Row, Statement, Transaction
from services.platform.identity import Caller
from services.platform.seal import Seal

_states = bindparam("states", type_=ARRAY(SmallInteger))
_size = bindparam("size", type_=Integer)


async def page(
    tx: Transaction, seal: Seal, caller: Caller, table: Table, request: Any
) -> tuple[list[Row], str]:
    """Of the table, what a ListJobs or ListSuggestions asks for, and the token of the page after it.

    Raises NOT_FOUND, SESSION_REVOKED, INVALID_PAGE_TOKEN.
    """
    workspace_id = UUID(request.workspace_id)
    size = pages.size(request.page_size)
    await directory.authorize(tx, caller, workspace_id)
    position = pages.position(seal, caller.user_id, request)
    rows = await tx.all(
        statement(table, bool(request.task_id), bool(request.states), position is not None),
        workspace_id=workspace_id,
        size=size + 1,
        **({"task_id": UUID(request.task_id)} if request.task_id else {}),
        **({"states": sorted(set(request.states))} if request.states else {}),
        **(_before(*position) if position else {}),
    )
    if len(rows) <= size:
        return rows, ""
    last = rows[size - 1]
    after = [last.created_at.isoformat(), str(last.id)]
    return rows[:size], pages.token(seal, caller.user_id, request, after)


def _before(created_at: str, row_id: str) -> dict[str, Any]:
    """The parameters for a place as its token holds it."""
    return {"before_time": datetime.fromisoformat(created_at), "before_id": UUID(row_id)}


@lru_cache
def statement(table: Table, of_task: bool, in_states: bool, after: bool) -> Statement:
    """Binds :workspace_id and :size, and as it's asked for :task_id, :states, and :before_time with :before_id."""
    query = select(table).where(table.c.workspace_id == bindparam("workspace_id", type_=Uuid))
    if after:
        there = tuple_(
            bindparam("before_time", type_=DateTime(timezone=True)),
            bindparam("before_id", type_=Uuid),
        )
        query = query.where(tuple_(table.c.created_at, table.c.id) < there)
    if of_task:
        query = query.where(table.c.task_id == bindparam("task_id", type_=Uuid))
    if in_states and of_task:
        query = query.where(table.c.state == any_(_states))
    elif in_states:
        # A page of each: what is sought is rare and old, so that a look at all states passes most of them.
        wanted = (
            func.unnest(_states)
            .table_valued(column("state", SmallInteger), name="wanted")
            .render_derived()
        )
        found = _page(query.where(table.c.state == wanted.c.state), table).lateral("found")
        return Statement(_page(select(found).select_from(wanted.join(found, true())), found))
    return Statement(_page(query, table))


def _page(query: Select[Any], found: FromClause) -> Select[Any]:
    return query.order_by(found.c.created_at.desc(), found.c.id.desc()).limit(_size)
