"""Promises of dead letters: a bad event blocks no other, is kept with its error, and can be replayed."""

from collections.abc import AsyncIterator
from uuid import uuid4

import grpc
import pytest
from sqlalchemy import bindparam, insert
from uuid_utils.compat import uuid7

from services.notification.inbox import consumer
from services.notification.kinds.kind import Notice
from services.notification.kinds.registry import notices
from services.platform.config import Settings
from services.platform.data.db import Statement
from services.platform.data.tables import outbox
from services.platform.events import consumer as durable
from services.platform.rpc.directory import users
from services.platform.rpc.identity import SERVICE_HEADER
from taskflow.event.v1.dead_letter_service_pb2 import (
    DeadLetter,
    ListDeadLettersRequest,
    ParkEventRequest,
    ReplayDeadLetterRequest,
)
from taskflow.event.v1.dead_letter_service_pb2_grpc import (
    DeadLetterInternalServiceStub,
    DeadLetterServiceStub,
)
from taskflow.event.v1.event_pb2 import Event
from tests.integration.notification_world import NotificationWorld, a_notification_world, eventually
from tests.integration.people import Person, refusal

_GRANT = Statement(users.update().where(users.c.id == bindparam("user_id")).values(operator=True))


@pytest.fixture(scope="module")
async def world(settings: Settings) -> AsyncIterator[NotificationWorld]:
    async with a_notification_world(settings) as made:
        yield made


@pytest.fixture(scope="module")
async def office(world: NotificationWorld) -> AsyncIterator["Office"]:
    operator = await world.team.person("opal")
    async with world.db.transaction() as tx:
        await tx.run(_GRANT, user_id=operator.id)
    async with grpc.aio.insecure_channel(world.settings.notification) as channel:
        secret = world.settings.service_secret.get_secret_value()
        yield Office(channel, operator, secret)


@pytest.fixture
async def ben(world: NotificationWorld) -> Person:
    return await world.member("ben")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the retries: ten deliveries would take two minutes."""
    monkeypatch.setattr(durable, "_BACKOFF", (0.01,) * 9)


class Office:
    """The calls that an operator and a worker make about dead letters."""

    def __init__(self, channel: grpc.aio.Channel, operator: Person, secret: str) -> None:
        self.stub = DeadLetterServiceStub(channel)
        self.internal = DeadLetterInternalServiceStub(channel)
        self.operator = operator
        self.service = ((SERVICE_HEADER, secret),)

    async def letters(self, include_replayed: bool = False) -> list[DeadLetter]:
        answer = await self.stub.ListDeadLetters(
            ListDeadLettersRequest(include_replayed=include_replayed, page_size=1000),
            metadata=self.operator.credentials,
        )
        return list(answer.dead_letters)

    async def letter(self, event_id: str) -> DeadLetter | None:
        found = [one for one in await self.letters(True) if one.event_id == event_id]
        return found[0] if found else None

    async def parked(self, event_id: str) -> DeadLetter:
        """The dead letter of this event, as soon as it is parked."""

        async def is_parked() -> bool:
            letter = await self.letter(event_id)
            return letter is not None and not letter.HasField("replay_time")

        await eventually(is_parked)
        letter = await self.letter(event_id)
        assert letter is not None
        return letter

    async def replay(self, letter_id: str) -> DeadLetter:
        answer = await self.stub.ReplayDeadLetter(
            ReplayDeadLetterRequest(id=letter_id), metadata=self.operator.credentials
        )
        return answer.dead_letter

    async def park(self, event_id: str, **fields: object) -> None:
        given = {"consumer": "dispatcher", "subject": "taskflow.x.task.created"}
        request = ParkEventRequest(event_id=event_id, **(given | fields))  # type: ignore[arg-type]
        await self.internal.ParkEvent(request, metadata=self.service)


_ADD = Statement(insert(outbox), ["event_id", "subject", "payload"])


async def publish(world: NotificationWorld, payload: bytes) -> str:
    """Writes it to the outbox, as a bug of ours would."""
    event_id = uuid7()
    async with world.db.transaction() as tx:
        await tx.run(
            _ADD,
            event_id=event_id,
            subject=f"taskflow.{world.workspace_id}.task.created",
            payload=payload,
        )
    world.bus.wake_relay()
    return str(event_id)


async def test_a_poison_event_is_parked_with_its_error_and_delays_no_other_event(
    world: NotificationWorld, office: Office, ben: Person
) -> None:
    poison = []
    for number in range(200):
        await world.assign(ben)
        if number % 20 == 0:
            poison.append(await publish(world, b"\xff poison"))
    told = await world.wait_for_notifications(ben, 200)
    assert [one.sequence for one in told] == list(range(200, 0, -1))
    for event_id in poison:
        letter = await office.parked(event_id)
        assert letter.consumer == "notification"
        assert letter.error == "PoisonEvent: the message can't be read as an event"
        assert letter.event_type == ""


async def test_more_poison_events_than_are_tried_at_once_delay_no_other_event(
    world: NotificationWorld, office: Office, ben: Person
) -> None:
    poison = [await publish(world, b"\xff poison") for _ in range(400)]
    for _ in range(20):
        await world.assign(ben)
    assert len(await world.wait_for_notifications(ben, 20)) == 20
    # The last poison events still have retries left.
    await office.parked(poison[-1])


async def test_the_stored_error_contains_no_text_of_the_event(
    world: NotificationWorld, office: Office, ben: Person
) -> None:
    # Postgres rejects this text, and its exception message quotes it.
    event = world.created(world.task(assignee_id=ben.id, title="secret\0diagnosis"))
    await world.emit(event)
    letter = await office.parked(event.id)
    assert letter.event_type == "task.created"
    assert "UntranslatableCharacter" in letter.error
    assert "secret" not in letter.error
    assert "diagnosis" not in letter.error


async def test_a_replayed_event_takes_effect_once(
    world: NotificationWorld, office: Office, ben: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(event: Event) -> list[Notice]:
        raise RuntimeError("broken for now")

    monkeypatch.setattr(consumer, "notices", fail)
    event = world.created(world.task(assignee_id=ben.id))
    await world.emit(event)
    letter = await office.parked(event.id)
    assert "broken for now" not in letter.error
    assert letter.error.startswith("RuntimeError at ")
    monkeypatch.setattr(consumer, "notices", notices)
    assert (await office.replay(letter.id)).HasField("replay_time")
    await world.wait_for_notifications(ben, 1)
    await office.replay(letter.id)
    await world.assign(ben)
    await world.wait_for_notifications(ben, 2)
    assert len(await world.listed(ben)) == 2
    assert letter.id not in {one.id for one in await office.letters()}
    assert letter.id in {one.id for one in await office.letters(include_replayed=True)}


async def test_a_replayed_event_that_fails_again_reopens_the_same_dead_letter(
    world: NotificationWorld, office: Office
) -> None:
    event_id = await publish(world, b"\xff still poison")
    first = await office.parked(event_id)
    replayed = await office.replay(first.id)
    assert replayed.HasField("replay_time")
    again = await office.parked(event_id)
    assert again.id == first.id
    assert again.park_time.ToNanoseconds() > first.park_time.ToNanoseconds()


async def test_a_replayed_event_reaches_only_the_consumer_that_parked_it(
    world: NotificationWorld, office: Office, ben: Person
) -> None:
    """An event replayed for the dispatcher doesn't reach the notification consumer, even if it never saw it before."""
    event = world.created(world.task(assignee_id=ben.id))
    event.id = str(uuid7())
    await office.park(event.id, payload=event.SerializeToString(), error="no worker")
    letter = await office.parked(event.id)
    assert (letter.consumer, letter.event_type) == ("dispatcher", "task.created")
    await office.replay(letter.id)
    await world.assign(ben)
    told = await world.wait_for_notifications(ben, 1)
    assert len(told) == 1
    assert told[0].task_id != event.task_created.task.id


