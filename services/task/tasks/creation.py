"""Creates tasks; concurrent CreateTask calls share a batch (docs/adr/0011)."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import structlog
from uuid_utils.compat import uuid7

from services.platform.data.db import Database
from services.platform.data.input_rows import encode_rows
from services.platform.events import outbox
from services.platform.observe.redaction import describe
from services.platform.observe.tracing import trace_parent
from services.platform.rpc import directory, idempotency
from services.platform.rpc.batching import Batcher
from services.platform.rpc.errors import DomainError, is_conflict, is_rejected
from services.platform.rpc.identity import Caller
from services.platform.rpc.seal import Seal
from services.task.tasks import changes, due, events, fields, messages
from services.task.tasks.creation_queries import (
    CHECK_DRAFTS,
    INSERT_TASKS,
    RESERVE_NUMBERS,
    Checked,
)
from services.task.tasks.logic import not_member
from services.task.tasks.queries import COLUMNS, TaskRow
from taskflow.error.v1 import error_reason_pb2 as reasons
from taskflow.task.v1 import task_pb2
from taskflow.task.v1.task_service_pb2 import CreateTaskRequest, CreateTaskResponse

log = structlog.get_logger()

# The most tasks in a batch.
_BATCH = 64
# Pauses (seconds) before the retries of a task that is allowed but wasn't created: its batch failed, its number was
# taken, or its assignee is being removed.
_PAUSES = (0.02, 0.1, 0.3, 0.7, 1.5)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DEFAULTS = {
    "description": "",
    "status": task_pb2.TASK_STATUS_TODO,
    "priority": task_pb2.TASK_PRIORITY_UNSPECIFIED,
    "labels": [],
    "revision": 1,
    "text_revision": 1,
}


@dataclass(frozen=True, slots=True)
class _Draft:
    """A task that a call wants to create: parsed, but not checked against stored state."""

    caller: Caller
    project_id: UUID
    columns: Mapping[str, Any]
    request_id: UUID | None
    request_hash: bytes | None
    trace_parent: str


class _New(NamedTuple):
    """A task to insert, and the response once it is inserted."""

    row: TaskRow
    response: CreateTaskResponse


# The outcome of a draft: response, error, or None. None means that its call checks and retries the draft alone.
_Outcome = CreateTaskResponse | Exception | None


class Creation:
    """Creates tasks; while several calls wait, in a batch."""

    def __init__(self, db: Database, seal: Seal) -> None:
        self._db = db
        self._seal = seal
        self._batches = Batcher[_Draft, CreateTaskResponse | None](self._create, size=_BATCH)

    async def create(self, caller: Caller, request: CreateTaskRequest) -> CreateTaskResponse:
        """Creates the task, or returns the first answer to a repeated request.

        Raises SESSION_REVOKED, NOT_FOUND, ROLE_TOO_LOW, INVALID_REQUEST, REQUEST_ID_REUSED, PROJECT_ARCHIVED,
        ASSIGNEE_NOT_MEMBER, PARENT_INVALID, and DEPENDENCY_UNAVAILABLE after the last retry.
        """
        # The digest ignores `validate_only`. So a validation finds the stored response if the task was created before.
        validate_only = request.validate_only
        request.ClearField("validate_only")
        repeatable = bool(request.request_id)
        draft = _Draft(
            caller=caller,
            project_id=UUID(request.project_id),
            columns=fields.columns(request.task, fields.populated(request.task)),
            request_id=UUID(request.request_id) if repeatable else None,
            request_hash=idempotency.digest(self._seal, request) if repeatable else None,
            trace_parent=trace_parent(),
        )
        if validate_only:
            return await self._check(draft) or CreateTaskResponse()
        outcome: _Outcome
        if draft.columns.get("payload") is None:
            outcome = await self._batches(draft)
        else:
            # A task with a payload is created alone: its job needs a transaction of several statements.
            [outcome] = await self._create([draft])
        for pause in _PAUSES:
            if outcome is not None:
                break
            outcome = await self._check(draft)
            if outcome is None:
                await asyncio.sleep(pause)
                [outcome] = await self._create([draft])
        if outcome is None:
            raise DomainError(reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _create(self, drafts: Sequence[_Draft]) -> list[_Outcome]:
        """Creates the drafts; returns the outcome of each, in their order."""
        outcomes: dict[int, _Outcome] = dict.fromkeys(range(len(drafts)))
        for numbers in _rounds(drafts):
            outcomes |= await self._try_round({n: drafts[n] for n in numbers})
        return list(outcomes.values())

    async def _try_round(self, drafts: Mapping[int, _Draft]) -> Mapping[int, _Outcome]:
        """Runs `_create_round`. If the round fails, its drafts get the error as their outcome; other rounds go on."""
        try:
            return await self._create_round(drafts)
        except Exception as error:
            if is_conflict(error) or (is_rejected(error) and len(drafts) > 1):
                # The round had no effect. A single draft may be the cause, so each call retries its own draft.
                log.warning("tasks weren't created", tasks=len(drafts), error=describe(error))
                return dict.fromkeys(drafts)
            return dict.fromkeys(drafts, error)

    async def _create_round(self, drafts: Mapping[int, _Draft]) -> dict[int, _Outcome]:
        outcomes: dict[int, _Outcome] = {}
        new: dict[int, _New] = {}
        inputs: list[dict[str, Any]] = []
        # RESERVE_NUMBERS and INSERT_TASKS have to share this connection.
        async with self._db.autocommit() as tx:
            for checked in await tx.all(RESERVE_NUMBERS, input_rows=_to_check(drafts)):
                n, draft = checked.n, drafts[checked.n]
                try:
                    outcomes[n] = _first_answer(draft, checked)
                    if outcomes[n] is None and checked.number is not None:
                        row = _new_row(draft, checked, checked.number)
                        new[n] = _New(row, CreateTaskResponse(task=messages.task(row)))
                        inputs.append(_to_insert(draft, checked, new[n]))
                except Exception as failure:
                    outcomes[n] = failure
            if not new:
                return outcomes
            with_jobs = [row for row, _ in new.values() if row.payload is not None]
            async with tx.atomic() if with_jobs else nullcontext():
                inserted = await tx.all(INSERT_TASKS, input_rows=encode_rows(inputs))
                ids = {row.id for row in inserted}
                for row in with_jobs:
                    if row.id in ids:
                        await changes.follow_up(tx, row, set(COLUMNS), row.creator_id)
            tx.has_events = True
        return outcomes | {n: task.response for n, task in new.items() if task.row.id in ids}

    async def _check(self, draft: _Draft) -> CreateTaskResponse | None:
        """Returns the first answer if the task was created before, else None. Raises the error that forbids it."""
        async with self._db.read() as tx:
            checked = await tx.one(CHECK_DRAFTS, input_rows=_to_check({0: draft}))
            if checked is None:
                raise await directory.absence(tx, draft.caller, "project", draft.project_id)
        return _first_answer(draft, checked)


def _rounds(drafts: Sequence[_Draft]) -> Iterator[list[int]]:
    """Divides the drafts' numbers into rounds. A repeated request goes into a later round and gets the first answer."""
    waiting = list(range(len(drafts)))
    while waiting:
        keys: set[object] = set()
        now: list[int] = []
        later: list[int] = []
        for number in waiting:
            draft = drafts[number]
            key = draft.request_id and (draft.caller.user_id, draft.request_id)
            (later if key and key in keys else now).append(number)
            keys.add(key)
        yield now
        waiting = later


