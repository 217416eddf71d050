"""After a restore of the database: drops mails that were under way."""

from services.notification.email import queries
from services.platform.data.db import Transaction


async def release_mail(tx: Transaction) -> int:
    """Drops mails that may or may not have been sent; returns the number of mails.

    The relay publishes the events of their notifications again, which cause new mails.
    """
    await tx.run(queries.RELEASE_PREPARED)
    return await tx.run(queries.DELETE_PREPARED)
