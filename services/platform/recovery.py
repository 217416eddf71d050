"""After the database was put back: the outbox is to be published again, on a stream that holds nothing else."""

from sqlalchemy import Text, bindparam, text, update
from sqlalchemy.dialects.postgresql import insert

from services.platform.bus import STREAM
from services.platform.db import Statement, Transaction
from services.platform.tables import ANY_STREAM_GOES, outbox, relay_position

# A week of events may take minutes.
_WITHOUT_LIMIT = Statement(text("SET LOCAL statement_timeout = 0"))
_UNMARK_ALL = Statement(
    update(outbox)
    .where(outbox.c.published_at.is_not(None))
    .values(published_at=None, stream_sequence=None)
)
_position = insert(relay_position).values(
    stream=STREAM, stream_created=bindparam("created", type_=Text), last_sequence=0
)
_GIVE_UP_STREAM = Statement(
    _position.on_conflict_do_update(
        index_elements=["stream"],
        set_={"stream_created": _position.excluded.stream_created, "last_sequence": 0},
    )
)


async def publish_again(tx: Transaction) -> int:
    """Has the relay begin a new stream with all events that the outbox holds; returns how many.

    All of them, however long ago they were published: what consumers had yet to process when the backup was made isn't
    known, and by now it may be older than `event_retention`.
    """
    await tx.run(_WITHOUT_LIMIT)
    count = await tx.run(_UNMARK_ALL)
    await tx.run(_GIVE_UP_STREAM, created=ANY_STREAM_GOES)
    return count
