"""What people decide about suggestions. Only an accepted one changes its task, in the same transaction."""

from typing import Any
from uuid import UUID

from services.platform.db import Row, Transaction
from services.platform.errors import DomainError, invalid
from services.platform.identity import Caller
from services.platform.text import stored
from services.task import drafts, logic, suggestions
from taskflow.error.v1 import error_reason_pb2 as reasons
from taskflow.task.v1 import suggestion_pb2
from taskflow.task.v1.suggestion_pb2 import SuggestionEdit
from taskflow.task.v1.task_pb2 import Task


async def accept(
    tx: Transaction, caller: Caller, suggestion_id: UUID, edit: SuggestionEdit | None
) -> tuple[Row, Row]:
    """Changes the task as proposed, or as edited; returns the suggestion and the task.

    Raises NOT_FOUND, ROLE_TOO_LOW, PROJECT_ARCHIVED, SUGGESTION_RESOLVED, SUGGESTION_STALE, TASK_DELETED, and
    INVALID_REQUEST for an edit of another kind.
    """
    task_id = await suggestions.find(tx, caller, suggestion_id)
    task = await logic.lock_task(tx, caller, task_id)
    suggestion = await suggestions.lock_undecided(tx, suggestion_id)
    stale = suggestion.state == suggestion_pb2.SUGGESTION_STATE_STALE
    if stale or suggestion.base_text_revision != task.text_revision:
        raise DomainError(reasons.ERROR_REASON_SUGGESTION_STALE)
    field = "description" if suggestion.priority is None else "priority"
    proposed = getattr(suggestion, field)
    value = proposed if edit is None else _edited(edit, field)
    # First of all: a description that changes makes what is pending stale.
    row = await suggestions.resolve(
        tx,
        suggestion,
        suggestion_pb2.SUGGESTION_STATE_ACCEPTED,
        caller.user_id,
        edited=value != proposed,
    )
    return row, await logic.change_task(tx, task, {field: value}, caller.user_id)


async def reject(tx: Transaction, caller: Caller, suggestion_id: UUID, reason: str) -> Row:
    """Raises NOT_FOUND, ROLE_TOO_LOW, SUGGESTION_RESOLVED."""
    await suggestions.find(tx, caller, suggestion_id)
    suggestion = await suggestions.lock_undecided(tx, suggestion_id)
    return await suggestions.resolve(
        tx,
        suggestion,
        suggestion_pb2.SUGGESTION_STATE_REJECTED,
        caller.user_id,
        reason=stored(reason),
    )


def _edited(edit: SuggestionEdit, field: str) -> Any:
    if edit.WhichOneof("value") != field:
        raise invalid("edit", f"the suggestion proposes a {field}")
    # The rules are those of an update.
    task = Task(priority=edit.priority, description=edit.description)
    return drafts.columns(task, [field])[field]
