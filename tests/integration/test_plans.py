"""Promises about plans at a million tasks: every list, filter and order uses an index, and frequent statements read
little. Each is planned for the actual values and, like a prepared statement, for any values."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any, get_args
from uuid import UUID, uuid4

import psycopg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from psycopg.rows import namedtuple_row

from services.auth.accounts import queries as account_queries
from services.auth.sessions import queries as session_queries
from services.auth.sessions import retention as auth_retention
from services.auth.workspaces import queries as workspace_queries
from services.notification.email import queries as email
from services.notification.email import retention as email_retention
from services.notification.inbox import consumer_queries as notification_consumer
from services.notification.inbox import queries as notification
from services.notification.inbox import retention as notification_retention
from services.notification.kinds.registry import KINDS
from services.notification.stream import queries as stream
from services.notification.stream import retention as stream_retention
from services.platform.config import Settings
from services.platform.data.db import Row, Statement, Transaction
from services.platform.data.input_rows import encode_rows
from services.platform.events import dead_letters, relay_queries
from services.platform.events import retention as platform_retention
from services.platform.rpc import directory, idempotency
from services.task import pages as task_pages
from services.task.jobs import queries as job_queries
from services.task.jobs.models import jobs as job_table
from services.task.projects import queries as project_queries
from services.task.reminders import queries as reminder_queries
from services.task.suggestions import ai_rate_limit_queries
from services.task.suggestions import queries as suggestion_queries
from services.task.suggestions.models import suggestions as suggestion_table
from services.task.tasks import creation_queries, filters, list_queries, queries
from services.task.tasks import retention as task_retention
from services.task.tasks.list_queries import Order, Shape
from taskflow.task.v1.task_pb2 import TaskFilter
from tests.bench.dataset import name_id
from tests.integration.large_world import (
    LARGE,
    MAIL_READER,
    PERSON,
    PROJECT,
    SESSION,
    TASKS,
    large_world,
)
from tests.integration.plans import Connection, Mode, Plan, explain

# The most rows that Postgres may read, of a million, for a page of 50.
_LITTLE = 1000
# Postgres may read a table with fewer rows than this completely.
_SMALL_TABLE = 1000


@pytest.fixture(scope="module")
async def connection(settings: Settings) -> AsyncIterator[Connection]:
    async with (
        large_world(settings) as url,
        await psycopg.AsyncConnection.connect(
            url, autocommit=True, cursor_factory=psycopg.AsyncClientCursor
        ) as connection,
    ):
        yield connection


@pytest.fixture(scope="module")
async def large_tables(connection: Connection) -> set[str]:
    cursor = await connection.execute(
        "SELECT relname FROM pg_class WHERE reltuples > %s", (_SMALL_TABLE,)
    )
    return {name for (name,) in await cursor.fetchall()}


# Lists of tasks.

_AT = Timestamp()
_AT.FromDatetime(datetime.now(UTC) - timedelta(seconds=30 * TASKS / 2))
_RECENTLY = Timestamp()
_RECENTLY.FromDatetime(datetime.now(UTC) - timedelta(days=3))
_SOMEBODY = str(UUID(int=7))
_FILTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "deleted": {"include_deleted": True},
    "project": {"project_ids": [str(PROJECT)]},
    "projects": {"project_ids": [str(PROJECT), _SOMEBODY]},
    "status": {"statuses": [1]},
    "common status": {"statuses": [3]},
    "absent status": {"statuses": [2]},
    "open": {"statuses": [1, 2]},
    "every status": {"statuses": [1, 2, 3, 4]},
    "priority": {"priorities": [4]},
    "priorities": {"priorities": [3, 4]},
    "assignee": {"assignee_ids": [str(PERSON)]},
    "assignees": {"assignee_ids": [str(PERSON), _SOMEBODY]},
    "unassigned": {"assignee_ids": [""]},
    "assignee or none": {"assignee_ids": ["", str(PERSON)]},
    "creator": {"creator_ids": [str(PERSON)]},
    "creators": {"creator_ids": [str(PERSON), _SOMEBODY]},
    "label": {"labels": ["label7"]},
    "labels": {"labels": ["label7", "label8"]},
    "due before": {"due_before": _AT},
    "due after": {"due_after": _AT},
    "updated after": {"updated_after": _AT},
    "text": {"text": "task 777"},
    "text in project": {"text": "task", "project_ids": [str(PROJECT)]},
    "overdue": {"statuses": [1, 2], "due_before": _RECENTLY},
    "mine that are open and due": {
        "assignee_ids": [str(PERSON)],
        "statuses": [1, 2],
        "due_before": _RECENTLY,
    },
    "open ones of a project": {"project_ids": [str(PROJECT)], "statuses": [1, 2]},
    "urgent bugs of a project": {
        "project_ids": [str(PROJECT)],
        "labels": ["label1"],
        "priorities": [4],
    },
}
_ORDERS = [
    Order(column, descending)
    for column in ("created_at", "updated_at", "due_at", "priority")
    for descending in (False, True)
]
# Filters whose rows an index yields in each of these orders. The other filters have an index in creation order only.
_ORDERED = [
    *product(
        ("none", "deleted", "project", "status", "absent status", "open", "every status"), _ORDERS
    ),
    *product(("assignee", "creator", "unassigned", "priority"), _ORDERS[:2]),
    *product(("updated after",), _ORDERS[2:4]),
    *product(("due before", "due after", "overdue"), _ORDERS[4:6]),
]
# Filters by user, in orders without an index: Postgres may read all of the user's tasks, at most _SOME blocks of 8 KB.
_SOMEBODYS = ("assignee", "assignees", "creator", "creators", "mine that are open and due")
_SOME = 5000


async def _page_plans(connection: Connection, wanted: TaskFilter, order: Order) -> list[Plan]:
    """Plans of the first page and of a page in the middle; for the order by deadline, of both its parts."""
    plans = []
    values = list_queries.values(wanted) | {"workspace_id": LARGE, "limit": 51}
    for dated in (True, False) if order.column == "due_at" else (None,):
        shape = replace(list_queries.shape(wanted, order), dated=dated)
        plans.append(await _listed(connection, shape, values))
        if middle := await _middle(connection, wanted, dated):
            place = list_queries.after(shape, list_queries.position(shape, middle))
            plans.append(await _listed(connection, replace(shape, after=True), values | place))
    return plans


async def _middle(connection: Connection, wanted: TaskFilter, dated: bool | None) -> Any:
    """The listed task closest to the middle of its workspace's history."""
    at = _AT.ToDatetime(tzinfo=UTC)
    values = list_queries.values(wanted) | {
        "workspace_id": LARGE,
        "limit": 1,
        "after_created_at": at,
        "after_id": UUID(int=int(at.timestamp() * 1000) << 80),
    }
    for descending in (False, True):
        order = Order("created_at", descending)
        shape = replace(list_queries.shape(wanted, order), dated=dated, after=True)
        statement = list_queries.statement(shape)
        cursor = connection.cursor(row_factory=namedtuple_row)
        await cursor.execute(statement.sql, statement.parameters(values))
        if row := await cursor.fetchone():
            return row
    return None


