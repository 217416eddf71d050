"""A durable consumer: handles events in batches, halves a failed batch, retries, and parks dead letters."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass

import nats.errors
import nats.js.errors
import structlog
from nats.aio.msg import Msg

from services.platform.background import run_background
from services.platform.events import pull
from services.platform.events.bus import Bus
from services.platform.events.subjects import STREAM, copies_stream, event_id, replay_subject
from services.platform.events.turns import ReadAhead
from services.platform.observe import metrics, tracing
from services.platform.observe.redaction import describe
from services.platform.rpc.errors import is_unavailable

log = structlog.get_logger()

# Asks the active relay to keep a durable consumer: {"name", "subjects"}. The relay answers once the consumer exists.
KEEP_CONSUMER = "relay.keep_consumer"
# Seconds to wait for the relay's answer, and between two requests while no relay answers.
_KEEP_INTERVAL = 1.0

# JetStream delivers a failed event again after these pauses (seconds); the last pause holds for all further deliveries.
_BACKOFF = (0.2, 0.5, 1, 2, 5, 10, 20, 30, 60)
# The consumer parks an event that failed this often.
MAX_DELIVERIES = 10
# Pause before the consumer retries a batch while a store such as Postgres doesn't answer (seconds).
_UNAVAILABLE_PAUSE = 0.5
# Pause before the consumer binds again after an error (seconds).
_RESTART_PAUSE = 0.5
# The consumer reports progress at this interval (seconds), because JetStream redelivers a silent event after 8 s.
_PROGRESS_INTERVAL = 2.5
# Events whose progress is reported between two chances for other tasks to run.
_REPORTED_AT_ONCE = 100
# SQLSTATE of a statement that exceeded its time limit. The event may be the cause, so it's tried like any failed one.
_QUERY_CANCELED = "57014"

HandleBatch = Callable[[list[Msg]], Awaitable[None]]
# Stores an event as a dead letter, with the error.
Park = Callable[[Msg, str], Awaitable[None]]


class PoisonEvent(Exception):
    """Raised for an event that can't be processed. The dead letter shows its text: no personal data in it."""


