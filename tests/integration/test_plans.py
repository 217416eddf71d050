"""Promises about plans: every filter and every order of ListTasks finds an index, in a workspace of any size."""

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from itertools import product
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from psycopg.rows import namedtuple_row

from services.platform.config import Settings
from services.platform.db import Statement
from services.task import filters
from services.task.filters import Order, Shape
from services.task.queries import LOCK_DATED_ELSEWHERE, LOCK_OPEN_OF_ASSIGNEE
from taskflow.task.v1.task_pb2 import TaskFilter

Connection = psycopg.AsyncConnection[Any]

_LARGE, _PROJECT, _PERSON = uuid4(), uuid4(), uuid4()
_ROWS = 200_000
# Of these, for a page of 50.
_LITTLE = 1000

# Three quarters of the tasks are in one workspace, the others in 500 small ones; likewise with projects and people.
_FILL = """
CREATE TEMPORARY TABLE made ON COMMIT DROP AS
SELECT n, uuidv7() AS id,
  CASE WHEN n %% 4 <> 0 THEN %(large)s::uuid ELSE md5('w' || n %% 500)::uuid END AS workspace_id,
  CASE WHEN n %% 200 = 1 THEN %(project)s::uuid ELSE md5('p' || n %% 4 || n %% 500)::uuid END AS project_id,
  CASE WHEN n %% 500 = 2 THEN %(person)s::uuid ELSE md5('u' || n %% 300)::uuid END AS person_id,
  timestamptz '2026-01-01' + n * interval '1 minute' AS at
FROM generate_series(1, %(rows)s) AS n;
"""
_PROJECTS = """
INSERT INTO task.projects (id, workspace_id, key, display_name, description, creator_id, created_at, updated_at)
SELECT DISTINCT ON (project_id) project_id, workspace_id, 'P' || n, '', '', person_id, at, at FROM made
"""
_TASKS = """
INSERT INTO task.tasks (id, workspace_id, project_id, project_key, number, title, description, status, priority,
  assignee_id, creator_id, labels, due_date, due_zone, due_at, created_at, updated_at, finished_at, deleted_at)
SELECT id, workspace_id, project_id, 'P', n, 'Task ' || n, 'Text', CASE WHEN n % 10 <> 0 THEN 3 ELSE 1 END, n % 5,
  CASE WHEN n % 3 <> 0 THEN person_id END, person_id, ARRAY['label' || n % 400],
  CASE WHEN n % 2 <> 0 THEN at::date END, CASE WHEN n % 2 <> 0 THEN 'UTC' END, CASE WHEN n % 2 <> 0 THEN at END,
  at, at + interval '1 day', CASE WHEN n % 10 <> 0 THEN at END, CASE WHEN n % 100 = 99 THEN at END
FROM made
"""

_MIDDLE = """
SELECT * FROM task.tasks
WHERE workspace_id = %(large)s AND deleted_at IS NULL
  AND coalesce((due_at IS NOT NULL) = %(dated)s, true)
ORDER BY created_at OFFSET 20000 LIMIT 1
"""


@pytest.fixture(scope="module")
async def connection(settings: Settings) -> AsyncIterator[Connection]:
    """A transaction that sees many tasks, and is rolled back."""
    async with await psycopg.AsyncConnection.connect(
        settings.postgres, row_factory=namedtuple_row
    ) as connection:
        await connection.execute("SET LOCAL statement_timeout = 0")
        await connection.execute(
            _FILL, {"large": _LARGE, "project": _PROJECT, "person": _PERSON, "rows": _ROWS}
        )
        for statement in (_PROJECTS, _TASKS):
            await connection.execute(statement.encode())
        await connection.execute("ANALYZE task.tasks")
        yield connection
        await connection.rollback()


async def _plan(
    connection: Connection, statement: Statement, values: dict[str, Any], options: bytes = b""
) -> dict[str, Any]:
    cursor = await connection.execute(
        b"EXPLAIN (FORMAT JSON" + options + b") " + statement.sql,
        statement.parameters(values),
        prepare=False,
    )
    row = await cursor.fetchone()
    assert row is not None
    found = json.loads(row[0]) if isinstance(row[0], str) else row[0]
    plan: dict[str, Any] = found[0]["Plan"]
    return plan


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


def _indexes(plan: dict[str, Any]) -> set[str]:
    return {node["Index Name"] for node in _nodes(plan) if "Index Name" in node}


def _rows_read(plan: dict[str, Any]) -> int:
    return sum(
        int(node["Actual Rows"]) + int(node.get("Rows Removed by Filter", 0))
        for node in _nodes(plan)
        if "Scan" in node["Node Type"]
    )


def _kinds(plan: dict[str, Any]) -> set[str]:
    return {node["Node Type"] for node in _nodes(plan)}


