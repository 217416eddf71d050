"""Creating tasks: those that are asked for at the same time are created together (docs/adr/0011)."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from services.platform import directory, idempotency, outbox
from services.platform.batching import Batcher
from services.platform.db import Database, Row
from services.platform.errors import DomainError
from services.platform.given import as_given
from services.platform.identity import Caller
from services.platform.seal import Seal
from services.platform.tracing import trace_parent
from services.task import creation_queries, drafts, jobs, messages, queries
from services.task.logic import FINISHED, due_columns, event, not_member
from taskflow.error.v1 import error_reason_pb2 as reasons
from taskflow.event.v1.event_pb2 import TaskCreated
from taskflow.task.v1 import task_pb2
from taskflow.task.v1.task_service_pb2 import CreateTaskRequest, CreateTaskResponse

# Tasks that share a run at most.
_SIZE = 64
# Seconds between tries for one that wasn't created although nothing stands against it, as while the removal of its
# assignee is under way.
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


class Creation:
    """Creates tasks, together with others that are asked for meanwhile."""

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
        answer: CreateTaskResponse | Exception | None
        if draft.columns.get("payload") is None:
            answer = await self._together(draft)
        else:
            # With its job, which takes a transaction of several statements.
            [answer] = await self._create([draft])
        for pause in _PAUSES:
            if answer is not None:
                break
            # What stood in the way may be over soon.
            answer = await self._look_again(draft)
            if answer is None:
                await asyncio.sleep(pause)
                [answer] = await self._create([draft])
        if answer is None:
            raise DomainError(reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _create(self, asked: Sequence[_Draft]) -> list[CreateTaskResponse | Exception | None]:
        """None for those that can't be created, where another look has to find out why."""
        answers: dict[int, CreateTaskResponse | Exception | None] = dict.fromkeys(range(len(asked)))
        for numbers in _rounds(asked):
            answers |= await self._create_round({n: asked[n] for n in numbers})
        return list(answers.values())

    async def _create_round(
        self, asked: Mapping[int, _Draft]
    ) -> dict[int, CreateTaskResponse | Exception]:
        answers: dict[int, CreateTaskResponse | Exception] = {}
        places: dict[int, Row] = {}
        rows: dict[int, Any] = {}
        async with self._db.single() as tx:
            for place in await tx.all(creation_queries.TAKE_PLACES, given=_asking(asked)):
                draft = asked[place.n]
                try:
                    answer = _settled(draft, place)
                except DomainError as refusal:
                    answers[place.n] = refusal
                    continue
                if answer is not None:
                    answers[place.n] = answer
                elif place.number is not None:
                    places[place.n], rows[place.n] = place, _new_row(draft, place)
        if not rows:
            return answers
        made = {n: CreateTaskResponse(task=messages.task(row)) for n, row in rows.items()}
        given = as_given(_adding(asked[n], places[n], row, made[n]) for n, row in rows.items())
        with_jobs = [row for row in rows.values() if row.payload is not None]
        async with self._db.transaction() if with_jobs else self._db.single() as tx:
            tx.has_events = True
            added = {found.id for found in await tx.all(creation_queries.ADD_TASKS, given=given)}
            for row in with_jobs:
                if row.id in added:
                    await jobs.create(tx, row, row.creator_id)
        return answers | {n: made[n] for n, row in rows.items() if row.id in added}

    async def _look_again(self, draft: _Draft) -> CreateTaskResponse | None:
        """Raises what stands against a task that wasn't created; the answer if it was created before, else None."""
        async with self._db.read() as tx:
            place = await tx.one(creation_queries.FIND_PLACES, given=_asking({0: draft}))
            if place is None:
                raise await directory.absence(tx, draft.caller, "project", draft.project_id)
        return _settled(draft, place)


def _rounds(asked: Sequence[_Draft]) -> Iterator[list[int]]:
    """Their numbers, so that a repeated request is in a later round than the first: it finds its answer then."""
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
