"""Durable consumers of the event stream: the relay creates them, and keeps them from missing events.

The stream discards its oldest messages when it's full or they are too old, processed or not. The relay looks at every
consumer about once a second, and after each published part of the stream's limit. It stores each consumer's floor: the
stream sequence up to which the consumer has processed its events. JetStream's own floor jumps over discarded messages,
so the relay accepts a new floor only while everything after the stored one is in the stream.

The relay detaches a consumer whose next events are about to be discarded, or were. It deletes the consumer, and copies
its events in order from the outbox into a stream of the consumer's own (copies.py). Newer events go there as well, to
keep the order. The relay attaches the consumer again once the rest is safe in the event stream and all copies are
processed.

The relay stores every step in `platform.consumers` before it tells NATS, and each look makes NATS agree with the table.
A relay that dies in between, or a broker that was rolled back, repeats events to a consumer, and skips none.
"""

import asyncio
import json
import math
import re
from collections.abc import Iterable

import nats.errors
import nats.js.errors
import structlog
from nats.aio.msg import Msg
from nats.js.api import ConsumerInfo, StreamInfo

from services.platform.data.db import Database, Transaction
from services.platform.events import consumer_queries as queries
from services.platform.events.bus import Bus
from services.platform.events.consumer import KEEP_CONSUMER
from services.platform.events.consumer_queries import ConsumerRow
from services.platform.events.copies import CopiesLost, copy_page, find_copies
from services.platform.events.publisher import Publisher
from services.platform.events.subjects import STREAM, copies_stream
from services.platform.observe import metrics
from services.platform.observe.redaction import describe

log = structlog.get_logger()

# Seconds between two looks at the consumers.
_LOOK_INTERVAL = 1.0
# Part of the stream's limit after which the relay looks earlier. A batch of the relay is no larger either.
_LOOK_SHARE = 0.04
# Time limit of a look, or of a page of copies (seconds). The relay must renew its lock more often (relay.TAKEOVER).
_TIMEOUT = 3.0
# Unread parts of the stream's limit at which the relay warns operators, and detaches the consumer.
# What is published between two looks must fit in as well.
_WARN = 0.5
_DETACH = 0.8
# Unread part of the stream's limit below which the relay attaches the consumer again.
_ATTACH = 0.3
_NAME = re.compile(r"[a-z0-9_-]{1,100}")