_AT = Timestamp()
_AT.FromDatetime(datetime(2026, 5, 1, tzinfo=UTC))
_SOMEBODY = str(UUID(int=7))
_FILTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "deleted": {"include_deleted": True},
    "project": {"project_ids": [str(_PROJECT)]},
    "projects": {"project_ids": [str(_PROJECT), _SOMEBODY]},
    "status": {"statuses": [1]},
    "common status": {"statuses": [3]},
    "absent status": {"statuses": [2]},
    "statuses": {"statuses": [1, 2]},
    "priority": {"priorities": [4]},
    "priorities": {"priorities": [3, 4]},
    "assignee": {"assignee_ids": [str(_PERSON)]},
    "assignees": {"assignee_ids": [str(_PERSON), _SOMEBODY]},
    "unassigned": {"assignee_ids": [""]},
    "assignee or none": {"assignee_ids": ["", str(_PERSON)]},
    "creator": {"creator_ids": [str(_PERSON)]},
    "creators": {"creator_ids": [str(_PERSON), _SOMEBODY]},
    "label": {"labels": ["label7"]},
    "labels": {"labels": ["label7", "label8"]},
    "due before": {"due_before": _AT},
    "due after": {"due_after": _AT},
    "updated after": {"updated_after": _AT},
    "text": {"text": "task 777"},
    "text in project": {"text": "task", "project_ids": [str(_PROJECT)]},
    "mine that are open and due": {
        "assignee_ids": [str(_PERSON)],
        "statuses": [1, 2],
        "due_before": _AT,
    },
    "urgent bugs of a project": {
        "project_ids": [str(_PROJECT)],
        "labels": ["label1"],
        "priorities": [4],
    },
}
_ORDERS = [
    Order(column, descending)
    for column in ("created_at", "updated_at", "due_at", "priority")
    for descending in (False, True)
]


async def _shapes(
    connection: Connection, wanted: TaskFilter, order: Order
) -> list[tuple[Shape, dict[str, Any]]]:
    """The first page and one after a task in the middle, of each part."""
    shape = filters.shape(wanted, order)
    found = []
    for dated in (True, False) if order.column == "due_at" else (None,):
        cursor = await connection.execute(_MIDDLE, {"large": _LARGE, "dated": dated})
        row = await cursor.fetchone()
        place = filters.after(filters.position(shape, row))
        found += [(_with(shape, dated, False), {}), (_with(shape, dated, True), place)]
    return found


def _with(shape: Shape, dated: bool | None, after: bool) -> Shape:
    return Shape(shape.order, shape.single, shape.several, shape.include_deleted, dated, after)


@pytest.mark.parametrize(
    ("name", "order"), list(product(_FILTERS, _ORDERS)), ids=lambda value: str(value)
)
async def test_every_filter_finds_an_index_in_every_order(
    connection: Connection, name: str, order: Order
) -> None:
    wanted = filters.normal(TaskFilter(**_FILTERS[name]))
    for shape, place in await _shapes(connection, wanted, order):
        values = filters.values(wanted) | place | {"workspace_id": _LARGE, "limit": 51}
        plan = await _plan(connection, filters.statement(shape), values)
        assert "Seq Scan" not in _kinds(plan), shape
        assert _indexes(plan), shape


@pytest.mark.parametrize("order", _ORDERS, ids=str)
@pytest.mark.parametrize("name", ["none", "deleted", "project"])
async def test_a_page_of_a_workspace_or_project_reads_little_more_than_its_rows(
    connection: Connection, name: str, order: Order
) -> None:
    wanted = filters.normal(TaskFilter(**_FILTERS[name]))
    for shape, place in await _shapes(connection, wanted, order):
        values = filters.values(wanted) | place | {"workspace_id": _LARGE, "limit": 51}
        plan = await _plan(connection, filters.statement(shape), values, b", ANALYZE")
        assert _rows_read(plan) <= _LITTLE, shape


@pytest.mark.parametrize("name", ["assignee", "creator", "status", "absent status", "priority"])
async def test_a_page_of_one_value_reads_little_more_than_its_rows(
    connection: Connection, name: str
) -> None:
    wanted = filters.normal(TaskFilter(**_FILTERS[name]))
    shape = filters.shape(wanted, Order("created_at", True))
    values = filters.values(wanted) | {"workspace_id": _LARGE, "limit": 51}
    plan = await _plan(connection, filters.statement(shape), values, b", ANALYZE")
    assert _rows_read(plan) <= _LITTLE


async def test_somebodys_tasks_are_found_by_index_when_they_move_or_leave(
    connection: Connection,
) -> None:
    values = {"user_id": _PERSON, "workspace_id": _LARGE, "zone": "Asia/Tokyo", "limit": 200}
    moving = await _plan(connection, LOCK_DATED_ELSEWHERE, values)
    assert {"tasks_assignee_dates", "tasks_creator_dates"} <= _indexes(moving)
    leaving = await _plan(connection, LOCK_OPEN_OF_ASSIGNEE, values)
    assert "tasks_assignee" in _indexes(leaving)
