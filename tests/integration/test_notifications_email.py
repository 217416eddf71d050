"""Promises of EmailInternalService: the content of a mail, and that nothing is mailed twice."""

from collections.abc import AsyncIterator
from uuid import uuid4

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from services.platform.config import Settings
from services.platform.rpc.identity import SERVICE_HEADER
from taskflow.auth.v1.user_pb2 import User
from taskflow.auth.v1.user_service_pb2 import UpdateCurrentUserRequest
from taskflow.notification.v1.internal_service_pb2 import (
    FinishEmailBatchRequest,
    PrepareEmailBatchRequest,
    PrepareEmailBatchResponse,
)
from taskflow.notification.v1.internal_service_pb2_grpc import EmailInternalServiceStub
from tests.integration.notification_world import NotificationWorld, a_notification_world
from tests.integration.people import Person, refusal


@pytest.fixture(scope="module")
async def world(settings: Settings) -> AsyncIterator[NotificationWorld]:
    async with a_notification_world(settings) as made:
        yield made


@pytest.fixture
async def mail(world: NotificationWorld) -> AsyncIterator["Mail"]:
    async with grpc.aio.insecure_channel(world.settings.notification) as channel:
        yield Mail(channel, world.settings.service_secret.get_secret_value())


@pytest.fixture
async def ben(world: NotificationWorld) -> Person:
    """A user with three notifications."""
    person = await world.member("ben")
    await world.assign(*[person] * 3)
    await world.wait_for_notifications(person, 3)
    return person


class Mail:
    def __init__(self, channel: grpc.aio.Channel, secret: str) -> None:
        self.stub = EmailInternalServiceStub(channel)
        self.credentials = ((SERVICE_HEADER, secret),)

    async def prepare(self, person: Person, batch_id: str) -> PrepareEmailBatchResponse:
        return await self.stub.PrepareEmailBatch(
            PrepareEmailBatchRequest(user_id=person.id, batch_id=batch_id),
            metadata=self.credentials,
        )

    async def finish(self, batch_id: str, error: str = "") -> None:
        await self.stub.FinishEmailBatch(
            FinishEmailBatchRequest(batch_id=batch_id, error=error), metadata=self.credentials
        )


def numbers(batch: PrepareEmailBatchResponse) -> list[int]:
    return [item.notification.sequence for item in batch.items]


async def test_a_mail_lists_unread_notifications_with_names(
    world: NotificationWorld, mail: Mail, ben: Person
) -> None:
    newest = (await world.listed(ben))[0]
    await world.mark_read(ben, newest.id)
    batch = await mail.prepare(ben, str(uuid4()))
    assert numbers(batch) == [1, 2]
    assert (batch.email, batch.display_name) == (ben.email, ben.user.display_name)
    assert batch.time_zone == ben.user.time_zone
    assert batch.items[0].workspace_name == "Ops"
    assert batch.items[0].actor_name == world.owner.user.display_name


async def test_a_repeated_batch_keeps_its_content_minus_what_was_read_meanwhile(
    world: NotificationWorld, mail: Mail, ben: Person
) -> None:
    batch_id = str(uuid4())
    assert numbers(await mail.prepare(ben, batch_id)) == [1, 2, 3]
    await world.assign(ben)
    newest = (await world.wait_for_notifications(ben, 4))[1]
    await world.mark_read(ben, newest.id)
    assert numbers(await mail.prepare(ben, batch_id)) == [1, 2]
    assert numbers(await mail.prepare(ben, str(uuid4()))) == [4]


async def test_mailed_notifications_are_not_mailed_again(mail: Mail, ben: Person) -> None:
    batch_id = str(uuid4())
    await mail.prepare(ben, batch_id)
    for _ in range(2):
        await mail.finish(batch_id)
        await mail.finish(batch_id, "too late to fail")
        assert numbers(await mail.prepare(ben, batch_id)) == []
        assert numbers(await mail.prepare(ben, str(uuid4()))) == []


async def test_a_batch_that_cannot_be_sent_is_given_up(mail: Mail, ben: Person) -> None:
    batch_id = str(uuid4())
    await mail.prepare(ben, batch_id)
    await mail.finish(batch_id, "550 no such mailbox")
    assert numbers(await mail.prepare(ben, batch_id)) == []
    assert numbers(await mail.prepare(ben, str(uuid4()))) == []


async def test_a_batch_without_unread_notifications_is_empty(
    world: NotificationWorld, mail: Mail, ben: Person
) -> None:
    await world.mark_all_read(ben)
    nothing = PrepareEmailBatchResponse()
    assert await mail.prepare(ben, str(uuid4())) == nothing
    newcomer = await world.member("nia")
    assert await mail.prepare(newcomer, str(uuid4())) == nothing
    await mail.finish(str(uuid4()))


async def test_a_user_who_switched_mail_off_gets_none(
    world: NotificationWorld, mail: Mail, ben: Person
) -> None:
    batch_id = str(uuid4())
    assert numbers(await mail.prepare(ben, batch_id)) == [1, 2, 3]
    request = UpdateCurrentUserRequest(
        user=User(email_notifications=False),
        update_mask=FieldMask(paths=["email_notifications"]),
    )
    await world.team.users.UpdateCurrentUser(request, metadata=ben.credentials)
    assert await mail.prepare(ben, batch_id) == PrepareEmailBatchResponse()


async def test_removal_from_the_workspace_cancels_unsent_mail(
    world: NotificationWorld, mail: Mail, ben: Person
) -> None:
    batch_id = str(uuid4())
    assert numbers(await mail.prepare(ben, batch_id)) == [1, 2, 3]
    await world.team.remove(world.owner, world.workspace_id, ben.id)
    assert numbers(await mail.prepare(ben, batch_id)) == []
    assert numbers(await mail.prepare(ben, str(uuid4()))) == []


async def test_a_batch_of_another_user_is_empty(
    world: NotificationWorld, mail: Mail, ben: Person
) -> None:
    eve = await world.member("eve")
    await world.assign(eve)
    await world.wait_for_notifications(eve, 1)
    batch_id = str(uuid4())
    await mail.prepare(ben, batch_id)
    assert numbers(await mail.prepare(eve, batch_id)) == []


async def test_only_services_may_prepare_mail(mail: Mail, ben: Person) -> None:
    request = PrepareEmailBatchRequest(user_id=ben.id, batch_id=str(uuid4()))
    for credentials in (ben.credentials, ((SERVICE_HEADER, "guess"),), ()):
        refused = await refusal(mail.stub.PrepareEmailBatch(request, metadata=tuple(credentials)))
        assert (refused.code, refused.reason) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "NOT_FOR_CALLER",
        )
