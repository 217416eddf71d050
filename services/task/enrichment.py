"""What a model may know to make suggestions for a task."""

import re
from uuid import UUID

from sqlalchemy import Uuid, bindparam, select

from services.platform import directory
from services.platform.db import Row, Statement, Transaction
from services.task import jobs
from services.task.allowance import Allowance, TaskText
from services.task.models import projects, tasks
from taskflow.task.v1.internal_service_pb2 import GetEnrichmentInputResponse

# Looked through for similar ones; newer tasks are nearer to what people work on.
_RECENT = 200
_MOST_SIMILAR = 5
# Shorter words say little about what a task is about.
_WORD = re.compile(r"[^\W_]{4,}")
# A common label counts as much as so many common words.
_LABEL_WEIGHT = 2

_task_id = bindparam("task_id", type_=Uuid)

_INPUT = Statement(
    select(tasks, projects.c.archived_at, directory.workspaces.c.ai_enabled)
    .select_from(
        tasks.join(projects, projects.c.id == tasks.c.project_id).join(
            directory.workspaces, directory.workspaces.c.id == tasks.c.workspace_id
        )
    )
    .where(tasks.c.id == _task_id)
)
_RECENT_TASKS = Statement(
    select(tasks.c.title, tasks.c.labels)
    .where(
        tasks.c.project_id == bindparam("project_id", type_=Uuid),
        tasks.c.id != _task_id,
        tasks.c.deleted_at.is_(None),
    )
    .order_by(tasks.c.created_at.desc(), tasks.c.id.desc())
    .limit(_RECENT)
)


async def enrichment_input(
    tx: Transaction, allowance: Allowance, task_id: UUID, text_revision: int = 0
) -> GetEnrichmentInputResponse:
    """The task's text and the titles of similar tasks, which are of the same project only.

    Counted as a call of the AI when it's the text that was asked for; while there is none left, says how long to wait.
    """
    task = await tx.one(_INPUT, task_id=task_id)
    if task is None or task.deleted_at or task.archived_at or not task.ai_enabled:
        await jobs.abandon_enrichment(tx, task_id)
        return GetEnrichmentInputResponse()
    answer = GetEnrichmentInputResponse(
        wanted=True, text_revision=task.text_revision, workspace_id=str(task.workspace_id)
    )
    if text_revision not in (0, task.text_revision):
        return answer
    recent = await tx.all(_RECENT_TASKS, project_id=task.project_id, task_id=task_id)
    wait = await allowance.wait(tx, task.workspace_id, TaskText(task_id, task.text_revision))
    if wait:
        answer.wait.FromTimedelta(wait)
        return answer
    answer.title = task.title
    answer.description = task.description
    answer.deadline = _deadline(task)
    answer.similar_titles.extend(most_similar(task, recent))
    return answer


def most_similar(task: Row, others: list[Row]) -> list[str]:
    """Titles of those that have words or labels in common with the task, most of them first; each title once."""
    words, labels = _words(task.title), set(task.labels)
    scores: dict[str, int] = {}
    for other in others:
        common = len(words & _words(other.title)) + _LABEL_WEIGHT * len(labels & set(other.labels))
        if common and other.title != task.title:
            scores[other.title] = max(common, scores.get(other.title, 0))
    # Among equals the newest comes first, as in `others`.
    return sorted(scores, key=lambda title: -scores[title])[:_MOST_SIMILAR]


def _words(title: str) -> set[str]:
    return set(_WORD.findall(title.casefold()))


def _deadline(task: Row) -> str:
    if task.due_date is not None:
        return f"{task.due_date:%A}, {task.due_date.isoformat()}"
    if task.due_local is not None:
        local = task.due_local
        return f"{local:%A}, {local.isoformat(sep=' ', timespec='minutes')} {task.due_zone}"
    return ""
