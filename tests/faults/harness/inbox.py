"""A client that learns of notifications only from its streams, and resumes from its cursor."""

import asyncio
import random
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import grpc.aio

from taskflow.notification.v1.notification_pb2 import Notification, NotificationChange
from taskflow.notification.v1.notification_service_pb2 import (
    ListNotificationsRequest,
    WatchNotificationsRequest,
    WatchNotificationsResponse,
)
from tests.faults.harness.scenario import Tally
from tests.faults.harness.world import SeededPerson, Stubs
from tests.integration.notification_world import Device
from tests.integration.people import read_refusal

# Codes after which a client resumes: the server's own, and those of a lost connection.
_RESUMABLE = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
)
# Pause before reopening a stream (seconds): between these.
_PAUSE = (0.05, 0.3)


class Inbox:
    """One user's device. `follow` runs until cancelled; gaps and disorder are added to the tally."""

    def __init__(
        self, person: SeededPerson, stubs: Stubs, chance: random.Random, tally: Tally
    ) -> None:
        self.person = person
        self._stubs = stubs
        self._random = chance
        self._tally = tally
        self._device = Device(cursor="")
        self._call: Any = None
        self._leaving = False
        self.opened = asyncio.Event()
        # When the client opened its current stream, and how often streams ended with which code.
        self.asked_at = 0.0
        self.ends: Counter[str] = Counter()
        # When each notification arrived, by task and kind; when each read mark arrived, by "read" and id.
        self.arrived: dict[tuple[str, str], float] = {}
        # For each notification and read mark, when the client opened the stream that delivered it.
        self.asked: dict[tuple[str, str], float] = {}

    @property
    def unread(self) -> list[str]:
        """Ids of the unread notifications that this device knows."""
        known = self._device.notifications.values()
        return [one.id for one in known if not one.HasField("read_time")]

    @property
    def sequence(self) -> int:
        return self._device.sequence or 0

    def shown(self) -> list[Notification]:
        return self._device.shown()

    async def listed(self) -> list[Notification]:
        """The notifications that ListNotifications returns."""
        found: list[Notification] = []
        request = ListNotificationsRequest(page_size=1000)
        while True:
            answer = await self._stubs.notifications.ListNotifications(
                request, metadata=self.person.credentials, timeout=10
            )
            found.extend(answer.notifications)
            request.page_token = answer.next_page_token
            if not request.page_token:
                return found

    def disconnect(self) -> None:
        """Drop the stream without notice; `follow` reopens it."""
        if self._call is not None:
            self._leaving = True
            self._call.cancel()

    async def follow(self) -> None:
        while True:
            self._leaving = False
            self.asked_at = time.monotonic()
            self._call = self._stubs.notifications.WatchNotifications(
                WatchNotificationsRequest(cursor=self._device.cursor),
                metadata=self.person.credentials,
            )
            try:
                await self._read(self._call)
            except grpc.aio.AioRpcError as error:
                reason = read_refusal(error).reason
                self.ends[f"{error.code().name} {reason}".strip()] += 1
                # INTERNAL without a reason is HTTP/2's: the process of an open stream was killed.
                if error.code() not in _RESUMABLE or reason == "INTERNAL":
                    self._tally.broken.append(
                        f"a stream ended with {error.code().name} {reason}: {error.details()}"
                    )
                    return
            except asyncio.CancelledError:
                if not self._leaving:
                    raise
                self.ends["disconnected"] += 1
            finally:
                self._call.cancel()
            await asyncio.sleep(self._random.uniform(*_PAUSE))

    async def _read(self, call: Any) -> None:
        last = 0
        async for message in call:
            self.opened.set()
            last = self._apply(message, last)
        self.ends["OK"] += 1

    def _apply(self, message: WatchNotificationsResponse, last: int) -> int:
        """Apply a message. `last` is the sequence of the previous change on this stream; returns the new one."""
        device = self._device
        kind = message.WhichOneof("kind")
        if kind == "reset":
            self._tally.broken.append("a stream was reset")
        if kind == "change":
            change = message.change
            self._tally.inverted += change.sequence <= last
            missed = change.sequence - self.sequence - 1
            if missed > 0:
                self._tally.lost += missed
                device.sequence = change.sequence - 1
            self._note(change)
            last = change.sequence
        # A lost notification can't be marked as read.
        with suppress(KeyError):
            device.apply(message)
        return last

    def _note(self, change: NotificationChange) -> None:
        keys = []
        match change.WhichOneof("kind"):
            case "created":
                keys = [(change.created.task_id, str(change.created.kind))]
            case "read":
                keys = [("read", id) for id in change.read.ids]
        for key in keys:
            self.arrived.setdefault(key, time.monotonic())
            self.asked.setdefault(key, self.asked_at)
