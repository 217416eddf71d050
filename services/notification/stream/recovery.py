"""After a restore of the database: resets all WatchNotifications streams."""

from services.notification.stream import queries
from services.platform.data.db import Transaction


async def reset_streams(tx: Transaction) -> None:
    """Makes earlier cursors invalid: they may name sequences that the restored database uses again."""
    await tx.run(queries.RENEW_EPOCH)