def _first_answer(draft: _Draft, checked: Checked) -> CreateTaskResponse | None:
    """The first answer to a repeated request; None if the task can be created. Else raises the error."""
    directory.check_role(draft.caller, checked.role)
    if checked.response is not None:
        if checked.request_hash != draft.request_hash:
            raise idempotency.reused(str(draft.request_id))
        return CreateTaskResponse.FromString(checked.response)
    if checked.archived_at:
        raise DomainError(reasons.ERROR_REASON_PROJECT_ARCHIVED)
    if not checked.assignee_fits:
        raise not_member(draft.columns["assignee_id"])
    if not checked.parent_fits:
        raise DomainError(reasons.ERROR_REASON_PARENT_INVALID)
    return None


def _new_row(draft: _Draft, checked: Checked, number: int) -> TaskRow:
    task_id = uuid7()
    # `created_at` is the time in the id, so that ids have the order of creation.
    now = _EPOCH + timedelta(milliseconds=task_id.int >> 80)
    values: dict[str, Any] = dict.fromkeys(COLUMNS) | _DEFAULTS | dict(draft.columns)
    values |= {
        "id": task_id,
        "workspace_id": checked.workspace_id,
        "project_id": checked.project_id,
        "project_key": checked.key,
        "number": number,
        "creator_id": draft.caller.user_id,
        "created_at": now,
        "updated_at": now,
    }
    row = TaskRow(**values)
    row = row._replace(
        finished_at=changes.finish_time(row.status, None, now),
        due_set_at=None if due.of(row) == due.NO_DUE else now,
    )
    return due.with_instant(row, checked.time_zone)


# Input rows of the statements in creation_queries.py.


def _to_check(drafts: Mapping[int, _Draft]) -> str:
    return encode_rows(
        {
            "n": n,
            "project_id": draft.project_id,
            "caller_id": draft.caller.user_id,
            "session_id": draft.caller.session_id,
            "needs": draft.caller.needs,
            "assignee_id": draft.columns.get("assignee_id"),
            "parent_id": draft.columns.get("parent_id"),
            "request_id": draft.request_id,
        }
        for n, draft in drafts.items()
    )


def _to_insert(draft: _Draft, checked: Checked, new: _New) -> dict[str, Any]:
    event = events.created(new.row, new.response.task, ai_disabled=not checked.ai_enabled)
    event.trace_parent = draft.trace_parent
    repeatable = draft.request_id is not None
    return {
        "n": checked.n,
        **{name: value for name, value in new.row._asdict().items() if value is not None},
        **{f"outbox_{name}": value for name, value in outbox.row(event).items()},
        "request_id": draft.request_id,
        "request_hash": draft.request_hash,
        "response": new.response.SerializeToString() if repeatable else None,
    }