async def test_parking_an_event_again_only_updates_its_error(office: Office) -> None:
    event_id = str(uuid7())
    await office.park(event_id, payload=b"one", error="first")
    before = await office.parked(event_id)
    await office.park(event_id, payload=b"two", error="second")
    after = await office.parked(event_id)
    assert after.error == "second"
    before.error = after.error
    assert after == before
    await office.park(event_id, consumer="other", payload=b"one", error="first")
    assert len([one for one in await office.letters() if one.event_id == event_id]) == 2


async def test_events_without_an_id_are_told_apart_by_content(office: Office) -> None:
    kept = len(await office.letters())
    for payload in (b"left", b"right", b"left"):
        await office.park("", payload=payload, consumer="apart")
    assert len(await office.letters()) == kept + 2


async def test_dead_letters_are_listed_newest_first_in_pages(office: Office) -> None:
    for _ in range(5):
        await office.park(str(uuid7()), payload=b"x")
    everything = await office.letters()
    parked = [one.park_time.ToNanoseconds() for one in everything]
    assert parked == sorted(parked, reverse=True)
    paged: list[DeadLetter] = []
    token = ""
    while True:
        answer = await office.stub.ListDeadLetters(
            ListDeadLettersRequest(page_size=2, page_token=token),
            metadata=office.operator.credentials,
        )
        paged += answer.dead_letters
        token = answer.next_page_token
        if not token:
            break
    assert paged == everything


async def test_only_operators_list_and_replay_and_only_services_park(
    office: Office, ben: Person
) -> None:
    replay = ReplayDeadLetterRequest(id=str(uuid4()))
    park = ParkEventRequest(consumer="dispatcher", subject="x", event_id="y")
    denied = (grpc.StatusCode.PERMISSION_DENIED, "NOT_FOR_CALLER")
    for call in (
        office.stub.ListDeadLetters(ListDeadLettersRequest(), metadata=ben.credentials),
        office.stub.ReplayDeadLetter(replay, metadata=ben.credentials),
        office.internal.ParkEvent(park, metadata=ben.credentials),
        office.internal.ParkEvent(park, metadata=office.operator.credentials),
    ):
        refused = await refusal(call)
        assert (refused.code, refused.reason) == denied
    refused = await refusal(
        office.stub.ReplayDeadLetter(replay, metadata=office.operator.credentials)
    )
    assert refused.code == grpc.StatusCode.NOT_FOUND
