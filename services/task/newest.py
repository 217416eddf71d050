"""Pages of what hangs on tasks and has a state, newest first: suggestions and jobs."""

from functools import lru_cache

from sqlalchemy import (
    ARRAY,
    Integer,
    SmallInteger,
    Table,
    Uuid,
    any_,
    bindparam,
    column,
    func,
    select,
    true,
)

from services.platform.db import Statement

_states = bindparam("states", type_=ARRAY(SmallInteger))
_size = bindparam("size", type_=Integer)


@lru_cache
def newest(table: Table, of_task: bool, in_states: bool, after: bool) -> Statement:
    """Binds :workspace_id and :size, and as it's asked for :task_id, :states and :before, an id."""
    query = select(table).where(table.c.workspace_id == bindparam("workspace_id", type_=Uuid))
    if after:
        query = query.where(table.c.id < bindparam("before", type_=Uuid))
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
        of_state = query.where(table.c.state == wanted.c.state)
        found = of_state.order_by(table.c.id.desc()).limit(_size).lateral("found")
        return Statement(
            select(found)
            .select_from(wanted.join(found, true()))
            .order_by(found.c.id.desc())
            .limit(_size)
        )
    return Statement(query.order_by(table.c.id.desc()).limit(_size))
