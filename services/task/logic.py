"""The one way in which tasks come into being and change, each time with the event that says so."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from google.protobuf.field_mask_pb2 import FieldMask

from services.platform import directory, outbox
from services.platform.db import Row, Transaction
from services.platform.errors import DomainError, not_found
from services.platform.identity import Caller
from services.task import jobs, messages, payload, queries, suggestions
from services.task.due import Due
from taskflow.error.v1 import error_reason_pb2 as reasons
from taskflow.event.v1.event_pb2 import Event, TaskDeleted, TaskUndeleted, TaskUpdated
from taskflow.task.v1 import task_pb2

FINISHED = (task_pb2.TASK_STATUS_DONE, task_pb2.TASK_STATUS_CANCELED)
_TEXT = {"title", "description"}
_DUE = {"due_date", "due_local", "due_zone"}
# Under which name a change of these columns is told; others go by their own. Columns that follow aren't told.
_FIELDS = {
    "due_date": "due",
    "due_local": "due",
    "due_zone": "due",
    "due_at": "due_time",
    "finished_at": None,
    "deleted_at": None,
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Tasks that are changed at a time, where there can be any number: each can hold 150 KB, and others want to be served
# meanwhile.
AT_ONCE = 50


# Changing.


async def lock_task(
    tx: Transaction,
    caller: Caller,
    task_id: UUID,
    etag: str = "",
    *,
    assignee_id: UUID | None = None,
    parent: bool = False,
    comes_back: bool = False,
) -> Row:
    """The task, locked for a change by the caller until the transaction ends.

    `assignee_id` is whom it's going to be assigned to, `parent` whether it's going to get another parent, `comes_back`
    whether it may become an open task again: what these need has to be locked first, in the order in which the removal
    of a member locks. Raises SESSION_REVOKED, NOT_FOUND, ROLE_TOO_LOW, PROJECT_ARCHIVED, ETAG_MISMATCH.
    """
    if parent:
        await tx.run(queries.LOCK_TREE, task_id=task_id)
    if comes_back:
        await tx.run(queries.LOCK_ASSIGNEE, task_id=task_id)
    if assignee_id is not None:
        await tx.run(queries.LOCK_MEMBER_FOR_TASK, task_id=task_id, assignee_id=assignee_id)
    row = await tx.one(
        queries.LOCK_TASK,
        task_id=task_id,
        caller_id=caller.user_id,
        session_id=caller.session_id,
    )
    if row is None:
        raise await directory.absence(tx, caller, "task", task_id)
    directory.check_role(caller, row.role)
    if row.project_archived_at:
        raise DomainError(reasons.ERROR_REASON_PROJECT_ARCHIVED)
    messages.check_etag(etag, row)
    return row


async def change_task(
    tx: Transaction, row: Row, changes: Mapping[str, Any], actor_id: UUID | None
) -> Row:
    """Changes columns of a task that `lock_task` locked, with all that follows from it; returns the row after it.

    What is no change does nothing. `actor_id` is None for the system. Raises TASK_DELETED, ASSIGNEE_NOT_MEMBER,
    PARENT_INVALID.
    """
    if row.deleted_at:
        raise DomainError(reasons.ERROR_REASON_TASK_DELETED)
    now = _now(row)
    wanted = _differing(row, changes)
    if wanted.get("assignee_id") is not None:
        await _require_member(tx, row, wanted["assignee_id"])
    if wanted.get("parent_id") is not None:
        await _require_parent(tx, row, wanted["parent_id"])
    if "status" in wanted:
        wanted |= _finishing(row, wanted["status"], now)
        # Of an open task not: who removes the assignee has locked the membership, and waits for their open tasks.
        if "finished_at" in wanted and wanted["finished_at"] is None:
            wanted = await _without_stranger(tx, row) | wanted
    new = await _with_due(tx, row, row._replace(**wanted))
    return await _store(tx, row, new, actor_id, now)


async def delete_task(tx: Transaction, row: Row, actor_id: UUID) -> Row:
    """Deletes a task that `lock_task` locked. Raises NOT_FOUND for one that is deleted."""
    if row.deleted_at:
        raise not_found("task", row.id)
    now = _now(row)
    return await _store(tx, row, row._replace(deleted_at=now), actor_id, now)


async def undelete_task(tx: Transaction, row: Row, actor_id: UUID, kept: timedelta) -> Row:
    """Brings a task back that `lock_task` locked, within `kept` of its deletion.

    Raises TASK_NOT_DELETED for a live one, NOT_FOUND for one that is too old: it's about to be gone (retention.py).
    """
    if not row.deleted_at:
        raise DomainError(reasons.ERROR_REASON_TASK_NOT_DELETED)
    if row.deleted_at + kept < _now(row):
        raise not_found("task", row.id)
    followed = await _without_stranger(tx, row) | {"deleted_at": None}
    new = await _with_due(tx, row, row._replace(**followed))
    return await _store(tx, row, new, actor_id, _now(row))


def _differing(row: Row, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the changes that are any. A deadline's columns go together."""
    wanted = {
        name: value
        for name, value in changes.items()
        if name not in _DUE and name != "payload" and value != getattr(row, name)
    }
    if "payload" in changes and not payload.same(changes["payload"], row.payload):
        wanted["payload"] = changes["payload"]
    if "due_date" in changes:
        due = {name: changes[name] for name in ("due_date", "due_local", "due_zone")}
        if Due(*due.values()) != _said(row):
            wanted |= due
    return wanted