async def _listed(connection: Connection, shape: Shape, values: dict[str, Any]) -> Plan:
    return await explain(connection, list_queries.statement(shape), values, "force_custom_plan")


@pytest.mark.parametrize(("name", "order"), list(product(_FILTERS, _ORDERS)), ids=str)
async def test_every_task_filter_uses_an_index_in_every_order(
    connection: Connection, large_tables: set[str], name: str, order: Order
) -> None:
    for plan in await _page_plans(connection, _wanted(name), order):
        assert plan.indexes, plan
        assert not plan.read_whole & large_tables, plan
        assert not plan.walked, plan


@pytest.mark.parametrize(("name", "order"), _ORDERED, ids=str)
async def test_a_task_page_in_index_order_reads_little_more_than_its_rows(
    connection: Connection, name: str, order: Order
) -> None:
    for plan in await _page_plans(connection, _wanted(name), order):
        assert max(plan.rows, plan.blocks) <= _LITTLE, plan


@pytest.mark.parametrize(("name", "order"), list(product(_SOMEBODYS, _ORDERS)), ids=str)
async def test_a_page_of_one_users_tasks_reads_at_most_a_few_thousand_rows(
    connection: Connection, name: str, order: Order
) -> None:
    for plan in await _page_plans(connection, _wanted(name), order):
        assert plan.blocks <= _SOME, plan


