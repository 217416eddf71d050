"""Suggestions: proposals of a model, which change nothing until a user accepts one."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from services.platform.data.db import Transaction
from services.platform.events.outbox import add_event
from services.platform.rpc import directory
from services.platform.rpc.errors import DomainError, invalid, not_found
from services.platform.rpc.identity import Caller
from services.platform.rpc.text import stored
from services.task.jobs import enrichment
from services.task.suggestions import events, queries
from services.task.suggestions.queries import PENDING, STALE, SuggestedTask, SuggestionRow
from services.task.tasks import fields as task_fields
from services.task.tasks import logic as tasks
from services.task.tasks.queries import TaskRow
from taskflow.error.v1 import error_reason_pb2 as reasons
from taskflow.task.v1 import suggestion_pb2
from taskflow.task.v1.internal_service_pb2 import SuggestionDraft
from taskflow.task.v1.suggestion_pb2 import SuggestionEdit, SuggestionState
from taskflow.task.v1.task_pb2 import Task

_PROPOSED_FIELD = {
    suggestion_pb2.SUGGESTION_KIND_PRIORITY: "priority",
    suggestion_pb2.SUGGESTION_KIND_DESCRIPTION: "description",
}


async def store(
    tx: Transaction, task_id: UUID, base: int, drafts: Sequence[SuggestionDraft]
) -> bool:
    """Stores suggestions for the text revision `base`; returns False if the text has changed or the task is deleted.

    Keeps one suggestion of each kind per text, and skips values that the task already has. Completes the task's
    enrichment jobs.
    """
    task = await tx.one(queries.LOCK_SUGGESTED_TASK, task_id=task_id)
    if task is None or task.deleted_at or task.text_revision != base:
        return False
    for draft in drafts:
        await _store_one(tx, task, draft)
    await enrichment.complete(tx, task.id)
    return True


async def _store_one(tx: Transaction, task: SuggestedTask, draft: SuggestionDraft) -> None:
    field = draft.WhichOneof("proposal")
    if field != _PROPOSED_FIELD.get(draft.kind):
        raise invalid("suggestions", "the proposal isn't of the suggestion's kind")
    priority = draft.priority if field == "priority" else None
    description = stored(draft.description) if field == "description" else None
    if priority == task.priority or description == task.description:
        return
    suggestion = await tx.one(
        queries.INSERT,
        id=uuid7(),
        workspace_id=task.workspace_id,
        task_id=task.id,
        kind=draft.kind,
        priority=priority,
        description=description,
        reason=stored(draft.reason),
        confidence=draft.confidence,
        model=stored(draft.model),
        prompt_version=stored(draft.prompt_version),
        base_text_revision=task.text_revision,
    )
    if suggestion is None:
        return
    older = await tx.all(
        queries.MAKE_OLDER_STALE, task_id=task.id, of_kind=draft.kind, base=task.text_revision
    )
    for stale in older:
        await add_event(tx, events.updated(stale))
    await add_event(tx, events.created(suggestion))


async def accept(
    tx: Transaction, caller: Caller, suggestion_id: UUID, edit: SuggestionEdit | None
) -> tuple[SuggestionRow, TaskRow]:
    """Changes the task to the proposed value, or to the caller's `edit` of it; returns the suggestion and the task.

    Raises NOT_FOUND, ROLE_TOO_LOW, PROJECT_ARCHIVED, SUGGESTION_RESOLVED, SUGGESTION_STALE, TASK_DELETED, and
    INVALID_REQUEST for an edit of another kind.
    """
    task_id = await _authorize(tx, caller, suggestion_id)
    task = await tasks.lock_task(tx, caller, task_id)
    suggestion = await _lock_unresolved(tx, suggestion_id)
    if suggestion.state == STALE or suggestion.base_text_revision != task.text_revision:
        raise DomainError(reasons.ERROR_REASON_SUGGESTION_STALE)
    field = _PROPOSED_FIELD[suggestion.kind]
    proposed = getattr(suggestion, field)
    value = proposed if edit is None else _edited(edit, field)
    # Resolves the suggestion before it changes the task: a new description makes all pending suggestions STALE.
    suggestion = await _resolve(
        tx,
        suggestion_id,
        suggestion_pb2.SUGGESTION_STATE_ACCEPTED,
        caller.user_id,
        edited=value != proposed,
    )
    return suggestion, await tasks.change_task(tx, task, {field: value}, caller.user_id)


async def reject(
    tx: Transaction, caller: Caller, suggestion_id: UUID, reason: str
) -> SuggestionRow:
    """Rejects a suggestion for the given reason. Raises NOT_FOUND, ROLE_TOO_LOW, SUGGESTION_RESOLVED."""
    await _authorize(tx, caller, suggestion_id)
    await _lock_unresolved(tx, suggestion_id)
    return await _resolve(
        tx,
        suggestion_id,
        suggestion_pb2.SUGGESTION_STATE_REJECTED,
        caller.user_id,
        reason=stored(reason),
    )


async def _authorize(tx: Transaction, caller: Caller, suggestion_id: UUID) -> UUID:
    """Checks that the caller may resolve the suggestion; returns the id of its task."""
    found = await directory.find_allowed(
        tx, caller, queries.FIND, "suggestion", suggestion_id, id=suggestion_id
    )
    return found.task_id


async def _lock_unresolved(tx: Transaction, suggestion_id: UUID) -> SuggestionRow:
    """Locks a suggestion that is pending or stale. Raises SUGGESTION_RESOLVED for another state."""
    suggestion = await tx.one(queries.LOCK, id=suggestion_id)
    if suggestion is None:
        raise not_found("suggestion", suggestion_id)
    if suggestion.state not in (PENDING, STALE):
        state = SuggestionState.Name(suggestion.state).removeprefix("SUGGESTION_STATE_")
        raise DomainError(reasons.ERROR_REASON_SUGGESTION_RESOLVED, {"state": state})
    return suggestion


async def _resolve(
    tx: Transaction,
    suggestion_id: UUID,
    state: SuggestionState.ValueType,
    resolver_id: UUID,
    *,
    reason: str = "",
    edited: bool = False,
) -> SuggestionRow:
    suggestion = await tx.one(
        queries.RESOLVE,
        id=suggestion_id,
        new_state=state,
        resolver=resolver_id,
        why=reason,
        edited=edited,
    )
    assert suggestion is not None
    await add_event(tx, events.updated(suggestion, resolver_id))
    return suggestion


def _edited(edit: SuggestionEdit, field: str) -> Any:
    """The value that the caller put in place of the proposal, checked as UpdateTask checks it."""
    if edit.WhichOneof("value") != field:
        raise invalid("edit", f"the suggestion proposes a {field}")
    task = Task(priority=edit.priority, description=edit.description)
    return task_fields.columns(task, [field])[field]
