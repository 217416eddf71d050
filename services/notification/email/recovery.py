"""After a restore of the database: mails that were under way are dropped."""

from services.notification.email import queries
from services.platform.data.db import Transaction


async def release_mail(tx: Transaction) -> int:
    """Drops the mails of which nobody knows whether they were sent; returns how many.

    The events of their notifications are published again, and cause other mails.
    """
    await tx.run(queries.RELEASE_PREPARED)
    return await tx.run(queries.DELETE_PREPARED)
