"""Accounts and sessions: the rules."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp
from uuid_utils.compat import uuid7

from services.auth import emails, messages, queries, tokens
from services.auth.throttle import Origin, Throttle
from services.platform import directory, idempotency, masks, text
from services.platform.config import Settings
from services.platform.db import Transaction
from services.platform.errors import DomainError, invalid
from services.platform.identity import Caller
from services.platform.outbox import add_event
from services.platform.seal import Seal
from services.platform.zones import is_zone
from taskflow.auth.v1 import auth_service_pb2, user_pb2, user_service_pb2
from taskflow.error.v1 import error_reason_pb2 as reasons
from taskflow.event.v1.event_pb2 import Event, SessionRevoked, TimeZoneChanged

# A refresh token that was just used gives its successor again, for those whose answer got lost.
REFRESH_GRACE = timedelta(seconds=10)

_WRITABLE = frozenset({"display_name", "time_zone", "email_notifications"})
_DEFAULT_ZONE = "UTC"
# A session is revoked once.
_REVOKED_REVISION = 1


# --- accounts


def registered_email(email: str) -> str:
    """The canonical key of an e-mail that somebody registers. Raises INVALID_REQUEST."""
    try:
        return emails.key(email)
    except ValueError:
        raise invalid("email", "is not an e-mail address") from None


def email_key(email: str) -> str:
    """The key to look an account up by; of what is no address, one that nobody has."""
    try:
        return emails.key(email)
    except ValueError:
        return email


def time_zone(field: str, name: str) -> str:
    """An IANA zone's name, UTC for none. Raises INVALID_REQUEST."""
    if name and not is_zone(name):
        raise invalid(field, "is not an IANA time zone")
    return name or _DEFAULT_ZONE


async def register(
    tx: Transaction,
    seal: Seal,
    request: auth_service_pb2.RegisterRequest,
    account: dict[str, str],
) -> auth_service_pb2.RegisterResponse:
    """Raises EMAIL_TAKEN. `account` holds the checked columns of the new row."""
    # Nobody is signed in: the e-mail stands for the caller.
    caller = f"register:{account['email_key']}"
    answer = await idempotency.first_answer(
        tx, seal, caller, request, request.request_id, auth_service_pb2.RegisterResponse
    )
    if answer is not None:
        return answer
    row = await tx.one(queries.ADD_USER, id=uuid7(), **account)
    if row is None:
        raise DomainError(reasons.ERROR_REASON_EMAIL_TAKEN)
    answer = auth_service_pb2.RegisterResponse(user=messages.user(row))
    await idempotency.remember(tx, caller, request, request.request_id, answer)
    return answer


async def current_user(tx: Transaction, caller: Caller) -> user_pb2.User:
    row = await tx.one(queries.CURRENT_USER, caller_id=caller.user_id, session_id=caller.session_id)
    if row is None:
        raise await directory.absence(tx, caller, "user", caller.user_id)
    return messages.user(row)


async def update_current_user(
    tx: Transaction, caller: Caller, request: user_service_pb2.UpdateCurrentUserRequest
) -> user_pb2.User:
    """Raises INVALID_REQUEST, ETAG_MISMATCH."""
    wanted = request.user
    fields = masks.fields(wanted, request.update_mask, _WRITABLE)
    new: dict[str, Any] = {}
    if "display_name" in fields:
        new["display_name"] = text.line("user.display_name", wanted.display_name)
    if "time_zone" in fields:
        new["time_zone"] = time_zone("user.time_zone", wanted.time_zone)
    if "email_notifications" in fields:
        new["email_notifications"] = wanted.email_notifications

    old = await tx.one(
        queries.LOCK_CURRENT_USER, caller_id=caller.user_id, session_id=caller.session_id
    )
    if old is None:
        raise await directory.absence(tx, caller, "user", caller.user_id)
    messages.check_etag(wanted.etag, messages.etag(old.id, revision=old.revision))
    if all(getattr(old, name) == value for name, value in new.items()):
        return messages.user(old)
    values = {name: new.get(name, getattr(old, name)) for name in _WRITABLE}
    row = await tx.one(
        queries.UPDATE_USER,
        user_id=old.id,
        **{f"new_{name}": value for name, value in values.items()},
    )
    assert row is not None
    if row.time_zone != old.time_zone:
        await add_event(
            tx,
            Event(
                type="user.time_zone_changed",
                aggregate_id=str(row.id),
                revision=row.revision,
                actor_id=str(row.id),
                time_zone_changed=TimeZoneChanged(user_id=str(row.id)),
            ),
        )
    return messages.user(row)


