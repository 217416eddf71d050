"""Converts user rows into messages."""

from services.auth.accounts.queries import User, UserWithPassword
from services.platform.rpc import etags
from taskflow.auth.v1 import user_pb2


def own_user(row: User | UserWithPassword) -> user_pb2.User:
    """The message of the caller's own account, with the fields that only its owner sees."""
    message = user(row)
    if row.email_bounced_at is not None:
        message.email_bounce_time.FromDatetime(row.email_bounced_at)
    return message


def user(row: User | UserWithPassword) -> user_pb2.User:
    message = user_pb2.User(
        id=str(row.id),
        email=row.email,
        display_name=row.display_name,
        time_zone=row.time_zone,
        email_notifications=row.email_notifications,
        etag=etag(row),
    )
    message.create_time.FromDatetime(row.created_at)
    message.update_time.FromDatetime(row.updated_at)
    return message


def etag(row: User | UserWithPassword) -> str:
    return etags.of(f"{row.id}:{row.revision}".encode())
