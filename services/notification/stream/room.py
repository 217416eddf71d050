"""Open WatchNotifications streams, as the hub sees them: a Reader is one stream, a Room is one user's feed."""

import asyncio
from collections import deque
from uuid import UUID

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from services.notification.stream.messages import SEQUENCE_HEADER, Position

# Messages that wait for a slow reader. With more of them it reads the database instead.
_MOST_PENDING = 64


class Reader:
    """One open stream. Its flags say what it has to do next; `awake` is set when there is something to do."""

    __slots__ = ("awake", "beat", "behind", "epoch", "lost", "pending", "sequence")

    def __init__(self) -> None:
        self.awake = asyncio.Event()
        # Live messages with their sequences.
        self.pending: deque[tuple[int, bytes]] = deque()
        # The last change sent. The sequence is negative until the stream has started.
        self.epoch = ""
        self.sequence = -1
        # The database has changes that aren't pending here.
        self.behind = False
        # The database doesn't know the reader's position.
        self.lost = False
        # It's time for a heartbeat.
        self.beat = False

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.sequence)

    def start(self, at: Position) -> None:
        self.epoch, self.sequence = at.epoch, at.sequence

    def offer(self, sequence: int, message: bytes) -> None:
        if len(self.pending) < _MOST_PENDING:
            self.pending.append((sequence, message))
        else:
            self.pending.clear()
            self.behind = True
        self.awake.set()


class Room:
    """What the readers of one user's feed share."""

    __slots__ = ("head", "listening", "readers", "slot", "subscribing", "subscription", "user_id")

    def __init__(self, user_id: UUID, slot: int) -> None:
        self.user_id = user_id
        # The tick of heartbeats and repairs that this room belongs to.
        self.slot = slot
        self.readers: set[Reader] = set()
        self.subscription: Subscription | None = None
        self.subscribing = asyncio.Lock()
        # Whether NATS has confirmed the subscription.
        self.listening = False
        # The highest sequence that this process has seen.
        self.head = 0

    def compare(self, head: Position, known: int) -> None:
        """Wakes the readers that are behind the database.

        `head` is the database's last sequence; `known` is the highest one that this process had seen before the query.
        """
        # Only a database that was restored to an earlier state has fewer changes.
        went_back = head.sequence < known
        self.head = head.sequence if went_back else max(self.head, head.sequence)
        for reader in self.readers:
            if reader.sequence < 0:
                continue
            if reader.epoch != head.epoch or (went_back and reader.sequence > head.sequence):
                reader.lost = True
                reader.awake.set()
            elif reader.sequence < head.sequence and not reader.pending:
                reader.behind = True
                reader.awake.set()

    async def deliver(self, message: Msg) -> None:
        """Offers a live message to all readers."""
        sequence = int((message.headers or {}).get(SEQUENCE_HEADER, 0))
        self.head = max(self.head, sequence)
        for reader in self.readers:
            reader.offer(sequence, message.data)