class Consumers:
    """What the active relay does for durable consumers. Only one task may use it."""

    def __init__(self, db: Database, bus: Bus, publisher: Publisher) -> None:
        self._db = db
        self._bus = bus
        self._publisher = publisher
        # Bytes that the stream holds at most.
        self._limit = bus.settings.event_stream_bytes
        # Requests to keep a consumer that the next look answers, by the consumer's name.
        self._requests: dict[str, Msg] = {}
        self._last_look = -math.inf
        # Bytes published since then.
        self._published = 0
        self._warned: set[str] = set()
        # Consumers that were detached at the last look, and those among them that need no more copies.
        self._detached: set[str] = set()
        self._draining: set[str] = set()

    async def listen(self, wake: asyncio.Event) -> None:
        """Collects requests to keep a consumer for the next look."""

        async def requested(message: Msg) -> None:
            name, _ = _parse(message)
            if name:
                self._requests[name] = message
                self._last_look = -math.inf
                wake.set()

        await self._bus.client.subscribe(KEEP_CONSUMER, cb=requested)

    @property
    def allowance(self) -> int:
        """Bytes that may be published between two looks."""
        return int(self._limit * _LOOK_SHARE)

    def published(self, size: int) -> None:
        self._published += size

    async def reset(self, tx: Transaction, same: bool, last: int) -> None:
        """Adapts the floors to a stream that is new, or whose end `last` may have moved back.

        A new stream gets every event that the outbox holds, so every consumer begins at its start.
        """
        if same:
            await tx.run(queries.SHORTER_STREAM, last=last)
        else:
            await tx.run(queries.NEW_STREAM)
        self._last_look = -math.inf

    def forget(self) -> None:
        """Clears the metrics once this relay isn't active, or can't look: old figures would pass for present ones."""
        for gauge in (metrics.CONSUMER_LAG, metrics.CONSUMER_UNREAD):
            gauge.clear()
        self._last_look = -math.inf

    async def look_if_due(self) -> None:
        """Looks at all consumers when it's time. When that fails the relay goes on: the stored floors lose nothing."""
        now = asyncio.get_running_loop().time()
        if now - self._last_look < _LOOK_INTERVAL and self._published < self.allowance:
            return
        self._last_look, self._published = now, 0
        if not self._bus.connected:
            self.forget()
            return
        try:
            async with asyncio.timeout(_TIMEOUT):
                await self._look()
        except (nats.errors.Error, OSError, TimeoutError) as error:
            log.warning("the consumers' progress is unknown", error=describe(error))
            self.forget()

    async def _look(self) -> None:
        end_before = (await self._bus.jetstream.stream_info(STREAM)).state.last_seq
        requests, self._requests = self._requests, {}
        await self._keep(requests.values(), end_before)
        async with self._db.read() as tx:
            rows = await tx.all(queries.ALL)
        found = {row.name: await self._info(row.name) for row in rows}
        # Asked for after the consumers. If everything after a floor is in the stream now, it was then as well.
        stream = await self._bus.jetstream.stream_info(STREAM)
        self._limit = _limit(stream) or self._limit
        self._detached = {row.name for row in rows if row.copied_to is not None}
        self._draining &= self._detached
        detached = False
        for row in rows:
            if row.copied_to is None:
                detached |= await self._look_at_attached(row, found[row.name], end_before, stream)
            else:
                await self._look_at_detached(row, row.copied_to, found[row.name], stream)
        if detached:
            # At once, because publishing could discard what the detached consumers have yet to process.
            await self._look()
        for message in requests.values():
            await message.respond(b"")

    async def _keep(self, requests: Iterable[Msg], end: int) -> None:
        """Stores the requested consumers. One that exists already was created by an older version."""
        for message in requests:
            name, subjects = _parse(message)
            info = await self._info(name)
            floor = _floor(info, end) if info else 0
            async with self._db.autocommit() as tx:
                await tx.run(queries.KEEP, consumer=name, subjects=subjects, floor=floor)

    async def _info(self, name: str) -> ConsumerInfo | None:
        try:
            info: ConsumerInfo = await self._bus.jetstream.consumer_info(STREAM, name)
        except nats.js.errors.NotFoundError:
            return None
        return info

    async def _look_at_attached(
        self, row: ConsumerRow, info: ConsumerInfo | None, end_before: int, stream: StreamInfo
    ) -> bool:
        """Returns whether it detached the consumer. `end_before` was the stream's end before `info` was fetched."""
        floor = row.floor
        missed = _discarded(stream) > floor
        if info and not missed:
            floor = max(floor, _floor(info, end_before))
        share = _share(stream, floor)
        last = stream.state.last_seq
        lag = (info.num_pending or 0) + (info.num_ack_pending or 0) if info else last - floor
        self._report(row, share, lag)
        if missed or share > _DETACH:
            await self._detach(row, floor, share)
            return True
        if floor > row.floor:
            async with self._db.autocommit() as tx:
                await tx.run(queries.RAISE_FLOOR, consumer=row.name, floor=floor)
        if info is None:
            await self._bus.delete_stream(copies_stream(row.name))
            await self._bus.add_durable(row.name, row.subjects, floor)
        elif set(info.config.filter_subjects or []) != set(row.subjects):
            info.config.filter_subjects = row.subjects
            await self._bus.jetstream.add_consumer(STREAM, info.config)
        return False

    async def _detach(self, row: ConsumerRow, floor: int, share: float) -> None:
        async with self._db.autocommit() as tx:
            await tx.run(queries.DETACH, consumer=row.name, floor=floor)
        log.warning(
            "consumer is too far behind the event stream; it gets its events from the outbox now",
            consumer=row.name,
            after=floor,
            unread_share=round(share, 2),
        )

    async def _look_at_detached(
        self, row: ConsumerRow, copied_to: int, info: ConsumerInfo | None, stream: StreamInfo
    ) -> None:
        if info:
            await self._bus.jetstream.delete_consumer(STREAM, row.name)
        copies = await find_copies(self._bus, self._db, row)
        if copies is None:
            self._draining.discard(row.name)
            return
        last = stream.state.last_seq
        share = _share(stream, copied_to)
        self._report(row, _share(stream, row.floor), copies.state.messages + last - copied_to)
        in_stream = _discarded(stream) <= copied_to
        if not in_stream or share > _WARN:
            self._draining.discard(row.name)
        elif share < _ATTACH:
            self._draining.add(row.name)
        if copies.state.messages:
            return
        if row.name in self._draining:
            await self._attach(row, copied_to)
        else:
            async with self._db.autocommit() as tx:
                await tx.run(queries.RAISE_FLOOR, consumer=row.name, floor=copied_to)

    async def _attach(self, row: ConsumerRow, copied_to: int) -> None:
        async with self._db.autocommit() as tx:
            if not await tx.run(queries.ATTACH, consumer=row.name, before=copied_to):
                return
        await self._bus.delete_stream(copies_stream(row.name))
        await self._bus.add_durable(row.name, row.subjects, copied_to)
        self._detached.discard(row.name)
        log.info("consumer follows the event stream again", consumer=row.name, after=copied_to)

    def _report(self, row: ConsumerRow, share: float, lag: int) -> None:
        """Sets the metrics. Warns once when the share has risen, and again only after it fell."""
        metrics.CONSUMER_LAG.labels(row.name).set(lag)
        share = max(share, float(row.age) / self._bus.settings.event_retention if lag else 0)
        metrics.CONSUMER_UNREAD.labels(row.name).set(share)
        if share <= _ATTACH:
            self._warned.discard(row.name)
        elif share > _WARN and row.name not in self._warned:
            self._warned.add(row.name)
            log.warning(
                "consumer falls behind: from a share of 1 on, the event stream discards its unread events",
                consumer=row.name,
                unread_share=round(share, 2),
                lag=lag,
            )

    async def copy(self, end: int) -> bool:
        """Copies a page for each detached consumer; returns whether there was one.

        Up to the stream sequence `end`, all published events are marked in the outbox.
        """
        if not self._detached - self._draining:
            return False
        async with self._db.read() as tx:
            rows = await tx.all(queries.ALL)
        copied = 0
        try:
            async with asyncio.timeout(_TIMEOUT):
                for row in rows:
                    if row.copied_to is None or row.name in self._draining:
                        continue
                    try:
                        copied += await copy_page(
                            self._bus, self._db, self._publisher, row, row.copied_to, end
                        )
                    except CopiesLost:
                        # The next look creates the stream again.
                        self._last_look = -math.inf
        except (nats.errors.Error, OSError, TimeoutError) as error:
            log.warning("events can't be copied", error=describe(error))
            return False
        return copied > 0


