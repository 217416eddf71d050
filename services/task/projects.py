"""Projects."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from services.platform import directory, masks, outbox, text
from services.platform.db import Row, Transaction
from services.platform.errors import DomainError
from services.platform.identity import Caller
from services.task import messages, queries
from taskflow.error.v1 import error_reason_pb2 as reasons
from taskflow.event.v1.event_pb2 import Event, ProjectChanged
from taskflow.task.v1.project_pb2 import Project

_WRITABLE = frozenset({"display_name", "description"})
_MAX_NAME = 100
_MAX_DESCRIPTION = 20_000


def columns(project: Project, fields: frozenset[str] = _WRITABLE) -> dict[str, str]:
    """The columns that these fields are stored in. Raises INVALID_REQUEST."""
    found = {}
    if "display_name" in fields:
        name = text.line("project.display_name", project.display_name)
        found["display_name"] = text.within("project.display_name", name, _MAX_NAME)
    if "description" in fields:
        description = text.stored(project.description)
        found["description"] = text.within("project.description", description, _MAX_DESCRIPTION)
    return found


def changed_columns(project: Project, mask: Any) -> dict[str, str]:
    return columns(project, masks.fields(project, mask, _WRITABLE))


async def create(
    tx: Transaction, caller: Caller, workspace_id: UUID, key: str, given: dict[str, str]
) -> Row:
    """For a caller who was authorised. Raises PROJECT_KEY_TAKEN."""
    now = datetime.now(UTC)
    row = await tx.one(
        queries.ADD_PROJECT,
        id=uuid7(),
        workspace_id=workspace_id,
        key=key,
        creator_id=caller.user_id,
        created_at=now,
        updated_at=now,
        **given,
    )
    if row is None:
        raise DomainError(reasons.ERROR_REASON_PROJECT_KEY_TAKEN, {"key": key})
    await _announce(tx, row, "created", caller)
    return row


async def get(tx: Transaction, caller: Caller, project_id: UUID) -> Row:
    return await _find(tx, caller, project_id, lock=False)


async def page(
    tx: Transaction, workspace_id: UUID, archived: bool, after: list[Any] | None, size: int
) -> list[Row]:
    """Oldest first; `after` is the position of the last one on the page before."""
    return await tx.all(
        queries.list_projects(archived, after is not None),
        workspace_id=workspace_id,
        limit=size,
        **(_after(*after) if after else {}),
    )


def position(row: Row) -> list[str]:
    """The project's place, as JSON can hold it."""
    return [row.created_at.isoformat(), str(row.id)]


def _after(created_at: str, project_id: str) -> dict[str, Any]:
    return {"after_time": datetime.fromisoformat(created_at), "after_id": UUID(project_id)}


async def change(
    tx: Transaction, caller: Caller, project_id: UUID, etag: str, changes: dict[str, str]
) -> Row:
    """Raises NOT_FOUND, ROLE_TOO_LOW, ETAG_MISMATCH. What is no change does nothing."""
    row = await _find(tx, caller, project_id, lock=True)
    messages.check_etag(etag, row)
    if all(getattr(row, name) == value for name, value in changes.items()):
        return row
    return await _store(tx, row._replace(**changes), "updated", caller)


async def archive(
    tx: Transaction, caller: Caller, project_id: UUID, etag: str, *, archived: bool
) -> Row:
    """Into the archive, or out of it. Waits for the writes to its tasks that are under way."""
    row = await _find(tx, caller, project_id, lock=True)
    messages.check_etag(etag, row)
    if archived == (row.archived_at is not None):
        return row
    new = row._replace(archived_at=datetime.now(UTC) if archived else None)
    return await _store(tx, new, "archived" if archived else "unarchived", caller)


async def _find(tx: Transaction, caller: Caller, project_id: UUID, *, lock: bool) -> Row:
    row = await tx.one(
        queries.LOCK_PROJECT if lock else queries.GET_PROJECT,
        project_id=project_id,
        caller_id=caller.user_id,
        session_id=caller.session_id,
    )
    if row is None:
        raise await directory.absence(tx, caller, "project", project_id)
    directory.check_role(caller, row.role)
    return row


async def _store(tx: Transaction, row: Row, what: str, caller: Caller) -> Row:
    stored = await tx.one(
        queries.CHANGE_PROJECT,
        project_id=row.id,
        new_display_name=row.display_name,
        new_description=row.description,
        new_archived_at=row.archived_at,
        now=max(datetime.now(UTC), row.updated_at),
    )
    await _announce(tx, stored, what, caller)
    return stored


async def _announce(tx: Transaction, row: Row, what: str, caller: Caller) -> None:
    await outbox.add_event(
        tx,
        Event(
            type=f"project.{what}",
            workspace_id=str(row.workspace_id),
            aggregate_id=str(row.id),
            revision=row.revision,
            actor_id=str(caller.user_id),
            project_changed=ProjectChanged(project=messages.project(row)),
        ),
    )
