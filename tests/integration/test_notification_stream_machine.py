"""A client that applies its streams' changes in order ends with the same notifications as ListNotifications.

Hypothesis chooses the steps: events, reads on several devices, disconnections, lost live messages, restarts of the
service with its consumer, and deletion of old changes.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from nats.aio.msg import Msg
from sqlalchemy import ARRAY, Uuid, any_, bindparam

from services.notification.inbox import retention as inbox_retention
from services.notification.inbox.models import notifications
from services.notification.stream import retention as stream_retention
from services.notification.stream.models import changes
from services.notification.stream.room import Room
from services.platform.config import Settings
from services.platform.data.db import Statement
from services.platform.data.retention import run_once
from taskflow.task.v1 import task_pb2
from tests.conftest import serving
from tests.integration.notification_world import (
    Device,
    NotificationWorld,
    a_notification_world,
    eventually,
)
from tests.integration.people import Person

_AGE = {
    table.name: Statement(
        table.update()
        .where(table.c.user_id == any_(bindparam("user_ids", type_=ARRAY(Uuid))), age.is_not(None))
        .values({age: bindparam("at")})
    )
    for table, age in ((changes, changes.c.created_at), (notifications, notifications.c.read_at))
}

# A server that is stopping answers new calls with CANCELLED.
_PASSING = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}

USERS, DEVICES = 2, 4
user = st.integers(0, USERS - 1)
device = st.integers(0, DEVICES - 1)
what_happens = st.one_of(
    st.tuples(st.just("assign"), user, st.integers(1, 8)),
    st.tuples(st.just("assign"), user, st.integers(1, 8)),
    st.tuples(st.just("finish"), user),
    st.tuples(st.just("mark_read"), user, st.integers(0, 30)),
    st.tuples(st.just("mark_all_read"), user, st.integers(0, 30)),
    st.tuples(st.just("disconnect"), device),
    st.tuples(st.just("connect"), device),
    st.tuples(st.just("lose"), st.sampled_from((0, 1, 2, 3))),
    st.tuples(st.just("wait"), st.integers(1, 10)),
    st.tuples(st.just("restart")),
    st.tuples(st.just("forget"), st.sampled_from(("changes", "notifications"))),
)


@dataclass
class Network:
    """Delivers one in every `each` live messages; 0 delivers all."""

    each: int = 0
    seen: int = 0

    def loses(self) -> bool:
        self.seen += 1
        return self.each > 0 and self.seen % self.each != 0


@dataclass
class Client:
    """A device that reconnects until told to stop, like the SDK."""

    world: NotificationWorld
    person: Person
    device: Device
    task: asyncio.Task[None] | None = None

    def connect(self) -> None:
        if self.task is None:
            self.task = asyncio.create_task(self._follow())

    async def disconnect(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait({self.task})
            if not self.task.cancelled():
                self.task.result()
            self.task = None

    async def _follow(self) -> None:
        while True:
            call = self.world.watch(self.person, self.device.cursor)
            try:
                async for message in call:
                    self.device.apply(message)
                    if message.WhichOneof("kind") == "reset":
                        await self._list()
            except grpc.aio.AioRpcError as error:
                if error.code() not in _PASSING:
                    raise
            finally:
                call.cancel()
            await asyncio.sleep(0.05)

    async def _list(self) -> None:
        """List, then continue from the reset's cursor. The cursor is older than the list, so some changes repeat."""
        listed = await self.world.listed(self.person)
        self.device.notifications = {one.id: one for one in listed}


