"""NATS: the event stream in JetStream, its consumers, and core subjects for what may be lost."""

import asyncio
import json
import math
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
# `taskflow._.replay.<consumer>.<event id>`: a dead letter on its way back to the consumer that failed.
_REPLAY = "taskflow._.replay"

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
_LAG_INTERVAL = 5.0
# Unanswered pings end a connection sooner than this (seconds).
_STALE = 60

Handle = Callable[[Msg], Awaitable[None]]
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

    async def delete_stream(self) -> None:
        """With its consumers, which they make anew by themselves. Does nothing where there is none."""
        with suppress(nats.js.errors.NotFoundError):
            await self.jetstream.delete_stream(STREAM)

    async def pull(self, config: ConsumerConfig) -> AsyncGenerator[Msg, None]:
        """The messages of a consumer, as they come, for ever.

        The consumer is created if it isn't there, and again when it was lost with the server. `config` of an ephemeral
        consumer has no durable_name; it ends when the iteration does. Raises nats.errors.Error when NATS refuses or
        isn't there: start again.
        """
        async with aclosing(self._pull(config, 1)) as batches:
            async for batch in batches:
                yield batch[0]

    async def _pull(self, config: ConsumerConfig, size: int) -> AsyncGenerator[list[Msg], None]:
        """As `pull`, up to `size` at once of those that are here already."""
        consumer = await self.jetstream.add_consumer(STREAM, config)
        inbox = await self.client.subscribe(self.client.new_inbox(), pending_msgs_limit=0)
        request = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{consumer.name}"
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
                if config.durable_name:
                    # Not before: they would come back here.
                    await _give_back(left)

    async def consume(self, name: str, subjects: list[str], handle: Handle, park: Park) -> None:
        """Runs a durable consumer for ever: one event at a time, in order.

        An event is acknowledged after `handle` returned. When it raises, the event comes again later, and the others
        go on; after MAX_DELIVERIES it's handed to `park` with the error, and acknowledged when that returned. While a
        store doesn't answer (errors.is_unavailable), everything waits: no event is to blame for that.
        """

        async def handle_one(batch: list[Msg]) -> None:
            await handle(batch[0])

        await self.consume_batches(name, subjects, handle_one, park, size=1)

    async def consume_batches(
        self, name: str, subjects: list[str], handle: HandleBatch, park: Park, *, size: int
    ) -> None:
        """As `consume`, with up to `size` events at once of those that wait; a single one doesn't wait for more.

        `handle` takes effect for the whole batch or, raising, for none of it; it's called with smaller ones then.
        """
        config = ConsumerConfig(
            durable_name=name,
            filter_subjects=[*subjects, replay_subject(name, "*")],
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=_ACK_WAIT,
            # We count ourselves: the server would drop an event whose parking fails.
            max_deliver=-1,
            # Also those that wait for another try: others have to come past them.
            max_ack_pending=100_000,
        )
        await self._first_connection.wait()
        batch: list[Msg] = []
        while True:
            try:
                async with aclosing(self._pull(config, size)) as batches:
                    async for batch in batches:
                        await self._handle(name, batch, handle, park)
            except asyncio.CancelledError:
                await _give_back(batch)
                raise
            except nats.js.errors.NotFoundError:
                # A new installation: the relay makes the stream.
                log.info("consumer waits for the event stream", consumer=name)
            except (nats.errors.Error, OSError, TimeoutError) as error:
                log.warning("consumer starts again", consumer=name, error=describe(error))
            await asyncio.sleep(0.5)

    async def report_lag(self, name: str) -> None:
        """Tells operators for ever how many events a durable consumer has yet to process."""
        lag = telemetry.CONSUMER_LAG.labels(name)
        while True:
            await asyncio.sleep(_LAG_INTERVAL)
            try:
                info = await self.jetstream.consumer_info(STREAM, name)
            except (nats.errors.Error, OSError, TimeoutError):
                # Unknown; the last figure would look like one of now.
                lag.set(math.nan)
                continue
            lag.set((info.num_pending or 0) + (info.num_ack_pending or 0))

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


def event_id(message: Msg) -> str:
    if message.subject.startswith(f"{_REPLAY}."):
        return message.subject.rpartition(".")[2]
    return (message.headers or {}).get("Nats-Msg-Id", "")


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
