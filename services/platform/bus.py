"""NATS: the event stream in JetStream, its consumers, and core subjects for what may be lost."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from datetime import timedelta

import nats
import nats.errors
import nats.js.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
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

from services.platform import telemetry, tracing
from services.platform.config import Settings
from services.platform.errors import is_unavailable
from services.platform.redaction import describe

log = structlog.get_logger()

STREAM = "TASKFLOW"
# Core NATS, outside the stream: lost messages cost latency only.
WAKE_RELAY = "wake.relay"
# Between two of these, of commits that follow each other closely (seconds); the relay takes longer for a batch.
_WAKE_INTERVAL = 0.005
# A request to the active relay to keep a durable consumer: {"name", "subjects"}. It answers once it does.
KEEP_CONSUMER = "relay.keep_consumer"
# Between two requests, while no relay is active, and how long one waits for its answer (seconds).
_KEEP_INTERVAL = 1.0
# `taskflow._.replay.<consumer>.<event id>`: a dead letter on its way back to the consumer that failed.
_REPLAY = "taskflow._.replay"
# `copies.<consumer>.<event id>`, outside the event stream: an event that its consumer would have missed there.
_COPIES = "copies"

# Within it JetStream drops a repeated Nats-Msg-Id by itself (seconds).
_DEDUPE_WINDOW = 120

# Few enough that the last of them is had well before _ACK_WAIT, when each takes a start of a workflow.
_PULL_BATCH = 64
# A pull ends by itself after this time, and the server says that it lives this often (seconds).
_PULL_EXPIRES = 10.0
_PULL_HEARTBEAT = 1.0
_NANOSECONDS = 1_000_000_000

# Failed events come again after these times (seconds), the last of them for all further deliveries.
_BACKOFF = (0.2, 0.5, 1, 2, 5, 10, 20, 30, 60)
# After this many deliveries an event is parked as a dead letter.
MAX_DELIVERIES = 10
# Events that a killed process had taken come again after this time (seconds).
_ACK_WAIT = 8.0
# How long a consumer waits for a store that doesn't answer before it tries again (seconds).
_UNAVAILABLE_PAUSE = 0.5
# A statement that ran into its time limit: the event may be the reason, and must not block the others.
_QUERY_CANCELED = "57014"
# Unanswered pings end a connection sooner than this (seconds).
_STALE = 60

HandleBatch = Callable[[list[Msg]], Awaitable[None]]
# Keeps an event with what went wrong.
Park = Callable[[Msg, str], Awaitable[None]]


class PoisonEvent(Exception):
    """An event that can't be processed. Its text is kept with the dead letter: no personal data in it."""


