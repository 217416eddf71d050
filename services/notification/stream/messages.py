"""The messages of WatchNotifications streams with their cursors, and the sending of live messages over NATS."""

from dataclasses import dataclass
from uuid import UUID

from services.platform.events.bus import Bus
from services.platform.rpc.errors import DomainError
from services.platform.rpc.seal import Seal
from taskflow.error.v1 import error_reason_pb2 as reasons
from taskflow.notification.v1.notification_pb2 import NotificationChange
from taskflow.notification.v1.notification_service_pb2 import WatchNotificationsResponse

_PURPOSE = "watch-notifications"
# Header with a live message's sequence, so that a process can order messages without parsing them.
SEQUENCE_HEADER = "Sequence"


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a user's feed. `epoch` names the database's history: a restored backup gets a new epoch."""

    epoch: str
    sequence: int


@dataclass(frozen=True, slots=True)
class Announcement:
    """A change to send to the user's open streams after the commit."""

    user_id: UUID
    epoch: str
    change: NotificationChange


def cursor(seal: Seal, user_id: UUID, position: Position) -> str:
    return seal.close([position.epoch, position.sequence], purpose=_PURPOSE, context=str(user_id))


def position(seal: Seal, user_id: UUID, sealed: str) -> Position:
    """The position in a cursor. Raises INVALID_CURSOR for a cursor that isn't ours, or belongs to another user."""
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
    """The core NATS subject of the user's live messages."""
    return f"live.notifications.{user_id}"


def announce(bus: Bus, seal: Seal, announcement: Announcement) -> None:
    """Sends a committed change to all open streams of the user. The hub's repairs find lost messages."""
    user_id, change = announcement.user_id, announcement.change
    bus.send(
        live_subject(user_id),
        change_message(seal, user_id, announcement.epoch, change),
        {SEQUENCE_HEADER: str(change.sequence)},
    )
