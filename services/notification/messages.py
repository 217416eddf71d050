"""What is on a stream: messages, each with its cursor, and how they get to the processes that have streams open."""

from dataclasses import dataclass
from uuid import UUID

from services.platform.bus import Bus
from services.platform.db import Row
from services.platform.errors import DomainError
from services.platform.seal import Seal
from taskflow.error.v1 import error_reason_pb2 as reasons
from taskflow.notification.v1.notification_pb2 import (
    Notification,
    NotificationChange,
    NotificationKind,
)
from taskflow.notification.v1.notification_service_pb2 import WatchNotificationsResponse

_PURPOSE = "watch-notifications"
# Header of live messages: a process needn't parse them to keep their order.
SEQUENCE_HEADER = "Sequence"


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a user's sequence of changes. `epoch` is that of the database that counts."""

    epoch: str
    sequence: int


def cursor(seal: Seal, user_id: UUID, position: Position) -> str:
    return seal.close([position.epoch, position.sequence], purpose=_PURPOSE, context=str(user_id))


def position(seal: Seal, user_id: UUID, sealed: str) -> Position:
    """Raises INVALID_CURSOR for a cursor that isn't ours, or another user's."""
    try:
        epoch, sequence = seal.open(sealed, purpose=_PURPOSE, context=str(user_id))
    except ValueError:
        raise DomainError(reasons.ERROR_REASON_INVALID_CURSOR) from None
    return Position(epoch, sequence)


def change_message(seal: Seal, user_id: UUID, epoch: str, change: NotificationChange) -> bytes:
    return WatchNotificationsResponse(
        cursor=cursor(seal, user_id, Position(epoch, change.sequence)), change=change
    ).SerializeToString()


def heartbeat_message(seal: Seal, user_id: UUID, at: Position, head_sequence: int) -> bytes:
    message = WatchNotificationsResponse(
        cursor=cursor(seal, user_id, at),
        heartbeat=WatchNotificationsResponse.Heartbeat(head_sequence=head_sequence),
    )
    message.heartbeat.time.GetCurrentTime()
    return message.SerializeToString()


def reset_message(seal: Seal, user_id: UUID, at: Position) -> bytes:
    return WatchNotificationsResponse(
        cursor=cursor(seal, user_id, at), reset=WatchNotificationsResponse.Reset()
    ).SerializeToString()


def live_subject(user_id: UUID) -> str:
    return f"live.notifications.{user_id}"


def announce(bus: Bus, seal: Seal, user_id: UUID, epoch: str, change: NotificationChange) -> None:
    """Sends a committed change to all open streams of the user. Streams notice by themselves when it gets lost."""
    bus.send(
        live_subject(user_id),
        change_message(seal, user_id, epoch, change),
        {SEQUENCE_HEADER: str(change.sequence)},
    )


def notification(row: Row) -> Notification:
    """A row of `notifications` as the API shows it."""
    message = Notification(
        id=str(row.id),
        sequence=row.sequence,
        kind=NotificationKind.ValueType(row.kind),
        workspace_id=str(row.workspace_id),
        task_id=str(row.task_id),
        task_key=row.task_key,
        task_title=row.task_title,
        headline=row.headline,
        actor_id=str(row.actor_id) if row.actor_id else "",
    )
    message.create_time.FromDatetime(row.created_at)
    if row.read_at:
        message.read_time.FromDatetime(row.read_at)
    return message
