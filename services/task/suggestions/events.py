"""Events about suggestions, and the event that requests them."""

from uuid import UUID

from services.task.suggestions import messages
from services.task.suggestions.queries import SuggestionRow
from taskflow.event.v1.event_pb2 import Event, SuggestionChanged, SuggestionsRequested


def created(suggestion: SuggestionRow) -> Event:
    return _event("suggestion.created", suggestion, None)


def updated(suggestion: SuggestionRow, actor_id: UUID | None = None) -> Event:
    return _event("suggestion.updated", suggestion, actor_id)


def requested(
    task_id: UUID,
    workspace_id: UUID,
    revision: int,
    text_revision: int,
    actor_id: UUID | None = None,
) -> Event:
    return Event(
        type="task.suggestions_requested",
        workspace_id=str(workspace_id),
        aggregate_id=str(task_id),
        revision=revision,
        actor_id=str(actor_id or ""),
        task_suggestions_requested=SuggestionsRequested(
            task_id=str(task_id), text_revision=text_revision
        ),
    )


def _event(name: str, suggestion: SuggestionRow, actor_id: UUID | None) -> Event:
    return Event(
        type=name,
        workspace_id=str(suggestion.workspace_id),
        aggregate_id=str(suggestion.id),
        revision=suggestion.revision,
        actor_id=str(actor_id or ""),
        suggestion_changed=SuggestionChanged(suggestion=messages.suggestion(suggestion)),
    )
