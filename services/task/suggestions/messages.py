"""Converts suggestion rows into messages."""

from services.task.suggestions.queries import SuggestionRow
from taskflow.task.v1.suggestion_pb2 import Suggestion


def suggestion(row: SuggestionRow) -> Suggestion:
    message = Suggestion(
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
        message.priority = row.priority
    else:
        message.description = row.description or ""
    message.create_time.FromDatetime(row.created_at)
    if row.resolved_at:
        message.resolve_time.FromDatetime(row.resolved_at)
    return message