@dataclass(frozen=True)
class DurableConsumer:
    """Processes the events of a durable consumer; any number of processes share one.

    Workspaces take turns. Events of one workspace are processed in order.

    `handle` takes effect for the whole batch, or it raises and has no effect; the consumer then calls it with smaller
    batches. The consumer acknowledges events after `handle` has returned. JetStream delivers an event that fails alone
    again later, while other events go on. After MAX_DELIVERIES the consumer calls `park` and acknowledges the event.
    While a store doesn't answer (errors.is_unavailable), the consumer waits, and no delivery counts as failed.

    The relay creates the consumer, and feeds it from the outbox while it can't follow the stream (consumers.py).
    """

    bus: Bus
    name: str
    subjects: list[str]
    handle: HandleBatch
    park: Park
    # The most events in a batch.
    size: int
    # Events that are read ahead at most. Among them workspaces take turns; behind them everybody waits.
    read_ahead: int = 250

    async def run(self) -> None:
        """Processes events for ever. When cancelled, it returns the batch under way to JetStream."""
        await self.bus.first_connection.wait()
        events = ReadAhead(self.read_ahead)
        registering = asyncio.ensure_future(self._register())
        try:
            # The relay has to see events that the consumer missed before the consumer reads later ones. While no relay
            # runs, nothing is published, so the consumer can't miss more.
            await asyncio.wait([registering], timeout=_KEEP_INTERVAL)
            await run_background(
                [self._read(events), _report_progress(events)], self._process_all(events)
            )
        finally:
            registering.cancel()
            await pull.give_back(events.unacknowledged())

    async def _read(self, events: ReadAhead) -> None:
        """Reads ahead for ever. The events that were read stay valid when the consumer has to bind again."""
        while True:
            try:
                pulled = pull.batches_of(
                    self.bus,
                    await self._stream(),
                    self.name,
                    self.size,
                    durable=True,
                    ready=events.wait_for_room,
                )
                async with aclosing(pulled):
                    async for batch in pulled:
                        events.add(batch)
            except nats.js.errors.NotFoundError:
                log.info("consumer waits for the relay", consumer=self.name)
            except (nats.errors.Error, OSError, TimeoutError) as error:
                log.warning("consumer starts again", consumer=self.name, error=describe(error))
            await asyncio.sleep(_RESTART_PAUSE)

    async def _process_all(self, events: ReadAhead) -> None:
        while True:
            batch = await events.take(self.size)
            try:
                await self._process(batch)
            except (nats.errors.Error, OSError, TimeoutError) as error:
                # JetStream delivers what wasn't acknowledged again.
                log.warning("consumer starts again", consumer=self.name, error=describe(error))
                await asyncio.sleep(_RESTART_PAUSE)

    async def _register(self) -> None:
        """Asks the relay to create the consumer, until a relay has answered. From then on the relay keeps it."""
        subjects = [*self.subjects, replay_subject(self.name, "*")]
        request = json.dumps({"name": self.name, "subjects": subjects}).encode()
        while True:
            try:
                await self.bus.client.request(KEEP_CONSUMER, request, timeout=_KEEP_INTERVAL)
                return
            except (nats.errors.Error, OSError, TimeoutError):
                await asyncio.sleep(_KEEP_INTERVAL)

    async def _stream(self) -> str:
        """The stream that the consumer reads: the event stream, or its stream of copies.

        Raises NotFoundError while neither has the consumer.
        """
        try:
            await self.bus.jetstream.consumer_info(STREAM, self.name)
            return STREAM
        except nats.js.errors.NotFoundError:
            copies = copies_stream(self.name)
            await self.bus.jetstream.consumer_info(copies, self.name)
            return copies

    async def _process(self, batch: list[Msg]) -> None:
        error = await self._attempt(batch)
        if error is None:
            metrics.EVENTS_CONSUMED.labels(self.name, "done").inc(len(batch))
            for message in batch:
                await message.ack()
        elif len(batch) > 1:
            # Halving finds one bad event among n in about 2 log n attempts.
            middle = len(batch) // 2
            await self._process(batch[:middle])
            await self._process(batch[middle:])
        else:
            await self._retry_or_park(batch[0], error)

    async def _attempt(self, batch: list[Msg]) -> Exception | None:
        """Handles the batch; returns the error of `handle`, or None. Retries while Postgres is unavailable."""
        while True:
            try:
                with tracing.consuming(self.name, (message.data for message in batch)):
                    await self.handle(batch)
                return None
            except Exception as error:
                state = getattr(error, "sqlstate", None)
                if not is_unavailable(error) or state == _QUERY_CANCELED:
                    return error
                log.warning("consumer waits", consumer=self.name, error=type(error).__name__)
            await asyncio.sleep(_UNAVAILABLE_PAUSE)

    async def _retry_or_park(self, message: Msg, error: Exception) -> None:
        deliveries = message.metadata.num_delivered
        # `describe` leaves out the exception's text, which can quote the event.
        log.warning(
            "event failed",
            consumer=self.name,
            subject=message.subject,
            event_id=event_id(message),
            deliveries=deliveries,
            error=describe(error),
        )
        longest_pause = self.bus.settings.event_retry_pause
        if deliveries < MAX_DELIVERIES:
            metrics.EVENTS_CONSUMED.labels(self.name, "failed").inc()
            pause = _BACKOFF[min(deliveries, len(_BACKOFF)) - 1]
            await message.nak(delay=min(pause, longest_pause))
            return
        try:
            await self.park(message, describe(error))
        except Exception as failure:
            log.error("event can't be parked", consumer=self.name, error=describe(failure))
            await message.nak(delay=min(_BACKOFF[-1], longest_pause))
            return
        metrics.EVENTS_CONSUMED.labels(self.name, "parked").inc()
        await message.ack()


async def _report_progress(events: ReadAhead) -> None:
    """Keeps JetStream from delivering events again while they wait or are being processed."""
    while True:
        await asyncio.sleep(_PROGRESS_INTERVAL)
        for number, message in enumerate(events.unacknowledged()):
            with suppress(nats.errors.Error):
                await message.in_progress()
            if number % _REPORTED_AT_ONCE == 0:
                await asyncio.sleep(0)