class Bus:
    """The process's connection to NATS. Connecting goes on in the background, for ever."""

    def __init__(self, settings: Settings, *, name: str) -> None:
        self._settings = settings
        self._name = name
        self._sending: set[asyncio.Task[None]] = set()
        # Until when the relay isn't woken again, and whether it has to be then.
        self._waking: asyncio.TimerHandle | None = None
        self._wake_again = False
        self.client = Client()
        self.jetstream: JetStreamContext = self.client.jetstream(timeout=5)
        # Counts connections, so that whoever depends on one notices a new one.
        self.connections = 0
        self._first_connection = asyncio.Event()

    async def connect(self) -> None:
        """Returns once connected; waits as long as it takes."""

        async def connected() -> None:
            self.connections += 1
            self._first_connection.set()
            log.info("connected to nats")

        async def disconnected() -> None:
            log.warning("disconnected from nats")

        async def failed(error: Exception) -> None:
            log.debug("nats", error=describe(error))

        await self.client.connect(
            self._settings.nats,
            name=f"taskflow-{self._name}",
            allow_reconnect=True,
            max_reconnect_attempts=-1,
            # Annotated as int, used as seconds of any kind.
            reconnect_time_wait=0.5,  # type: ignore[arg-type]
            connect_timeout=2,
            ping_interval=10,
            max_outstanding_pings=2,
            reconnected_cb=connected,
            disconnected_cb=disconnected,
            error_cb=failed,
        )
        await connected()

    @property
    def connected(self) -> bool:
        return self.client.is_connected

    async def close(self) -> None:
        await self.client.close()

    def send(self, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> None:
        """Fire and forget on core NATS: nobody waits for it, and while disconnected it's dropped."""
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
        """Returns once the server has taken in what was sent to it. Raises TimeoutError and nats.errors.Error.

        A caller may give up, the flush itself never does: nats-py stops reading from the connection when an answer
        comes that nobody waits for, and this process would hear nothing until it's found stale.
        """
        flushing = asyncio.ensure_future(self.client.flush(_STALE))
        self._sending.add(flushing)
        flushing.add_done_callback(self._sending.discard)
        async with asyncio.timeout(timeout):
            await asyncio.shield(flushing)

    def wake_relay(self) -> None:
        """At once, or with others at the end of the interval."""
        if self._waking is not None:
            self._wake_again = True
            return
        self.send(WAKE_RELAY, b"")
        self._waking = asyncio.get_running_loop().call_later(_WAKE_INTERVAL, self._woken)

    def _woken(self) -> None:
        self._waking = None
        if self._wake_again:
            self._wake_again = False
            self.wake_relay()

    async def ensure_stream(self) -> StreamInfo:
        """Creates the event stream, or brings its limits to the settings; returns what it is now."""
        settings = self._settings
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
        """With its consumers. Does nothing where there is none."""
        with suppress(nats.js.errors.NotFoundError):
            await self.jetstream.delete_stream(name)

    async def add_durable(self, name: str, subjects: list[str], after: int) -> None:
        """Creates a durable consumer of the event stream that begins behind a sequence. Only the relay does this."""
        await self.jetstream.add_consumer(STREAM, _durable(name, subjects, after))

    async def make_copies_stream(self, name: str) -> StreamInfo:
        """An empty stream for events that this consumer missed, with the consumer on it. Only the relay does this.

        An acknowledged message is deleted, so what the stream holds is what the consumer has yet to process.
        """
        stream = copies_stream(name)
        await self.delete_stream(stream)
        info = await self.jetstream.add_stream(
            StreamConfig(
                name=stream,
                subjects=[f"{_COPIES}.{name}.*"],
                retention=RetentionPolicy.WORK_QUEUE,
                storage=StorageType.FILE,
                num_replicas=self._settings.event_stream_replicas,
            )
        )
        await self.jetstream.add_consumer(stream, _durable(name, [f"{_COPIES}.{name}.*"], 0))
        return info

    async def pull(self, config: ConsumerConfig) -> AsyncGenerator[Msg, None]:
        """The messages of an ephemeral consumer for ever, as they come.

        The consumer is created if it isn't there, and ends when the iteration does. Raises nats.errors.Error when NATS
        refuses or isn't there: start again.
        """
        async with aclosing(self.pull_batches(config, 1)) as batches:
            async for batch in batches:
                yield batch[0]

    async def pull_batches(
        self, config: ConsumerConfig, size: int
    ) -> AsyncGenerator[list[Msg], None]:
        """As `pull`, up to `size` messages at once of those that are here already."""
        consumer = await self.jetstream.add_consumer(STREAM, config)
        async with aclosing(self._pull(STREAM, consumer.name, size, durable=False)) as batches:
            async for batch in batches:
                yield batch

    async def _pull(
        self, stream: str, name: str, size: int, *, durable: bool
    ) -> AsyncGenerator[list[Msg], None]:
        """As `pull`, of a consumer that exists. What the iteration leaves of a durable one is given back."""
        inbox = await self.client.subscribe(self.client.new_inbox(), pending_msgs_limit=0)
        request = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}"
        body = json.dumps(
            {
                "batch": _PULL_BATCH,
                "expires": int(_PULL_EXPIRES * _NANOSECONDS),
                "idle_heartbeat": int(_PULL_HEARTBEAT * _NANOSECONDS),
            }
        ).encode()
        try:
            while True:
                await self.client.publish(request, body, reply=inbox.subject)
                async with aclosing(_batches(inbox, size)) as batches:
                    async for batch in batches:
                        yield batch
        finally:
            if not self.client.is_closed:
                left = [await inbox.next_msg(timeout=1) for _ in range(inbox.pending_msgs)]
                await inbox.unsubscribe()
                if durable:
                    # Not before: they would come back here.
                    await _give_back(left)

    async def consume_batches(
        self, name: str, subjects: list[str], handle: HandleBatch, park: Park, *, size: int
    ) -> None:
        """Runs a durable consumer for ever, in order, with up to `size` events at once of those that wait.

        `handle` takes effect for the whole batch or, raising, for none of it; it's called with smaller ones then. Each
        event is acknowledged after `handle` returned. When it raises for one event, that comes again later, and the
        others go on; after MAX_DELIVERIES it's handed to `park` with the error, and acknowledged when that returned.
        While a store doesn't answer (errors.is_unavailable), everything waits: no event is to blame for that.

        The relay creates the consumer, and serves it from the outbox while it can't follow the stream (consumers.py).
        """
        await self._first_connection.wait()
        filters = [*subjects, replay_subject(name, "*")]
        keeping = asyncio.ensure_future(self._have_kept(name, filters))
        batch: list[Msg] = []
        try:
            # First, so that the relay knows of a gap before the consumer goes on behind it. Without one there is no
            # gap to come: nobody publishes.
            await asyncio.wait([keeping], timeout=_KEEP_INTERVAL)
            while True:
                try:
                    stream = await self._stream_of(name)
                    async with aclosing(self._pull(stream, name, size, durable=True)) as batches:
                        async for batch in batches:
                            await self._handle(name, batch, handle, park)
                except nats.js.errors.NotFoundError:
                    # The relay makes the stream and the consumer.
                    log.info("consumer waits for the relay", consumer=name)
                except (nats.errors.Error, OSError, TimeoutError) as error:
                    log.warning("consumer starts again", consumer=name, error=describe(error))
                await asyncio.sleep(0.5)
        except asyncio.CancelledError:
            await _give_back(batch)
            raise
        finally:
            keeping.cancel()

    async def _have_kept(self, name: str, subjects: list[str]) -> None:
        """Asks for the consumer until a relay has answered: from then on the relay knows it."""
        request = json.dumps({"name": name, "subjects": subjects}).encode()
        while True:
            try:
                await self.client.request(KEEP_CONSUMER, request, timeout=_KEEP_INTERVAL)
                return
            except (nats.errors.Error, OSError, TimeoutError):
                await asyncio.sleep(_KEEP_INTERVAL)

    async def _stream_of(self, name: str) -> str:
        """Where the durable consumer is: on the event stream, or on that of its copies. Raises NotFoundError."""
        try:
            await self.jetstream.consumer_info(STREAM, name)
            return STREAM
        except nats.js.errors.NotFoundError:
            await self.jetstream.consumer_info(copies_stream(name), name)
            return copies_stream(name)

    async def _handle(self, name: str, batch: list[Msg], handle: HandleBatch, park: Park) -> None:
        error = await self._attempt(name, batch, handle)
        if error is None:
            telemetry.EVENTS_CONSUMED.labels(name, "done").inc(len(batch))
            for message in batch:
                await message.ack()
        elif len(batch) > 1:
            # Halving finds a bad event among n in about 2 log n attempts; the others need no more than that.
            middle = len(batch) // 2
            await self._handle(name, batch[:middle], handle, park)
            await self._handle(name, batch[middle:], handle, park)
        else:
            await self._failed(name, batch[0], error, park)

    async def _attempt(self, name: str, batch: list[Msg], handle: HandleBatch) -> Exception | None:
        """What the events failed with, if they did. Tries for as long as a store doesn't answer."""
        while True:
            try:
                with tracing.consuming(name, (message.data for message in batch)):
                    await handle(batch)
                return None
            except Exception as error:
                state = getattr(error, "sqlstate", None)
                if not is_unavailable(error) or state == _QUERY_CANCELED:
                    return error
                log.warning("consumer waits", consumer=name, error=type(error).__name__)
            await asyncio.sleep(_UNAVAILABLE_PAUSE)
            for message in batch:
                await message.in_progress()

    async def _failed(self, name: str, message: Msg, error: Exception, park: Park) -> None:
        deliveries = message.metadata.num_delivered
        # Not the exception's text: it can quote the event's.
        log.warning(
            "event failed",
            consumer=name,
            subject=message.subject,
            event_id=event_id(message),
            deliveries=deliveries,
            error=describe(error),
        )
        if deliveries < MAX_DELIVERIES:
            telemetry.EVENTS_CONSUMED.labels(name, "failed").inc()
            pause = _BACKOFF[min(deliveries, len(_BACKOFF)) - 1]
            await message.nak(delay=min(pause, self._settings.event_retry_pause))
            return
        try:
            await park(message, describe(error))
        except Exception as failure:
            log.error("event can't be parked", consumer=name, error=describe(failure))
            await message.nak(delay=min(_BACKOFF[-1], self._settings.event_retry_pause))
            return
        telemetry.EVENTS_CONSUMED.labels(name, "parked").inc()
        await message.ack()


