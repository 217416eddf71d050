"""Converts project rows into messages."""

from services.platform.rpc import etags
from services.task.projects.queries import ProjectRow
from taskflow.task.v1.project_pb2 import Project


def etag(row: ProjectRow) -> str:
    return etags.of(row.id.bytes + row.revision.to_bytes(8, "big"))


def project(row: ProjectRow) -> Project:
    message = Project(
        id=str(row.id),
        workspace_id=str(row.workspace_id),
        key=row.key,
        display_name=row.display_name,
        description=row.description,
        creator_id=str(row.creator_id),
        etag=etag(row),
    )
    message.create_time.FromDatetime(row.created_at)
    message.update_time.FromDatetime(row.updated_at)
    if row.archived_at:
        message.archive_time.FromDatetime(row.archived_at)
    return message
