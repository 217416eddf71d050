"""Starts, refreshes and revokes sessions."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from uuid_utils.compat import uuid7

from services.auth.sessions import events, queries
from services.auth.sessions.queries import LockedSession, Session
from services.platform.config import Settings
from services.platform.data.db import Transaction
from services.platform.events.outbox import add_event
from services.platform.rpc import text
from services.platform.rpc.errors import DomainError
from taskflow.error.v1 import error_reason_pb2 as reasons

# A client that lost the answer to a refresh can repeat it with the old refresh token for this long. It gets the same
# refresh token.
REFRESH_GRACE = timedelta(seconds=10)


async def start(tx: Transaction, settings: Settings, user_id: UUID, device: str) -> Session:
    row = await tx.one(
        queries.ADD_SESSION,
        id=uuid7(),
        user_id=user_id,
        device=text.stored(device).strip(),
        expires_at=_expiry(settings),
    )
    assert row is not None
    return row


async def refresh(
    tx: Transaction, settings: Settings, session_id: UUID, generation: int
) -> Session | LockedSession | None:
    """Uses the session's refresh token of this generation; returns the session. Raises SESSION_REVOKED, TOKEN_INVALID.

    If the token was used before, revokes the session and returns None. The caller then commits, and after that raises
    REFRESH_TOKEN_REUSED.
    """
    session = await tx.one(queries.LOCK_SESSION, session_id=session_id)
    if session is None or session.revoked_at is not None:
        raise DomainError(reasons.ERROR_REASON_SESSION_REVOKED)
    if session.expired or generation > session.generation:
        raise DomainError(reasons.ERROR_REASON_TOKEN_INVALID)
    if generation == session.generation:
        return await tx.one(
            queries.ROTATE_SESSION, session_id=session_id, new_expires_at=_expiry(settings)
        )
    if generation == session.generation - 1 and session.since_rotation < REFRESH_GRACE:
        return session
    await revoke(tx, session_id, session.user_id)
    return None


async def revoke(tx: Transaction, session_id: UUID, user_id: UUID) -> None:
    """Ends a session. Raises SESSION_REVOKED if it has ended already."""
    if not await tx.run(queries.REVOKE_SESSION, session_id=session_id, user_id=user_id):
        raise DomainError(reasons.ERROR_REASON_SESSION_REVOKED)
    await add_event(tx, events.revoked(session_id, user_id))


def _expiry(settings: Settings) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=settings.refresh_token_lifetime)