def _parse(request: Msg) -> tuple[str, list[str]]:
    """Name and subjects of the consumer to keep; the name is empty when the request makes no sense."""
    try:
        body = json.loads(request.data)
        name, subjects = body["name"], [str(subject) for subject in body["subjects"]]
    except (ValueError, KeyError, TypeError):
        return "", []
    return (name, subjects) if isinstance(name, str) and _NAME.fullmatch(name) else ("", [])


def _floor(info: ConsumerInfo, end: int) -> int:
    """The sequence up to which a consumer has processed its events; `end` was the stream's end before `info`.

    With nothing left that's the end: JetStream's own floor stays at the last event that matched the consumer's filters.
    """
    if info.num_pending or info.num_ack_pending:
        return info.ack_floor.stream_seq if info.ack_floor else 0
    return end


def _limit(stream: StreamInfo) -> int:
    """Bytes that the stream holds at most; 0 without a limit."""
    return max(0, stream.config.max_bytes or 0)


def _discarded(stream: StreamInfo) -> int:
    """The last sequence that the stream has discarded."""
    return max(0, stream.state.first_seq - 1)


def _share(stream: StreamInfo, position: int) -> float:
    """The part of the stream's limit that the messages after a position take; above 1 if some were discarded."""
    state, limit = stream.state, _limit(stream)
    if not state.messages or not limit:
        return 0.0
    return (state.last_seq - position) * state.bytes / state.messages / limit
