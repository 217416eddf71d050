"""Durable consumers of the event stream: the relay creates them, and keeps them from missing events.

The stream discards its oldest messages when it's full or they are too old, processed or not. The relay checks every
consumer about once a second, and after publishing a few percent of the stream's limit (_CHECK_SHARE). It stores each
consumer's floor: the stream sequence up to which the consumer has processed its events. JetStream's own floor jumps
over discarded messages. So the relay accepts a new floor only while everything after the stored floor is in the stream.

The relay detaches a consumer when the stream has discarded its next events, or is about to. It deletes the consumer,
and copies the consumer's events in order from the outbox into a stream of the consumer's own (copies.py). Newer events
are copied too, to keep the order. The relay attaches the consumer again once all copies are processed and the newer
events are safe in the event stream.

The relay stores every step in `platform.consumers` before it changes NATS, and each check makes NATS agree with the
table. If the relay dies in between, or NATS loses its newest state, a consumer gets events twice, and misses none.
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

# Seconds between two checks of the consumers.
_CHECK_INTERVAL = 1.0
# After publishing this share of the stream's byte limit, the relay checks the consumers early. One batch of the relay
# has at most this size, too.
_CHECK_SHARE = 0.04
# Time limit (seconds) of a check, and of a page of copies: less than relay._TAKEOVER, so that the relay keeps its lock.
_TIMEOUT = 3.0
# When a consumer's unread events exceed these parts of the stream's limit, the relay warns operators, then detaches the
# consumer. Events published between two checks must fit into the rest.
_WARN = 0.5
_DETACH = 0.8
# The relay attaches a consumer again once its unread events take less than this part of the stream's limit.
_ATTACH = 0.3
_NAME = re.compile(r"[a-z0-9_-]{1,100}")


class Consumers:
    """The part of the relay that creates durable consumers and saves them from missing events.

    Only one asyncio task may use it.
    """

    def __init__(self, db: Database, bus: Bus, publisher: Publisher) -> None:
        self._db = db
        self._bus = bus
        self._publisher = publisher
        # The event stream's size limit (bytes).
        self._limit = bus.settings.event_stream_bytes
        # Requests to keep a consumer, by the consumer's name. The next check answers them.
        self._requests: dict[str, Msg] = {}
        self._last_check = -math.inf
        # Bytes published since the last check.
        self._published = 0
        self._warned: set[str] = set()
        # Consumers that were detached at the last check, and the detached consumers that need no more copies.
        self._detached: set[str] = set()
        self._draining: set[str] = set()

    async def listen(self, wake: asyncio.Event) -> None:
        """Subscribes to requests to keep a consumer; the next check handles them."""

        async def requested(message: Msg) -> None:
            name, _ = _parse(message)
            if name:
                self._requests[name] = message
                self._last_check = -math.inf
                wake.set()

        await self._bus.client.subscribe(KEEP_CONSUMER, cb=requested)

    @property
    def allowance(self) -> int:
        """Bytes that the relay may publish between two checks of the consumers."""
        return int(self._limit * _CHECK_SHARE)

    def published(self, size: int) -> None:
        self._published += size

    async def reset(self, tx: Transaction, same: bool, last: int) -> None:
        """Adapts the stored floors to the event stream: a new one, or (`same`) one whose end `last` may be lower now.

        The relay publishes the whole outbox to a new stream, so every consumer begins at the stream's start.
        """
        if same:
            await tx.run(queries.SHORTER_STREAM, last=last)
        else:
            await tx.run(queries.NEW_STREAM)
        self._last_check = -math.inf

    def forget(self) -> None:
        """Clears the consumers' metrics when this relay can't check consumers: old figures would mislead operators."""
        for gauge in (metrics.CONSUMER_LAG, metrics.CONSUMER_UNREAD):
            gauge.clear()
        self._last_check = -math.inf

    async def check_if_due(self) -> None:
        """Checks all consumers when a check is due. After a failure the relay goes on: the stored floors stay right."""
        now = asyncio.get_running_loop().time()
        if now - self._last_check < _CHECK_INTERVAL and self._published < self.allowance:
            return
        self._last_check, self._published = now, 0
        if not self._bus.connected:
            self.forget()
            return
        try:
            async with asyncio.timeout(_TIMEOUT):
                await self._check()
        except (nats.errors.Error, OSError, TimeoutError) as error:
            log.warning("the consumers' progress is unknown", error=describe(error))
            self.forget()

    async def _check(self) -> None:
        end_before = (await self._bus.jetstream.stream_info(STREAM)).state.last_seq
        requests, self._requests = self._requests, {}
        await self._keep(requests.values(), end_before)
        async with self._db.read() as tx:
            rows = await tx.all(queries.ALL)
        found = {row.name: await self._info(row.name) for row in rows}
        # Fetched after the consumers: if the stream holds everything after a floor now, it also did at that time.
        stream = await self._bus.jetstream.stream_info(STREAM)
        self._limit = _limit(stream) or self._limit
        self._detached = {row.name for row in rows if row.copied_to is not None}
        self._draining &= self._detached
        detached = False
        for row in rows:
            if row.copied_to is None:
                detached |= await self._check_attached(row, found[row.name], end_before, stream)
            else:
                await self._check_detached(row, row.copied_to, found[row.name], stream)
        if detached:
            # Check again before the relay publishes more, to delete the detached consumer in JetStream. Further events
            # could push unread ones out of the stream, and that consumer would skip them.
            await self._check()
        for message in requests.values():
            await message.respond(b"")

    async def _keep(self, requests: Iterable[Msg], end: int) -> None:
        """Stores the requested consumers. A consumer that an older version created in NATS keeps its floor."""
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

    async def _check_attached(
        self, row: ConsumerRow, info: ConsumerInfo | None, end_before: int, stream: StreamInfo
    ) -> bool:
        """Checks a consumer that follows the event stream; returns whether the relay detached it.

        `end_before` is the stream's last sequence, fetched before `info`.
        """
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

    async def _check_detached(
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
        """Sets the consumer's metrics. Warns once when its unread share exceeds _WARN, and again only after it fell."""
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
        """Copies a page of events for each detached consumer; returns whether any event was copied.

        `end` is a stream sequence: all published events up to it are marked as published in the outbox.
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
                        # The next check creates the stream of copies again.
                        self._last_check = -math.inf
        except (nats.errors.Error, OSError, TimeoutError) as error:
            log.warning("events can't be copied", error=describe(error))
            return False
        return copied > 0


def _parse(request: Msg) -> tuple[str, list[str]]:
    """Name and subjects of the consumer that a request asks to keep; the name is empty for an invalid request."""
    try:
        body = json.loads(request.data)
        name, subjects = body["name"], [str(subject) for subject in body["subjects"]]
    except (ValueError, KeyError, TypeError):
        return "", []
    return (name, subjects) if isinstance(name, str) and _NAME.fullmatch(name) else ("", [])


def _floor(info: ConsumerInfo, end: int) -> int:
    """The stream sequence up to which a consumer has processed its events.

    `end` is the stream's last sequence, fetched before `info`. A consumer with no event left has reached `end`, though
    JetStream's own floor stays at the last event that matched the consumer's filters.
    """
    if info.num_pending or info.num_ack_pending:
        return info.ack_floor.stream_seq if info.ack_floor else 0
    return end


def _limit(stream: StreamInfo) -> int:
    """The stream's size limit (bytes); 0 without one."""
    return max(0, stream.config.max_bytes or 0)


def _discarded(stream: StreamInfo) -> int:
    """The sequence of the last message that the event stream has discarded; 0 if it still has all."""
    return max(0, stream.state.first_seq - 1)


def _share(stream: StreamInfo, position: int) -> float:
    """The part of the stream's limit (bytes) that messages after a sequence take; above 1 if some were discarded."""
    state, limit = stream.state, _limit(stream)
    if not state.messages or not limit:
        return 0.0
    return (state.last_seq - position) * state.bytes / state.messages / limit
