"""Pulling messages from a JetStream consumer with one open request at a time (docs/adr/0005)."""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from services.platform.events.bus import Bus
from services.platform.events.subjects import STREAM

# Messages per request: few enough to process all of them well within the ack wait, even if each starts a workflow.
_REQUEST_SIZE = 64
# NATS ends a pull request after this time (seconds).
_REQUEST_EXPIRES = 10.0
# NATS sends a heartbeat at this interval (seconds). After three intervals without one it counts as silent.
_HEARTBEAT = 1.0
_NANOSECONDS = 1_000_000_000
# JetStream deletes an ephemeral consumer this long (seconds) after its reader has gone.
_READER_LIFETIME = 30.0


def ordered(subjects: list[str], start_sequence: int) -> ConsumerConfig:
    """An ephemeral consumer that reads in order from a stream sequence on, without acknowledging."""
    return ConsumerConfig(
        filter_subjects=subjects,
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
        opt_start_seq=start_sequence,
        ack_policy=AckPolicy.NONE,
        mem_storage=True,
        inactive_threshold=_READER_LIFETIME,
        num_replicas=1,
    )


async def messages(bus: Bus, config: ConsumerConfig) -> AsyncGenerator[Msg, None]:
    """Yields the messages of an ephemeral consumer of the event stream for ever.

    Creates the consumer if it doesn't exist. Raises nats.errors.Error when NATS refuses or disappears; the caller then
    starts again.
    """
    async with aclosing(batches(bus, config, 1)) as singles:
        async for batch in singles:
            yield batch[0]


async def batches(bus: Bus, config: ConsumerConfig, size: int) -> AsyncGenerator[list[Msg], None]:
    """Yields batches as `messages` yields single messages: those that have arrived, up to `size` at once."""
    consumer = await bus.jetstream.add_consumer(STREAM, config)
    pulled = batches_of(bus, STREAM, consumer.name, size, durable=False)
    async with aclosing(pulled):
        async for batch in pulled:
            yield batch


async def batches_of(
    bus: Bus,
    stream: str,
    name: str,
    size: int,
    *,
    durable: bool,
    ready: Callable[[], Awaitable[None]] | None = None,
) -> AsyncGenerator[list[Msg], None]:
    """As `batches`, of a consumer that exists. At the end a durable consumer gets unread messages back.

    Each request for messages waits for `ready`.
    """
    inbox = await bus.client.subscribe(bus.client.new_inbox(), pending_msgs_limit=0)
    request = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}"
    body = json.dumps(
        {
            "batch": _REQUEST_SIZE,
            "expires": int(_REQUEST_EXPIRES * _NANOSECONDS),
            "idle_heartbeat": int(_HEARTBEAT * _NANOSECONDS),
        }
    ).encode()
    try:
        while True:
            if ready is not None:
                await ready()
            await bus.client.publish(request, body, reply=inbox.subject)
            async with aclosing(_answers(inbox, size)) as answers:
                async for batch in answers:
                    yield batch
    finally:
        if not bus.client.is_closed:
            unread = [await inbox.next_msg(timeout=1) for _ in range(inbox.pending_msgs)]
            await inbox.unsubscribe()
            if durable:
                # Runs after unsubscribing: earlier, JetStream would deliver the messages to this inbox again.
                await give_back(unread)


async def _answers(inbox: Subscription, size: int) -> AsyncGenerator[list[Msg], None]:
    """Yields the messages of one request until the request is complete or has expired, or NATS is silent."""
    left = _REQUEST_SIZE
    batch: list[Msg] = []
    while left:
        if batch and (len(batch) == size or not inbox.pending_msgs):
            yield batch
            batch = []
        try:
            message = await inbox.next_msg(timeout=3 * _HEARTBEAT)
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


async def give_back(messages: list[Msg]) -> None:
    """Returns unprocessed messages, so that JetStream delivers them to another process before the ack wait ends."""
    for message in messages:
        with suppress(nats.errors.Error):
            await message.nak()