def _wanted(name: str) -> TaskFilter:
    return filters.normalize(TaskFilter(**_FILTERS[name]))


# The prepared statements of everything except lists of tasks.


@dataclass(frozen=True)
class _Ids:
    """Ids of rows in the middle of their tables, in the large workspace."""

    task: UUID
    suggestion: UUID
    job: UUID
    notification: UUID


# Placeholder ids, because pytest needs only the names of the cases when it collects them.
_NOTHING = _Ids(*[UUID(int=0)] * 4)


@pytest.fixture(scope="module")
async def ids(connection: Connection) -> _Ids:
    found = []
    for table in ("task.tasks", "task.suggestions", "task.jobs"):
        cursor = await connection.execute(
            f"SELECT id FROM {table} WHERE workspace_id = %s ORDER BY id OFFSET 100000 LIMIT 1".encode(),
            (LARGE,),
        )
        found += await cursor.fetchall()
    cursor = await connection.execute(
        "SELECT id FROM notification.notifications WHERE user_id = %s AND sequence = 50", (PERSON,)
    )
    found += await cursor.fetchall()
    return _Ids(*(row[0] for row in found))


_Cases = dict[str, tuple[Statement, dict[str, Any]]]
_CALLER = {"caller_id": PERSON, "session_id": SESSION}
_IN_LARGE = {"workspace_id": LARGE}
_SOMETIME = datetime.now(UTC) - timedelta(days=30)
_NOW = datetime.now(UTC)
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


def _lists(ids: _Ids) -> _Cases:
    """Pages of every API list except tasks, and the reads of streams."""
    page = {"limit": 51, "size": 51, "count": 51}
    of_person = page | _CALLER
    in_large = page | _IN_LARGE
    cases: _Cases = {
        "workspaces": (workspace_queries.FIRST_WORKSPACES, of_person),
        "workspaces, deep": (
            workspace_queries.NEXT_WORKSPACES,
            of_person | {"after": name_id("workspace 250")},
        ),
        "members": (workspace_queries.FIRST_MEMBERS, in_large),
        "members, deep": (
            workspace_queries.NEXT_MEMBERS,
            in_large | {"after_time": _SOMETIME, "after_user": PERSON},
        ),
        "people": (account_queries.PEOPLE_AROUND, _CALLER | {"user_ids": _people(64)}),
        "notifications": (notification.OLDER, of_person | {"before": 2**63 - 1}),
        "notifications, deep": (notification.OLDER, of_person | {"before": 10_000}),
        "unread notifications": (notification.OLDER_UNREAD, of_person | {"before": 2**63 - 1}),
        "unread notifications, deep": (notification.OLDER_UNREAD, of_person | {"before": 60}),
        "unread count": (notification.UNREAD_COUNT, _CALLER),
        "a resumed stream": (
            stream.CHANGES_AFTER,
            {"user_id": PERSON, "after": 10_000, "count": 200},
        ),
        "heads of streams": (stream.HEADS, {"user_ids": _people(200)}),
    }
    for archived, after in product((False, True), repeat=2):
        cases[f"projects, archived={archived}, after={after}"] = (
            project_queries.page(archived, after),
            in_large | {"after_time": _SOMETIME, "after_id": PROJECT},
        )
    for table, row, before_id in (
        (suggestion_table, suggestion_queries.SuggestionRow, ids.suggestion),
        (job_table, job_queries.JobRow, ids.job),
    ):
        for of_task, states, after in product((False, True), ([], [1], [1, 4], [3]), (False, True)):
            cases[f"{table.name}, of_task={of_task}, states={states}, after={after}"] = (
                task_pages.list_rows(table, row, of_task, bool(states), after),
                in_large
                | {"task_id": name_id("task 75000"), "states": states}
                | {"before_time": _SOMETIME, "before_id": before_id},
            )
    return cases


