"""NATS: the event stream in JetStream, its consumers, and core subjects for what may be lost."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
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

from services.platform.config import Settings

log = structlog.get_logger()

STREAM = "TASKFLOW"
# Core NATS, outside the stream: lost messages cost latency only.
WAKE_RELAY = "wake.relay"

# Within it JetStream drops a repeated Nats-Msg-Id by itself (seconds).
_DEDUPE_WINDOW = 120

_PULL_BATCH = 256
# A pull ends by itself after this time, and the server says that it lives this often (seconds).
_PULL_EXPIRES = 10.0
_PULL_HEARTBEAT = 1.0
_NANOSECONDS = 1_000_000_000

# Failed events come again after these times (seconds), the last of them for all further deliveries.
_BACKOFF = (0.2, 0.5, 1, 2, 5, 10, 20, 30, 60)
# After this many deliveries an event is parked as a dead letter.
MAX_DELIVERIES = 10
_ACK_WAIT = 30.0


class Bus:
    """The process's connection to NATS. Connecting goes on in the background, for ever."""

    def __init__(self, settings: Settings, *, name: str) -> None:
        self._settings = settings
        self._name = name
        self._waking: set[asyncio.Task[None]] = set()
        self.client = Client()
        self.jetstream: JetStreamContext = self.client.jetstream(timeout=5)
        # Counts connections, so that whoever depends on one notices a new one.
        self.connections = 0

    async def connect(self) -> None:
        """Returns once connected; waits as long as it takes."""

        async def connected() -> None:
            self.connections += 1
            log.info("connected to nats")

        async def disconnected() -> None:
            log.warning("disconnected from nats")

        async def failed(error: Exception) -> None:
            log.debug("nats", error=repr(error))

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
        self._waking.add(task)
        task.add_done_callback(self._waking.discard)

    async def _send(self, subject: str, payload: bytes, headers: dict[str, str] | None) -> None:
        try:
            await self.client.publish(subject, payload, headers=headers)
        except nats.errors.Error as error:
            log.debug("not sent", subject=subject, error=repr(error))

    def wake_relay(self) -> None:
        self.send(WAKE_RELAY, b"")

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

    async def pull(self, config: ConsumerConfig) -> AsyncIterator[Msg]:
        """The messages of a consumer, as they come, for ever.

        The consumer is created if it isn't there, and again when it was lost with the server. `config` of an ephemeral
        consumer has no durable_name; it ends when the iteration does. Raises nats.errors.Error when NATS refuses or
        isn't there: start again.
        """
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
                async for message in _batch(inbox):
                    yield message
        finally:
            if not self.client.is_closed:
                await inbox.unsubscribe()

    async def consume(
        self,
        name: str,
        subjects: list[str],
        handle: Callable[[Msg], Awaitable[None]],
        park: Callable[[Msg, str], Awaitable[None]],
    ) -> None:
        """Runs a durable consumer for ever: one event at a time, in order.

        An event is acknowledged after `handle` returned. When it raises, the event comes again later, and the others go
        on; after MAX_DELIVERIES it's handed to `park` with the error, and acknowledged when that returned.
        """
        config = ConsumerConfig(
            durable_name=name,
            filter_subjects=subjects,
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=_ACK_WAIT,
            # We count ourselves: the server would drop an event whose parking fails.
            max_deliver=-1,
            max_ack_pending=4 * _PULL_BATCH,
        )
        while True:
            try:
                async for message in self.pull(config):
                    await self._handle(name, message, handle, park)
            except (nats.errors.Error, OSError, TimeoutError) as error:
                log.warning("consumer starts again", consumer=name, error=repr(error))
                await asyncio.sleep(0.5)

    async def _handle(
        self,
        name: str,
        message: Msg,
        handle: Callable[[Msg], Awaitable[None]],
        park: Callable[[Msg, str], Awaitable[None]],
    ) -> None:
        deliveries = message.metadata.num_delivered
        try:
            await handle(message)
        except Exception as error:
            # The type and place say enough; texts of events stay out of the log.
            log.warning(
                "event failed",
                consumer=name,
                subject=message.subject,
                event_id=event_id(message),
                deliveries=deliveries,
                exc_info=error,
            )
            if deliveries < MAX_DELIVERIES:
                await message.nak(delay=_BACKOFF[min(deliveries, len(_BACKOFF)) - 1])
                return
            try:
                await park(message, f"{type(error).__name__}: {error}")
            except Exception as failure:
                log.error("event can't be parked", consumer=name, exc_info=failure)
                await message.nak(delay=_BACKOFF[-1])
                return
        await message.ack()


async def _batch(inbox: Subscription) -> AsyncIterator[Msg]:
    """The messages of one pull, until it's used up, has expired, or nothing was heard of the server."""
    left = _PULL_BATCH
    while left:
        try:
            message = await inbox.next_msg(timeout=3 * _PULL_HEARTBEAT)
        except TimeoutError:
            return
        status = (message.headers or {}).get("Status")
        if status is None:
            left -= 1
            yield message
        elif status == "100":
            continue
        elif status == "503" or "Consumer Deleted" in (message.headers or {}).get(
            "Description", ""
        ):
            raise nats.js.errors.ServiceUnavailableError
        else:
            return


def event_id(message: Msg) -> str:
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
