"""Events that start EnrichTask."""

from datetime import timedelta
from typing import Final

from services.platform.config import Settings
from taskflow.event.v1.event_pb2 import SuggestionsRequested, TaskCreated, TaskUpdated
from taskflow.task.v1.task_pb2 import Task
from workflows.enrichment.contract import TaskText, enrich_id
from workflows.enrichment.workflow import EnrichTask
from workflows.feature import Start

_TEXT: Final = frozenset({"title", "description"})


def on_task_created(facts: TaskCreated, settings: Settings) -> list[Start]:
    return [] if facts.ai_disabled else [_new_text(facts.task, settings)]


def on_task_updated(facts: TaskUpdated, settings: Settings) -> list[Start]:
    if facts.ai_disabled or _TEXT.isdisjoint(facts.changed_fields.paths):
        return []
    return [_new_text(facts.task, settings)]


def on_suggestions_requested(facts: SuggestionsRequested, settings: Settings) -> list[Start]:
    """Replaces a running workflow for the same text: a run about to end would leave this request unanswered."""
    return [
        Start(
            EnrichTask.run,
            TaskText(facts.task_id, facts.text_revision),
            enrich_id(facts.task_id, facts.text_revision),
            replace_running=True,
        )
    ]


def _new_text(task: Task, settings: Settings) -> Start:
    """Starts a run for the new text. If the text is edited again within the start delay, the run ends as superseded."""
    return Start(
        EnrichTask.run,
        TaskText(task.id, task.text_revision),
        enrich_id(task.id, task.text_revision),
        delay=timedelta(seconds=settings.enrich_debounce) if settings.enrich_debounce else None,
        restart_succeeded=False,
    )
