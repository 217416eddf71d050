"""Events about sessions."""

from uuid import UUID

from taskflow.event.v1.event_pb2 import Event, SessionRevoked

# The revision of every SessionRevoked event: a session is revoked only once.
_REVOKED_REVISION = 1


def revoked(session_id: UUID, user_id: UUID) -> Event:
    return Event(
        type="session.revoked",
        aggregate_id=str(session_id),
        revision=_REVOKED_REVISION,
        actor_id=str(user_id),
        session_revoked=SessionRevoked(session_id=str(session_id), user_id=str(user_id)),
    )