def _finishing(row: Row, status: int, now: datetime) -> dict[str, Any]:
    if status not in FINISHED:
        return {"finished_at": None} if row.finished_at else {}
    # A task that was done and turns out to be canceled has been finished since then.
    return {} if row.finished_at else {"finished_at": now}


async def _require_member(tx: Transaction, row: Row, assignee_id: UUID) -> None:
    found = await tx.one(
        queries.LOCK_MEMBER, workspace_id=row.workspace_id, assignee_id=assignee_id
    )
    if found is None:
        raise not_member(assignee_id)


async def _without_stranger(tx: Transaction, row: Row) -> dict[str, Any]:
    """A task that comes back isn't the business of somebody who has left meanwhile."""
    if row.assignee_id is None or await tx.one(
        queries.LOCK_MEMBER, workspace_id=row.workspace_id, assignee_id=row.assignee_id
    ):
        return {}
    return {"assignee_id": None}


async def _require_parent(tx: Transaction, row: Row, parent_id: UUID) -> None:
    above = await tx.all(queries.ANCESTORS, parent_id=parent_id, project_id=row.project_id)
    if not above or row.id in {ancestor.id for ancestor in above}:
        raise DomainError(reasons.ERROR_REASON_PARENT_INVALID)


def not_member(assignee_id: UUID) -> DomainError:
    return DomainError(reasons.ERROR_REASON_ASSIGNEE_NOT_MEMBER, {"assignee_id": str(assignee_id)})


# Deadlines.


def _said(row: Row) -> Due:
    """The deadline as it was said: the zone of a date isn't part of it."""
    return Due(row.due_date, row.due_local, row.due_zone if row.due_local else None)


def due_columns(row: Row, zone: str | None) -> dict[str, Any]:
    """The instant of the row's deadline; `zone` is that of whom a date is due for."""
    said = _said(row)
    zone = said.zone or zone or "UTC"
    return {
        "due_at": said.instant(zone),
        "due_zone": None if said == Due() else zone,
    }


async def _with_due(tx: Transaction, row: Row, new: Row) -> Row:
    """`new` with its instant, where it can have changed."""
    same = _said(row) == _said(new) and row.assignee_id == new.assignee_id
    came_back = (row.finished_at and not new.finished_at) or row.deleted_at
    if same and not came_back:
        return new
    zone = None
    if new.due_date is not None:
        whose = new.assignee_id or new.creator_id
        person = (await directory.people(tx, [whose])).get(whose)
        zone = person.time_zone if person else None
    return new._replace(**due_columns(new, zone))


# Storing.


async def _store(tx: Transaction, row: Row, new: Row, actor_id: UUID | None, now: datetime) -> Row:
    """Writes what differs, with the event and what else follows; `row` is locked."""
    columns = _changed(row, new)
    if not columns:
        return row
    new = _revised(row, new, columns, now)
    await _write(tx, new, columns | {"revision", "text_revision", "updated_at"})
    workspace = await directory.workspace(tx, row.workspace_id) if columns & _TEXT else None
    ai_disabled = workspace is not None and not workspace.ai_enabled
    await outbox.add_event(tx, _change_event(row, new, columns, actor_id, ai_disabled))
    if columns & _TEXT:
        await suggestions.make_stale(tx, new, actor_id)
    if "payload" in columns and new.payload is not None:
        await jobs.create(tx, new, actor_id)
    return new


def _changed(row: Row, new: Row) -> set[str]:
    return {
        name
        for name in queries.COLUMNS
        if getattr(row, name) is not (value := getattr(new, name)) and getattr(row, name) != value
    }


def _revised(row: Row, new: Row, columns: set[str], now: datetime) -> Row:
    return new._replace(
        revision=row.revision + 1,
        text_revision=row.text_revision + (1 if columns & _TEXT else 0),
        updated_at=now,
    )