def _people(count: int) -> list[UUID]:
    return [name_id(f"user {n}") for n in range(count)]


def _calls(ids: _Ids) -> _Cases:
    """Statements of calls and consumers that use a key; batchable ones with 64 input rows."""
    of_caller = _CALLER | {"workspace_id": LARGE, "project_id": PROJECT, "task_id": ids.task}
    key = {"caller": str(PERSON), "method": creation_queries.METHOD, "request_id": uuid4()}
    users = _people(64)
    told = [
        {"n": n, "event_id": uuid4(), "workspace_id": LARGE, "user_id": user}
        for n, user in enumerate(users)
    ]
    to_mail = {"user_id": MAIL_READER, "batch_id": uuid4(), "count": 200}
    to_mail["kinds"] = [kind.number for kind in KINDS]
    cases: _Cases = {
        "role": (directory._ROLE, of_caller),
        "session": (directory._SESSION, of_caller),
        "operator": (directory._OPERATOR, of_caller),
        "members among": (directory._MEMBERS_AMONG, of_caller | {"user_ids": users}),
        "memberships": (
            directory._MEMBERSHIPS,
            {"workspace_ids": [LARGE] * len(users), "user_ids": users},
        ),
        "people": (directory._PEOPLE, {"user_ids": users}),
        "live sessions": (
            directory._LIVE_SESSIONS,
            {"session_ids": [name_id(f"session {n}") for n in range(64)]},
        ),
        "current user": (account_queries.CURRENT_USER, of_caller),
        "user by e-mail": (account_queries.USER_BY_EMAIL, {"email_key": "7@example.com"}),
        "session to refresh": (session_queries.LOCK_SESSION, of_caller),
        "member": (workspace_queries.MEMBER, {"workspace_id": LARGE, "user_id": PERSON}),
        "owners": (workspace_queries.OWNERS, _IN_LARGE),
        "wrong passwords": (session_queries.THROTTLING, {"key": bytes(32), "more_than": 9}),
        "claim of a request": (idempotency._CLAIM, key | {"request_hash": b""}),
        "first answer": (idempotency._FIND, key),
        "project": (project_queries.LOCK, of_caller),
        "task": (queries.GET, of_caller),
        "task by key": (queries.GET_BY_KEY, of_caller | {"key": "P7", "number": 7}),
        "task to change": (queries.LOCK, of_caller),
        "task changed": (
            queries.change(frozenset({"status", "updated_at"})),
            {"task_id": ids.task, "new_status": 2, "new_updated_at": _NOW},
        ),
        "assignee": (queries.LOCK_MEMBER_FOR_TASK, of_caller | {"assignee_id": PERSON}),
        "ancestors": (queries.ANCESTORS, of_caller | {"parent_id": ids.task}),
        "task for a stream": (queries.GET_UNCHECKED, of_caller),
        "task for suggestions": (suggestion_queries.LOCK_REQUESTED_TASK, of_caller),
        "suggestion": (suggestion_queries.FIND, _CALLER | {"id": ids.suggestion}),
        "suggestions outdated": (suggestion_queries.MAKE_STALE, of_caller),
        "enrichment settled": (job_queries.COMPLETE_ENRICHMENTS, of_caller),
        "task for the AI": (suggestion_queries.MODEL_TASK, of_caller),
        "similar tasks": (suggestion_queries.RECENT_TASKS, of_caller),
        "allowance": (ai_rate_limit_queries.NEXT_SLOT, {"key": LARGE, "most": 10_000}),
        "allowance kept": (
            ai_rate_limit_queries.RESERVED_SLOT,
            {"task_id": ids.task, "text_revision": 1},
        ),
        "task to remind of": (reminder_queries.LOCK_TASK, of_caller),
        "ledger": (
            reminder_queries.OUTCOMES,
            {"task_id": ids.task, "due_said": "", "due_at": _NOW},
        ),
        "walk": (reminder_queries.LOCK_WALK, {}),
        "head": (stream.HEAD, of_caller),
        "feed": (stream.LOCK_FEED, of_caller),
        "marked": (notification.MARK, {"user_id": PERSON, "ids": [ids.notification], "now": _NOW}),
        "all marked": (
            notification.MARK_UP_TO,
            {"user_id": PERSON, "up_to": 20_000, "now": _NOW, "count": 1000},
        ),
        "mail's recipient": (email.RECIPIENT, {"user_id": MAIL_READER}),
        "mail": (email.FILL_BATCH, to_mail | {"after": _LONG_AGO}),
        "mail's items": (email.ITEMS, {"batch_id": name_id("mail 5"), "count": 100}),
        "never mailed": (email.SKIP, to_mail | {"until": _NOW, "skipped": uuid4()}),
        "mail that waited": (
            email.SKIP_PREPARED,
            {"batch_id": name_id("mail 5"), "until": _NOW, "skipped": uuid4()},
        ),
        "more to mail": (email.MORE, to_mail | {"batch_id": name_id("mail 5")}),
    }
    for count in (1, 64):
        asked = {"input_rows": encode_rows(_asked(ids)[:count])}
        cases |= {
            f"{count} places found": (creation_queries.CHECK_DRAFTS, asked),
            f"{count} places taken": (creation_queries.RESERVE_NUMBERS, asked),
            f"{count} tasks added": (
                creation_queries.INSERT_TASKS,
                {"input_rows": encode_rows(_new_tasks()[:count])},
            ),
            f"{count} notifications claimed": (
                notification_consumer.CLAIM,
                {"consumer": "notification", "input_rows": encode_rows(told[:count])},
            ),
        }
    return cases


