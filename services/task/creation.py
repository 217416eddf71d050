"""Creating tasks: calls that come at the same time share a batch (docs/adr/0011)."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from uuid_utils.compat import uuid7

from services.platform import directory, idempotency, outbox
from services.platform.batching import Batcher
from services.platform.db import Database, Row
from services.platform.errors import DomainError, is_conflict, is_rejected
from services.platform.given import as_given
from services.platform.identity import Caller
from services.platform.redaction import describe
from services.platform.seal import Seal
from services.platform.tracing import trace_parent
from services.task import creation_queries, drafts, jobs, messages, queries
from services.task.logic import FINISHED, due_columns, event, not_member
from taskflow.error.v1 import error_reason_pb2 as reasons
from taskflow.event.v1.event_pb2 import TaskCreated
from taskflow.task.v1 import task_pb2
from taskflow.task.v1.task_service_pb2 import CreateTaskRequest, CreateTaskResponse

log = structlog.get_logger()

# Most tasks in a batch.
_SIZE = 64
# Pauses (seconds) before each further try of a task that wasn't created although nothing stands against it: its batch
# failed, its number was used, or the removal of its assignee is under way.
_PAUSES = (0.02, 0.1, 0.3, 0.7, 1.5)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Draft:
    """A task that is asked for."""

    caller: Caller
    project_id: UUID
    columns: Mapping[str, Any]
    request_id: UUID | None
    request_hash: bytes | None
    trace_parent: str


# Of one draft; None if its call has to look again, alone.
_Answer = CreateTaskResponse | Exception | None


class Creation:
    """Creates tasks, in batches where several calls wait."""

    def __init__(self, db: Database, seal: Seal) -> None:
        self._db = db
        self._seal = seal
        self._together = Batcher[_Draft, CreateTaskResponse | None](self._create, size=_SIZE)

    async def create(self, caller: Caller, request: CreateTaskRequest) -> CreateTaskResponse:
        """Raises SESSION_REVOKED, NOT_FOUND, ROLE_TOO_LOW, REQUEST_ID_REUSED, PROJECT_ARCHIVED, ASSIGNEE_NOT_MEMBER,
        PARENT_INVALID."""
        repeatable = bool(request.request_id)
        draft = _Draft(
            caller=caller,
            project_id=UUID(request.project_id),
            columns=drafts.columns(request.task, drafts.populated(request.task)),
            request_id=UUID(request.request_id) if repeatable else None,
            request_hash=idempotency.digest(self._seal, request) if repeatable else None,
            trace_parent=trace_parent(),
        )
        answer: _Answer
        if draft.columns.get("payload") is None:
            answer = await self._together(draft)
        else:
            # Alone: its job needs a transaction of several statements.
            [answer] = await self._create([draft])
        for pause in _PAUSES:
            if answer is not None:
                break
            # The obstacle may be gone soon.
            answer = await self._look_again(draft)
            if answer is None:
                await asyncio.sleep(pause)
                [answer] = await self._create([draft])
        if answer is None:
            raise DomainError(reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _create(self, asked: Sequence[_Draft]) -> list[_Answer]:
        """Returns an answer for each draft. None: its call has to look again, alone."""
        answers: dict[int, _Answer] = dict.fromkeys(range(len(asked)))
        for numbers in _rounds(asked):
            answers |= await self._try_round({n: asked[n] for n in numbers})
        return list(answers.values())

    async def _try_round(self, asked: Mapping[int, _Draft]) -> Mapping[int, _Answer]:
        """Returns the answers of `_create_round`, or what it failed with: no round fails another one."""
        try:
            return await self._create_round(asked)
        except Exception as error:
            if is_conflict(error) or (is_rejected(error) and len(asked) > 1):
                # It had no effect, and one row can be the reason.
                log.warning("tasks weren't created", tasks=len(asked), error=describe(error))
                return dict.fromkeys(asked)
            return dict.fromkeys(asked, error)

    async def _create_round(self, asked: Mapping[int, _Draft]) -> dict[int, _Answer]:
        answers: dict[int, _Answer] = {}
        rows: dict[int, Any] = {}
        made: dict[int, CreateTaskResponse] = {}
        given: list[dict[str, Any]] = []
        # On one connection, see TAKE_PLACES.
        async with self._db.single() as tx:
            for place in await tx.all(creation_queries.TAKE_PLACES, given=_asking(asked)):
                n, draft = place.n, asked[place.n]
                try:
                    answers[n] = _settled(draft, place)
                    if answers[n] is None and place.number is not None:
                        row = _new_row(draft, place)
                        answer = CreateTaskResponse(task=messages.task(row))
                        given.append(_adding(draft, place, row, answer))
                        rows[n], made[n] = row, answer
                except Exception as failure:
                    answers[n] = failure
            if not rows:
                return answers
            with_jobs = [row for row in rows.values() if row.payload is not None]
            async with tx.atomic() if with_jobs else nullcontext():
                added = await tx.all(creation_queries.ADD_TASKS, given=as_given(given))
                ids = {found.id for found in added}
                for row in with_jobs:
                    if row.id in ids:
                        await jobs.create(tx, row, row.creator_id)
            tx.has_events = True
        return answers | {n: made[n] for n, row in rows.items() if row.id in ids}

    async def _look_again(self, draft: _Draft) -> CreateTaskResponse | None:
        """Returns the answer if the task was created before, else None. Raises what stands against creating it."""
        async with self._db.read() as tx:
            place = await tx.one(creation_queries.FIND_PLACES, given=_asking({0: draft}))
            if place is None:
                raise await directory.absence(tx, draft.caller, "project", draft.project_id)
        return _settled(draft, place)


def _rounds(asked: Sequence[_Draft]) -> Iterator[list[int]]:
    """The drafts' numbers. A repeated request is in a later round than the first one, and finds its answer there."""
    waiting = list(range(len(asked)))
    while waiting:
        keys: set[object] = set()
        now: list[int] = []
        later: list[int] = []
        for number in waiting:
            draft = asked[number]
            key = draft.request_id and (draft.caller.user_id, draft.request_id)
            (later if key and key in keys else now).append(number)
            keys.add(key)
        yield now
        waiting = later


