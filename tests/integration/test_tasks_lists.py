"""Promises about lists: filters, orders, and pages while other callers write."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert
from uuid_utils.compat import uuid7

from services.platform.config import Settings
from services.platform.data.db import Database, Statement
from services.task.projects.models import projects
from services.task.tasks import filters, list_queries, messages
from services.task.tasks import pages as lists
from services.task.tasks.models import tasks
from services.task.tasks.queries import COLUMNS, TaskRow
from taskflow.task.v1 import task_pb2, task_service_pb2
from taskflow.task.v1.task_pb2 import Task, TaskFilter
from taskflow.task.v1.task_service_pb2 import TaskOrder
from tests.integration.people import refusal
from tests.integration.roles_world import (
    People,
    RolesWorld,
    due_at,
    people_of,
    roles_world_at,
    struct,
)

_Code = grpc.StatusCode
_START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
async def people(services: Settings) -> People:
    return await people_of(services)


@pytest.fixture
async def world(services: Settings, people: People) -> AsyncIterator[RolesWorld]:
    async with roles_world_at(services, people) as world:
        yield world


def _stamp(at: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp


# A workspace of generated tasks, written by SQL, to compare the filters of lists and streams.

_WORKSPACE, _PROJECTS, _USERS = uuid7(), [uuid7(), uuid7()], [uuid7(), uuid7()]
_WORDS = [
    *("Stra\u00dfe", "STRASSE", "100%", "a_b", "a\\b", "\u0130stanbul", "e\u0301t\u00e9", ""),
    "\u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2",
]
_LABELS = ["bug", "Bug", "\u00e9", "a b"]
_instants = st.integers(0, 6).map(lambda hours: _START + timedelta(hours=hours))


@st.composite
def _rows(draw: st.DrawFn) -> list[Any]:
    found = []
    for number in range(draw(st.integers(1, 12))):
        due = draw(st.none() | _instants)
        values: dict[str, Any] = dict.fromkeys(COLUMNS) | {
            "id": uuid7(),
            "workspace_id": _WORKSPACE,
            "project_id": draw(st.sampled_from(_PROJECTS)),
            "project_key": "OPS",
            "number": number,
            "title": draw(st.sampled_from(_WORDS)),
            "description": draw(st.sampled_from(_WORDS)),
            "status": draw(st.integers(1, 4)),
            "priority": draw(st.integers(0, 4)),
            "assignee_id": draw(st.none() | st.sampled_from(_USERS)),
            "creator_id": draw(st.sampled_from(_USERS)),
            "labels": draw(st.lists(st.sampled_from(_LABELS), max_size=2, unique=True)),
            "due_local": due.replace(tzinfo=None) if due else None,
            "due_zone": "UTC" if due else None,
            "due_at": due,
            "revision": 1,
            "text_revision": 1,
            "created_at": _START,
            "updated_at": draw(_instants),
            "deleted_at": draw(st.none() | st.none() | st.just(_START)),
        }
        found.append(TaskRow(**values))
    return found


def _some(values: list[Any]) -> st.SearchStrategy[list[Any]]:
    return st.just([]) | st.lists(st.sampled_from(values), min_size=1, max_size=3)


_times = st.none() | st.builds(
    lambda at, nanos: Timestamp(seconds=int(at.timestamp()), nanos=nanos),
    _instants,
    st.sampled_from([0, 1, 1000, 999_999_999]),
)
_filters = st.builds(
    TaskFilter,
    project_ids=_some([*(str(name) for name in _PROJECTS), str(_PROJECTS[0]).upper()]),
    statuses=_some([1, 2, 3, 4]),
    priorities=_some([0, 1, 4]),
    assignee_ids=_some(["", *(str(name) for name in _USERS)]),
    creator_ids=_some([str(name) for name in _USERS]),
    labels=_some([*_LABELS, " e\u0301"]),
    due_before=_times,
    due_after=_times,
    updated_after=_times,
    text=st.just("")
    | st.sampled_from([*_WORDS, "ss", "%", "_", "\\", "i", "\u03c3", "\u03c2", "\u00e9"]),
    include_deleted=st.booleans(),
)
_orders = st.builds(TaskOrder, field=st.integers(0, 4), descending=st.booleans())


@pytest.fixture(scope="module")
async def made_up(services: Settings) -> AsyncIterator[Database]:
    db = Database(services, application="test")
    await db.open()
    add = Statement(
        insert(projects),
        [
            *("id", "workspace_id", "key", "display_name", "description", "creator_id"),
            *("created_at", "updated_at"),
        ],
    )
    async with db.transaction() as tx:
        for number, project_id in enumerate(_PROJECTS):
            await tx.run(
                add,
                id=project_id,
                workspace_id=_WORKSPACE,
                key=f"P{number}",
                display_name="",
                description="",
                creator_id=_USERS[0],
                created_at=_START,
                updated_at=_START,
            )
    yield db
    async with db.transaction() as tx:
        await tx.run(_DELETE_TASKS)
        await tx.run(_DELETE_PROJECTS)
    await db.close()


_ADD = Statement(insert(tasks), list(COLUMNS))
_DELETE_TASKS = Statement(delete(tasks).where(tasks.c.workspace_id == _WORKSPACE))
_DELETE_PROJECTS = Statement(delete(projects).where(projects.c.workspace_id == _WORKSPACE))


@settings(max_examples=300, deadline=None)
@given(rows=_rows(), wanted=_filters, order_by=_orders, size=st.integers(1, 5))
async def test_lists_and_streams_apply_filters_alike_in_every_order(
    made_up: Database, rows: list[Any], wanted: TaskFilter, order_by: TaskOrder, size: int
) -> None:
    async with made_up.transaction() as tx:
        await tx.run(_DELETE_TASKS)
        await tx.run_many(_ADD, [row._asdict() for row in rows])
    wanted = filters.normalize(wanted)
    found: list[Task] = []
    position: list[Any] | None = None
    while True:
        async with made_up.read() as tx:
            page, position = await lists.page(
                tx, _WORKSPACE, wanted, list_queries.order(order_by), position, size
            )
        assert len(page) <= size
        found += page
        if position is None:
            break
    shown = [messages.task(row) for row in rows]
    expected = [task for task in shown if filters.matches(wanted, task)]
    assert found == sorted(expected, key=_key(order_by), reverse=order_by.descending)


def _key(order_by: TaskOrder) -> Callable[[Task], Any]:
    """Sort key. Tasks without a deadline come last, in both directions."""

    def due(task: Task) -> Any:
        return task.HasField("due_time") == order_by.descending, task.due_time.ToNanoseconds()

    def created(task: Task) -> Any:
        return task.create_time.ToNanoseconds()

    keys: dict[int, Callable[[Task], Any]] = {
        task_service_pb2.TASK_ORDER_FIELD_UPDATE_TIME: lambda task: (
            task.update_time.ToNanoseconds()
        ),
        task_service_pb2.TASK_ORDER_FIELD_DUE_TIME: due,
        task_service_pb2.TASK_ORDER_FIELD_PRIORITY: lambda task: task.priority,
    }
    key = keys.get(order_by.field, created)
    return lambda task: (key(task), task.id)


# Lists as callers get them through the service's API.


async def test_each_filter_finds_exactly_its_tasks(world: RolesWorld) -> None:
    project = await world.project()
    other = await world.project(project.workspace_id, "OTHER")
    owner, member = world.people.owner, world.people.member
    one = await world.create(
        project,
        title="Pay 100% of the Stra\u00dfe",
        assignee_id=owner.id,
        labels=["Bug"],
        priority=task_pb2.TASK_PRIORITY_HIGH,
        due=due_at("UTC", 2031, 1, 1, 12),
    )
    two = await world.create(other, by=owner, description="a_b", status=task_pb2.TASK_STATUS_DONE)

    async def found(**fields: Any) -> set[str]:
        wanted = TaskFilter(**fields)
        return {task.id for task in await world.all(project.workspace_id, filter=wanted)}

    noon = _stamp(datetime(2031, 1, 1, 12, tzinfo=UTC))
    a_little_later = Timestamp(seconds=noon.seconds, nanos=1)
    both, first, second, none = {one.id, two.id}, {one.id}, {two.id}, set[str]()
    assert await found() == both
    assert await found(project_ids=[project.id]) == first
    assert await found(project_ids=[project.id, other.id]) == both
    assert await found(project_ids=[str(uuid4())]) == none
    assert await found(statuses=[task_pb2.TASK_STATUS_DONE]) == second
    assert await found(priorities=[task_pb2.TASK_PRIORITY_UNSPECIFIED]) == second
    assert await found(assignee_ids=[owner.id]) == first
    assert await found(assignee_ids=[""]) == second
    assert await found(assignee_ids=["", owner.id.upper()]) == both
    assert await found(creator_ids=[member.id]) == first
    assert await found(labels=[" Bug ", "x"]) == first
    assert await found(labels=["bug"]) == none
    assert await found(due_before=noon) == none
    assert await found(due_before=a_little_later) == first
    assert await found(due_after=noon) == first
    assert await found(due_after=a_little_later) == none
    assert await found(updated_after=one.update_time) == both
    assert await found(updated_after=two.update_time) == second
    assert await found(text="PAY 100%") == first
    assert await found(text="strasse") == first
    assert await found(text="%") == first
    assert await found(text="a_b") == second
    assert await found(text="axb") == none
    assert await found(text="100%", assignee_ids=[""]) == none


@pytest.mark.parametrize("field", ["due_before", "due_after", "updated_after"])
@pytest.mark.parametrize(
    "time",
    [
        Timestamp(seconds=253_402_300_800),
        Timestamp(seconds=-62_135_596_801),
        Timestamp(seconds=2**63 - 1),
        Timestamp(nanos=-1),
        Timestamp(nanos=1_000_000_000),
    ],
)
async def test_a_time_out_of_range_is_refused_with_the_field_name(
    world: RolesWorld, field: str, time: Timestamp
) -> None:
    workspace_id = await world.workspace()
    wanted = TaskFilter(**{field: time})  # type: ignore[arg-type]
    failed = await refusal(world.page(workspace_id, filter=wanted))
    assert (failed.reason, failed.fields) == ("INVALID_REQUEST", [f"filter.{field}"])
    for edge in (
        Timestamp(seconds=253_402_300_799, nanos=999_999_999),
        Timestamp(seconds=-62_135_596_800),
    ):
        await world.page(workspace_id, filter=TaskFilter(**{field: edge}))  # type: ignore[arg-type]


async def test_pages_have_the_requested_size_within_limits(world: RolesWorld) -> None:
    project = await world.project()
    made = [await world.create(project) for _ in range(52)]
    page = await world.page(project.workspace_id)
    assert list(page.tasks) == made[:50]
    assert (
        list((await world.page(project.workspace_id, page_token=page.next_page_token)).tasks)
        == (made[50:])
    )
    assert len((await world.page(project.workspace_id, page_size=5000)).tasks) == 52
    failed = await refusal(world.page(project.workspace_id, page_size=-1))
    assert (failed.reason, failed.fields) == ("INVALID_REQUEST", ["page_size"])


async def test_a_page_ends_early_before_it_exceeds_the_message_limit(
    world: RolesWorld,
) -> None:
    project = await world.project()
    large: dict[str, Any] = {
        "description": "\u4e2d" * 20_000,
        "payload": struct({"x": "a" * 60_000}),
    }
    made = [await world.create(project, **large) for _ in range(40)]
    page = await world.page(project.workspace_id, page_size=1000)
    assert 20 < len(page.tasks) < 40
    assert await world.all(project.workspace_id, page_size=1000) == made


async def test_unchanged_tasks_are_listed_once_while_others_are_written(
    world: RolesWorld,
) -> None:
    project = await world.project()
    kept = []
    for n in range(20):
        due = due_at("UTC", 2031, 1, 1 + n % 3) if n % 2 else None
        kept.append(await world.create(project, priority=n % 5, due=due))
    restless = [await world.create(project) for _ in range(5)]
    busy = True

    async def disturb() -> None:
        chance = random.Random(7)
        while busy:
            await world.create(
                project,
                priority=chance.randrange(5),
                due=due_at("UTC", 2031, 1, chance.randint(1, 4)),
            )
            await world.update(
                chance.choice(restless), priority=chance.randint(1, 4), title=f"T{chance.random()}"
            )

    writing = asyncio.ensure_future(disturb())
    try:
        for field in range(5):
            for descending in (False, True):
                order = TaskOrder(field=field, descending=descending)  # type: ignore[arg-type]
                seen = await world.all(project.workspace_id, order_by=order, page_size=3)
                ids = [task.id for task in seen]
                assert all(ids.count(task.id) == 1 for task in kept)
                stable = [task for task in seen if task in kept]
                key = _key(order)
                pairs = pairwise(reversed(stable) if descending else stable)
                assert all(key(one) < key(other) for one, other in pairs)
    finally:
        busy = False
        await writing


async def test_a_page_token_is_valid_only_for_its_caller_filter_and_order(
    world: RolesWorld,
) -> None:
    project = await world.project()
    for _ in range(3):
        await world.create(project)
    wanted = TaskFilter(statuses=[task_pb2.TASK_STATUS_TODO])
    order = TaskOrder(field=task_service_pb2.TASK_ORDER_FIELD_DUE_TIME)
    workspace_id = project.workspace_id
    token = (
        await world.page(workspace_id, page_size=1, filter=wanted, order_by=order)
    ).next_page_token
    own: dict[str, Any] = {"page_token": token, "filter": wanted, "order_by": order}
    assert len((await world.page(workspace_id, page_size=2, **own)).tasks) == 2
    owner = world.people.owner
    for failed in (
        await refusal(world.page(workspace_id, by=owner, **own)),
        await refusal(world.page(workspace_id, **own | {"filter": TaskFilter()})),
        await refusal(world.page(workspace_id, **own | {"order_by": TaskOrder()})),
        await refusal(world.page(await world.workspace(), **own)),
        await refusal(world.page(workspace_id, **own | {"page_token": token[:-1]})),
        await refusal(world.page(workspace_id, **own | {"page_token": "\u00e9"})),
        await refusal(world.page(workspace_id, **own | {"page_token": "A" + token})),
    ):
        assert (failed.code, failed.reason) == (_Code.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")