def _asked(ids: _Ids) -> list[dict[str, Any]]:
    """The 64 input rows of a batch whose calls name different projects."""
    return [
        {
            "n": n,
            "task_id": ids.task,
            "project_id": name_id(f"project {2001 + n}"),
            "caller_id": PERSON,
            "session_id": SESSION,
            "needs": 2,
            "assignee_id": name_id(f"user {2 * n}"),
            "parent_id": ids.task if n % 2 else None,
            "request_id": uuid4(),
        }
        for n in range(64)
    ]


def _new_tasks() -> list[dict[str, Any]]:
    return [
        {
            "n": n,
            "id": uuid4(),
            "workspace_id": LARGE,
            "project_id": name_id(f"project {2001 + n}"),
            "project_key": "P",
            "number": 10_000_000 + n,
            "creator_id": PERSON,
            "assignee_id": name_id(f"user {2 * n}"),
            "outbox_event_id": uuid4(),
            "request_id": uuid4(),
        }
        | _ALIKE
        for n in range(64)
    ]


_ALIKE = {
    "title": "Task",
    "description": "",
    "status": 1,
    "priority": 0,
    "labels": ["new"],
    "revision": 1,
    "text_revision": 1,
    "created_at": _NOW,
    "updated_at": _NOW,
    "outbox_subject": "",
    "outbox_payload": b"",
    "request_hash": b"",
    "response": b"",
}


