"""The events of projects."""

from uuid import UUID

from services.task.projects import messages
from services.task.projects.queries import ProjectRow
from taskflow.event.v1.event_pb2 import Event, ProjectChanged


def created(row: ProjectRow, actor_id: UUID) -> Event:
    return _changed("project.created", row, actor_id)


def updated(row: ProjectRow, actor_id: UUID) -> Event:
    return _changed("project.updated", row, actor_id)


def archived(row: ProjectRow, actor_id: UUID) -> Event:
    return _changed("project.archived", row, actor_id)


def unarchived(row: ProjectRow, actor_id: UUID) -> Event:
    return _changed("project.unarchived", row, actor_id)


def _changed(event_type: str, row: ProjectRow, actor_id: UUID) -> Event:
    return Event(
        type=event_type,
        workspace_id=str(row.workspace_id),
        aggregate_id=str(row.id),
        revision=row.revision,
        actor_id=str(actor_id),
        project_changed=ProjectChanged(project=messages.project(row)),
    )
