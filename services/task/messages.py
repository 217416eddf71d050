"""Rows as they are shown."""

import hashlib
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.date_pb2 import Date
from google.type.datetime_pb2 import DateTime, TimeZone

from services.platform.errors import DomainError
from services.task import payload
from taskflow.error.v1 import error_reason_pb2 as reasons
from taskflow.task.v1 import project_pb2, task_pb2

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def etag(row: Any) -> str:
    """Of a project or task. Opaque: it says nothing but whether there was a change."""
    name = row.id.bytes + row.revision.to_bytes(8, "big")
    return hashlib.blake2b(name, digest_size=8).hexdigest()


def check_etag(sent: str, row: Any) -> None:
    """Raises ETAG_MISMATCH with the current etag for one that was sent and is stale."""
    if sent and sent != (current := etag(row)):
        raise DomainError(reasons.ERROR_REASON_ETAG_MISMATCH, {"etag": current})


def project(row: Any) -> project_pb2.Project:
    return project_pb2.Project(
        id=str(row.id),
        workspace_id=str(row.workspace_id),
        key=row.key,
        display_name=row.display_name,
        description=row.description,
        creator_id=str(row.creator_id),
        archive_time=_timestamp(row.archived_at),
        create_time=_timestamp(row.created_at),
        update_time=_timestamp(row.updated_at),
        etag=etag(row),
    )


def task(row: Any) -> task_pb2.Task:
    """`row` has all columns of `tasks`."""
    return task_pb2.Task(
        id=str(row.id),
        workspace_id=str(row.workspace_id),
        project_id=str(row.project_id),
        key=f"{row.project_key}-{row.number}",
        title=row.title,
        description=row.description,
        status=row.status,
        priority=row.priority,
        assignee_id=_id(row.assignee_id),
        creator_id=str(row.creator_id),
        labels=row.labels,
        due=_due(row),
        due_time=_timestamp(row.due_at),
        payload=None if row.payload is None else payload.struct(row.payload),
        parent_id=_id(row.parent_id),
        create_time=_timestamp(row.created_at),
        update_time=_timestamp(row.updated_at),
        finish_time=_timestamp(row.finished_at),
        delete_time=_timestamp(row.deleted_at),
        revision=row.revision,
        text_revision=row.text_revision,
        etag=etag(row),
    )


def task_fields(row: Any, fields: Collection[str]) -> task_pb2.Task:
    """Only these fields of the task."""
    part = task_pb2.Task()
    if "payload" not in fields:
        # The one column that takes long to convert.
        row = row._replace(payload=None)
    FieldMask(paths=fields).MergeMessage(task(row), part)
    return part


def _id(value: UUID | None) -> str:
    return "" if value is None else str(value)


def _timestamp(at: datetime | None) -> Timestamp | None:
    if at is None:
        return None
    since = at - _EPOCH
    return Timestamp(seconds=since.days * 86400 + since.seconds, nanos=since.microseconds * 1000)


def _due(row: Any) -> task_pb2.Due | None:
    if row.due_date is not None:
        day = row.due_date
        return task_pb2.Due(date=Date(year=day.year, month=day.month, day=day.day))
    if row.due_local is not None:
        at = row.due_local
        return task_pb2.Due(
            date_time=DateTime(
                year=at.year,
                month=at.month,
                day=at.day,
                hours=at.hour,
                minutes=at.minute,
                seconds=at.second,
                nanos=at.microsecond * 1000,
                time_zone=TimeZone(id=row.due_zone),
            )
        )
    return None
