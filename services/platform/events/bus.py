"""The process's connection to NATS, and the streams on it."""

import asyncio
from contextlib import suppress

import nats.errors
import nats.js.errors
import structlog
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
    StreamInfo,
)

from services.platform.config import Settings
from services.platform.events import nats_connection
from services.platform.events.subjects import STREAM, copies_stream, copy_subject
from services.platform.observe.redaction import describe

log = structlog.get_logger()

# Subject that wakes the relay. It is on core NATS, outside the stream: a lost message only delays publishing.
WAKE_RELAY = "wake.relay"
# The least time between two wake-ups of the relay (seconds). The relay takes longer than that for a batch.
_WAKE_INTERVAL = 0.005

# JetStream drops a repeated Nats-Msg-Id within this window (seconds).
_DEDUPE_WINDOW = 120
# JetStream delivers an event again when it wasn't acknowledged within this time (seconds), as after a kill.
_ACK_WAIT = 8.0
# The most unacknowledged events of one consumer: many, because events that wait for a retry must not block others.
_MAX_ACK_PENDING = 100_000
# The server answers pings more often than this (seconds), or the connection is closed.
_STALE = 60


class Bus:
    """A connection to NATS that reconnects for ever."""

    def __init__(self, settings: Settings, *, name: str) -> None:
        self.settings = settings
        self._name = name
        self._sending: set[asyncio.Task[None]] = set()
        # Timer for the shortest interval between two wake-ups of the relay. `_wake_again`: wake it again at its end.
        self._waking: asyncio.TimerHandle | None = None
        self._wake_again = False
        self.client = nats_connection.NatsClient()
        self.jetstream: JetStreamContext = self.client.jetstream(timeout=5)
        # Counts connections, so that code which relies on one connection notices a reconnection.
        self.connections = 0
        self.first_connection = asyncio.Event()

    async def connect(self) -> None:
        """Connects, and tries until NATS accepts the connection."""

        async def connected() -> None:
            self.connections += 1
            self.first_connection.set()
            log.info("connected to nats")

        async def disconnected() -> None:
            log.warning("disconnected from nats")

        async def failed(error: Exception) -> None:
            log.debug("nats", error=describe(error))

        await nats_connection.connect(
            self.client,
            self.settings,
            name=self._name,
            connected=connected,
            disconnected=disconnected,
            failed=failed,
        )

    @property
    def connected(self) -> bool:
        return self.client.is_connected

    async def close(self) -> None:
        # nats-py can't close a client that never connected, and such a client holds nothing.
        if self.connections:
            await self.client.close()

    def send(self, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> None:
        """Sends a message on core NATS without waiting; drops it while disconnected."""
        if not self.connected:
            return
        task = asyncio.ensure_future(self._send(subject, payload, headers))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, subject: str, payload: bytes, headers: dict[str, str] | None) -> None:
        try:
            await self.client.publish(subject, payload, headers=headers)
        except nats.errors.Error as error:
            log.debug("not sent", subject=subject, error=describe(error))

    async def flush(self, timeout: float) -> None:
        """Waits until NATS has received all sent messages. Raises TimeoutError and nats.errors.Error.

        The flush goes on after the time limit. If nats-py gets a pong that no flush waits for, it stops reading. The
        process would then receive nothing until the connection counts as stale.
        """
        flushing = asyncio.ensure_future(self.client.flush(_STALE))
        self._sending.add(flushing)
        flushing.add_done_callback(self._sending.discard)
        async with asyncio.timeout(timeout):
            await asyncio.shield(flushing)

    def wake_relay(self) -> None:
        """Wakes the relay at once, or at the end of the interval if this process woke it just before."""
        if self._waking is not None:
            self._wake_again = True
            return
        self.send(WAKE_RELAY, b"")
        self._waking = asyncio.get_running_loop().call_later(_WAKE_INTERVAL, self._interval_over)

    def _interval_over(self) -> None:
        self._waking = None
        if self._wake_again:
            self._wake_again = False
            self.wake_relay()

    async def ensure_stream(self) -> StreamInfo:
        """Creates the event stream, or updates its limits to the settings. Returns its present state."""
        settings = self.settings
        config = StreamConfig(
            name=STREAM,
            subjects=["taskflow.>"],
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
            max_age=settings.event_retention,
            max_bytes=settings.event_stream_bytes,
            num_replicas=settings.event_stream_replicas,
            duplicate_window=_DEDUPE_WINDOW,
            allow_direct=True,
        )
        try:
            return await self.jetstream.add_stream(config)
        except nats.js.errors.BadRequestError:
            return await self.jetstream.update_stream(config)

    async def delete_stream(self, name: str = STREAM) -> None:
        """Deletes the stream with its consumers, if it exists."""
        with suppress(nats.js.errors.NotFoundError):
            await self.jetstream.delete_stream(name)

    async def add_durable(self, name: str, subjects: list[str], after: int) -> None:
        """Creates a durable consumer of the event stream that begins after a sequence. Only the relay calls this."""
        await self.jetstream.add_consumer(STREAM, _durable(name, subjects, after))

    async def make_copies_stream(self, consumer: str) -> StreamInfo:
        """Creates an empty stream for copies of events, with the consumer on it. Only the relay calls this.

        JetStream deletes acknowledged messages there, so the stream holds what the consumer has yet to process.
        """
        name, subjects = copies_stream(consumer), [copy_subject(consumer, "*")]
        await self.delete_stream(name)
        info = await self.jetstream.add_stream(
            StreamConfig(
                name=name,
                subjects=subjects,
                retention=RetentionPolicy.WORK_QUEUE,
                storage=StorageType.FILE,
                num_replicas=self.settings.event_stream_replicas,
            )
        )
        await self.jetstream.add_consumer(name, _durable(consumer, subjects, 0))
        return info


def _durable(name: str, subjects: list[str], after: int) -> ConsumerConfig:
    return ConsumerConfig(
        durable_name=name,
        filter_subjects=subjects,
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE if after else DeliverPolicy.ALL,
        opt_start_seq=after + 1 if after else None,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=_ACK_WAIT,
        # The consumer counts deliveries itself: the server would drop an event whose parking fails.
        max_deliver=-1,
        max_ack_pending=_MAX_ACK_PENDING,
    )
