"""The rules for reading and changing a single task. See creation.py for creation, bulk.py for many tasks at once."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from services.platform.data.db import Transaction
from services.platform.events import outbox
from services.platform.rpc import directory, etags
from services.platform.rpc.errors import DomainError, invalid, not_found
from services.platform.rpc.identity import Caller
from services.task.jobs import payload
from services.task.tasks import changes, due, messages, queries
from services.task.tasks.queries import LockedTask, TaskRow, TaskWithRole
from taskflow.error.v1 import error_reason_pb2 as reasons

_ID_LENGTH = len(str(UUID(int=0)))


async def get(tx: Transaction, caller: Caller, name: str, workspace_id: str) -> TaskWithRole:
    """The task with this id, or with this key ("OPS-12") in the workspace. The proto's rules have checked the name.

    Raises SESSION_REVOKED, NOT_FOUND, ROLE_TOO_LOW, and INVALID_REQUEST for a key without a workspace.
    """
    if len(name) == _ID_LENGTH:
        row = await directory.find(tx, caller, queries.GET, "task", name, task_id=UUID(name))
        if workspace_id and row.workspace_id != UUID(workspace_id):
            raise not_found("task", name)
    elif not workspace_id:
        raise invalid("workspace_id", "is required with a key")
    else:
        key, _, number = name.partition("-")
        values = {"workspace_id": UUID(workspace_id), "key": key, "number": int(number)}
        row = await directory.find(tx, caller, queries.GET_BY_KEY, "task", name, **values)
    directory.check_role(caller, row.role)
    return row


async def lock_task(
    tx: Transaction,
    caller: Caller,
    task_id: UUID,
    etag: str = "",
    *,
    assignee_id: UUID | None = None,
    parent: bool = False,
    reopen: bool = False,
) -> LockedTask:
    """Locks a task that the caller may change, until the transaction ends.

    Some changes need other rows locked before the task (queries.py). `assignee_id` is the new assignee, `parent` means
    that the parent changes, `reopen` means that a finished or deleted task may become open again.
    Raises SESSION_REVOKED, NOT_FOUND, ROLE_TOO_LOW, PROJECT_ARCHIVED, ETAG_MISMATCH.
    """
    if parent:
        await tx.run(queries.LOCK_TREE, task_id=task_id)
    if reopen:
        await tx.run(queries.LOCK_ASSIGNEE, task_id=task_id)
    if assignee_id is not None:
        await tx.run(queries.LOCK_MEMBER_FOR_TASK, task_id=task_id, assignee_id=assignee_id)
    row = await directory.find_allowed(tx, caller, queries.LOCK, "task", task_id, task_id=task_id)
    if row.project_archived_at:
        raise DomainError(reasons.ERROR_REASON_PROJECT_ARCHIVED)
    etags.check(etag, messages.etag(row))
    return row


async def change_task(
    tx: Transaction, old: LockedTask, values: Mapping[str, Any], actor_id: UUID | None
) -> TaskRow:
    """Changes columns of a locked task; adds the event, updates jobs and suggestions. Returns the new row.

    If the task already has all these values, nothing is written. `actor_id` is None for changes by TaskFlow itself.
    Raises TASK_DELETED, ASSIGNEE_NOT_MEMBER, PARENT_INVALID.
    """
    if old.deleted_at:
        raise DomainError(reasons.ERROR_REASON_TASK_DELETED)
    now = changes.next_update_time(old)
    assignee_id = _assignee_id(old)
    new: TaskRow = old._replace(**{"assignee_id": assignee_id, **values})
    if due.of(new) == due.of(old):
        # Keeps the zone in which a day ends, because `values` don't contain it.
        new = new._replace(due_zone=old.due_zone)
    else:
        new = new._replace(due_set_at=None if due.of(new) == due.NO_DUE else now)
    if new.assignee_id is not None and new.assignee_id != assignee_id:
        await _require_member(tx, new.workspace_id, new.assignee_id)
    if new.parent_id is not None and new.parent_id != old.parent_id:
        await _require_parent(tx, new, new.parent_id)
    if new.status != old.status:
        finished_at = changes.finish_time(new.status, old.finished_at, now)
        new = new._replace(finished_at=finished_at)
        if old.finished_at and not finished_at and new.assignee_id == assignee_id:
            new = await _without_former_member(tx, new)
    new = await _with_due_time(tx, old, new)
    return await _store(tx, old, new, actor_id, now)


async def delete_task(tx: Transaction, old: LockedTask, actor_id: UUID) -> TaskRow:
    """Deletes a locked task. Raises NOT_FOUND if it is deleted."""
    if old.deleted_at:
        raise not_found("task", old.id)
    now = changes.next_update_time(old)
    new = old._replace(deleted_at=now, assignee_id=_assignee_id(old))
    return await _store(tx, old, new, actor_id, now)


async def undelete_task(
    tx: Transaction, old: TaskRow, actor_id: UUID, window: timedelta
) -> TaskRow:
    """Restores a locked task within `window` of its deletion.

    Raises TASK_NOT_DELETED, and NOT_FOUND after the window: retention.py may be deleting the task's rows.
    """
    if not old.deleted_at:
        raise DomainError(reasons.ERROR_REASON_TASK_NOT_DELETED)
    now = changes.next_update_time(old)
    if old.deleted_at + window < now:
        raise not_found("task", old.id)
    new = await _without_former_member(tx, old._replace(deleted_at=None))
    new = await _with_due_time(tx, old, new)
    return await _store(tx, old, new, actor_id, now)


def _assignee_id(row: LockedTask) -> UUID | None:
    """The assignee; None for a former member, whose tasks are being unassigned (former_members.py)."""
    return None if row.assignee_left else row.assignee_id


async def _is_member(tx: Transaction, workspace_id: UUID, user_id: UUID) -> bool:
    """Whether the user is a member of the workspace. The membership is locked until the transaction ends."""
    locked = await tx.run(queries.LOCK_MEMBER, workspace_id=workspace_id, assignee_id=user_id)
    return locked == 1


async def _require_member(tx: Transaction, workspace_id: UUID, assignee_id: UUID) -> None:
    if not await _is_member(tx, workspace_id, assignee_id):
        raise not_member(assignee_id)


def not_member(assignee_id: UUID) -> DomainError:
    return DomainError(reasons.ERROR_REASON_ASSIGNEE_NOT_MEMBER, {"assignee_id": str(assignee_id)})


async def _without_former_member(tx: Transaction, new: TaskRow) -> TaskRow:
    """Unassigns a task that becomes open again if its assignee has left the workspace."""
    if new.assignee_id is None or await _is_member(tx, new.workspace_id, new.assignee_id):
        return new
    return new._replace(assignee_id=None)


async def _require_parent(tx: Transaction, row: TaskRow, parent_id: UUID) -> None:
    """Raises PARENT_INVALID unless the parent is a live task of the project and not below this task."""
    above = await tx.all(queries.ANCESTORS, parent_id=parent_id, project_id=row.project_id)
    if not above or row.id in {ancestor.id for ancestor in above}:
        raise DomainError(reasons.ERROR_REASON_PARENT_INVALID)


async def _with_due_time(tx: Transaction, old: TaskRow, new: TaskRow) -> TaskRow:
    """Returns `new` with its due time computed again: the deadline, its zone or the zone's rules may have changed."""
    same = due.of(old) == due.of(new) and old.assignee_id == new.assignee_id
    reopened = (old.finished_at and not new.finished_at) or old.deleted_at
    if same and not reopened:
        return due.with_instant(new, new.due_zone)
    zone = None
    if new.due_date is not None:
        user_id = new.assignee_id or new.creator_id
        person = (await directory.people(tx, [user_id])).get(user_id)
        zone = person.time_zone if person else None
    return due.with_instant(new, zone)


async def _store(
    tx: Transaction, old: TaskRow, new: TaskRow, actor_id: UUID | None, now: datetime
) -> TaskRow:
    """Writes the changed columns of a locked task and the event; updates jobs and suggestions."""
    columns = changes.changed_columns(old, new)
    if not columns:
        return old
    new = changes.next_revision(new, columns, now)
    written = columns | {"revision", "text_revision", "updated_at"}
    values = {f"new_{name}": getattr(new, name) for name in written}
    if "payload" in written:
        values["new_payload"] = payload.dump(new.payload)
    await tx.run(queries.change(frozenset(written)), task_id=new.id, **values)
    ai_disabled = False
    if columns & changes.TEXT:
        workspace = await directory.workspace(tx, new.workspace_id)
        ai_disabled = workspace is not None and not workspace.ai_enabled
    await outbox.add_event(tx, changes.event(old, new, columns, actor_id, ai_disabled=ai_disabled))
    await changes.follow_up(tx, new, columns, actor_id)
    return new
