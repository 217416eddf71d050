"""Which notifications go into a mail. The mail itself is made and sent by a worker."""

from uuid import UUID

from services.notification import queries
from services.notification.messages import notification
from services.platform import directory
from services.platform.db import Transaction
from taskflow.notification.v1.internal_service_pb2 import EmailItem, PrepareEmailBatchResponse

# A mail holds the newest ones; the rest waits for the next mail.
_MOST_ITEMS = 200


async def prepare_batch(
    tx: Transaction, user_id: UUID, batch_id: UUID
) -> PrepareEmailBatchResponse:
    """Fills the batch the first time, and returns what of it is still wanted; empty when nothing is."""
    nothing = PrepareEmailBatchResponse()
    person = (await directory.people(tx, [user_id])).get(user_id)
    if person is None or not person.email_notifications:
        return nothing
    if await tx.one(queries.LOCK_FEED_FOR_MAIL, user_id=user_id) is None:
        return nothing
    batch = await tx.one(queries.EMAIL_BATCH, batch_id=batch_id)
    if batch is None:
        if not await tx.run(
            queries.FILL_EMAIL_BATCH, user_id=user_id, batch_id=batch_id, count=_MOST_ITEMS
        ):
            return nothing
        await tx.run(queries.ADD_EMAIL_BATCH, user_id=user_id, batch_id=batch_id)
    elif batch.state != "PREPARED" or batch.user_id != user_id:
        return nothing
    rows = await tx.all(queries.EMAIL_ITEMS, batch_id=batch_id)
    if not rows:
        return nothing
    return PrepareEmailBatchResponse(
        items=[
            EmailItem(
                notification=notification(row),
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
    """Records that the batch was sent or, with an error, never will be. Does nothing the second time."""
    await tx.run(queries.LOCK_FEED_OF_BATCH, batch_id=batch_id)
    finished = await tx.run(
        queries.FINISH_EMAIL_BATCH,
        batch_id=batch_id,
        to_state="FAILED" if error else "SENT",
        why=error,
    )
    if finished and not error:
        await tx.run(queries.MARK_EMAILED, batch_id=batch_id)
