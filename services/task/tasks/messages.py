"""Converts task rows into messages."""

from collections.abc import Collection
from datetime import UTC, datetime
from uuid import UUID

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.date_pb2 import Date
from google.type.datetime_pb2 import DateTime, TimeZone

from services.platform.rpc import etags
from services.task.jobs import payload
from services.task.tasks.queries import TaskRow
from taskflow.task.v1.task_pb2 import Due, Task

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def etag(row: TaskRow) -> str:
    return etags.of(row.id.bytes + row.revision.to_bytes(8, "big"))


def task(row: TaskRow) -> Task:
    return Task(
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


def task_fields(row: TaskRow, fields: Collection[str]) -> Task:
    """The message of a task with only these fields set."""
    part = Task()
    if "payload" not in fields:
        # Leaves out a payload that isn't needed, because converting it takes up to 20 ms.
        row = row._replace(payload=None)
    FieldMask(paths=fields).MergeMessage(task(row), part)
    return part


def _id(value: UUID | None) -> str:
    return "" if value is None else str(value)


def _timestamp(at: datetime | None) -> Timestamp | None:
    # This is three times as fast as Timestamp.FromDatetime; a page needs thousands of conversions.
    if at is None:
        return None
    since = at - _EPOCH
    return Timestamp(seconds=since.days * 86400 + since.seconds, nanos=since.microseconds * 1000)


def _due(row: TaskRow) -> Due | None:
    if row.due_date is not None:
        day = row.due_date
        return Due(date=Date(year=day.year, month=day.month, day=day.day))
    if row.due_local is not None:
        at = row.due_local
        return Due(
            date_time=DateTime(
                year=at.year,
                month=at.month,
                day=at.day,
                hours=at.hour,
                minutes=at.minute,
                seconds=at.second,
                nanos=at.microsecond * 1000,
                time_zone=TimeZone(id=row.due_zone or ""),
            )
        )
    return None
