"""After a restore of the database: the relay publishes the whole outbox again, on a new stream."""

from services.platform.data.db import Transaction
from services.platform.data.tables import RECREATE_STREAM
from services.platform.events import relay_queries as queries


async def publish_again(tx: Transaction) -> int:
    """Marks all events of the outbox for publishing on a new stream; returns how many were published before.

    This includes events older than `event_retention`: a backup doesn't show which of them consumers had yet to process.
    """
    await tx.run(queries.WITHOUT_TIME_LIMIT)
    count = await tx.run(queries.UNMARK_ALL)
    await tx.run(queries.SET_POSITION, created=RECREATE_STREAM, sequence=0)
    return count
