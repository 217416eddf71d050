"""Selects the notifications that a mail contains. A worker composes and sends the mail."""

from datetime import UTC, datetime
from uuid import UUID

from uuid_utils.compat import uuid7

from services.notification.email import queries
from services.notification.email.queries import EmailItemRow, RecipientRow
from services.notification.inbox.messages import notification
from services.notification.inbox.queries import NotificationRow
from services.notification.kinds.kind import Channel
from services.notification.kinds.registry import KINDS
from services.platform.data.db import Transaction
from taskflow.notification.v1.internal_service_pb2 import EmailItem, PrepareEmailBatchResponse

# A batch takes this many notifications, so that filling it stays far below the time limit of a statement. The worker
# asks for another batch while more are left.
_LARGEST_BATCH = 10_000
# The worker gets this many of a batch's newest notifications, and the number of the others. A mail of less than 100 KB
# shows no more.
_SHOWN = 100
_MAILED_KINDS = [kind.number for kind in KINDS if Channel.EMAIL in kind.channels]
_BEFORE_ALL = datetime.min.replace(tzinfo=UTC)
_AFTER_ALL = datetime.max.replace(tzinfo=UTC)


async def prepare_batch(
    tx: Transaction, user_id: UUID, batch_id: UUID
) -> PrepareEmailBatchResponse:
    """Fills a mail's batch on the first call. Returns its notifications that are unread, and the user's address.

    The response is empty if no mail is to be sent.
    """
    nothing = PrepareEmailBatchResponse()
    if await tx.one(queries.LOCK_FEED, user_id=user_id) is None:
        return nothing
    person = await tx.one(queries.RECIPIENT, user_id=user_id)
    batch = await tx.one(queries.BATCH, batch_id=batch_id)
    if person is None:
        return nothing
    if batch is not None and (batch.state != "PREPARED" or batch.user_id != user_id):
        return nothing
    reason, until = _never_mailed(person)
    if reason:
        await _skip(tx, user_id, batch_id, until, reason)
    if until == _AFTER_ALL:
        await finish_batch(tx, batch_id, reason)
        return nothing
    if batch is None:
        if not await tx.run(
            queries.FILL_BATCH,
            user_id=user_id,
            batch_id=batch_id,
            kinds=_MAILED_KINDS,
            after=until,
            count=_LARGEST_BATCH,
        ):
            return nothing
        await tx.run(
            queries.ADD_BATCH, user_id=user_id, batch_id=batch_id, state="PREPARED", why=""
        )
    rows = await tx.all(queries.ITEMS, batch_id=batch_id, count=_SHOWN)
    if not rows:
        await finish_batch(tx, batch_id, "none of it is to be mailed any more")
        return nothing
    return PrepareEmailBatchResponse(
        items=[
            EmailItem(
                notification=notification(_notification_row(row)),
                workspace_name=row.workspace_name,
                actor_name=row.actor_name,
            )
            for row in reversed(rows)
        ],
        email=person.email,
        display_name=person.display_name,
        time_zone=person.time_zone,
        more_count=rows[0].total - len(rows),
    )


async def finish_batch(tx: Transaction, batch_id: UUID, error: str) -> bool:
    """Records that the mail was sent or, with an error, can't be. A second call changes nothing.

    Returns whether its user has notifications left to mail.
    """
    await tx.run(queries.LOCK_FEED_OF_BATCH, batch_id=batch_id)
    finished = await tx.run(
        queries.FINISH_BATCH,
        batch_id=batch_id,
        to_state="FAILED" if error else "SENT",
        why=error,
    )
    if finished and not error:
        await tx.run(queries.MARK_EMAILED, batch_id=batch_id)
    return await tx.one(queries.MORE, batch_id=batch_id, kinds=_MAILED_KINDS) is not None


def _never_mailed(person: RecipientRow) -> tuple[str, datetime]:
    """Why notifications up to an instant are never mailed, and that instant. An empty text: all are mailed."""
    if not person.email_notifications:
        return "mail is switched off", _AFTER_ALL
    if person.email_bounced_at is not None:
        return "a mail server refused the address for good", _AFTER_ALL
    if person.email_on_since is not None:
        return "they are from before mail was switched on", person.email_on_since
    return "", _BEFORE_ALL


async def _skip(
    tx: Transaction, user_id: UUID, batch_id: UUID, until: datetime, reason: str
) -> None:
    """Puts what is never mailed into a batch that records the reason. Takes it out of the batch that is prepared."""
    skipped = uuid7()
    count = await tx.run(
        queries.SKIP,
        user_id=user_id,
        kinds=_MAILED_KINDS,
        until=until,
        skipped=skipped,
        count=_LARGEST_BATCH,
    )
    count += await tx.run(queries.SKIP_PREPARED, batch_id=batch_id, until=until, skipped=skipped)
    if count:
        await tx.run(
            queries.ADD_BATCH, user_id=user_id, batch_id=skipped, state="SKIPPED", why=reason
        )


def _notification_row(row: EmailItemRow) -> NotificationRow:
    return NotificationRow._make(row[: len(NotificationRow._fields)])