@dataclass
class Machine:
    world: NotificationWorld
    network: Network
    people: list[Person]
    clients: list[Client]
    service: AsyncExitStack = field(default_factory=AsyncExitStack)
    # Keys of the final tasks, one per user.
    marks: list[str] = field(default_factory=list)

    async def start(self) -> None:
        await self.service.enter_async_context(serving("notification", self.world.settings))

    async def happen(self, what: str, *how: Any) -> None:
        await getattr(self, what)(*how)

    async def assign(self, user: int, count: int) -> None:
        await self.world.assign(*[self.people[user]] * count)

    async def finish(self, user: int) -> None:
        task = self.world.task(assignee_id=self.people[user].id, creator_id=self.people[0].id)
        task.status = task_pb2.TASK_STATUS_DONE
        await self.world.emit(self.world.updated(task, "status"))

    async def mark_read(self, user: int, which: int) -> None:
        listed = await self.world.listed(self.people[user])
        chosen = [one.id for number, one in enumerate(listed) if (which >> number % 5) & 1]
        if chosen:
            await self.world.mark_read(self.people[user], *chosen[:100])

    async def mark_all_read(self, user: int, up_to: int) -> None:
        await self.world.mark_all_read(self.people[user], up_to)

    async def disconnect(self, device: int) -> None:
        await self.clients[device].disconnect()

    async def connect(self, device: int) -> None:
        self.clients[device].connect()

    async def lose(self, each: int) -> None:
        self.network.each = each

    async def wait(self, hundredths: int) -> None:
        await asyncio.sleep(hundredths / 100)

    async def restart(self) -> None:
        await self.service.aclose()
        await self.start()

    async def forget(self, what: str) -> None:
        at = datetime(2020, 1, 1, tzinfo=UTC)
        async with self.world.db.transaction() as tx:
            await tx.run(_AGE[what], user_ids=[person.id for person in self.people], at=at)
        settings = self.world.settings
        kinds = [*inbox_retention.kinds(settings), *stream_retention.kinds(settings)]
        await run_once(self.world.db, kinds)

    async def end(self) -> None:
        for client in self.clients:
            client.connect()
        await eventually(self._quiet)
        for client in self.clients:
            await eventually(lambda client=client: self._agrees(client))  # type: ignore[misc]
            await client.disconnect()
            listed = await self.world.listed(client.person)
            assert [one.sequence for one in client.device.shown()] == [
                one.sequence for one in listed
            ]
            assert client.device.shown() == listed

    async def _quiet(self) -> bool:
        """Wait until the final event was consumed, and with it all earlier ones."""
        if not self.marks:
            await self.world.assign(*self.people)
            self.marks = [f"OPS-{self.world.numbers - 1}", f"OPS-{self.world.numbers}"]
        for mark, person in zip(self.marks, self.people, strict=True):
            if mark not in {one.task_key for one in await self.world.listed(person)}:
                return False
        return True

    async def _agrees(self, client: Client) -> bool:
        if client.task is not None and client.task.done():
            client.task.result()
        return client.device.shown() == await self.world.listed(client.person)


@pytest.fixture(scope="module")
async def world(settings: Settings) -> AsyncIterator[NotificationWorld]:
    async with a_notification_world(settings, notification=False) as made:
        yield made


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    made = Network()
    deliver = Room.deliver

    async def lossy(room: Any, message: Msg) -> None:
        if not made.loses():
            await deliver(room, message)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Room, "deliver", lossy)
        yield made


@given(history=st.lists(what_happens, min_size=5, max_size=40))
@settings(
    max_examples=12,
    deadline=None,
    database=None,
    print_blob=True,
    # Shrinking takes minutes here. Add Phase.shrink to investigate a failure.
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
async def test_a_client_that_applies_all_changes_shows_the_same_as_the_list(
    world: NotificationWorld, network: Network, history: list[tuple[Any, ...]]
) -> None:
    network.each = 0
    people = [await world.member(f"user{number}") for number in range(USERS)]
    clients = [Client(world, people[number % USERS], Device("")) for number in range(DEVICES)]
    machine = Machine(world, network, people, clients)
    await machine.start()
    try:
        for client in clients:
            client.device.cursor = (await world.page(client.person)).cursor
            client.connect()
        for step in history:
            await machine.happen(*step)
        await machine.end()
    finally:
        for client in clients:
            if client.task is not None:
                client.task.cancel()
        await machine.service.aclose()