async def _write(tx: Transaction, new: Row, columns: Iterable[str]) -> None:
    values = {f"new_{name}": getattr(new, name) for name in columns}
    if "new_payload" in values:
        values["new_payload"] = payload.dump(new.payload)
    await tx.run(queries.change_task(frozenset(columns)), task_id=new.id, **values)


def _change_event(
    row: Row, new: Row, columns: set[str], actor_id: UUID | None, ai_disabled: bool = False
) -> Event:
    task = messages.task(new)
    if "deleted_at" in columns:
        if new.deleted_at:
            return event("deleted", new, actor_id, task_deleted=TaskDeleted(task=task))
        return event("undeleted", new, actor_id, task_undeleted=TaskUndeleted(task=task))
    told = _told(new, row, columns)
    updated = TaskUpdated(
        task=task,
        before=messages.task_fields(row, told),
        changed_fields=FieldMask(paths=told),
        ai_disabled=ai_disabled,
    )
    return event("updated", new, actor_id, task_updated=updated)


def _told(row: Row, new: Row, columns: set[str]) -> list[str]:
    """The fields that an event names for these columns."""
    if _said(row) == _said(new):
        columns = columns - _DUE
    return sorted({field for name in columns if (field := _FIELDS.get(name, name))})


def event(what: str, row: Row, actor_id: UUID | None, **facts: Any) -> Event:
    return Event(
        type=f"task.{what}",
        workspace_id=str(row.workspace_id),
        aggregate_id=str(row.id),
        revision=row.revision,
        actor_id="" if actor_id is None else str(actor_id),
        **facts,
    )


def _now(row: Row) -> datetime:
    """Clocks of two machines differ; a task's times go forward all the same."""
    now: datetime = max(datetime.now(UTC), row.updated_at)
    return now


# Many at once.


async def unassign_member(
    tx: Transaction, workspace_id: UUID, user_id: UUID, actor_id: UUID
) -> int:
    """Takes somebody's open tasks in a workspace from them; returns how many.

    For a membership that ends in this transaction, after its row was deleted: nobody can assign to them any more then.
    """
    count = 0
    while rows := await tx.all(
        queries.LOCK_OPEN_OF_ASSIGNEE, workspace_id=workspace_id, user_id=user_id, limit=AT_ONCE
    ):
        creators = await directory.people(tx, {row.creator_id for row in rows})
        pairs = []
        for row in rows:
            new = row._replace(assignee_id=None)
            creator = creators.get(row.creator_id)
            zone = creator.time_zone if creator else None
            pairs.append((row, new._replace(**due_columns(new, zone))))
        await _store_many(tx, pairs, actor_id)
        count += len(rows)
    return count


async def move_due_times(tx: Transaction, user_id: UUID, limit: int) -> tuple[int, bool]:
    """Computes the deadlines that are dates anew for open tasks of somebody whose time zone changed.

    Handles at most `limit` tasks; returns how many, and whether more are left.
    """
    person = (await directory.people(tx, [user_id])).get(user_id)
    if person is None:
        return 0, False
    rows = await tx.all(
        queries.LOCK_DATED_ELSEWHERE, user_id=user_id, zone=person.time_zone, limit=limit
    )
    pairs = [(row, row._replace(**due_columns(row, person.time_zone))) for row in rows]
    await _store_many(tx, pairs, None)
    return len(rows), len(rows) == limit


async def leave_parents(tx: Transaction, parent_ids: list[UUID], limit: int) -> int:
    """Takes their parents, which are about to be gone, from at most `limit` tasks; returns from how many."""
    rows = await tx.all(queries.LOCK_BELOW, parent_ids=parent_ids, limit=limit)
    await _store_many(tx, [(row, row._replace(parent_id=None)) for row in rows], None)
    return len(rows)


async def _store_many(
    tx: Transaction, pairs: Iterable[tuple[Row, Row]], actor_id: UUID | None
) -> None:
    """As `_store`, for changes of assignee, instant and parent."""
    values, events = [], []
    for row, new in pairs:
        columns = _changed(row, new)
        # Another zone with the same instant is nothing that anybody sees.
        if _told(row, new, columns):
            new = _revised(row, new, columns, _now(row))
            events.append(_change_event(row, new, columns, actor_id))
        values.append({f"new_{name}": getattr(new, name) for name in _MOVED} | {"task_id": row.id})
    if values:
        await tx.run_many(queries.change_task(_MOVED), values)
    if events:
        await outbox.add_events(tx, events)


_MOVED = frozenset({"assignee_id", "due_at", "due_zone", "parent_id", "revision", "updated_at"})
