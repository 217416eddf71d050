"""Which tasks a TaskFilter means: as a statement for lists, and as a predicate for streams. Both are to say the same.

Statements are built by shape (which conditions, which order) and kept; values are parameters. They aren't prepared: the
best index depends on the values, so Postgres plans them with the values at hand.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp
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
    or_,
    select,
    true,
    tuple_,
    union_all,
)

from services.platform import text
from services.platform.db import Row, Statement
from services.platform.errors import invalid
from services.task.drafts import labels
from services.task.models import tasks
from taskflow.task.v1 import task_service_pb2
from taskflow.task.v1.task_pb2 import Task, TaskFilter
from taskflow.task.v1.task_service_pb2 import TaskOrder

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# What a google.protobuf.Timestamp may hold: the years 1 to 9999, in seconds.
_SECONDS = range(-62_135_596_800, 253_402_300_800)


def normal(given: TaskFilter) -> TaskFilter:
    """The filter as statements and `matches` take it: ids in lower case, texts as stored, times in microseconds.

    Raises INVALID_REQUEST for blank labels and times that no Timestamp may hold.
    """
    found = TaskFilter(
        project_ids=_ids(given.project_ids),
        statuses=given.statuses,
        priorities=given.priorities,
        assignee_ids=_ids(given.assignee_ids),
        creator_ids=_ids(given.creator_ids),
        labels=labels("filter.labels", given.labels),
        text=text.stored(given.text),
        include_deleted=given.include_deleted,
    )
    for name in ("due_before", "due_after", "updated_after"):
        if given.HasField(name):
            getattr(found, name).CopyFrom(_whole(f"filter.{name}", getattr(given, name)))
    return found


def _ids(names: Iterable[str]) -> list[str]:
    return [str(UUID(name)) if name else "" for name in names]


def _whole(field: str, given: Timestamp) -> Timestamp:
    """Rounded up to microseconds, which is all that tasks have: what is before or after it stays so."""
    if given.seconds not in _SECONDS or not 0 <= given.nanos < 1_000_000_000:
        raise invalid(field, "lies outside the years 1 to 9999")
    seconds, micros = given.seconds, -(-given.nanos // 1000)
    if micros == 1_000_000:
        seconds, micros = seconds + 1, 0
    if seconds not in _SECONDS:
        seconds, micros = _SECONDS[-1], 999_999
    return Timestamp(seconds=seconds, nanos=micros * 1000)


def matches(wanted: TaskFilter, task: Task) -> bool:
    """Whether the task is one that a list with this normal filter shows."""
    return (
        (wanted.include_deleted or not task.HasField("delete_time"))
        and _among(task.project_id, wanted.project_ids)
        and _among(task.status, wanted.statuses)
        and _among(task.priority, wanted.priorities)
        and _among(task.assignee_id, wanted.assignee_ids)
        and _among(task.creator_id, wanted.creator_ids)
        and (not wanted.labels or any(label in wanted.labels for label in task.labels))
        and _is_due(wanted, task)
        and (
            not wanted.HasField("updated_after")
            or _order(task.update_time) >= _order(wanted.updated_after)
        )
        and (not wanted.text or _contains(task, wanted.text))
    )


def _among(value: object, values: Any) -> bool:
    return not values or value in values


def _is_due(wanted: TaskFilter, task: Task) -> bool:
    before, after = wanted.HasField("due_before"), wanted.HasField("due_after")
    if not before and not after:
        return True
    due = _order(task.due_time)
    return (
        task.HasField("due_time")
        and (not before or due < _order(wanted.due_before))
        and (not after or due >= _order(wanted.due_after))
    )


def _order(at: Timestamp) -> tuple[int, int]:
    return at.seconds, at.nanos


def _contains(task: Task, wanted: str) -> bool:
    folded = wanted.casefold()
    return folded in task.title.casefold() or folded in task.description.casefold()


# The same in SQL.


@dataclass(frozen=True, slots=True)
class Order:
    """What a list is ordered by: the column before the id, and the direction of both."""

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
    """A list's statement without its values.

    `single` and `several` are the fields that are restricted to one value, or to any of several; of several statuses
    `statuses` says how many. `dated` is about the order by due_at, which is read in two parts: the tasks with a
    deadline, then those without. `after` says whether the statement begins after a position.
    """

    order: Order
    single: frozenset[str]
    several: frozenset[str]
    include_deleted: bool
    statuses: int = 0
    dated: bool | None = None
    after: bool = False


def shape(wanted: TaskFilter, order: Order) -> Shape:
    """Of a normal filter."""
    single, several = set(), set()
    for name in ("project_ids", "statuses", "priorities", "assignee_ids", "creator_ids"):
        values = getattr(wanted, name)
        if len(set(values)) > 1:
            several.add(name)
        elif values:
            single.add(name)
    if "" in wanted.assignee_ids:
        # Null isn't a value among others.
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
        # The same, and said so that the order isn't one by a constant: the planner would leave that out.
        order = Order("created_at", order.descending)
    return Shape(order, frozenset(single), frozenset(several), wanted.include_deleted, statuses)


def values(wanted: TaskFilter) -> dict[str, Any]:
    """The parameters for the shape of a normal filter: those of all fields, of which the statement takes its own."""
    found: dict[str, Any] = {}
    for name in ("project_ids", "assignee_ids", "creator_ids"):
        found[name] = [UUID(value) for value in getattr(wanted, name) if value]
    for name in ("statuses", "priorities"):
        found[name] = list(getattr(wanted, name))
    found |= {f"{name}_one": given[0] for name, given in found.items() if given}
    found |= {f"status_{n}": status for n, status in enumerate(sorted(set(wanted.statuses)))}
    for name in ("due_before", "due_after", "updated_after"):
        at: Timestamp = getattr(wanted, name)
        found[name] = _EPOCH + timedelta(seconds=at.seconds, microseconds=at.nanos // 1000)
    return found | {"labels": list(wanted.labels), "text": wanted.text}


def position(shape: Shape, row: Row) -> list[Any]:
    """The row's place in the order, as JSON can hold it: its keys, of which a deadline can be None."""
    return [_as_json(getattr(row, key.name)) for key in _KEYS[shape.order.column]]