async def people_around(tx: Transaction, caller: Caller, ids: list[UUID]) -> list[user_pb2.User]:
    """Those of the users that the caller may know of, each once, in the order asked."""
    rows = await tx.all(
        queries.PEOPLE_AROUND,
        user_ids=ids,
        caller_id=caller.user_id,
        session_id=caller.session_id,
    )
    if not rows:
        await directory.require_session(tx, caller)
    known = {row.id: row for row in rows}
    return [messages.user(known[id]) for id in dict.fromkeys(ids) if id in known]


async def grant_operator(tx: Transaction, email: str) -> bool:
    """Makes a user an operator of the installation; False when nobody has this e-mail."""
    return bool(await tx.run(queries.GRANT_OPERATOR, key=email_key(email)))


# --- sessions


async def login(
    tx: Transaction,
    throttle: Throttle,
    origin: Origin,
    account: Any,
    new_hash: str | None,
    device: str,
    expires: datetime,
) -> Any:
    """The row of a new session for the account's user, whose password was right. Raises LOGIN_THROTTLED.

    `new_hash` replaces the stored one where that was made with other parameters than today's.
    """
    await throttle.right(tx, origin)
    if new_hash is not None:
        await tx.run(
            queries.REPLACE_PASSWORD_HASH,
            user_id=account.id,
            old_hash=account.password_hash,
            new_hash=new_hash,
        )
    return await tx.one(
        queries.ADD_SESSION,
        id=uuid7(),
        user_id=account.id,
        device=text.stored(device).strip(),
        expires_at=expires,
    )


async def refresh(
    tx: Transaction, session_id: UUID, generation: int, expires: datetime
) -> Any | None:
    """The session's row after its token of that generation was used; None when that revoked it.

    Then commit, and tell the caller REFRESH_TOKEN_REUSED. Raises SESSION_REVOKED, TOKEN_INVALID.
    """
    row = await tx.one(queries.LOCK_SESSION, session_id=session_id)
    if row is None or row.revoked_at is not None:
        raise DomainError(reasons.ERROR_REASON_SESSION_REVOKED)
    if row.expired or generation > row.generation:
        raise DomainError(reasons.ERROR_REASON_TOKEN_INVALID)
    if generation == row.generation:
        return await tx.one(queries.ROTATE_SESSION, session_id=session_id, new_expires_at=expires)
    if generation == row.generation - 1 and row.since_rotation < REFRESH_GRACE:
        return row
    await revoke(tx, session_id, row.user_id)
    return None


async def revoke(tx: Transaction, session_id: UUID, user_id: UUID) -> None:
    """Ends a session. Raises SESSION_REVOKED when it has ended."""
    if not await tx.run(queries.REVOKE_SESSION, session_id=session_id, user_id=user_id):
        raise DomainError(reasons.ERROR_REASON_SESSION_REVOKED)
    await add_event(
        tx,
        Event(
            type="session.revoked",
            aggregate_id=str(session_id),
            revision=_REVOKED_REVISION,
            actor_id=str(user_id),
            session_revoked=SessionRevoked(session_id=str(session_id), user_id=str(user_id)),
        ),
    )


def refresh_expiry(settings: Settings) -> datetime:
    """Of a refresh token that is made now."""
    return datetime.now(UTC) + timedelta(seconds=settings.refresh_token_lifetime)


def session_tokens(
    settings: Settings, keys: tokens.SigningKeys, seal: Seal, session: Any
) -> auth_service_pb2.Tokens:
    """The current tokens of a session, from its row."""
    now = int(time.time())
    expires = min(now + int(settings.access_token_lifetime), int(session.expires_at.timestamp()))
    return auth_service_pb2.Tokens(
        access_token=keys.access_token(session.user_id, session.id, now, expires),
        access_expire_time=Timestamp(seconds=expires),
        refresh_token=tokens.refresh_token(seal, session.id, session.generation),
        refresh_expire_time=session.expires_at,
    )
