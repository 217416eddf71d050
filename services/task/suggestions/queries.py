"""Statements on suggestions and on their tasks. A transaction locks a task before the task's suggestions."""

from datetime import date, datetime
from typing import NamedTuple
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

from services.platform.data.db import Statement
from services.platform.rpc import directory
from services.task.projects.models import projects
from services.task.suggestions.models import suggestions
from services.task.tasks.models import tasks
from taskflow.task.v1 import suggestion_pb2
from taskflow.task.v1.suggestion_pb2 import SuggestionKind, SuggestionState
from taskflow.task.v1.task_pb2 import TaskPriority

PENDING = suggestion_pb2.SUGGESTION_STATE_PENDING
STALE = suggestion_pb2.SUGGESTION_STATE_STALE

# Number of the project's newest tasks among which similar tasks are searched.
_RECENT = 200


class SuggestionRow(NamedTuple):
    id: UUID
    workspace_id: UUID
    task_id: UUID
    kind: SuggestionKind.ValueType
    priority: TaskPriority.ValueType | None
    description: str | None
    reason: str
    confidence: float
    model: str
    prompt_version: str
    base_text_revision: int
    state: SuggestionState.ValueType
    resolver_id: UUID | None
    resolved_at: datetime | None
    reject_reason: str
    accepted_with_edits: bool
    revision: int
    created_at: datetime


class Access(NamedTuple):
    """The id of a task, and the caller's role in its workspace."""

    task_id: UUID
    role: int


class RequestedTask(NamedTuple):
    """A locked task for which a caller requests suggestions."""

    id: UUID
    workspace_id: UUID
    revision: int
    text_revision: int
    deleted_at: datetime | None
    archived_at: datetime | None
    ai_enabled: bool


class SuggestedTask(NamedTuple):
    """A locked task for which a worker stores suggestions."""

    id: UUID
    workspace_id: UUID
    description: str
    priority: TaskPriority.ValueType
    text_revision: int
    deleted_at: datetime | None


class ModelTask(NamedTuple):
    """The data of a task that a model may see, and the columns that decide whether it may see them."""

    workspace_id: UUID
    project_id: UUID
    title: str
    description: str
    labels: list[str]
    due_date: date | None
    due_local: datetime | None
    due_zone: str | None
    text_revision: int
    deleted_at: datetime | None
    archived_at: datetime | None
    ai_enabled: bool


class RecentTask(NamedTuple):
    title: str
    labels: list[str]


_id = bindparam("id", type_=Uuid)
_task_id = bindparam("task_id", type_=Uuid)
_with_workspace = tasks.join(projects, projects.c.id == tasks.c.project_id).join(
    directory.workspaces, directory.workspaces.c.id == tasks.c.workspace_id
)

# Statements on suggestions.

FIND = Statement(
    select(suggestions.c.task_id, directory.members.c.role)
    .select_from(
        suggestions.join(directory.members, directory.membership(suggestions.c.workspace_id))
    )
    .where(suggestions.c.id == _id),
    row=Access,
)
LOCK = Statement(
    select(suggestions).where(suggestions.c.id == _id).with_for_update(), row=SuggestionRow
)
# Inserts a suggestion. Returns no row if this task's text already has a suggestion of this kind.
INSERT = Statement(
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
            suggestions.c.state: PENDING,
            suggestions.c.created_at: func.now(),
        }
    )
    .on_conflict_do_nothing(constraint="suggestions_base")
    .returning(suggestions),
    row=SuggestionRow,
)
RESOLVE = Statement(
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
    .returning(suggestions),
    row=SuggestionRow,
)
_make_stale = (
    update(suggestions)
    .where(suggestions.c.task_id == _task_id, suggestions.c.state == PENDING)
    .values({suggestions.c.state: STALE, suggestions.c.revision: suggestions.c.revision + 1})
    .returning(suggestions)
)
MAKE_STALE = Statement(_make_stale, row=SuggestionRow)
MAKE_OLDER_STALE = Statement(
    _make_stale.where(
        suggestions.c.kind == bindparam("of_kind", type_=SmallInteger),
        suggestions.c.base_text_revision < bindparam("base", type_=BigInteger),
    ),
    row=SuggestionRow,
)

# Statements on the tasks of suggestions.

FIND_TASK = Statement(
    select(tasks.c.id.label("task_id"), directory.members.c.role)
    .select_from(tasks.join(directory.members, directory.membership(tasks.c.workspace_id)))
    .where(tasks.c.id == _task_id),
    row=Access,
)
LOCK_REQUESTED_TASK = Statement(
    select(
        tasks.c.id,
        tasks.c.workspace_id,
        tasks.c.revision,
        tasks.c.text_revision,
        tasks.c.deleted_at,
        projects.c.archived_at,
        directory.workspaces.c.ai_enabled,
    )
    .select_from(_with_workspace)
    .where(tasks.c.id == _task_id)
    .with_for_update(of=tasks, key_share=True),
    row=RequestedTask,
)
LOCK_SUGGESTED_TASK = Statement(
    select(
        tasks.c.id,
        tasks.c.workspace_id,
        tasks.c.description,
        tasks.c.priority,
        tasks.c.text_revision,
        tasks.c.deleted_at,
    )
    .where(tasks.c.id == _task_id)
    .with_for_update(key_share=True),
    row=SuggestedTask,
)
MODEL_TASK = Statement(
    select(
        tasks.c.workspace_id,
        tasks.c.project_id,
        tasks.c.title,
        tasks.c.description,
        tasks.c.labels,
        tasks.c.due_date,
        tasks.c.due_local,
        tasks.c.due_zone,
        tasks.c.text_revision,
        tasks.c.deleted_at,
        projects.c.archived_at,
        directory.workspaces.c.ai_enabled,
    )
    .select_from(_with_workspace)
    .where(tasks.c.id == _task_id),
    row=ModelTask,
)
RECENT_TASKS = Statement(
    select(tasks.c.title, tasks.c.labels)
    .where(
        tasks.c.project_id == bindparam("project_id", type_=Uuid),
        tasks.c.id != _task_id,
        tasks.c.deleted_at.is_(None),
    )
    .order_by(tasks.c.created_at.desc(), tasks.c.id.desc())
    .limit(_RECENT),
    row=RecentTask,
)