def _as_json(value: datetime | UUID | int | None) -> str | int | None:
    match value:
        case datetime():
            return value.isoformat()
        case UUID():
            return str(value)
    return value


def after(shape: Shape, position: list[Any]) -> dict[str, Any]:
    """The parameters for a place in the order."""
    return {
        f"after_{key.name}": datetime.fromisoformat(value)
        if isinstance(key.type, DateTime) and value is not None
        else value
        for key, value in zip(_KEYS[shape.order.column], position, strict=True)
    }


@lru_cache(maxsize=1024)
def statement(shape: Shape) -> Statement:
    """Binds :workspace_id, :limit, those of `values`, and with `shape.after` those of `after`."""
    conditions = [tasks.c.workspace_id == bindparam("workspace_id", type_=Uuid)]
    if not shape.include_deleted:
        conditions.append(tasks.c.deleted_at.is_(None))
    conditions += [_condition(name, False) for name in sorted(shape.single)]
    conditions += [_condition(name, True) for name in sorted(shape.several)]
    if shape.dated is not None:
        conditions.append(tasks.c.due_at.is_not(None) if shape.dated else tasks.c.due_at.is_(None))
    every = select(tasks).where(*conditions)
    # A page of each part, merged.
    parts = [
        _page(every.where(status, place), shape, tasks)
        for status in _statuses(shape)
        for place in _places(shape)
    ]
    if len(parts) == 1:
        return Statement(parts[0], prepare=False)
    found = union_all(*parts).subquery()
    return Statement(_page(select(found), shape, found), prepare=False)


def _statuses(shape: Shape) -> list[ColumnElement[bool]]:
    """One by one, as each has its index in every order. Whoever looks for the open ones in the order of another index
    passes all that are done, which are the most, and the oldest."""
    names = [f"status_{n}" for n in range(shape.statuses)]
    return [tasks.c.status == bindparam(name, type_=SmallInteger) for name in names] or [true()]


def _page(every: Select[Any], shape: Shape, found: FromClause) -> Select[Any]:
    return every.order_by(*_order_by(shape, found)).limit(bindparam("limit", type_=Integer))


_AMONG: dict[str, tuple[Column[Any], type[Uuid[UUID]] | type[SmallInteger]]] = {
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
            return or_(_condition("assignee_ids", True), _condition("unassigned", True))
        case "labels":
            return tasks.c.labels.bool_op("&&")(bindparam("labels", type_=ARRAY(Text)))
        case "due_before":
            return tasks.c.due_at < bindparam("due_before", type_=DateTime(timezone=True))
        case "due_after":
            return tasks.c.due_at >= bindparam("due_after", type_=DateTime(timezone=True))
        case "updated_after":
            return tasks.c.updated_at >= bindparam("updated_after", type_=DateTime(timezone=True))
        case "text":
            sought = _folded(bindparam("text", type_=Text))
            return or_(
                func.strpos(_folded(tasks.c.title), sought) > 0,
                func.strpos(_folded(tasks.c.description), sought) > 0,
            )
    column, kind = _AMONG[name]
    if several:
        return column == any_(bindparam(name, type_=ARRAY(kind)))
    # A single value leaves an index on it in the order of what comes after.
    return column == bindparam(f"{name}_one", type_=kind)


def _folded(value: ColumnElement[str]) -> ColumnElement[str]:
    # Full Unicode case folding, as Python's casefold(), whatever locale the database has.
    return func.casefold(value.collate("pg_unicode_fast"))


# By priority then age, which is what the order of ids is: with the ids alone an order by one priority would be that of
# the primary key, which reads other workspaces' tasks.
_KEYS: dict[str, tuple[Column[Any], ...]] = {
    "created_at": (tasks.c.created_at, tasks.c.id),
    "updated_at": (tasks.c.updated_at, tasks.c.id),
    "due_at": (tasks.c.due_at, tasks.c.id),
    "priority": (tasks.c.priority, tasks.c.created_at, tasks.c.id),
}


def _places(shape: Shape) -> list[ColumnElement[bool]]:
    """What comes after the position."""
    if not shape.after:
        return [true()]
    keys = _KEYS[shape.order.column]
    if shape.dated is False:
        keys = (tasks.c.id,)
    if shape.order.column != "priority":
        return [_beyond(shape, keys)]
    # Of the rest of this priority and the others apart Postgres knows how many they are; of both it judges by the
    # others alone, of which there can be none.
    priority, *rest = keys
    return [
        and_(priority == bindparam("after_priority", type_=SmallInteger), _beyond(shape, rest)),
        _beyond(shape, [priority]),
    ]


def _beyond(shape: Shape, keys: Sequence[Column[Any]]) -> ColumnElement[bool]:
    here = tuple_(*keys)
    there = tuple_(*(bindparam(f"after_{key.name}", type_=key.type) for key in keys))
    return here < there if shape.order.descending else here > there


def _order_by(shape: Shape, found: FromClause) -> list[ColumnElement[Any]]:
    # Nulls are alike, and still the index has them in this order.
    keys = [found.c[key.name] for key in _KEYS[shape.order.column]]
    return [key.desc() if shape.order.descending else key.asc() for key in keys]