async def _give_back(messages: list[Msg]) -> None:
    """Lets other processes have the events at once that this one won't work on; else they wait for _ACK_WAIT."""
    for message in messages:
        with suppress(nats.errors.Error):
            await message.nak()


async def _batches(inbox: Subscription, size: int) -> AsyncGenerator[list[Msg], None]:
    """The messages of one pull, until it's used up, has expired, or nothing was heard of the server."""
    left = _PULL_BATCH
    batch: list[Msg] = []
    while left:
        if batch and (len(batch) == size or not inbox.pending_msgs):
            yield batch
            batch = []
        try:
            message = await inbox.next_msg(timeout=3 * _PULL_HEARTBEAT)
        except TimeoutError:
            break
        headers = message.headers or {}
        status = headers.get("Status")
        if status is None:
            left -= 1
            batch.append(message)
        elif status == "503" or "Consumer Deleted" in headers.get("Description", ""):
            if batch:
                yield batch
            raise nats.js.errors.ServiceUnavailableError
        elif status != "100":
            break
    if batch:
        yield batch


def replay_subject(consumer: str, event_id: str) -> str:
    """Where a dead letter is published for its consumer alone. Filters of workspaces' events don't match it."""
    return f"{_REPLAY}.{consumer}.{event_id}"


def copy_subject(consumer: str, event_id: str) -> str:
    """Where the relay publishes an event for a consumer that would have missed it in the event stream."""
    return f"{_COPIES}.{consumer}.{event_id}"


def copies_stream(consumer: str) -> str:
    return f"{STREAM}-{consumer}"


def event_id(message: Msg) -> str:
    if message.subject.startswith((f"{_REPLAY}.", f"{_COPIES}.")):
        return message.subject.rpartition(".")[2]
    return (message.headers or {}).get("Nats-Msg-Id", "")


def _durable(name: str, subjects: list[str], after: int) -> ConsumerConfig:
    return ConsumerConfig(
        durable_name=name,
        filter_subjects=subjects,
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE if after else DeliverPolicy.ALL,
        opt_start_seq=after + 1 if after else None,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=_ACK_WAIT,
        # We count ourselves: the server would drop an event whose parking fails.
        max_deliver=-1,
        # Also those that wait for another try: others have to come past them.
        max_ack_pending=100_000,
    )


def ordered(subjects: list[str], start_sequence: int) -> ConsumerConfig:
    """A consumer that only reads, from a stream sequence on, and vanishes with its reader."""
    return ConsumerConfig(
        filter_subjects=subjects,
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
        opt_start_seq=start_sequence,
        ack_policy=AckPolicy.NONE,
        mem_storage=True,
        inactive_threshold=timedelta(seconds=30).total_seconds(),
        num_replicas=1,
    )