def _settled(draft: _Draft, place: Row) -> CreateTaskResponse | None:
    """The first answer to a repeated request; None if the task may be created."""
    directory.check_role(draft.caller, place.role)
    if place.response is not None:
        if place.request_hash != draft.request_hash:
            raise idempotency.reused(str(draft.request_id))
        return CreateTaskResponse.FromString(place.response)
    if place.archived_at:
        raise DomainError(reasons.ERROR_REASON_PROJECT_ARCHIVED)
    if not place.assignee_fits:
        raise not_member(draft.columns["assignee_id"])
    if not place.parent_fits:
        raise DomainError(reasons.ERROR_REASON_PARENT_INVALID)
    return None


def _new_row(draft: _Draft, place: Row) -> Any:
    task_id = uuid7()
    # The time in the id, so that the order of ids is the order of creation.
    now = _EPOCH + timedelta(milliseconds=task_id.int >> 80)
    given = {
        "description": "",
        "status": task_pb2.TASK_STATUS_TODO,
        "priority": task_pb2.TASK_PRIORITY_UNSPECIFIED,
        "labels": [],
    } | dict(draft.columns)
    row = queries.TaskRow(
        **dict.fromkeys(queries.COLUMNS)
        | given
        | {
            "id": task_id,
            "workspace_id": place.workspace_id,
            "project_id": place.id,
            "project_key": place.key,
            "number": place.number,
            "creator_id": draft.caller.user_id,
            "revision": 1,
            "text_revision": 1,
            "created_at": now,
            "updated_at": now,
            "finished_at": now if given["status"] in FINISHED else None,
        }
    )
    return row._replace(**due_columns(row, place.time_zone))


# What the statements are given.


def _asking(asked: Mapping[int, _Draft]) -> str:
    return as_given(
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
        for n, draft in asked.items()
    )


def _adding(draft: _Draft, place: Row, row: Any, answer: CreateTaskResponse) -> dict[str, Any]:
    facts = TaskCreated(task=answer.task, ai_disabled=not place.ai_enabled)
    created = event("created", row, draft.caller.user_id, task_created=facts)
    created.trace_parent = draft.trace_parent
    columns = {name: value for name, value in row._asdict().items() if value is not None}
    repeatable = draft.request_id is not None
    return {
        "n": place.n,
        **columns,
        **{f"outbox_{name}": value for name, value in outbox.row(created).items()},
        "request_id": draft.request_id,
        "request_hash": draft.request_hash,
        "response": answer.SerializeToString() if repeatable else None,
    }
