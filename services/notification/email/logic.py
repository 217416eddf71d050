"""Selects the notifications that a mail contains. A worker composes and sends the mail."""

from uuid import UUID

from services.notification.email import queries
from services.notification.email.queries import EmailItemRow
from services.notification.inbox.messages import notification
from services.notification.inbox.queries import NotificationRow
from services.notification.kinds.kind import Channel
from services.notification.kinds.registry import KINDS
from services.platform.data.db import Transaction
from services.platform.rpc import directory
from taskflow.notification.v1.internal_service_pb2 import EmailItem, PrepareEmailBatchResponse

# Most notifications in a mail: the newest ones. Older ones wait for the next mail.
_MOST_ITEMS = 200
_MAILED_KINDS = [kind.number for kind in KINDS if Channel.EMAIL in kind.channels]


async def prepare_batch(
    tx: Transaction, user_id: UUID, batch_id: UUID
) -> PrepareEmailBatchResponse:
    """Fills a mail's batch on the first call. Returns its notifications that are unread, and the user's address.

    The response is empty if no mail is to be sent.
    """
    nothing = PrepareEmailBatchResponse()
    person = (await directory.people(tx, [user_id])).get(user_id)
    if person is None or not person.email_notifications:
        return nothing
    if await tx.one(queries.LOCK_FEED, user_id=user_id) is None:
        return nothing
    batch = await tx.one(queries.BATCH, batch_id=batch_id)
    if batch is None:
        if not await tx.run(
            queries.FILL_BATCH,
            user_id=user_id,
            batch_id=batch_id,
            kinds=_MAILED_KINDS,
            count=_MOST_ITEMS,
        ):
            return nothing
        await tx.run(queries.ADD_BATCH, user_id=user_id, batch_id=batch_id)
    elif batch.state != "PREPARED" or batch.user_id != user_id:
        return nothing
    rows = await tx.all(queries.ITEMS, batch_id=batch_id)
    if not rows:
        return nothing
    return PrepareEmailBatchResponse(
        items=[
            EmailItem(
                notification=notification(_notification_row(row)),
                workspace_name=row.workspace_name,
                actor_name=row.actor_name,
            )
            for row in rows
        ],
        email=person.email,
        display_name=person.display_name,
        time_zone=person.time_zone,
    )


async def finish_batch(tx: Transaction, batch_id: UUID, error: str) -> None:
    """Records that a batch's mail was sent, or with an `error` that it can't be sent. A second call does nothing."""
    await tx.run(queries.LOCK_FEED_OF_BATCH, batch_id=batch_id)
    finished = await tx.run(
        queries.FINISH_BATCH,
        batch_id=batch_id,
        to_state="FAILED" if error else "SENT",
        why=error,
    )
    if finished and not error:
        await tx.run(queries.MARK_EMAILED, batch_id=batch_id)


def _notification_row(row: EmailItemRow) -> NotificationRow:
    return NotificationRow._make(row[: len(NotificationRow._fields)])
