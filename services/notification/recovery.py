"""After the database was put back: streams are reset, and mail that was under way is made again."""

from sqlalchemy import delete, func, select, update

from services.notification.models import email_batches, epochs, notifications
from services.platform.db import Statement, Transaction

_RENEW_EPOCH = Statement(update(epochs).values(id=func.gen_random_uuid()))
_prepared = email_batches.c.state == "PREPARED"
_RELEASE = Statement(
    update(notifications)
    .where(notifications.c.email_batch_id.in_(select(email_batches.c.id).where(_prepared)))
    .values(email_batch_id=None)
)
_DROP = Statement(delete(email_batches).where(_prepared))


async def reset_streams(tx: Transaction) -> None:
    """No cursor that was handed out before can be continued: it may lie in a future that never was."""
    await tx.run(_RENEW_EPOCH)


async def release_mail(tx: Transaction) -> int:
    """Lets go of mails of which nobody knows whether they were sent; returns of how many.

    The events of their notifications, published again, make others of them.
    """
    await tx.run(_RELEASE)
    return await tx.run(_DROP)
