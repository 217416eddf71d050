"""The statements of task lists.

A statement depends on the list's shape: which conditions it has, and its order. Each shape's statement is cached, and
the filter's values are parameters. Postgres plans each run with its values (`prepare=False`), because the best index
depends on them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    Column,
    ColumnElement,
    DateTime,
    FromClause,
    Integer,
    Select,
    SmallInteger,
    Text,
    Uuid,
    and_,
    any_,
    bindparam,
    func,
    not_,
    or_,
    select,
    true,
    tuple_,
    union_all,
)

from services.platform.data.db import Statement
from services.task.tasks.models import former_members, tasks
from services.task.tasks.queries import SHOWN, TaskRow, assignee_left
from taskflow.task.v1 import task_service_pb2
from taskflow.task.v1.task_pb2 import TaskFilter
from taskflow.task.v1.task_service_pb2 import TaskOrder

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Order:
    """The order of a list: a column, then the id, both in one direction."""

    column: str
    descending: bool


_COLUMNS: dict[int, str] = {
    task_service_pb2.TASK_ORDER_FIELD_UNSPECIFIED: "created_at",
    task_service_pb2.TASK_ORDER_FIELD_CREATE_TIME: "created_at",
    task_service_pb2.TASK_ORDER_FIELD_UPDATE_TIME: "updated_at",
    task_service_pb2.TASK_ORDER_FIELD_DUE_TIME: "due_at",
    task_service_pb2.TASK_ORDER_FIELD_PRIORITY: "priority",
}


def order(order_by: TaskOrder) -> Order:
    return Order(_COLUMNS[order_by.field], order_by.descending)


@dataclass(frozen=True, slots=True)
class Shape:
    """Everything that a list's statement depends on, without the filter's values.

    `single` are the filter's fields with one value, `several` the fields with more values. If the filter has several
    statuses, `statuses` is their number, and neither set names them. `dated` splits a list ordered by due_at in two:
    True lists tasks with a deadline, False tasks without. `after`: the list starts after a position.
    """

    order: Order
    single: frozenset[str]
    several: frozenset[str]
    include_deleted: bool
    statuses: int = 0
    dated: bool | None = None
    after: bool = False


def shape(wanted: TaskFilter, order: Order) -> Shape:
    """The shape of a list with a normalized filter."""
    single, several = set(), set()
    for name in ("project_ids", "statuses", "priorities", "assignee_ids", "creator_ids"):
        values = getattr(wanted, name)
        if len(set(values)) > 1:
            several.add(name)
        elif values:
            single.add(name)
    if "" in wanted.assignee_ids:
        # "" means unassigned. SQL compares null in a condition of its own.
        single.discard("assignee_ids")
        several.discard("assignee_ids")
        only = all(not name for name in wanted.assignee_ids)
        several.add("unassigned" if only else "assignee_ids_or_none")
    single |= {
        field.name
        for field, _ in wanted.ListFields()
        if field.name in ("labels", "due_before", "due_after", "updated_after", "text")
    }
    statuses = 0
    if "statuses" in several:
        several.discard("statuses")
        statuses = len(set(wanted.statuses))
    if order.column == "priority" and "priorities" in single:
        # With one priority the order is the same. For a constant sort key Postgres wouldn't use the priority's index.
        order = Order("created_at", order.descending)
    return Shape(order, frozenset(single), frozenset(several), wanted.include_deleted, statuses)


def values(wanted: TaskFilter) -> dict[str, Any]:
    """The parameters for a normalized filter. A statement ignores parameters that it doesn't have."""
    found: dict[str, Any] = {}
    for name in ("project_ids", "assignee_ids", "creator_ids"):
        found[name] = [UUID(value) for value in getattr(wanted, name) if value]
    for name in ("statuses", "priorities"):
        found[name] = list(getattr(wanted, name))
    found |= {f"{name}_one": listed[0] for name, listed in found.items() if listed}
    found |= {f"status_{n}": status for n, status in enumerate(sorted(set(wanted.statuses)))}
    for name in ("due_before", "due_after", "updated_after"):
        at = getattr(wanted, name)
        found[name] = _EPOCH + timedelta(seconds=at.seconds, microseconds=at.nanos // 1000)
    return found | {"labels": list(wanted.labels), "text": wanted.text}


# The sort columns of each order. The order by priority has created_at before the id, though both sort alike. With the
# id alone, Postgres would scan the primary key across all workspaces for a list of one priority.
_KEYS: dict[str, tuple[Column[Any], ...]] = {
    "created_at": (tasks.c.created_at, tasks.c.id),
    "updated_at": (tasks.c.updated_at, tasks.c.id),
    "due_at": (tasks.c.due_at, tasks.c.id),
    "priority": (tasks.c.priority, tasks.c.created_at, tasks.c.id),
}


def position(shape: Shape, row: TaskRow) -> list[Any]:
    """The row's sort key as JSON values. A missing deadline is None."""
    return [_as_json(getattr(row, key.name)) for key in _KEYS[shape.order.column]]


def _as_json(value: datetime | UUID | int | None) -> str | int | None:
    match value:
        case datetime():
            return value.isoformat()
        case UUID():
            return str(value)
    return value


def after(shape: Shape, position: list[Any]) -> dict[str, Any]:
    """The parameters for a list that starts after a position, which is a sort key as `position` returns it."""
    return {
        f"after_{key.name}": datetime.fromisoformat(value)
        if isinstance(key.type, DateTime) and value is not None
        else value
        for key, value in zip(_KEYS[shape.order.column], position, strict=True)
    }


@lru_cache(maxsize=1024)
def statement(shape: Shape) -> Statement[TaskRow]:
    """Binds :workspace_id, :limit, those of `values`, and with `shape.after` those of `after`."""
    conditions = [tasks.c.workspace_id == _workspace_id]
    if not shape.include_deleted:
        conditions.append(tasks.c.deleted_at.is_(None))
    conditions += [_condition(name, False) for name in sorted(shape.single)]
    conditions += [_condition(name, True) for name in sorted(shape.several - _WITH_UNASSIGNED)]
    if shape.dated is not None:
        conditions.append(tasks.c.due_at.is_not(None) if shape.dated else tasks.c.due_at.is_(None))
    query = select(*SHOWN).where(*conditions)
    # A page for each combination, merged into one page.
    parts = [
        _page(query.where(status, assignee, remaining), shape, tasks)
        for status in _statuses(shape)
        for assignee in _assignees(shape)
        for remaining in _remaining(shape)
    ]
    if len(parts) == 1:
        return Statement(parts[0], row=TaskRow, prepare=False)
    merged = union_all(*parts).subquery()
    return Statement(_page(select(merged), shape, merged), row=TaskRow, prepare=False)


def _statuses(shape: Shape) -> list[ColumnElement[bool]]:
    """One condition per status if the filter has several, so that each uses the index by status and the list's order.

    Most tasks are done, and done tasks are the oldest. A scan by another index would read all of them to find open
    tasks.
    """
    names = [f"status_{n}" for n in range(shape.statuses)]
    return [tasks.c.status == bindparam(name, type_=SmallInteger) for name in names] or [true()]


def _assignees(shape: Shape) -> list[ColumnElement[bool]]:
    """Conditions that together mean the assignees that the filter allows, if it allows unassigned tasks."""
    [name] = shape.several & _WITH_UNASSIGNED or [""]
    if not name:
        return [true()]
    left = select(former_members.c.user_id).where(former_members.c.workspace_id == _workspace_id)
    # A condition of its own, so that each condition uses the index of assignees. There is hardly ever a former member.
    former = and_(tasks.c.assignee_id == any_(func.array(left.scalar_subquery())), assignee_left)
    return [_condition(name, True), former]


def _page(query: Select[Any], shape: Shape, rows: FromClause) -> Select[Any]:
    keys = [rows.c[key.name] for key in _KEYS[shape.order.column]]
    # Sorts even tasks without a deadline by due_at, because the index begins with it.
    ordered = query.order_by(*(key.desc() if shape.order.descending else key.asc() for key in keys))
    return ordered.limit(bindparam("limit", type_=Integer))


_workspace_id = bindparam("workspace_id", type_=Uuid)
# The conditions that allow unassigned tasks.
_WITH_UNASSIGNED = frozenset({"unassigned", "assignee_ids_or_none"})
_LISTED: dict[str, tuple[Column[Any], type[Uuid[UUID]] | type[SmallInteger]]] = {
    "project_ids": (tasks.c.project_id, Uuid),
    "statuses": (tasks.c.status, SmallInteger),
    "priorities": (tasks.c.priority, SmallInteger),
    "assignee_ids": (tasks.c.assignee_id, Uuid),
    "creator_ids": (tasks.c.creator_id, Uuid),
}


def _condition(name: str, several: bool) -> ColumnElement[bool]:
    match name:
        case "unassigned":
            return tasks.c.assignee_id.is_(None)
        case "assignee_ids_or_none":
            return or_(_condition("assignee_ids", True), tasks.c.assignee_id.is_(None))
        case "labels":
            return tasks.c.labels.bool_op("&&")(bindparam("labels", type_=ARRAY(Text)))
        case "due_before":
            return tasks.c.due_at < bindparam("due_before", type_=DateTime(timezone=True))
        case "due_after":
            return tasks.c.due_at >= bindparam("due_after", type_=DateTime(timezone=True))
        case "updated_after":
            return tasks.c.updated_at >= bindparam("updated_after", type_=DateTime(timezone=True))
        case "text":
            text = _folded(bindparam("text", type_=Text))
            return or_(
                func.strpos(_folded(tasks.c.title), text) > 0,
                func.strpos(_folded(tasks.c.description), text) > 0,
            )
    column, kind = _LISTED[name]
    if several:
        found = column == any_(bindparam(name, type_=ARRAY(kind)))
    else:
        # Compared with =, because Postgres then reads an index that begins with this column in the order of the rest.
        found = column == bindparam(f"{name}_one", type_=kind)
    return and_(found, not_(assignee_left)) if name == "assignee_ids" else found


def _folded(value: ColumnElement[str]) -> ColumnElement[str]:
    # Full Unicode case folding like Python's casefold(), whatever the database's locale.
    return func.casefold(value.collate("pg_unicode_fast"))


def _remaining(shape: Shape) -> list[ColumnElement[bool]]:
    """Conditions that together select the tasks after the list's start position. Each has a page of its own."""
    if not shape.after:
        return [true()]
    keys = _KEYS[shape.order.column]
    if shape.dated is False:
        keys = (tasks.c.id,)
    if shape.order.column != "priority":
        return [_beyond(shape, keys)]
    # Split in two, because Postgres misestimates the combined condition: it counts only tasks of other priorities, and
    # there can be none.
    priority, *rest = keys
    return [
        and_(priority == bindparam("after_priority", type_=SmallInteger), _beyond(shape, rest)),
        _beyond(shape, [priority]),
    ]


def _beyond(shape: Shape, keys: Sequence[Column[Any]]) -> ColumnElement[bool]:
    key = tuple_(*keys)
    last = tuple_(*(bindparam(f"after_{key.name}", type_=key.type) for key in keys))
    return key < last if shape.order.descending else key > last
