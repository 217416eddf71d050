"""Collects what a model reads to make suggestions: the task's text and deadline, and titles of similar tasks."""

import re
from collections.abc import Sequence
from uuid import UUID

from services.platform.data.db import Transaction
from services.task.jobs import enrichment
from services.task.suggestions import queries
from services.task.suggestions.ai_rate_limit import AiRateLimit, TaskText
from services.task.suggestions.queries import ModelTask, RecentTask
from taskflow.task.v1.internal_service_pb2 import GetEnrichmentInputResponse

_MOST_SIMILAR = 5
# A word that counts for similarity: at least 4 characters, because shorter words say little about a task.
_WORD = re.compile(r"[^\W_]{4,}")
# A label that two tasks share counts as much as this many shared words.
_LABEL_WEIGHT = 2


async def model_input(
    tx: Transaction, limit: AiRateLimit, task_id: UUID, text_revision: int
) -> GetEnrichmentInputResponse:
    """The response to GetEnrichmentInput. Similar tasks are from the same project only.

    Counts an AI call if `text_revision` is the current one, or 0. While the limit is reached, returns only the wait.
    """
    task = await tx.one(queries.MODEL_TASK, task_id=task_id)
    if task is None or task.deleted_at or task.archived_at or not task.ai_enabled:
        await enrichment.give_up(tx, task_id)
        return GetEnrichmentInputResponse()
    response = GetEnrichmentInputResponse(
        wanted=True, text_revision=task.text_revision, workspace_id=str(task.workspace_id)
    )
    if text_revision not in (0, task.text_revision):
        return response
    recent = await tx.all(queries.RECENT_TASKS, project_id=task.project_id, task_id=task_id)
    # Runs last, because it locks the AI rate limit until the commit.
    wait = await limit.reserve(tx, task.workspace_id, TaskText(task_id, task.text_revision))
    if wait:
        response.wait.FromTimedelta(wait)
        return response
    response.title = task.title
    response.description = task.description
    response.deadline = _deadline(task)
    response.similar_titles.extend(_similar_titles(task, recent))
    return response


def _similar_titles(task: ModelTask, others: Sequence[RecentTask]) -> list[str]:
    """Titles of the tasks that share the most words and labels with the task; newer ones first among equals."""
    words, labels = _words(task.title), set(task.labels)
    scores: dict[str, int] = {}
    for other in others:
        common = len(words & _words(other.title)) + _LABEL_WEIGHT * len(labels & set(other.labels))
        if common and other.title != task.title:
            scores[other.title] = max(common, scores.get(other.title, 0))
    return sorted(scores, key=lambda title: -scores[title])[:_MOST_SIMILAR]


def _words(title: str) -> set[str]:
    return set(_WORD.findall(title.casefold()))


def _deadline(task: ModelTask) -> str:
    if task.due_date is not None:
        return f"{task.due_date:%A}, {task.due_date.isoformat()}"
    if task.due_local is not None:
        local = task.due_local
        return f"{local:%A}, {local.isoformat(sep=' ', timespec='minutes')} {task.due_zone}"
    return ""