def _background(ids: _Ids) -> _Cases:
    """Statements that scan whole tables in batches: relay, sweeps, retention, and operators' lists."""
    last = {"parked_before": datetime.max.replace(tzinfo=UTC), "id_before": ids.task, "count": 51}
    deep = last | {"parked_before": _SOMETIME}
    batch = {"age": timedelta(days=7), "rows": 500}
    hanging = {"ids": [name_id(f"task {n}") for n in range(50)], "rows": 500}
    cases: _Cases = {
        "dead letters": (dead_letters.LIST, last),
        "dead letters, deep": (dead_letters.LIST, deep),
        "dead letters that wait": (dead_letters.LIST_WAITING, last),
        "dead letters that wait, deep": (dead_letters.LIST_WAITING, deep),
        "unpublished": (relay_queries.UNPUBLISHED, {}),
        "published": (
            relay_queries.MARK,
            {"ids": list(range(299_001, 299_251)), "sequences": list(range(250))}
            | {"created": "", "before": 0, "sequence": 250},
        ),
        "tasks below": (queries.LOCK_CHILDREN, {"parent_ids": hanging["ids"], "limit": 500}),
        "somebody's dates": (
            queries.LOCK_DUE_IN_OTHER_ZONE,
            {"user_id": PERSON, "zone": "Asia/Tokyo", "limit": 200},
        ),
        "deadlines walked over": (queries.OPEN_DUE_TIMES, {"after": UUID(int=0), "limit": 500}),
        "reminders planned again": (
            reminder_queries.tasks_to_remind(False),
            {"after": UUID(int=0), "last_offset": 0, "limit": 30},
        ),
        "deleted tasks": (task_retention._LOCK, batch),
        "read notifications": (notification.LOCK_READ, batch),
    }
    for number, statement in enumerate(task_retention._DELETE_DEPENDENTS):
        cases[f"what hangs on deleted tasks, {number}"] = (statement, hanging)
    return cases


def _runs(cases: _Cases) -> list[tuple[str, Mode]]:
    """Each case with each way in which Postgres may plan it."""
    return [
        (name, mode)
        for name, mode in product(cases, get_args(Mode))
        if mode == "force_custom_plan" or cases[name][0].prepare is not False
    ]


@pytest.mark.parametrize(("name", "mode"), _runs(_lists(_NOTHING)))
async def test_a_page_of_any_other_list_reads_little_more_than_its_rows(
    connection: Connection, large_tables: set[str], ids: _Ids, name: str, mode: Mode
) -> None:
    plan = await explain(connection, *_lists(ids)[name], mode)
    assert plan.rows <= _LITTLE, plan
    assert plan.blocks <= _LITTLE, plan
    assert not (plan.read_whole | plan.walked) & large_tables, plan


@pytest.mark.parametrize(("name", "mode"), _runs(_calls(_NOTHING)))
async def test_statements_of_calls_find_their_rows_by_key(
    connection: Connection, large_tables: set[str], ids: _Ids, name: str, mode: Mode
) -> None:
    plan = await explain(connection, *_calls(ids)[name], mode)
    assert plan.rows <= _LITTLE, plan
    assert not (plan.read_whole | plan.walked) & large_tables, plan


@pytest.mark.parametrize(("name", "mode"), _runs(_background(_NOTHING)))
async def test_background_batches_read_little_more_than_their_rows(
    connection: Connection, large_tables: set[str], ids: _Ids, name: str, mode: Mode
) -> None:
    plan = await explain(connection, *_background(ids)[name], mode)
    assert plan.rows <= _LITTLE, plan
    assert not plan.read_whole & large_tables, plan


class _Explaining(Transaction):
    """A stand-in transaction that records the plan of each statement and returns no rows."""

    def __init__(self, connection: Connection) -> None:
        self._to = connection
        self.plans: list[Plan] = []

    async def all(self, statement: Statement, **parameters: Any) -> list[Row]:
        for mode in get_args(Mode):
            self.plans.append(await explain(self._to, statement, parameters, mode))
        return []

    async def run(self, statement: Statement, **parameters: Any) -> int:
        return len(await self.all(statement, **parameters))


async def test_expired_rows_are_found_by_an_index_on_their_age(
    connection: Connection, large_tables: set[str], settings: Settings
) -> None:
    for kind in (
        *auth_retention.kinds(),
        *task_retention.kinds(settings),
        *notification_retention.kinds(settings),
        *stream_retention.kinds(settings),
        *email_retention.kinds(),
        *platform_retention.kinds(settings),
    ):
        explaining = _Explaining(connection)
        await kind.delete(explaining, 500)
        assert explaining.plans, kind
        for plan in explaining.plans:
            # Postgres may read 2,000 rows: it reads each deleted row twice, and the rows that refer to that row.
            assert plan.rows <= 2 * _LITTLE, (kind, plan)
            assert not plan.read_whole & large_tables, (kind, plan)
