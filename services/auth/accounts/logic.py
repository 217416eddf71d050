"""The rules of accounts: registration, profiles, operators."""

from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from services.auth.accounts import emails, events, messages, queries
from services.auth.accounts.queries import User, UserWithPassword
from services.platform.data.db import Transaction
from services.platform.events.outbox import add_event
from services.platform.rpc import directory, etags, mail_address, masks, text
from services.platform.rpc.errors import DomainError, invalid
from services.platform.rpc.identity import Caller
from services.platform.rpc.zones import is_zone
from taskflow.auth.v1 import user_pb2
from taskflow.auth.v1.auth_service_pb2 import RegisterRequest
from taskflow.auth.v1.user_service_pb2 import UpdateCurrentUserRequest
from taskflow.error.v1 import error_reason_pb2 as reasons

_WRITABLE = frozenset({"display_name", "time_zone", "email_notifications"})
_DEFAULT_ZONE = "UTC"


def new_account(request: RegisterRequest) -> dict[str, str]:
    """The columns of a new user except id and password. Raises INVALID_REQUEST."""
    mail_address.check("email", request.email)
    return {
        "email": text.stored(request.email),
        "email_key": emails.lookup_key(request.email),
        "display_name": text.line("display_name", request.display_name),
        "time_zone": _time_zone("time_zone", request.time_zone),
    }


async def create(tx: Transaction, account: dict[str, str], password_hash: str) -> User:
    """Adds a user with the columns that `new_account` returned. Raises EMAIL_TAKEN."""
    row = await tx.one(queries.ADD_USER, id=uuid7(), password_hash=password_hash, **account)
    if row is None:
        raise DomainError(reasons.ERROR_REASON_EMAIL_TAKEN)
    return row


async def find_by_email(tx: Transaction, email_key: str) -> UserWithPassword | None:
    return await tx.one(queries.USER_BY_EMAIL, email_key=email_key)


async def replace_password_hash(tx: Transaction, user: UserWithPassword, new_hash: str) -> None:
    await tx.run(
        queries.REPLACE_PASSWORD_HASH,
        user_id=user.id,
        old_hash=user.password_hash,
        new_hash=new_hash,
    )


async def current_user(tx: Transaction, caller: Caller) -> User:
    return await directory.find(tx, caller, queries.CURRENT_USER, "user", caller.user_id)


async def update_current_user(
    tx: Transaction, caller: Caller, request: UpdateCurrentUserRequest
) -> User:
    """Changes the caller's profile; an update without effect writes nothing. Raises INVALID_REQUEST, ETAG_MISMATCH."""
    changes = _changes(request)
    old = await directory.find(tx, caller, queries.LOCK_CURRENT_USER, "user", caller.user_id)
    etags.check(request.user.etag, messages.etag(old))
    mail_on = changes.get("email_notifications", False) and (
        not old.email_notifications or old.email_bounced_at is not None
    )
    if not mail_on and all(getattr(old, name) == value for name, value in changes.items()):
        return old
    if mail_on:
        await tx.run(queries.SWITCH_MAIL_ON, user_id=old.id)
    values = {name: changes.get(name, getattr(old, name)) for name in _WRITABLE}
    new = await tx.one(
        queries.UPDATE_USER,
        user_id=old.id,
        **{f"new_{name}": value for name, value in values.items()},
    )
    assert new is not None
    if new.time_zone != old.time_zone:
        await add_event(tx, events.time_zone_changed(new))
    return new


def _changes(request: UpdateCurrentUserRequest) -> dict[str, Any]:
    """The columns that an update of the profile sets. Raises INVALID_REQUEST."""
    user: user_pb2.User = request.user
    changes: dict[str, Any] = {}
    fields = masks.fields(user, request.update_mask, _WRITABLE)
    if "display_name" in fields:
        changes["display_name"] = text.line("user.display_name", user.display_name)
    if "time_zone" in fields:
        changes["time_zone"] = _time_zone("user.time_zone", user.time_zone)
    if "email_notifications" in fields:
        changes["email_notifications"] = user.email_notifications
    return changes


async def report_bounce(tx: Transaction, user_id: UUID, email: str) -> bool:
    """Marks the user's address as refused for good. Returns whether that's new."""
    return bool(await tx.run(queries.MARK_BOUNCED, user_id=user_id, refused=email))


async def people_around(tx: Transaction, caller: Caller, ids: list[UUID]) -> list[User]:
    """The requested users whom the caller may see: the caller, and members of the caller's workspaces.

    Each user appears once, in the order of the request. Raises SESSION_REVOKED.
    """
    rows = await tx.all(
        queries.PEOPLE_AROUND,
        user_ids=ids,
        caller_id=caller.user_id,
        session_id=caller.session_id,
    )
    if not rows:
        await directory.require_session(tx, caller)
    known = {row.id: row for row in rows}
    return [known[id] for id in dict.fromkeys(ids) if id in known]


async def grant_operator(tx: Transaction, email: str) -> bool:
    """Makes a user an operator of the installation. Returns False when no account has this e-mail."""
    return bool(await tx.run(queries.GRANT_OPERATOR, key=emails.lookup_key(email)))


def _time_zone(field: str, name: str) -> str:
    """The name of an IANA time zone, checked; UTC when empty. Raises INVALID_REQUEST."""
    if name and not is_zone(name):
        raise invalid(field, "is not an IANA time zone")
    return name or _DEFAULT_ZONE
