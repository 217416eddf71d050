"""Suggestions: proposals for a task, made in the background, which change nothing until someone accepts one."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import (
    REAL,
    BigInteger,
    Boolean,
    SmallInteger,
    Text,
    Uuid,
    bindparam,
    func,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from uuid_utils.compat import uuid7

from services.platform import directory
from services.platform.db import Row, Statement, Transaction
from services.platform.errors import DomainError, invalid
from services.platform.identity import Caller
from services.platform.outbox import add_event
from services.platform.text import stored
from services.task import jobs
from services.task.allowance import Allowance
from services.task.models import projects, suggestions, tasks
from taskflow.error.v1 import error_reason_pb2 as reasons
from taskflow.event.v1.event_pb2 import Event, SuggestionChanged
from taskflow.task.v1 import suggestion_pb2
from taskflow.task.v1.internal_service_pb2 import SuggestionDraft
from taskflow.task.v1.suggestion_pb2 import Suggestion, SuggestionState

_id = bindparam("id", type_=Uuid)
_task_id = bindparam("task_id", type_=Uuid)

_PENDING = suggestion_pb2.SUGGESTION_STATE_PENDING
_STALE = suggestion_pb2.SUGGESTION_STATE_STALE

# The task is locked before its suggestions, here and in logic.py.
_LOCK_TASK = Statement(
    select(
        tasks.c.id,
        tasks.c.workspace_id,
        tasks.c.title,
        tasks.c.description,
        tasks.c.priority,
        tasks.c.revision,
        tasks.c.text_revision,
        tasks.c.deleted_at,
    )
    .where(tasks.c.id == _task_id)
    .with_for_update(key_share=True)
)
_LOCK_TASK_FOR_REQUEST = Statement(
    select(
        tasks.c.id,
        tasks.c.workspace_id,
        tasks.c.revision,
        tasks.c.text_revision,
        tasks.c.deleted_at,
        projects.c.archived_at,
        directory.members.c.role,
        directory.workspaces.c.ai_enabled,
    )
    .select_from(
        tasks.join(projects, projects.c.id == tasks.c.project_id)
        .join(directory.members, directory.membership(tasks.c.workspace_id))
        .join(directory.workspaces, directory.workspaces.c.id == tasks.c.workspace_id)
    )
    .where(tasks.c.id == _task_id)
    .with_for_update(of=tasks, key_share=True)
)
_FIND = Statement(
    select(suggestions.c.task_id, directory.members.c.role)
    .select_from(
        suggestions.join(directory.members, directory.membership(suggestions.c.workspace_id))
    )
    .where(suggestions.c.id == _id)
)
_LOCK = Statement(select(suggestions).where(suggestions.c.id == _id).with_for_update())
_INSERT = Statement(
    insert(suggestions)
    .values(
        {
            suggestions.c.id: _id,
            suggestions.c.workspace_id: bindparam("workspace_id", type_=Uuid),
            suggestions.c.task_id: _task_id,
            suggestions.c.kind: bindparam("kind", type_=SmallInteger),
            suggestions.c.priority: bindparam("priority", type_=SmallInteger),
            suggestions.c.description: bindparam("description", type_=Text),
            suggestions.c.reason: bindparam("reason", type_=Text),
            suggestions.c.confidence: bindparam("confidence", type_=REAL),
            suggestions.c.model: bindparam("model", type_=Text),
            suggestions.c.prompt_version: bindparam("prompt_version", type_=Text),
            suggestions.c.base_text_revision: bindparam("base_text_revision", type_=BigInteger),
            suggestions.c.state: _PENDING,
            suggestions.c.created_at: func.now(),
        }
    )
    .on_conflict_do_nothing(constraint="suggestions_base")
    .returning(suggestions)
)
_RESOLVE = Statement(
    update(suggestions)
    .where(suggestions.c.id == _id)
    .values(
        {
            suggestions.c.state: bindparam("new_state", type_=SmallInteger),
            suggestions.c.resolver_id: bindparam("resolver", type_=Uuid),
            suggestions.c.resolved_at: func.now(),
            suggestions.c.reject_reason: bindparam("why", type_=Text),
            suggestions.c.accepted_with_edits: bindparam("edited", type_=Boolean),
            suggestions.c.revision: suggestions.c.revision + 1,
        }
    )
    .returning(suggestions)
)
_outdate = (
    update(suggestions)
    .where(suggestions.c.task_id == _task_id, suggestions.c.state == _PENDING)
    .values({suggestions.c.state: _STALE, suggestions.c.revision: suggestions.c.revision + 1})
    .returning(suggestions)
)
_OUTDATE = Statement(_outdate)
_OUTDATE_OLDER = Statement(
    _outdate.where(
        suggestions.c.kind == bindparam("of_kind", type_=SmallInteger),
        suggestions.c.base_text_revision < bindparam("base", type_=BigInteger),
    )
)


def message(row: Row) -> Suggestion:
    suggestion = Suggestion(
        id=str(row.id),
        workspace_id=str(row.workspace_id),
        task_id=str(row.task_id),
        kind=row.kind,
        reason=row.reason,
        confidence=row.confidence,
        model=row.model,
        prompt_version=row.prompt_version,
        base_text_revision=row.base_text_revision,
        state=row.state,
        resolver_id=str(row.resolver_id or ""),
        reject_reason=row.reject_reason,
        accepted_with_edits=row.accepted_with_edits,
    )
    if row.priority is not None:
        suggestion.priority = row.priority
    else:
        suggestion.description = row.description
    suggestion.create_time.FromDatetime(row.created_at)
    if row.resolved_at:
        suggestion.resolve_time.FromDatetime(row.resolved_at)
    return suggestion


async def request(tx: Transaction, allowance: Allowance, caller: Caller, task_id: UUID) -> int:
    """Asks for suggestions on the task's current text; returns the text revision.

    Raises what `jobs.request_suggestions` raises.
    """
    row = await tx.one(
        _LOCK_TASK_FOR_REQUEST,
        task_id=task_id,
        caller_id=caller.user_id,
        session_id=caller.session_id,
    )
    if row is None:
        raise await directory.absence(tx, caller, "task", task_id)
    directory.check_role(caller, row.role)
    await jobs.request_suggestions(tx, allowance, row, caller.user_id)
    text_revision: int = row.text_revision
    return text_revision


async def find(tx: Transaction, caller: Caller, suggestion_id: UUID) -> UUID:
    """The task of a suggestion that the caller may decide."""
    found = await tx.one(
        _FIND, id=suggestion_id, caller_id=caller.user_id, session_id=caller.session_id
    )
    if found is None:
        raise await directory.absence(tx, caller, "suggestion", suggestion_id)
    directory.check_role(caller, found.role)
    task_id: UUID = found.task_id
    return task_id


async def lock_undecided(tx: Transaction, suggestion_id: UUID) -> Row:
    """A suggestion, pending or stale, locked. Raises SUGGESTION_RESOLVED once it was decided."""
    row: Row = await tx.one(_LOCK, id=suggestion_id)
    if row.state not in (_PENDING, _STALE):
        state = SuggestionState.Name(row.state).removeprefix("SUGGESTION_STATE_")
        raise DomainError(reasons.ERROR_REASON_SUGGESTION_RESOLVED, {"state": state})
    return row


async def resolve(
    tx: Transaction,
    suggestion: Row,
    state: SuggestionState.ValueType,
    resolver_id: UUID,
    *,
    reason: str = "",
    edited: bool = False,
) -> Row:
    """Writes down what was decided about a locked suggestion."""
    row = await tx.one(
        _RESOLVE,
        id=suggestion.id,
        new_state=state,
        resolver=resolver_id,
        why=reason,
        edited=edited,
    )
    await _announce(tx, row, "updated", str(resolver_id))
    return row


async def make_stale(tx: Transaction, task: Row, actor_id: UUID | None) -> None:
    """Outdates the pending suggestions of a locked task whose text has changed."""
    for row in await tx.all(_OUTDATE, task_id=task.id):
        await _announce(tx, row, "updated", str(actor_id or ""))


async def store(
    tx: Transaction, task_id: UUID, base: int, drafts: Sequence[SuggestionDraft]
) -> bool:
    """Stores what was proposed for the text revision `base`; False when the task has moved on.

    For each kind there is one suggestion for a text. A priority or description that the task has already isn't worth
    asking about and isn't stored. Failed enrichments of the task are done with this.
    """
    task = await tx.one(_LOCK_TASK, task_id=task_id)
    if task is None or task.deleted_at or task.text_revision != base:
        return False
    for draft in drafts:
        field = _proposed_field(draft)
        value = draft.priority if field == "priority" else stored(draft.description)
        if value != getattr(task, field):
            await _store_one(
                tx, task, draft, {"priority": None, "description": None} | {field: value}
            )
    await jobs.settle_enrichment(tx, task.id)
    return True


def _proposed_field(draft: SuggestionDraft) -> str:
    field = draft.WhichOneof("proposal") or ""
    of_kind = {
        suggestion_pb2.SUGGESTION_KIND_PRIORITY: "priority",
        suggestion_pb2.SUGGESTION_KIND_DESCRIPTION: "description",
    }
    if of_kind.get(draft.kind) != field:
        raise invalid("suggestions", "the proposal isn't of the suggestion's kind")
    return field


async def _store_one(
    tx: Transaction, task: Row, draft: SuggestionDraft, proposal: dict[str, Any]
) -> None:
    row = await tx.one(
        _INSERT,
        id=uuid7(),
        workspace_id=task.workspace_id,
        task_id=task.id,
        kind=draft.kind,
        reason=stored(draft.reason),
        confidence=draft.confidence,
        model=stored(draft.model),
        prompt_version=stored(draft.prompt_version),
        base_text_revision=task.text_revision,
        **proposal,
    )
    if row is None:
        return
    older = await tx.all(
        _OUTDATE_OLDER, task_id=task.id, of_kind=draft.kind, base=task.text_revision
    )
    for outdated in older:
        await _announce(tx, outdated, "updated")
    await _announce(tx, row, "created")


async def _announce(tx: Transaction, row: Row, what: str, actor_id: str = "") -> None:
    await add_event(
        tx,
        Event(
            type=f"suggestion.{what}",
            workspace_id=str(row.workspace_id),
            aggregate_id=str(row.id),
            revision=row.revision,
            actor_id=actor_id,
            suggestion_changed=SuggestionChanged(suggestion=message(row)),
        ),
    )
