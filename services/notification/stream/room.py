"""Open WatchNotifications streams, as the hub sees them: a Reader is one stream, a Room is one user's feed."""

import asyncio
from collections import deque
from uuid import UUID

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from services.notification.stream.messages import SEQUENCE_HEADER, Position

# The most live messages that wait for a slow reader. A reader with more of them reads the database instead.
_MOST_PENDING = 64


class Reader:
    """One open stream. Its flags say what the stream has to do next; `awake` is set when a flag or message arrives."""

    __slots__ = ("awake", "beat", "behind", "epoch", "lost", "pending", "sequence")

    def __init__(self) -> None:
        self.awake = asyncio.Event()
        # Live messages to send, with their sequences.
        self.pending: deque[tuple[int, bytes]] = deque()
        # The position of the last change sent. The sequence is negative until the stream has started.
        self.epoch = ""
        self.sequence = -1
        # Whether the database has changes that aren't in `pending`.
        self.behind = False
        # Whether the database doesn't know the reader's position, so that the stream needs a reset.
        self.lost = False
        # Whether it's time to send a heartbeat.
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
    """The state that all readers of one user's feed share."""

    __slots__ = ("head", "listening", "readers", "slot", "subscribing", "subscription", "user_id")

    def __init__(self, user_id: UUID, slot: int) -> None:
        self.user_id = user_id
        # The tick, within a heartbeat interval, at which the room's readers get their heartbeats.
        self.slot = slot
        self.readers: set[Reader] = set()
        self.subscription: Subscription | None = None
        self.subscribing = asyncio.Lock()
        # Whether NATS has confirmed the subscription.
        self.listening = False
        # The highest sequence of the feed that this process has seen.
        self.head = 0

    def compare(self, head: Position, known: int) -> None:
        """Wakes readers that are behind the database, or whose position it doesn't know.

        `head` is the feed's last position in the database. `known` is the highest sequence that this process had seen
        before it queried the database.
        """
        # Only a database that was restored to an earlier state has a lower sequence.
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
        """Gives a live message from NATS to all readers of the room."""
        sequence = int((message.headers or {}).get(SEQUENCE_HEADER, 0))
        self.head = max(self.head, sequence)
        for reader in self.readers:
            reader.offer(sequence, message.data)
