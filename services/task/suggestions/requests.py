"""Requests for suggestions: a user asks, and a worker makes the suggestions in the background."""

from uuid import UUID

from services.platform.data.db import Transaction
from services.platform.events.outbox import add_event
from services.platform.rpc.errors import DomainError, not_found
from services.task.suggestions import events, queries
from services.task.suggestions.ai_rate_limit import AiRateLimit, TaskText
from taskflow.error.v1 import error_reason_pb2 as reasons


async def request(tx: Transaction, limit: AiRateLimit, task_id: UUID, actor_id: UUID) -> int:
    """Requests suggestions for the task's current text; returns its text revision.

    The caller was authorized before. Raises NOT_FOUND, TASK_DELETED, PROJECT_ARCHIVED, AI_DISABLED, AI_LIMIT_REACHED.
    """
    task = await tx.one(queries.LOCK_REQUESTED_TASK, task_id=task_id)
    if task is None:
        raise not_found("task", task_id)
    if task.deleted_at:
        raise DomainError(reasons.ERROR_REASON_TASK_DELETED)
    if task.archived_at:
        raise DomainError(reasons.ERROR_REASON_PROJECT_ARCHIVED)
    if not task.ai_enabled:
        raise DomainError(reasons.ERROR_REASON_AI_DISABLED)
    event = events.requested(
        task.id, task.workspace_id, task.revision, task.text_revision, actor_id
    )
    await add_event(tx, event)
    # Runs last, because it locks the AI rate limit until the commit.
    await limit.charge(tx, actor_id, task.workspace_id, TaskText(task.id, task.text_revision))
    return task.text_revision
