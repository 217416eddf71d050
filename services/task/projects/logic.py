"""The rules of projects."""

from collections.abc import Set
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from services.platform.data.db import Transaction
from services.platform.events import outbox
from services.platform.rpc import directory, etags, text
from services.platform.rpc.errors import DomainError
from services.platform.rpc.identity import Caller
from services.task.projects import events, messages, queries
from services.task.projects.queries import ProjectRow, ProjectWithRole
from taskflow.error.v1 import error_reason_pb2 as reasons
from taskflow.task.v1.project_pb2 import Project

# The fields that a caller may set.
WRITABLE = frozenset({"display_name", "description"})

_MAX_NAME = 100
_MAX_DESCRIPTION = 20_000


def columns(project: Project, fields: Set[str] = WRITABLE) -> dict[str, str]:
    """Column → value for these fields of a project. Raises INVALID_REQUEST."""
    found = {}
    if "display_name" in fields:
        name = text.line("project.display_name", project.display_name)
        found["display_name"] = text.within("project.display_name", name, _MAX_NAME)
    if "description" in fields:
        description = text.stored(project.description)
        found["description"] = text.within("project.description", description, _MAX_DESCRIPTION)
    return found


async def create(
    tx: Transaction, caller: Caller, workspace_id: UUID, key: str, values: dict[str, str]
) -> ProjectRow:
    """Creates a project with these columns; the caller was authorized before. Raises PROJECT_KEY_TAKEN."""
    now = datetime.now(UTC)
    row = await tx.one(
        queries.ADD,
        id=uuid7(),
        workspace_id=workspace_id,
        key=key,
        creator_id=caller.user_id,
        created_at=now,
        updated_at=now,
        **values,
    )
    if row is None:
        raise DomainError(reasons.ERROR_REASON_PROJECT_KEY_TAKEN, {"key": key})
    await outbox.add_event(tx, events.created(row, caller.user_id))
    return row


async def get(tx: Transaction, caller: Caller, project_id: UUID) -> ProjectWithRole:
    """A project that the caller may see. Raises SESSION_REVOKED, NOT_FOUND, ROLE_TOO_LOW."""
    return await directory.find_allowed(
        tx, caller, queries.GET, "project", project_id, project_id=project_id
    )


async def page(
    tx: Transaction, workspace_id: UUID, archived: bool, after: list[Any] | None, limit: int
) -> list[ProjectRow]:
    """At most `limit` projects of the workspace, oldest first; `archived` includes archived ones.

    `after` is the position of the last project on the previous page, None for the first page.
    """
    last = {}
    if after:
        created_at, project_id = after
        last = {
            "after_time": datetime.fromisoformat(created_at),
            "after_id": UUID(project_id),
        }
    statement = queries.page(archived, after is not None)
    return await tx.all(statement, workspace_id=workspace_id, limit=limit, **last)


def position(row: ProjectRow) -> list[str]:
    """The project's sort key as JSON values."""
    return [row.created_at.isoformat(), str(row.id)]


async def lock(
    tx: Transaction, caller: Caller, project_id: UUID, etag: str = ""
) -> ProjectWithRole:
    """Locks a project that the caller may change; waits for running writes to its tasks.

    Raises SESSION_REVOKED, NOT_FOUND, ROLE_TOO_LOW, ETAG_MISMATCH.
    """
    row = await directory.find_allowed(
        tx, caller, queries.LOCK, "project", project_id, project_id=project_id
    )
    etags.check(etag, messages.etag(row))
    return row


async def change(
    tx: Transaction, caller: Caller, row: ProjectRow, values: dict[str, str]
) -> ProjectRow:
    """Changes columns of a locked project. Writes nothing if the project already has all these values."""
    if all(getattr(row, name) == value for name, value in values.items()):
        return row
    new = await _store(tx, row._replace(**values))  # type: ignore[arg-type]
    await outbox.add_event(tx, events.updated(new, caller.user_id))
    return new


async def archive(tx: Transaction, caller: Caller, row: ProjectRow) -> ProjectRow:
    """Archives a locked project. Does nothing if it is archived already."""
    if row.archived_at:
        return row
    new = await _store(tx, row._replace(archived_at=datetime.now(UTC)))
    await outbox.add_event(tx, events.archived(new, caller.user_id))
    return new


async def unarchive(tx: Transaction, caller: Caller, row: ProjectRow) -> ProjectRow:
    """Takes a locked project out of the archive. Does nothing if it isn't archived."""
    if not row.archived_at:
        return row
    new = await _store(tx, row._replace(archived_at=None))
    await outbox.add_event(tx, events.unarchived(new, caller.user_id))
    return new


async def _store(tx: Transaction, row: ProjectRow) -> ProjectRow:
    stored = await tx.one(
        queries.UPDATE,
        project_id=row.id,
        new_display_name=row.display_name,
        new_description=row.description,
        new_archived_at=row.archived_at,
        now=max(datetime.now(UTC), row.updated_at),
    )
    assert stored is not None, "the row is locked"
    return stored
